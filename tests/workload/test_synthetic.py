"""Synthetic sessions."""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import pairwise

import pytest

from swarmtune.errors import ConfigValidationError
from swarmtune.workload.session import Session
from swarmtune.workload.synthetic import Lengths, SyntheticDataset, SyntheticSpec, parse_lengths
from swarmtune.workload.tokens import count

PLAIN = SyntheticSpec((Lengths(550, 150),))
MS = 1_000_000


def sessions(spec: SyntheticSpec, number: int, seed: int = 1) -> list[Session]:
    dataset = SyntheticDataset(spec, seed)
    return [dataset.session(index) for index in range(number)]


def test_a_session_does_not_depend_on_the_others() -> None:
    spec = replace(PLAIN, lengths=(Lengths(50, 15, 9, 3),), turns_mean=3, turns_stddev=1)
    made = sessions(spec, 40)
    assert SyntheticDataset(spec, 1).session(39) == made[39]
    assert SyntheticDataset(spec, 2).session(39) != made[39]
    assert SyntheticDataset(spec, 1).size is None


def test_prompts_are_unique_from_the_first_words_on() -> None:
    prompts = [session.turns[0].texts[0] for session in sessions(PLAIN, 3000)]
    assert len({prompt[:40] for prompt in prompts}) == 3000
    assert all(first.split()[0] != second.split()[0] for first, second in pairwise(prompts))


def test_lengths_are_drawn_and_told() -> None:
    spec = replace(PLAIN, lengths=(Lengths(200, 80, 30, 8),))
    turns = [session.turns[0] for session in sessions(spec, 3000)]
    assert all(count(turn.texts[0]) == turn.input_tokens for turn in turns)
    assert statistics.mean(turn.input_tokens for turn in turns) == pytest.approx(200, abs=2)
    assert statistics.stdev(turn.input_tokens for turn in turns) == pytest.approx(30, rel=0.06)
    assert statistics.stdev(turn.output_tokens or 0 for turn in turns) == pytest.approx(8, rel=0.06)


def test_pairs_of_lengths_stay_together() -> None:
    turns = [s.turns[0] for s in sessions(replace(PLAIN, lengths=parse_lengths("256,128:40;512,256:60")), 2000)]
    pairs = [(turn.input_tokens, turn.output_tokens) for turn in turns]
    assert set(pairs) == {(256, 128), (512, 256)}
    assert pairs.count((256, 128)) == pytest.approx(800, abs=80)


def test_reading_pairs_of_lengths() -> None:
    assert parse_lengths(" 256|10,128|5:40; 512,256:60 ;") == (
        Lengths(256, 128, 10, 5, 40),
        Lengths(512, 256, 0, 0, 60),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("256,128:40;512:60", "'512:60' is not of the form"),
        ("256,128", "not of the form"),
        ("0,128:100", "not of the form"),
        ("256|-1,128:100", "not of the form"),
        ("nan,128:100", "not of the form"),
        ("256,128:-100", "not of the form"),
        ("256,128:40;512,256:50", "sum to 90"),
        (";", "'' is not of the form"),
    ],
)
def test_bad_pairs_are_told(text: str, words: str) -> None:
    with pytest.raises(ConfigValidationError, match="sequence_distribution") as caught:
        parse_lengths(text)
    assert words in str(caught.value)


def test_shared_and_private_beginnings() -> None:
    spec = replace(PLAIN, lengths=(Lengths(20, 5),), system_tokens=11, context_tokens=7, prefixes=3, prefix_tokens=13)
    made = sessions(spec, 60)
    firsts = [session.turns[0] for session in made]
    assert len({turn.system for turn in firsts}) == 1
    assert count(firsts[0].system) == 11
    assert len({" ".join(turn.texts[0].split()[:13]) for turn in firsts}) == 3
    assert len({" ".join(turn.texts[0].split()[13:20]) for turn in firsts}) == 60
    assert {turn.input_tokens for turn in firsts} == {11 + 7 + 13 + 20}
    assert {count(turn.texts[0]) for turn in firsts} == {7 + 13 + 20}


def test_conversations_have_turns_and_think_times() -> None:
    spec = replace(PLAIN, turns_mean=4, turns_stddev=1, delay_mean_ms=200, delay_stddev_ms=20, delay_ratio=0.5)
    made = sessions(spec, 400)
    assert statistics.mean(len(session.turns) for session in made) == pytest.approx(4, abs=0.2)
    assert {session.turns[0].delay_ns for session in made} == {0}
    delays = [turn.delay_ns / MS for session in made for turn in session.turns[1:]]
    assert statistics.mean(delays) == pytest.approx(100, abs=2)
    assert statistics.stdev(delays) == pytest.approx(10, rel=0.1)
    assert len({turn.texts[0] for session in made for turn in session.turns}) == len(delays) + 400
    assert all(turn.interval_ns is None for session in made for turn in session.turns)


def test_batches_without_answers() -> None:
    turn = sessions(replace(PLAIN, texts=5, answers=False, lengths=(Lengths(9, 9),)), 2)[1].turns[0]
    assert len(set(turn.texts)) == 5
    assert (turn.input_tokens, turn.output_tokens) == (45, None)


@pytest.mark.parametrize("stddev", [0.0, 2.0])
def test_users_send_evenly_and_are_in_mid_conversation_at_the_start(stddev: float) -> None:
    spec = replace(PLAIN, lengths=(Lengths(5, 5),), turns_mean=6, turns_stddev=stddev, users=50, user_rate=10.0)
    made = sessions(spec, 600)
    starts = [session.start_ns or 0 for session in made]
    assert starts == sorted(starts)
    sent = sorted(
        (session.start_ns or 0) + place * 5_000_000_000 for session in made for place in range(len(session.turns))
    )
    inside = [at for at in sent if at < starts[-1]]
    assert inside == [round(place / 10 * 1e9) for place in range(len(inside))]  # every user, all the time
    assert {turn.interval_ns for session in made for turn in session.turns[1:]} == {5_000_000_000}
    minutes = [sum(a * 30e9 <= start < (a + 1) * 30e9 for start in starts[50:]) for a in range(5)]
    assert all(25 <= begun <= 75 for begun in minutes)  # 50 sessions begin in each 30 s, from the first on
    assert SyntheticDataset(spec, 1).session(599) == made[599]
    lengths = {len(session.turns) for session in made[:50]}
    assert len(lengths) >= 5
    if stddev == 0:
        assert {len(session.turns) for session in made[50:]} == {6}
    warming = SyntheticDataset(spec, 1).session(2**40)  # at once, without a plan up to there
    assert (warming.start_ns, len(warming.turns) >= 1) == (0, True)


def test_a_number_of_entries_is_used_again_in_its_order() -> None:
    spec = replace(
        PLAIN, lengths=(Lengths(20, 15, 5, 3),), turns_mean=2, turns_stddev=1, prefixes=3, prefix_tokens=4, entries=4
    )
    made = sessions(spec, 12)
    assert [one.index for one in made] == list(range(12))
    assert len({one.turns[0].texts for one in made}) == 4
    assert [one.turns for one in made[:4]] == [one.turns for one in made[4:8]]
    assert made[0] == sessions(replace(spec, entries=0), 1)[0]
