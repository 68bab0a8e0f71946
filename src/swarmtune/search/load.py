"""The highest load that keeps the promises: one service start, several load points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LoadPoint:
    """One load that was tried (users or requests per second), and by how much it broke the promises.

    ``violation`` is relative to the limit: <= 0 kept, 0.2 = 20 % over.
    """

    load: float
    violation: float

    @property
    def kept(self) -> bool:
        """Were all promises kept?"""
        return self.violation <= 0


THOROUGH_POINTS = 16  # doubling and halving over any sensible range of loads


@dataclass(frozen=True)
class LoadSearch:
    """Bracket by doubling, then bisection on a log scale (monotone: more load never helps latency).

    ``low`` and ``high`` bound the load, ``whole`` for concurrency, at most ``points`` loads are tried, and it stops when
    the bracket is narrower than ``tolerance`` (relative).
    """

    low: float
    high: float
    start: float
    points: int = 4
    tolerance: float = 0.15
    whole: bool = True

    def starting_at(self, load: float | None, thorough: bool = False) -> LoadSearch:
        """The same search from another first load: that of the best setting so far is the one to beat.

        ``thorough``: only the tolerance ends it.
        """
        points = THOROUGH_POINTS if thorough else self.points
        return replace(self, start=self.start if load is None else load, points=points)

    def next(self, tried: Sequence[LoadPoint]) -> float | None:
        """The next load to try; None when enough is known."""
        if len(tried) >= self.points:
            return None
        if not tried:
            return self._round(min(self.high, max(self.low, self.start)))
        kept = max((p.load for p in tried if p.kept), default=None)
        broken = min((p.load for p in tried if not p.kept and (kept is None or p.load > kept)), default=None)
        if broken is None:
            candidate = self.high if kept is None else min(self.high, kept * 2)
        elif kept is None:
            candidate = max(self.low, broken / 2)
        elif broken / kept - 1 <= self.tolerance:
            return None
        else:
            candidate = (kept * broken) ** 0.5
        candidate = self._round(candidate)
        return None if any(p.load == candidate for p in tried) else candidate

    def _round(self, load: float) -> float:
        return float(max(1, round(load))) if self.whole else float(f"{load:.4g}")
