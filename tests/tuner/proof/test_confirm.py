"""The verdict: exact on known numbers, honest about noise and about having chosen among several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from swarmtune.records import Score
from swarmtune.tuner.proof.confirm import (
    BY_CHANCE,
    Direction,
    Observed,
    Proof,
    Significance,
    clearly_breaks,
    judge,
    keeps_slos,
    still_open,
)

BASE = 0


def scores(*values: float, violation: float = -0.1) -> list[Score]:
    return [Score(v, -v, {"p95_ttft_ms": violation}) for v in values]


def rounds(*of_each: Iterable[Score]) -> list[dict[int, Observed]]:
    """Rounds of trials 0 (the baseline), 1, 2, ...; whoever has fewer scores was dropped."""
    each = [list(s) for s in of_each]
    return [
        {trial: Observed(found[i]) for trial, found in enumerate(each) if i < len(found)}
        for i in range(max(map(len, each)))
    ]


def proof(baseline: Sequence[Score], *finalists: Sequence[Score], direction: Direction = "maximize") -> Proof:
    return judge(rounds(baseline, *finalists), BASE, range(1, len(finalists) + 1), direction)


def verdict(winner: Sequence[Score], baseline: Sequence[Score], direction: Direction = "maximize") -> Significance:
    return proof(baseline, winner, direction=direction).verdict


def test_known_interval() -> None:
    """Ratios 1.2, 1.25, 1.3: mean log .2226 +- 4.303 * .0400 / sqrt(3), computed by hand; wider than the bootstrap's."""
    found = verdict(scores(12, 12.5, 13), scores(10, 10, 10))
    logs = [math.log(1.2), math.log(1.25), math.log(1.3)]
    mean = sum(logs) / 3
    half = 4.30265 * math.sqrt(sum((x - mean) ** 2 for x in logs) / 2) / math.sqrt(3)
    assert found.significant
    assert found.gain_percent == pytest.approx(100 * (math.exp(mean) - 1))
    assert found.ci95_percent == pytest.approx((100 * (math.exp(mean - half) - 1), 100 * (math.exp(mean + half) - 1)))


def test_noise_is_no_gain() -> None:
    found = verdict(scores(12, 9, 11), scores(10, 11, 10))
    assert not found.significant
    assert found.reason == "no significant gain"


def test_a_cost_is_better_when_lower() -> None:
    assert verdict(scores(5, 5.1, 4.9), scores(10, 10.2, 9.9), "minimize").significant
    worse = proof(scores(5, 5.1, 4.9), scores(10, 10.2, 9.9), direction="minimize")
    assert worse.best == BASE
    assert not worse.verdict.significant


def test_a_winner_that_breaks_its_promises_makes_way() -> None:
    found = proof(scores(10, 10), scores(20, 20, violation=0.2), scores(15, 15.1))
    assert found.best == 2
    alone = proof(scores(10, 10), scores(20, 20, violation=0.2))
    assert alone.best == BASE
    assert "broke their SLOs" in alone.verdict.reason
    assert proof(scores(10, 10, violation=0.1), scores(20, 20, violation=0.2)).best is None


def test_a_baseline_that_breaks_its_promises_is_beaten_by_one_that_keeps_them() -> None:
    found = verdict(scores(5, 5), scores(10, 10, violation=0.5))
    assert found.significant
    assert "baseline breaks" in found.reason
    dead = proof([Score.failed(), Score.failed()], scores(5, 5))
    assert (dead.best, dead.verdict.significant, dead.verdict.gain_percent) == (1, True, None)


def test_promises_are_judged_on_average() -> None:
    assert keeps_slos([*scores(1, violation=0.05), *scores(1, violation=-0.2)])
    assert not keeps_slos([*scores(1, violation=0.3), *scores(1, violation=-0.2)])
    assert not keeps_slos([])
    assert not clearly_breaks(scores(1, violation=0.3)), "one measurement alone never tells"


def test_too_few_to_tell() -> None:
    found = verdict(scores(12), scores(10))
    assert (found.significant, found.gain_percent, found.ci95_percent) == (False, pytest.approx(20.0), None)
    assert "too few" in found.reason


