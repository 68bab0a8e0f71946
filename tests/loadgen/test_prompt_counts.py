"""The lengths of prompts that a service states, beside those of the prompts that were sent: over a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loadgen_servers import Done
from loadgen_spools import spooled

from swarmtune.loadgen.endpoints.base import LINKED_BYTES, Answer, linked_bytes
from swarmtune.loadgen.judge import prompts
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read.counts import HIDDEN_TOKENS, Evidence, Text, settle
from swarmtune.loadgen.records import CHUNK, REQUEST, Outcome, Phase, Records
from swarmtune.loadgen.send.timing import Ticket
from swarmtune.workload.session import Session, Turn

FALSE = "the service stated token counts that cannot be true"
MADE = LoadgenOptions()
LENGTHS = np.tile([64, 512, 4096, 1000, 16], 8)
DRAWS = np.random.default_rng(1)


def run(own: Sequence[int], stated: Sequence[int], *, turn: int = 0, cached: int = -1) -> Records:
    """A run of completed requests: our own count of each prompt, and the service's."""
    rows = np.zeros(len(own), REQUEST)
    rows["phase"], rows["outcome"], rows["turn"], rows["cached_tokens"] = (
        Phase.MEASURED,
        Outcome.COMPLETED,
        turn,
        cached,
    )
    rows["asked_input_tokens"], rows["input_tokens"] = own, stated
    return Records(rows, np.zeros(0, CHUNK), [], [], 0, 1, 0)


def false(records: Records, options: LoadgenOptions = MADE) -> list[bool]:
    """Which counts are left out; those have our own count then."""
    rows, before = prompts.settled(records, options).requests, records.requests["input_tokens"]
    assert (rows["input_tokens"] == np.where(rows["false_usage"], rows["asked_input_tokens"], before)).all()
    return rows["false_usage"].tolist()  # type: ignore[no-any-return]


TRUE: dict[str, Any] = {
    "as sent": LENGTHS,
    "with a template": LENGTHS + 40,
    "with the default system prompt of a model": LENGTHS + 600,
    "another vocabulary": (LENGTHS * 1.2).astype(int),
    "fewer, as words are joined": (LENGTHS * 0.8).astype(int),
}


@pytest.mark.parametrize("name", TRUE)
def test_counts_of_usual_services_need_no_word(name: str) -> None:
    records = run(LENGTHS, TRUE[name])
    assert not any(false(records))
    assert prompts.added(records, MADE) == prompts.shortened(records, MADE) == ""


