"""What users of vLLM bench, GuideLLM and genai-perf type by habit gets its name here, or is understood."""

from __future__ import annotations

import argparse

import pytest

from swarmtune.apps.cli import ELSEWHERE, bench, main
from swarmtune.apps.cli.aiperf import names, translated
from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.options import LoadgenOptions


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    bench.add_arguments(parser)
    return parser.parse_args(translated(["-m", "m", *words]))


def own() -> set[str]:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings}


def test_what_is_named_exists_and_what_is_translated_is_none_of_ours() -> None:
    assert not names().elsewhere.keys() & own()
    for here in names().elsewhere.values():
        options = [word.strip(",()") for word in here.split() if word.startswith("--")]
        assert options or here.startswith("needless")
        assert set(options) <= own()


@pytest.mark.parametrize("name", sorted(names().elsewhere))
def test_an_option_of_another_tool_is_a_mistake_with_its_name_here(name: str) -> None:
    for words in ([name, "5"], [f"{name}=5"]):
        with pytest.raises(ConfigValidationError, match=rf"{name} is (called --|needless: )"):
            translated(words)


def test_a_rate_without_end_is_named() -> None:
    with pytest.raises(ConfigValidationError, match=r"--request-rate inf is not supported.*--concurrency N"):
        translated(["--request-rate", "inf"])
    assert parsed("--request-rate", "5").request_rate == "5"


@pytest.mark.parametrize(
    "words", [["ttft:200", "tpot:50"], ["ttft:200 tpot:50"], ["ttft:200", "tpot:50", "--seed", "1"]]
)
def test_goodput_may_come_in_several_words(words: list[str]) -> None:
    found = parsed("--goodput", *words)
    assert found.goodput == "ttft:200 tpot:50"


@pytest.mark.parametrize("words", [["--goodput", ""], ["--goodput="]])
def test_an_empty_goodput_is_a_mistake(words: list[str]) -> None:
    with pytest.raises(ConfigValidationError, match="--goodput is empty"):
        translated(words)


@pytest.mark.parametrize("words", [[], ["--concurrency", "1,2"]])
def test_zip_without_two_lists_is_a_mistake(words: list[str]) -> None:
    with pytest.raises(ConfigValidationError, match="needs two lists"):
        list(bench.runs(parsed("--sweep-type", "zip", *words)))


def test_zip_of_two_lists_is_taken() -> None:
    found = parsed("--sweep-type", "zip", "--concurrency", "1,2", "--request-count", "5,6")
    assert [name for name, _ in bench.runs(found)] == ["concurrency1-request_count5", "concurrency2-request_count6"]


def test_truths_are_sent_as_such() -> None:
    body = LoadgenOptions(extra_inputs=("a:True", "b:False", "c:true", "d:Trueish", 'e:"True"')).extra_body()
    assert body == {"a": True, "b": False, "c": True, "d": "Trueish", "e": "True"}


def test_the_commands_of_other_tools_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"profile", "benchmark"} <= set(ELSEWHERE)
    with pytest.raises(SystemExit) as left:
        main(["profile"])
    assert left.value.code == 2
    assert "swarmtune bench" in capsys.readouterr().err
