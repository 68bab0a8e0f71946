"""The habits of AIPerf's users: every option name of AIPerf 0.13 is accepted with its meaning, or refused with a reason."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Cli

from swarmtune.apps.cli import bench
from swarmtune.apps.cli.aiperf import VERSION, names, translated
from swarmtune.apps.cli.bench import runs
from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.loadgen.ask.spec import Spec, headers_of

LISTED = Path(__file__).parent / "data" / f"aiperf-{VERSION}-options.txt"  # from the wheel: config/flags/cli_config.py
ALL = LISTED.read_text(encoding="utf-8").split()
SWITCHES = (
    "--streaming",
    "--no-fixed-schedule",
    "--fixed-schedule",
    "--fixed-schedule-auto-offset",
    "--no-sweep-table",
    "--auto-plot",
)
EXAMPLES = {  # an option that takes what no number is
    "--custom-dataset-type": "single_turn", "--dataset-sampling-strategy": "random", "--arrival-pattern": "gamma",
    "--endpoint-type": "chat", "--connection-reuse-strategy": "never", "--public-dataset": "sharegpt",
    "--header": "X-Y: z", "-H": "X-Y: z", "--extra-inputs": "a:1", "--goodput": "request_latency:250",
    "--log-level": "debug",
    "--ui": "none",
    "--export-level": "summary", "--sweep-type": "zip", "--wait-for-model-mode": "both",
    "--sequence-distribution": "256,128:100", "--server-metrics": "auto",
    "--gpu-telemetry": "pynvml", "--tokenizer": "builtin",
    "--slo-attainment-fraction": "0.9", "--confidence-level": "0.9", "--failed-request-threshold": "0.5",
    "--request-cancellation-rate": "5",
}  # fmt: skip


def parsed(*arguments: str) -> argparse.Namespace:
    """As the command line does it."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    bench.add_arguments(parser)
    parser.add_argument("--log-level")
    return parser.parse_args(translated(arguments))


def spec(*arguments: str) -> Spec:
    """The one run of this command line."""
    ((_, found),) = runs(parsed("-m", "m", *arguments))
    return found


def test_the_list_is_whole() -> None:
    table = {*names().alias, *names().words, *names().only, *names().refused}
    assert len(ALL) == len(set(ALL)) > 300
    assert table <= set(ALL)
    own = {option for action in _parser()._actions for option in action.option_strings}
    assert set(ALL) - table <= own
    assert not table & own, "an option of our own is not translated"
    assert set(names().alias.values()) | set(names().config.values()) <= own


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    parser.add_argument("--log-level")
    return parser