def test_who_is_clearly_beaten_or_broken_is_dropped_and_the_baseline_never() -> None:
    good, close, beaten = scores(20, 20.2, 20.1), scores(20.3, 19.8, 20.2), scores(10, 10.1, 10)
    broken = scores(30, 30, 30, violation=0.2)
    found = rounds(scores(8, 8.1, 8), good, close, beaten, broken)
    assert still_open(found, range(5), BASE, "maximize") == [0, 1, 2]
    assert still_open(found[:1], range(5), BASE, "maximize") == [0, 1, 2, 3, 4], "one round tells nothing"
    assert still_open(rounds(good, beaten), range(2), BASE, "maximize") == [0]
    assert still_open(rounds(good, broken), range(2), BASE, "maximize") == [0]


def test_one_that_was_dropped_wins_only_if_no_other_keeps_its_promises() -> None:
    late = [*scores(20, 20.1), *scores(20, violation=0.9)]
    found = proof(scores(10, 10.1, 10), late, scores(15, 15.1))
    assert found.best == 2
    assert found.verdict.rounds == 2
    whole = proof(scores(10, 10.1, 10), scores(20, 20.1, 20), scores(25, 15.1))
    assert whole.best == 1


def test_tied_settings_are_those_that_cannot_be_told_apart_and_may_keep_their_promises() -> None:
    rng = np.random.default_rng(4)
    winner, equal, worse = (list(level * np.exp(rng.normal(0, 0.02, 6))) for level in (20.5, 20, 14))
    found = proof(
        scores(10, 10.1, 9.9, 10, 10, 10.2),
        scores(*winner), scores(*equal), scores(*worse), scores(*equal, violation=0.2),
    )  # fmt: skip
    assert (found.best, found.tied) == (1, [2])
    standing = {s.trial: s for s in found.finalists}
    low, high = standing[2].against_best.ci95_percent
    assert low < 0 < high
    assert standing[3].against_best.worse
    assert standing[3].over_baseline.gain_percent == pytest.approx(40, abs=5)
    assert not standing[4].keeps_slos


def test_a_setting_that_failed_to_start_is_not_tied_even_after_one_round() -> None:
    assert proof(scores(20), scores(10), [Score.failed()]).tied == [1]
    assert proof(scores(10), scores(20), scores(19)).tied == [2]


def test_the_best_of_several_must_be_better_than_chance_makes_the_best_of_several() -> None:
    """One interval just above zero convinces for one finalist, not for one of three that otherwise show nothing."""
    baseline = scores(10, 10, 10, 10)
    lucky = scores(10.1, 10.6, 10.4, 10.7)
    nothing = (scores(9.5, 10.5, 9.4, 10.4), scores(10.3, 9.6, 10.2, 9.5))
    assert proof(baseline, lucky).verdict.significant
    among = proof(baseline, lucky, *nothing)
    assert among.best == 1
    assert among.verdict.ci95_percent[0] > 0
    assert (among.verdict.significant, among.verdict.reason) == (False, BY_CHANCE)
    agreeing = proof(baseline, lucky, scores(10.1, 10.5, 10.3, 10.6), scores(10.1, 10.4, 10.4, 10.5))
    assert agreeing.verdict.significant


@pytest.mark.parametrize("finalists", [1, 3])
def test_false_alarms_are_as_rare_as_promised(finalists: int) -> None:
    """Equal settings under 8 % noise: the one-sided error of a 95 % interval is 2.5 %, with the choice of the best, too."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(400):
        of_each = np.exp(rng.normal(0, 0.08, (1 + finalists, 4)))
        alarms += proof(*(scores(*values) for values in of_each)).verdict.significant
    assert alarms / 400 < 0.04


def test_a_baseline_at_its_limit_is_not_called_broken() -> None:
    """The load search puts settings right at their limits: noise must not make one of two equal settings "break"."""
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(400):
        winner, baseline = (
            [
                Score(10 + n, -10.0, {"p95_ttft_ms": v})
                for n, v in zip(*rng.normal(0, [[0.5], [0.08]], (2, 3)), strict=True)
            ]
            for _ in range(2)
        )
        alarms += verdict(winner, baseline).significant
    assert alarms / 400 < 0.06
