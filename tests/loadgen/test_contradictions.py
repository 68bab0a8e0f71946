"""Options that contradict each other, come twice, or would be half understood: refused in one sentence each."""

from __future__ import annotations

import argparse
import shlex

import pytest

from swarmtune.apps.cli import bench
from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.contradictions import NEEDS, PAIRS
from swarmtune.loadgen.options import LoadgenOptions


def mistakes(words: str) -> list[str]:
    """What is wrong with this command line; a wrong one for argparse ends the program."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    bench.add_arguments(parser)
    try:
        list(bench.runs(parser.parse_args(["-m", "m", *shlex.split(words)])))
    except ConfigValidationError as error:
        return error.mistakes
    return []


FINE = [
    "",
    "--concurrency 8 --request-count 200",
    "--endpoint-type chat --request-rate 5 --benchmark-duration 60 --isl 512 --osl 128",
    "--concurrency 1,4,16,64 --benchmark-duration 30",
    "--fixed-schedule --input-file t.jsonl --replay-speedup 10",
    "--request-rate 4 --goodput 'time_to_first_token:200 inter_token_latency:20'",
    "--arrival-pattern concurrency_burst --concurrency 4",
    "--arrival-pattern gamma --request-rate 5 --arrival-smoothness 0.5",
    "--warmup-request-count 5 --warmup-concurrency 2 --warmup-grace-period 1",
    "--extra-inputs max_tokens:99",
    "--endpoint-type embeddings --prompt-batch-size 3",
    "--header 'A: 1' --header 'B: 2' --extra-inputs top_k:5 --extra-inputs '{\"seed\": 1}'",
    "--url https://a --ca-file x.pem --client-cert c.pem --client-key k.pem",
    "--url https://a --no-tls-verify",
    "--user-centric-rate 2 --num-users 4 --conversation-turn-mean 3 --conversation-turn-delay-mean 5",
    "--input-file t.jsonl --osl 5 --max-isl 100 --dataset-sampling-strategy shuffle",
    "--prefill-concurrency 2 --concurrency 4 --prefill-concurrency-ramp-duration 3 --concurrency-ramp-duration 3",
    "--goodput time_to_first_token:200 --stop-when-decided --slo-attainment-fraction 0.9",
]


@pytest.mark.parametrize("words", FINE)
def test_what_fits_together_is_taken(words: str) -> None:
    assert mistakes(words) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--arrival-pattern concurrency_burst --request-rate 10", "concurrency_burst"),
        ("--arrival-pattern concurrency_burst --request-rate 10,150", "concurrency_burst"),
        ("--arrival-pattern poisson --concurrency 4", "--request-rate"),
        ("--extra-inputs max_tokens:99 --osl 8", "--extra-inputs max_tokens and --osl"),
        ("--extra-inputs stream:false", "--streaming sets it"),
        ("--extra-inputs prompt:hi", "the data"),
        ("--prompt-batch-size 3", "--endpoint-type embeddings"),
        ("--url 'http://h/#x'", "#x"),
        ("--arrival-smoothness inf --request-rate 5 --arrival-pattern gamma", "--arrival-smoothness"),
        ("--arrival-smoothness nan --request-rate 5 --arrival-pattern gamma", "--arrival-smoothness"),
        ("--arrival-smoothness 2 --request-rate 5", "--arrival-pattern gamma"),
        ("--request-rate-ramp-duration 5", "--request-rate"),
        ("--request-rate 5 --concurrency-ramp-duration 5", "--concurrency"),
        ("--prefill-concurrency-ramp-duration 5", "--prefill-concurrency"),
        ("--prefill-concurrency 5 --no-streaming", "--streaming"),
        ("--request-cancellation-delay 5", "--request-cancellation-rate"),
        ("--fixed-schedule-start-offset 5", "--fixed-schedule"),
        ("--fixed-schedule-end-offset 5", "--fixed-schedule"),
        ("--no-fixed-schedule-auto-offset", "--fixed-schedule"),
        (
            "--fixed-schedule --input-file t --fixed-schedule-start-offset 9 --fixed-schedule-end-offset 5",
            "nothing would be sent",
        ),
        ("--replay-speedup 5", "--input-file"),
        ("--custom-dataset-type multi_turn", "--input-file"),
        ("--dataset-sampling-strategy shuffle", "--input-file"),
        ("--max-isl 5", "--input-file"),
        ("--max-osl 5", "--input-file"),
        ("--isl-block-size 5", "--input-file"),
        ("--conversation-turn-delay-mean 5", "--conversation-turn-mean"),
        ("--payload-template x", "--endpoint-type template"),
        ("--response-field x", "--endpoint-type template"),
        ("--benchmark-grace-period 5", "--benchmark-duration"),
        ("--request-rate 5 --benchmark-duration 5 --benchmark-min-requests-per-user 3", "--benchmark-min-requests"),
        ("--warmup-concurrency 5", "--warmup-request-count"),
        ("--warmup-request-rate 5", "--warmup-request-count"),
        ("--warmup-grace-period 5", "--warmup-request-count"),
        ("--slo-attainment-fraction 0.9", "--stop-when-decided"),
        ("--stop-when-decided", "--goodput"),
        ("--sequence-distribution '5,5:100' --isl 7", "exclude each other"),
        ("--sequence-distribution '5,5:100' --osl 7", "exclude each other"),
        ("--input-file t --shared-system-prompt-length 7", "exclude each other"),
        ("--url https://a --ca-file x --no-tls-verify", "exclude each other"),
        ("--ca-file x", "https://"),
        ("--client-cert x", "https://"),
        ("--url https://a --client-key x", "client_cert"),
        ("--header 'A: 1' --header 'a: 2'", "given twice"),
        ("--extra-inputs top_k:1 --extra-inputs top_k:2", "given twice"),
        ("--goodput 'time_to_first_token:1 time_to_first_token:500'", "named twice"),
        ("--goodput 'time_to_first_token:1 ttft:500'", "named twice"),
        ("--goodput 'ttft_ms:1,ttft:500'", "named twice"),
        ("--concurrency 4,8,4", "named twice"),
        ("--request-rate 4,4", "named twice"),
        ("--request-rate 4 --fixed-schedule --input-file x", "only one of"),
        ("--request-count 4 --conversation-num 3", "only one of"),
    ],
)
def test_what_does_not_is_refused_in_one_sentence(words: str, named: str) -> None:
    found = mistakes(words)
    assert any(named in line for line in found), found
    assert len(found) <= 2
    assert not any("pydantic" in line for line in found)


@pytest.mark.parametrize(
    "words",
    [
        "--concurrency 4 --concurrency 8",
        "--streaming --no-streaming",
        "--goodput ttft:1 --goodput ttft:2",
        "--random-seed 1 --seed 2",
    ],
)
def test_what_comes_twice_where_one_value_counts_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        mistakes(words)
    assert ended.value.code == 2
    assert "give it once" in capsys.readouterr().err


def test_the_tables_name_options_that_there_are() -> None:
    names = {name for name, _, _ in NEEDS} | {name for pair in PAIRS for name in pair}
    assert names <= set(LoadgenOptions.model_fields)