@pytest.mark.parametrize("name", ALL)
def test_every_name_is_accepted_or_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    if name in names().refused:
        with pytest.raises(ConfigValidationError, match=r"is not supported, because .*; near: "):
            translated([name, "1"])
        return
    if name in names().words or name in SWITCHES:
        parsed(name)
    elif name in ("--config", "-f"):
        file = tmp_path / "options.yaml"
        file.write_text("isl: 3\n")
        assert parsed(name, str(file)).isl == "3"
    elif name in names().only:
        parsed(name, names().only[name]["value"])
        with pytest.raises(ConfigValidationError, match="because"):
            translated([name, "another"])
    else:
        parsed(name, EXAMPLES.get(names().alias.get(name, name), "1"))


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--num-requests", "7"], "request_count", 7),
        (["--num-requests=7"], "request_count", 7),
        (["--synthetic-input-tokens-mean", "100", "--output-tokens-mean", "9"], "isl", 100),
        (["--synthetic-input-tokens-mean", "100", "--output-tokens-mean", "9"], "osl", 9),
        (["--output-tokens-stddev", "2"], "osl_stddev", 2),
        (["--seq-dist", "[(256,128):40,(512|9,256):60]"], "sequence_distribution", "256,128:40;512|9,256:60"),
        (
            ["--seq-dist", '{"pairs":[{"isl":5,"osl":6,"osl_stddev":2,"prob":100}]}'],
            "sequence_distribution",
            "5|0,6|2:100",
        ),
        (["--num-dataset-entries", "5"], "num_dataset_entries", 5),
        (["--num-sessions", "5"], "conversation_num", 5),
        (["--session-turns-mean", "5"], "conversation_turn_mean", 5),
        (["--num-prefix-prompts", "3", "--prefix-prompt-length", "8"], "prompt_prefix_pool_size", 3),
        (["--request-rate-mode", "gamma", "--request-rate", "3"], "arrival_pattern", "gamma"),
        (["--vllm-burstiness", "0.5", "--arrival-pattern", "gamma", "--request-rate", "1"], "arrival_smoothness", 0.5),
        (["--num-warmup-requests", "4"], "warmup_request_count", 4),
        (["-b4", "--endpoint-type", "embeddings"], "prompt_batch_size", 4),
        (["-b", "4", "--endpoint-type", "embeddings"], "prompt_batch_size", 4),
        (["--endpoint-type", "cohere_rankings"], "custom_endpoint", "/v2/rerank"),
        (["--endpoint-type=huggingface_generate"], "endpoint_type", "tgi"),
        (["--no-gpu-telemetry"], "gpu_telemetry", ("off",)),
        (["--no-server-metrics"], "server_metrics", ("off",)),
        (["--slice-duration", "2"], "slice_duration", 2),
        (["--extra-inputs", "a:1", "b:2"], "extra_inputs", ("a:1", "b:2")),
        (["--ignore-trace-delays", "--session-turns-mean", "2"], "conversation_turn_delay_ratio", 0),
        (["--no-force-min-tokens"], "ignore_eos", False),
    ],
)
def test_a_name_has_its_meaning(words: list[str], field: str, value: object) -> None:
    assert getattr(spec(*words).options, field) == value


def test_usage_of_every_chunk_is_asked_for() -> None:
    assert spec("--per-chunk-usage").options.extra_body()["stream_options"]["continuous_usage_stats"] is True


def test_a_key_is_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    assert headers_of(spec("--api-key", "sk-1").options)["Authorization"] == "Bearer sk-1"
    monkeypatch.setattr("sys.argv", ["swarmtune", "bench", "--api-key", "sk-1", "--api-key=sk-1", "-HX: sk-2"])
    shown = bench.command_line(parsed("--api-key", "sk-1", "-H", "X: sk-2"))
    assert "sk-" not in shown
    assert shown.count("***") == 3


def test_several_addresses_are_given_in_every_way() -> None:
    assert spec("--url", "a:1", "b:2", "--url", "c:3,d:4").url == (
        "http://a:1",
        "http://b:2",
        "http://c:3",
        "http://d:4",
    )


def test_lists_are_combined_or_paired_and_repeated() -> None:
    words = ["-m", "m", "--isl", "4,8", "--osl", "1,2"]
    assert len(list(runs(parsed(*words)))) == 4
    assert [name for name, _ in runs(parsed(*words, "--sweep-type", "zip"))] == ["isl4-osl1", "isl8-osl2"]
    assert [name for name, _ in runs(parsed("-m", "m", "--num-profile-runs", "2"))] == ["run1", "run2"]
    with pytest.raises(ConfigValidationError, match="same length"):
        list(runs(parsed(*words, "--concurrency", "1,2,3", "--sweep-type", "zip")))


def test_all_refused_options_are_told_at_once() -> None:
    with pytest.raises(ConfigValidationError) as caught:
        translated(["--image-width-mean", "3", "--zmq-host=x", "--isl", "3"])
    assert len(caught.value.mistakes) == 2


@pytest.mark.parametrize("words", [["--export-level", "raw"], ["--profile-export-level=raw"]])
def test_a_value_that_is_refused_has_a_reason(words: list[str]) -> None:
    with pytest.raises(ConfigValidationError, match=r"raw is not supported, because .*; near: --export-level records"):
        translated(words)
    assert parsed("--export-level", "records").export_level == "records"


# --- a file of options --------------------------------------------------------------------------------------------------

