"""The verdict: exact on known numbers, honest about noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from swarmtune.records import Score
from swarmtune.tuner.confirm import compare, keeps_promises, student_t95


def scores(*values: float, violation: float = -0.1) -> list[Score]:
    return [Score(v, -v, {"p95_ttft_ms": violation}) for v in values]


def test_known_interval() -> None:
    """Ratios 1.2, 1.25, 1.3: mean log .2226 +- 4.303 * .0400 / sqrt(3), computed by hand."""
    verdict = compare(scores(12, 12.5, 13), scores(10, 10, 10), "maximize")
    logs = [math.log(1.2), math.log(1.25), math.log(1.3)]
    mean = sum(logs) / 3
    half = 4.303 * math.sqrt(sum((x - mean) ** 2 for x in logs) / 2) / math.sqrt(3)
    assert verdict.significant
    assert verdict.gain_percent == pytest.approx(100 * (math.exp(mean) - 1))
    assert verdict.ci95_percent == pytest.approx((100 * (math.exp(mean - half) - 1), 100 * (math.exp(mean + half) - 1)))


def test_noise_is_no_gain() -> None:
    verdict = compare(scores(12, 9, 11), scores(10, 11, 10), "maximize")
    assert not verdict.significant
    assert verdict.reason == "no significant gain"


def test_a_cost_is_better_when_lower() -> None:
    assert compare(scores(5, 5.1, 4.9), scores(10, 10.2, 9.9), "minimize").significant
    assert not compare(scores(10, 10.2, 9.9), scores(5, 5.1, 4.9), "minimize").significant


def test_a_winner_that_breaks_its_promises_has_not_won() -> None:
    verdict = compare(scores(20, 20, violation=0.2), scores(10, 10), "maximize")
    assert not verdict.significant
    assert "broke its promises" in verdict.reason


def test_a_baseline_that_breaks_its_promises_is_beaten_by_one_that_keeps_them() -> None:
    verdict = compare(scores(5, 5), scores(10, 10, violation=0.5), "maximize")
    assert verdict.significant
    assert "baseline breaks" in verdict.reason
    dead = compare(scores(5, 5), [Score.failed(), Score.failed()], "maximize")
    assert dead.significant
    assert dead.gain_percent is None


def test_promises_are_judged_on_average() -> None:
    assert keeps_promises([*scores(1, violation=0.05), *scores(1, violation=-0.2)])
    assert not keeps_promises([*scores(1, violation=0.3), *scores(1, violation=-0.2)])
    assert not keeps_promises([])


def test_too_few_to_tell() -> None:
    verdict = compare(scores(12), scores(10), "maximize")
    assert not verdict.significant
    assert verdict.gain_percent == pytest.approx(20.0)
    assert compare([], [], "maximize").gain_percent is None


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Equal settings under 8 % noise: the one-sided error of a 95 % interval is 2.5 %."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(2000):
        a, b = np.exp(rng.normal(0, 0.08, (2, 4)))
        alarms += compare(scores(*a), scores(*b), "maximize").significant
    assert alarms / 2000 < 0.04


def test_a_baseline_at_its_limit_is_not_called_broken() -> None:
    """The load search puts settings right at their limits: noise must not make one of two equal settings "break"."""
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(1000):
        winner, baseline = (
            [
                Score(10 + n, -10.0, {"p95_ttft_ms": v})
                for n, v in zip(*rng.normal(0, [[0.5], [0.08]], (2, 3)), strict=True)
            ]
            for _ in range(2)
        )
        alarms += compare(winner, baseline, "maximize").significant
    assert alarms / 1000 < 0.06


def test_quantiles() -> None:
    assert student_t95(1) == 12.706
    assert student_t95(30) == 2.042
    assert student_t95(500) == 1.96
