"""The options that ``make test-vllm`` sets are options that there are: a rename is seen without vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmtune import registry
from swarmtune.settings import read_settings
from swarmtune.sources import section_name
from swarmtune.tuner.planning.idle import read_only_notes

CONFIG = Path(__file__).with_name("config.toml")


@pytest.mark.parametrize("benchmark", ["vllm_benchmark", "swarmtune"])
def test_the_configuration_gives_the_same_load_to_both_benchmarks(benchmark: str) -> None:
    settings = read_settings(CONFIG, {"optimizer": {"engine": "vllm", "benchmark": benchmark}})
    assert read_only_notes(settings) == []
    part = registry.benchmarks.load(benchmark)
    load = part(getattr(settings, section_name(part))).workload("tiny", 0, {})
    assert (load.requests, load.load.concurrency, load.warmup_requests) == (32, 8, 2)
    assert (load.input_tokens_mean, load.output_tokens_mean) == (32, 16)