AIPERF_FILE: dict[str, Any] = {
    "schemaVersion": "2.0",
    "randomSeed": 42,
    "benchmark": {
        "model": "m",
        "endpoint": {
            "url": "http://h:1/v1/chat/completions",
            "type": "chat",
            "streaming": True,
            "timeout": 30.0,
            "headers": {"X-A": "b"},
        },
        "dataset": {"type": "synthetic", "entries": 9, "prompts": {"isl": {"mean": 200, "stddev": 5}, "osl": 30}},
        "phases": [
            {"name": "warmup", "type": "concurrency", "excludeFromResults": True, "requests": 10, "concurrency": 2},
            {
                "name": "profiling",
                "type": "poisson",
                "duration": 12,
                "rate": 3.5,
                "concurrency": 4,
                "gracePeriod": "60s",
            },
        ],
        "slos": {"request_latency": 5000},
        "artifacts": {"dir": "there", "summary": ["json"]},
    },
}


def test_a_file_in_aiperfs_form(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(AIPERF_FILE))
    found = parsed("--config", str(file), "--request-rate", "9", "-m", "other")
    assert (found.random_seed, found.artifact_dir, found.model) == (42, "there", "other")
    ((_, made),) = runs(found)
    options = made.options
    assert made.url == ("http://h:1/v1",)
    assert made.request_slos == {"e2el_ms": 5000}
    assert (options.endpoint_type, options.isl, options.isl_stddev, options.osl) == ("chat", 200, 5, 30)
    assert (options.request_rate, options.arrival_pattern, options.benchmark_duration) == (9, "poisson", 12)
    assert (options.benchmark_grace_period, options.warmup_request_count, options.warmup_concurrency) == (60, 10, 2)
    assert (options.num_dataset_entries, options.header) == (9, ("X-A: b",))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "num-requests: 5\nconcurrency: [1, 2]\nstreaming: false\n"),
        ("a.toml", "[loadgen]\nrequest_count = 5\nconcurrency = [1, 2]\nstreaming = false\n"),
    ],
)
def test_a_file_of_names_and_values(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = list(runs(parsed("-m", "m", "-f", str(tmp_path / name))))
    assert [one.options.concurrency for _, one in found] == [1, 2]
    assert {(one.options.request_count, one.options.streaming) for _, one in found} == {(5, False)}


@pytest.mark.parametrize(
    "text",
    [
        "", "[1, 2]", "a: &x [1]\nb: *x\n", "a: [", "\x00", "benchmark:\n  audio: {bits: 8}\n", "image-width-mean: 3\n",
        "json: true\n",
        "{" * 3000, "x" * 1_000_001,
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"a\.yaml|not supported|belongs on"):
        translated(["--config", str(tmp_path / "a.yaml")])


def test_a_file_that_is_missing_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        translated(["--config", str(tmp_path)])


# --- what does not exist ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["benhc"], "did you mean bench?"),
        (["optimiser"], "did you mean optimizer?"),
        (["\x1b[31m"], "there is no command"),
        (["bench", "--request-cuont", "5"], "--request-cuont (did you mean --request-count?)"),
        (["check", "--evaluation", "5"], "--evaluation (did you mean --evaluations?)"),
        (["check", "--n-trials=5"], "--n-trials (did you mean --evaluations?)"),
        (["check", "--model", "m"], "--model (the model is named in the engine's table, such as [vllm.command] model"),
        (["bench", "--image-format", "png"], "no pictures are made; near: --input-file"),
    ],
)
def test_the_near_word_is_named(cli: Cli, arguments: list[str], words: str) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert words in done.err
    assert "\x1b" not in done.err


def test_an_option_that_does_not_exist_shows_no_secret(cli: Cli) -> None:
    done = cli("bench", "--api-kee", "sk-secret", "--api-kez=sk-secret")
    assert "--api-key" in done.err
    assert "sk-secret" not in done.err


def test_an_unknown_key_of_a_file_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "o.yaml"
    path.write_text("isl: 8\nconcurency: 3\n")
    with pytest.raises(ConfigValidationError) as raised:
        bench.translated(["-f", str(path)])
    assert raised.value.mistakes == [
        f"--config: {path}: concurency is no option of bench (did you mean --concurrency?)"
    ]
