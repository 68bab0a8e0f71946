"""What accounts for the tokens of an answer: text, events, usage, and what was asked for; and what is said if not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from loadgen_servers import DONE, Done
from loadgen_spools import spooled

from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.endpoints.base import understood
from swarmtune.loadgen.judge.latencies import columns, request_samples
from swarmtune.loadgen.options import LoadgenOptions

Answered = Callable[..., Done]
FALSE = "the service stated token counts that cannot be true"
HIDDEN = "have neither text nor an event"
FEW = "came in few pieces"


@pytest.fixture
def answered(tmp_path: Path) -> Answered:
    """A run whose reads come 40, 50, 60 ... ms after each request."""
    return partial(spooled, tmp_path)


def event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def text(words: str = " w", end: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": words, "finish_reason": end}]})


def delta(end: str | None = None, **message: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": message, "finish_reason": end}]})


def used(completion: int, **more: Any) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": completion, **more}})


def tpot(done: Done) -> list[float]:
    return list(request_samples(columns(done.report.records))["tpot_ms"])


def e2el(done: Done) -> list[float]:
    return list(request_samples(columns(done.report.records))["e2el_ms"])


def tokens(done: Done) -> set[int]:
    return {row["output_tokens"] for row in done.rows}


def said(done: Done, words: str) -> list[str]:
    return [line for line in (*done.measurement.reasons, *done.report.results.notes) if words in line]


def level(done: Done) -> str:
    return done.report.certificate.level


# --- reasoning that is not shown, and not counted apart ------------------------------------------------------------------


def test_tokens_that_nothing_accounts_for_are_in_no_gap(answered: Answered) -> None:
    done = answered(*[text()] * 10, used(100), osl=128)
    assert tokens(done) == {100}
    assert tpot(done) == pytest.approx([10.0] * 3)
    assert level(done) == "degraded"
    assert said(done, HIDDEN)[0].startswith("in 3 of 3 answers 90 % of the tokens")
    assert not said(done, FALSE)


@pytest.mark.parametrize(
    ("events", "stated", "expected"),
    [
        pytest.param([text(" time year people way")] * 16, 64, 2.5, id="bundles"),
        pytest.param([text(" Geschwindigkeit Übermaß")] * 8, 40, 70 / 35, id="words-of-several-tokens"),
        pytest.param([text("สวัสดีครับ")] * 8, 64, 70 / 56, id="another-script"),
        pytest.param([text()] * 16, 17, 150 / 15.94, id="an-end-that-is-counted"),
    ],
)
def test_tokens_that_text_accounts_for_are_in_the_gaps(
    answered: Answered, events: list[bytes], stated: int, expected: float
) -> None:
    done = answered(*events, used(stated), osl=64)
    assert tokens(done) == {stated}
    assert tpot(done) == pytest.approx([expected] * 3, rel=0.02)
    assert not said(done, HIDDEN)
    assert level(done) == "valid"


def test_reasoning_that_is_counted_apart_needs_no_word(answered: Answered) -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 90}}
    done = answered(*[text()] * 10, used(100, **details), osl=128)
    assert tpot(done) == pytest.approx([10.0] * 3)
    assert level(done) == "valid"


def test_sound_has_no_text_that_could_account_for_it(answered: Answered) -> None:
    sound = delta(audio={"data": "AAAA"})
    done = answered(*[sound] * 8, used(64), endpoint_type="chat", osl=64)
    assert not said(done, HIDDEN)


def test_one_event_after_hidden_reasoning_blames_no_proxy(answered: Answered) -> None:
    done = answered(text(), used(100), osl=128, slos={"tpot_ms": 1e6})
    assert said(done, HIDDEN)
    assert not said(done, "proxy")
    assert done.measurement.metrics["good_request_share"] == 0


# --- events without text -------------------------------------------------------------------------------------------------


def test_tokens_without_text_before_the_first_word_are_in_no_gap(answered: Answered) -> None:
    done = answered(*[text("")] * 8, *[text()] * 8, used(16))
    assert tpot(done) == pytest.approx([10.0] * 3)
    assert level(done) == "valid"


def test_tokens_without_text_between_and_behind_have_their_times(answered: Answered) -> None:
    done = answered(*[text(), text("")] * 8, used(16))
    assert tpot(done) == pytest.approx([10.0] * 3)
    done = answered(text(), *[text("")] * 15, used(16))
    assert tpot(done) == pytest.approx([10.0] * 3)
    assert e2el(done) == pytest.approx([190.0] * 3)
    assert not said(done, "proxy")
    assert level(done) == "valid"


def test_an_end_of_its_own_is_no_token_and_ends_the_answer(answered: Answered) -> None:
    done = answered(delta(role="assistant"), *[delta(content=" w")] * 16, delta("stop"), used(16), endpoint_type="chat")
    assert tpot(done) == pytest.approx([10.0] * 3)
    assert {len(row["token_ns"]) for row in done.rows} == {16}
    assert e2el(done) == pytest.approx([210.0] * 3)
    assert done.report.results.statistics["ttft_ms"].mean == pytest.approx(50.0)


def test_an_end_that_is_counted_as_a_token_is_one(answered: Answered) -> None:
    done = answered(*[text()] * 15, text("", "stop"), used(16))
    assert tpot(done) == pytest.approx([10.0] * 3)


def test_signs_of_life_are_no_tokens(answered: Answered) -> None:
    done = answered(*[text("")] * 30, *[text(" time year people way")] * 4, used(16))
    assert tpot(done) == pytest.approx([2.5] * 3, rel=0.03)


def test_special_tokens_of_tgi_are_tokens(answered: Answered) -> None:
    def token(words: str, **more: Any) -> bytes:
        return event({"token": {"id": 1, "text": words, "special": not words}, **more})

    last = {"generated_text": "x", "details": {"generated_tokens": 16}}
    done = answered(*[token(" w")] * 8, *[token("")] * 7, token("", **last), endpoint_type="tgi")
    assert tpot(done) == pytest.approx([10.0] * 3)
    assert e2el(done) == pytest.approx([190.0] * 3)


# --- what buffers --------------------------------------------------------------------------------------------------------


def test_an_answer_in_two_writes_has_no_time_per_token(answered: Answered) -> None:
    done = answered([text()] * 8, [text()] * 8, used(16), slos={"tpot_ms": 1e6})
    assert level(done) == "degraded"
    assert said(done, FEW)[0].startswith("3 of 3 answers")
    assert done.measurement.metrics["good_request_share"] == 0
    assert "p50_tpot_ms" not in done.measurement.metrics
    assert "p50_itl_ms" not in done.measurement.metrics


def test_a_buffer_of_many_events_is_seen_in_long_answers(answered: Answered) -> None:
    done = answered(*[[text()] * 16] * 8, used(128), osl=128)
    assert said(done, FEW)


@pytest.mark.parametrize("together", [2, 3])
def test_a_few_events_at_a_time_are_a_stream(answered: Answered, together: int) -> None:
    done = answered(*[[text()] * together] * 8, used(8 * together), osl=8 * together)
    assert tpot(done) == pytest.approx([10.0 / together] * 3)
    assert level(done) == "valid"


# --- the whole text so far with each event -------------------------------------------------------------------------------


def so_far(words: Sequence[str]) -> list[bytes]:
    return [event({"text": "".join(words[: n + 1])}) for n in range(len(words))]


TEMPLATE = {"endpoint_type": "template", "payload_template": '{"text":"{{prompt}}"}', "response_field": "text"}


def test_cumulative_text_is_counted_once(answered: Answered) -> None:
    words = [" time", " year", " people", " way"] * 4
    done = answered(*so_far(words), **TEMPLATE)
    assert tokens(done) == {16}
    assert tpot(done) == pytest.approx([10.0] * 3)


def test_cumulative_bundles_are_counted_by_what_each_adds(answered: Answered) -> None:
    done = answered(*so_far([" time year people way"] * 4), **TEMPLATE)
    assert tokens(done) == {16}
    assert tpot(done) == pytest.approx([2.5] * 3, rel=0.03)


def test_growing_texts_that_do_not_begin_alike_are_not_cumulative(answered: Answered) -> None:
    done = answered(*[event({"text": word}) for word in (" a", " be", " sea", " deep")], osl=4, **TEMPLATE)
    assert tokens(done) == {4}
    done = answered(*[event({"text": " w"})] * 16, **TEMPLATE)
    assert tokens(done) == {16}


def test_the_next_turn_sends_a_cumulative_answer_once() -> None:
    endpoint = make_endpoint("m", LoadgenOptions(endpoint_type="chat"))
    stream = b"".join(delta(content="so far so good"[:end]) for end in (2, 6, 9, 14)) + DONE
    assert understood(endpoint, [(0, stream)], keep_text=True).text == "so far so good"


# --- what was asked for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", [[used(64)], []])
def test_a_service_that_ignores_the_limit_is_believed_and_named(answered: Answered, usage: list[bytes]) -> None:
    done = answered(*[text()] * 64, *usage)
    assert tokens(done) == {64}
    assert not said(done, FALSE)
    assert done.measurement.metrics["osl_mismatch_count"] == 3
    assert said(done, "3 of 3 answers are longer than asked for (64 tokens where 16 were asked for)")


def test_answers_that_end_early_are_named_with_the_way_out(answered: Answered) -> None:
    done = answered(*[text()] * 8, used(8))
    assert said(done, "3 of 3 answers are shorter than asked for")
    assert said(done, "--extra-inputs min_tokens:N")
    done = answered(*[text()] * 8, used(8), ignore_eos=False)
    assert said(done, "give ignore_eos")
    done = answered(*[text()] * 16, used(16))
    assert not said(done, "asked for")


def test_more_words_than_tokens_are_a_contradiction(answered: Answered) -> None:
    done = answered(*[text(" time year people way")] * 16, used(16), osl=64)
    assert tokens(done) == {64}
    assert said(done, FALSE)
    assert level(done) == "degraded"


@pytest.mark.parametrize("words", ["================", "antidisestablishmentarianism", "                "])
def test_long_tokens_are_no_contradiction(answered: Answered, words: str) -> None:
    done = answered(*[text(words)] * 16, used(16))
    assert tokens(done) == {16}
    assert level(done) == "valid"


@pytest.mark.parametrize("stated", [14, 15])
def test_a_few_tokens_below_the_events_are_noted(answered: Answered, stated: int) -> None:
    done = answered(*[text()] * 16, used(stated))
    assert tokens(done) == {stated}
    assert said(done, "3 of 3 answers have more events with text than tokens")
    assert level(done) == "valid"
