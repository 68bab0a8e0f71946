"""The verdict: exact on known numbers, honest about noise, and not fooled by having chosen among several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from swarmtune.records import Score
from swarmtune.tuner.proof.confirm import (
    Direction,
    Observed,
    Proof,
    Significance,
    clearly_breaks,
    judge,
    keeps_slos,
    qualified,
)

BASE = 0


def scores(*values: float, violation: float = -0.1) -> list[Score]:
    return [Score(v, -v, {"p95_ttft_ms": violation}) for v in values]


def rounds(*of_each: Iterable[Score]) -> list[dict[int, Observed]]:
    """Rounds of trials 0 (the baseline), 1, 2, ...; one with fewer scores was lost."""
    each = [list(s) for s in of_each]
    return [
        {trial: Observed(found[i]) for trial, found in enumerate(each) if i < len(found)}
        for i in range(max(map(len, each)))
    ]


def proof(baseline: Sequence[Score], *finalists: Sequence[Score], direction: Direction = "maximize") -> Proof:
    """The first score of each is that of the qualifying round."""
    qualifying, *measured = rounds(baseline, *finalists)
    numbers = range(1, len(finalists) + 1)
    winner = qualified(qualifying, numbers, direction)
    assert winner is not None
    alone = [{n: one for n, one in r.items() if n in (BASE, winner)} for r in measured]
    return judge(qualifying, alone, BASE, winner, numbers, direction)


def verdict(winner: Sequence[Score], baseline: Sequence[Score], direction: Direction = "maximize") -> Significance:
    """Of a proof of these rounds alone."""
    return judge({}, rounds(baseline, winner), BASE, 1, [1], direction).verdict


def test_known_interval() -> None:
    """Ratios 1.2, 1.25, 1.3: mean log .2226 +- 4.303 * .0400 / sqrt(3), computed by hand."""
    found = verdict(scores(12, 12.5, 13), scores(10, 10, 10))
    logs = [math.log(1.2), math.log(1.25), math.log(1.3)]
    mean = sum(logs) / 3
    half = 4.30265 * math.sqrt(sum((x - mean) ** 2 for x in logs) / 2) / math.sqrt(3)
    assert found.significant
    assert found.gain_percent == pytest.approx(100 * (math.exp(mean) - 1))
    assert found.ci95_percent == pytest.approx((100 * (math.exp(mean - half) - 1), 100 * (math.exp(mean + half) - 1)))


def test_a_gain_without_noise_is_significant() -> None:
    found = verdict(scores(130.5, 130.5, 130.5), scores(110.9, 110.9, 110.9))
    assert (found.significant, found.gain_percent) == (True, pytest.approx(17.67, abs=0.01))
    assert found.ci95_percent == pytest.approx((17.67, 17.67), abs=0.01)


def test_the_correction_for_the_time_under_load_is_part_of_the_value() -> None:
    found = [{0: Observed(Score(10, -10, {}), 1.1), 1: Observed(Score(10, -10, {}), 1.32)} for _ in range(3)]
    assert judge({}, found, 0, 1, [1], "maximize").verdict.gain_percent == pytest.approx(20.0)


def test_noise_is_no_gain() -> None:
    found = verdict(scores(12, 9, 11), scores(10, 11, 10))
    assert not found.significant
    assert found.reason == "no significant gain"


def test_a_cost_is_better_when_lower() -> None:
    assert verdict(scores(5, 5.1, 4.9), scores(10, 10.2, 9.9), "minimize").significant
    worse = judge({}, rounds(scores(5, 5.1, 4.9), scores(10, 10.2, 9.9)), BASE, 1, [1], "minimize")
    assert worse.best == BASE
    assert not worse.verdict.significant
    assert qualified(rounds(scores(9), scores(5), scores(4))[0], [1, 2], "minimize") == 2


def test_the_best_that_kept_its_slos_qualifies() -> None:
    broken, good, better = scores(30, violation=0.2), scores(15), scores(16)
    assert qualified(rounds(scores(10), broken, good, better)[0], [1, 2, 3], "maximize") == 3
    worse = scores(30, violation=0.5)
    assert qualified(rounds(scores(10), worse, broken)[0], [1, 2], "maximize") == 2, "the least broken one"
    assert qualified(rounds(scores(10), [Score.failed()])[0], [1], "maximize") is None
    assert qualified({}, [1, 2], "maximize") is None


def test_a_winner_that_breaks_its_slos_makes_way_to_the_baseline() -> None:
    found = proof(scores(10, 10, 10), [*scores(20), *scores(20, 20, violation=0.2)])
    assert found.best == BASE
    assert "broke its SLOs" in found.verdict.reason
    assert not found.verdict.significant
    assert proof(scores(10, 10, violation=0.1), scores(20, 20, violation=0.2)).best is None


def test_a_baseline_that_breaks_its_slos_is_beaten_by_one_that_keeps_them() -> None:
    found = verdict(scores(5, 5), scores(10, 10, violation=0.5))
    assert found.significant
    assert "baseline breaks" in found.reason
    dead = judge({}, rounds([Score.failed(), Score.failed()], scores(5, 5)), BASE, 1, [1], "maximize")
    assert (dead.best, dead.verdict.significant, dead.verdict.gain_percent) == (1, True, None)


def test_slos_are_judged_on_average() -> None:
    assert keeps_slos([*scores(1, violation=0.05), *scores(1, violation=-0.2)])
    assert not keeps_slos([*scores(1, violation=0.3), *scores(1, violation=-0.2)])
    assert not keeps_slos([])
    assert not clearly_breaks(scores(1, violation=0.3)), "one measurement alone never tells"


def test_too_few_to_tell() -> None:
    found = verdict(scores(12), scores(10))
    assert (found.significant, found.gain_percent, found.ci95_percent) == (False, pytest.approx(20.0), None)
    assert "too few" in found.reason
    zero = verdict(scores(12, 0, 12), scores(10, 10, 10))
    assert (zero.significant, zero.rounds) == (False, 3)
    assert zero.reason == "in at least one round one of the two had nothing to compare"


def test_finalists_are_told_apart_by_the_noise_of_the_rounds() -> None:
    """Rounds that spread by 2 %: t of 5 rounds is 2.78, so a difference above 5.7 % of one round tells."""
    baseline = scores(10, 10, 10, 10, 10, 10)
    winner = scores(20, 20.4, 19.6, 20.4, 19.6, 20)
    found = proof(baseline, winner, scores(19.2), scores(17), scores(19.9, violation=0.2), [Score.failed()])
    assert (found.best, found.tied) == (1, [2])
    standing = {s.trial: s for s in found.finalists}
    assert standing[2].against_best.gain_percent == pytest.approx(-4)
    assert standing[3].over_baseline.gain_percent == pytest.approx(70)
    assert not standing[4].keeps_slos
    assert standing[1].over_baseline.rounds == 5, "the qualifying round is no part of the verdict"


def test_one_round_tells_nothing_apart_and_beside_the_baseline_nothing_is_tied() -> None:
    assert proof(scores(10, 10), scores(20, 20), scores(10.1)).tied == [2]
    assert proof(scores(10, 30, 30), scores(20, 20, 20), scores(10.1)).tied == [], "the baseline is recommended"


@pytest.mark.parametrize("finalists", [1, 8])
def test_false_alarms_are_rare_however_many_are_chosen_from(finalists: int) -> None:
    """Equal settings under 8 % noise: the one-sided error of a 95 % interval is 2.5 %."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(600):
        of_each = np.exp(rng.normal(0, 0.08, (1 + finalists, 5)))
        alarms += proof(*(scores(*values) for values in of_each)).verdict.significant
    assert alarms / 600 < 0.04


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