ALIKE: dict[str, Any] = {
    "a system prompt of 3,000 tokens": LENGTHS + 3000,
    "tools, and the date of the day": LENGTHS + 9000 + DRAWS.integers(0, 20, len(LENGTHS)),
    "a vocabulary of characters": LENGTHS * 6,
    "one length": np.where(LENGTHS, 5000, 0),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_is_more_in_all_requests_alike_is_counted_and_noted(name: str) -> None:
    records = run(np.full(len(LENGTHS), 64) if name == "one length" else LENGTHS, ALIKE[name])
    assert not any(false(records))
    assert "prompt tokens more than were sent" in prompts.added(records, MADE)


UNLIKE: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
    "one in seven": lambda: LENGTHS + np.where(np.arange(len(LENGTHS)) % 7 == 0, 5000, 0),
    "the sum so far": lambda: np.cumsum(LENGTHS),
    "drawn by lot": lambda: LENGTHS + DRAWS.integers(2_000, 15_000, len(LENGTHS)),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_is_more_in_some_requests_only_is_false(name: str) -> None:
    stated = UNLIKE[name]()
    found = np.array(false(run(LENGTHS, stated)))
    if name == "one in seven":
        assert found.tolist() == (stated - LENGTHS > 0).tolist()
    assert found.sum() > len(LENGTHS) / 10


def test_too_few_are_false_unless_the_service_cuts_prompts_off() -> None:
    assert false(run([2000, 3000, 64], [11, 11, 11])) == [True, True, False]
    assert false(run([2000, 3000, 64], [700, 11, 64])) == [False, True, False]
    cut = run([2000, 3000, 64], [512, 512, 64])
    assert not any(false(cut))
    assert "512 prompt tokens where about 2,500 were sent (prompt_tokens, in 2 of 3" in prompts.shortened(cut, MADE)


@pytest.mark.parametrize(
    "options", [{"input_file": "f"}, {"endpoint_type": "embeddings"}, {"endpoint_type": "rankings"}]
)
def test_prompts_that_hold_more_than_we_count_are_judged_by_their_bytes(options: dict[str, Any]) -> None:
    records = run(LENGTHS, UNLIKE["drawn by lot"]())
    assert not any(false(records, LoadgenOptions(**options)))
    assert prompts.added(records, LoadgenOptions(**options)) == ""


def test_later_turns_hold_answers_and_are_not_too_long() -> None:
    assert not any(false(run(LENGTHS, UNLIKE["drawn by lot"](), turn=1)))
    session = Session(0, (Turn(("a",), 5, 9), Turn(("b",), 7, 9), Turn(("c",), 30, payload={"prompt": "c"})))
    assert [Ticket(session, turn, 3, 0, 0, Phase.MEASURED, None).input_tokens for turn in range(3)] == [5, 12, 30]


def test_cached_tokens_are_no_more_than_the_prompt() -> None:
    rows = prompts.settled(run([64, 64, 64], [64, 64, 9000], cached=60), MADE).requests
    assert rows["cached_tokens"].tolist() == [60, 60, 60]
    rows = prompts.settled(run([64, 64, 64], [64, 64, 9000], cached=8000), MADE).requests
    assert rows["cached_tokens"].tolist() == [8000, 8000, -1]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_run_of_few_requests(rows: int) -> None:
    records = run([64] * rows, [64] * rows)
    assert false(records) == [False] * rows
    assert prompts.added(records, MADE) == prompts.shortened(records, MADE) == ""


# --- one request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "most"),
    [
        (Evidence(16, 10**9, 700, 900), 700 + HIDDEN_TOKENS),
        (Evidence(16, 10**9, 700 + LINKED_BYTES, 900), 700 + LINKED_BYTES + HIDDEN_TOKENS),
        (Evidence(16, 10**9, 700, 900, texts=10), 10 * (700 + HIDDEN_TOKENS)),  # a query beside each of ten passages
    ],
)
def test_the_most_prompt_tokens_that_can_be_true(evidence: Evidence, most: int) -> None:
    assert not settle(Answer(chunks=[0], prompt_tokens=most), evidence, lambda: Text(1, 0))
    answer = Answer(chunks=[0], prompt_tokens=most + 1)
    assert settle(answer, evidence, lambda: Text(1, 0))
    assert answer.prompt_tokens is None


@pytest.mark.parametrize(
    ("message", "linked"),
    [
        ({"content": "a"}, False),
        ({"content": 'say "image_url"'}, False),
        ({"content": [{"type": "image_url", "image_url": {"url": "http://h/a.png"}}]}, True),
        ({"content": [{"type": "video_url", "video_url": {"url": "http://h/a.mp4"}}]}, True),
        ({"content": [{"type": "input_file", "file_id": "f-1"}]}, True),
    ],
)
def test_what_stands_behind_an_address_may_be_long(message: dict[str, Any], linked: bool) -> None:
    assert linked_bytes(json.dumps(message, separators=(",", ":")).encode()) == LINKED_BYTES * linked


# --- a whole run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def answered(tmp_path: Path) -> Callable[..., Done]:
    return partial(spooled, tmp_path)


def events(prompt: int) -> list[bytes]:
    bodies = [{"choices": [{"index": 0, "text": " a", "finish_reason": None}]}] * 16
    counts = {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 16}}
    return [f"data: {json.dumps(body)}\n\n".encode() for body in [*bodies, counts]]


@pytest.mark.parametrize(
    ("asked", "stated", "counted", "verdict", "words"),
    [
        (64, 90, 90, "valid", ""),
        (64, 50_000, 64, "degraded", FALSE),
        (64, 3_064, 3_064, "valid", "about 3,000 prompt tokens more than were sent"),
        (2_000, 11, 2_000, "degraded", FALSE),
        (5_000, 512, 512, "degraded", "it cuts prompts off"),
    ],
)
def test_the_run_tells_of_prompt_counts(
    answered: Callable[..., Done], asked: int, stated: int, counted: int, verdict: str, words: str
) -> None:
    done = answered(*events(stated), asked=asked)
    assert done.report.facts.verdict == verdict, done.measurement.reasons
    assert done.measurement.metrics["total_input_tokens"] == 3 * counted
    said = done.measurement.reasons if verdict == "degraded" else done.report.results.notes
    assert not words or any(words in text for text in said)
