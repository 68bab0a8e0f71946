"""Options and data that would take more memory than there is, or that are no shares, are refused in one sentence."""

from __future__ import annotations

import argparse

import pytest
from pydantic import ValidationError

from swarmtune.apps.cli.quantities import share
from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.ask import source
from swarmtune.loadgen.ask.source import Block, Source
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.draws import LONGEST, Draws
from swarmtune.workload.synthetic import Lengths, SyntheticDataset, SyntheticSpec, parse_lengths

NUMBERS = [
    name
    for name, field in LoadgenOptions.model_fields.items()
    if field.annotation in (int, float, int | None, float | None) and name != "random_seed"
]


@pytest.mark.parametrize("value", [1e15, float("inf"), float("nan")])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_an_upper_bound(name: str, value: float) -> None:
    with pytest.raises(ValidationError) as caught:
        LoadgenOptions.model_validate({name: value})
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]


@pytest.mark.parametrize(
    "given",
    [
        {"isl": 1e6, "concurrency": 1000},
        {"isl": 1e6, "prompt_batch_size": 1000},
        {"isl": 1e6, "conversation_turn_mean": 1000},
        {"prompt_prefix_pool_size": 1000, "prompt_prefix_length": 1_000_000},
    ],
)
def test_prompts_that_do_not_fit_into_memory_together(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="tokens of prompts would be held in memory"):
        LoadgenOptions.model_validate(given)


def test_drawn_lengths_are_bounded() -> None:
    assert Draws("x").length(1e7, 1e300) <= LONGEST
    with pytest.raises(ConfigValidationError, match="from 1 to 10,000,000"):
        parse_lengths("1e15,1:100")


def test_payloads_are_made_ahead_up_to_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "AHEAD_BYTES", 1000)
    made = Source(SyntheticDataset(SyntheticSpec((Lengths(1, 1),)), 0), lambda _: bytes(300), complete=True)
    made.grant(Block(0, 100))
    assert made.prepare(50) == 4
    assert made.prepare(50) == 0
    assert made.next()
    assert made.prepare(50) == 1
    assert made.left == 99


@pytest.mark.parametrize("text", ["7", "-0.1", "nan", "x", "1.01"])
def test_a_share_is_from_0_to_1(text: str) -> None:
    assert share("0") == 0
    assert share("1") == 1
    with pytest.raises(argparse.ArgumentTypeError, match="not a share from 0 to 1"):
        share(text)
