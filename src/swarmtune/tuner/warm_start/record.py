"""The results that a new study takes from earlier ones, rescaled to its own baseline.

Chosen once, when a study starts (similar.py), and recorded in the study; a resumed study reads them from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swarmtune.records import Score, Setting, Value, from_plain, to_plain
from swarmtune.search.base import Earlier

WARM_START = "warm_start"  # the kind of the event that holds it
UNSCALED = ("success_rate", "start_failure", "cannot_win")  # violations that are not ratios of a metric and its limit


@dataclass(frozen=True)
class Taken:
    """A result of an earlier study in the space of this one. ``anchor``: score of our baseline in the earlier study, used
    to rescale; None: the studies are alike, and the result counts unchanged.
    """

    setting: Setting
    score: Score
    weight: float = 1.0
    anchor: Score | None = None


@dataclass(frozen=True)
class Source:
    """A study from which results were taken, and its differences from this one."""

    study: str
    place: str
    results: int
    weight: float
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmStart:
    """The results taken; ``first``: settings to measure right after the user's own; ``notices``: studies left out."""

    results: tuple[Taken, ...] = ()
    first: tuple[Setting, ...] = ()
    sources: tuple[Source, ...] = ()
    notices: tuple[str, ...] = ()

    def learned(self, baseline: Score) -> list[Earlier]:
        """The results on the scale of this study, whose baseline has this score."""
        results = []
        for taken in self.results:
            score = taken.score if taken.anchor is None else scaled(taken.score, taken.anchor, baseline)
            if score is not None:
                results.append(Earlier(taken.setting, score, taken.weight))
        return results

    @property
    def sentence(self) -> str:
        """A sentence for people: the number of results taken from each study. Empty if none was taken."""
        shown = [
            f"{s.results} results of {s.study}"
            + (f" (other {', other '.join(s.differs)}: weight {s.weight:.2g})" if s.differs else "")
            for s in self.sources
        ]
        return f"Learning from earlier studies: {'; '.join(shown)}" if shown else ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for the study."""
        return {
            "results": [
                {
                    "values": dict(t.setting.values),
                    "score": to_plain(t.score),
                    "weight": t.weight,
                    "anchor": t.anchor and to_plain(t.anchor),
                }
                for t in self.results
            ],
            "first": [dict(s.values) for s in self.first],
            "sources": [vars(s) for s in self.sources],
            "notices": list(self.notices),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WarmStart:
        """Inverse of ``to_json``. ValueError or LookupError: these are no such data."""
        return cls(
            tuple(
                Taken(
                    Setting(from_plain(t["values"], dict[str, Value]), "earlier"),
                    from_plain(t["score"], Score),
                    from_plain(t["weight"], float),
                    from_plain(t["anchor"], Score) if t["anchor"] else None,
                )
                for t in from_plain(data["results"], list[dict[str, Any]])
            ),
            tuple(
                Setting(values, f"earlier:{i}")
                for i, values in enumerate(from_plain(data["first"], list[dict[str, Value]]), 1)
            ),
            from_plain(data["sources"], tuple[Source, ...]),
            from_plain(data["notices"], tuple[str, ...]),
        )


NOTHING = WarmStart()


def scaled(score: Score, anchor: Score, baseline: Score) -> Score | None:
    """A score of another study, multiplied so that its ``anchor`` becomes our ``baseline``; None where that is impossible.

    Losses and the ratios of metrics and their limits are multiplied each by its own factor: faster hardware is faster
    for all settings, more or less.
    """
    if score.value is None:
        return score
    factor = _factor(anchor.loss, baseline.loss) if baseline.value is not None else None
    values = {n: (v, _factor(anchor.values.get(n, 0), baseline.values.get(n, 0))) for n, v in score.values.items()}
    if factor is None or any(f is None for _, f in values.values()):
        return None
    ratios = {
        n: _factor(1 + anchor.violations[n], 1 + baseline.violations[n])
        for n in anchor.violations.keys() & baseline.violations.keys()
        if n not in UNSCALED
    }
    violations = {n: (1 + v) * (ratios.get(n) or 1.0) - 1 for n, v in score.violations.items() if n not in UNSCALED}
    return Score(
        score.value * factor,
        score.loss * factor,
        {**score.violations, **violations},
        {n: v * (f or 1.0) for n, (v, f) in values.items()},
    )


def _factor(before: float, after: float) -> float | None:
    """The factor from ``before`` to ``after``; None if it is not positive and finite."""
    factor = after / before if before else math.nan
    return factor if math.isfinite(factor) and factor > 0 else None
