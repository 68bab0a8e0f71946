"""How far a batch of particles is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swarmtune.fleet.pool import PoolCounts


@dataclass
class Progress:
    """Counts for people; ``total`` particles are asked for."""

    total: int
    evaluated: int = 0  # have their result, failed ones included
    failed: int = 0
    seconds: float = 0.0  # of all attempts that gave a result

    def add(self, seconds: float, failed: bool) -> None:
        """One more has its result; the attempt that gave it took that long."""
        self.evaluated += 1
        self.failed += failed
        self.seconds += seconds

    def facts(self, pool: PoolCounts) -> dict[str, Any]:
        """evaluated, failed, total, average_s, eta_s (None: nobody knows), and groups by state.

        ETA = the work that is left / the healthy groups, if it takes as long as the work so far.
        """
        average = self.seconds / self.evaluated if self.evaluated else None
        left = self.total - self.evaluated
        known = average is not None and pool.healthy > 0
        return {
            "evaluated": self.evaluated,
            "failed": self.failed,
            "total": self.total,
            "average_s": None if average is None else round(average, 3),
            "eta_s": round(left * (average or 0.0) / pool.healthy, 3) if known else None,
            "healthy_groups": pool.healthy,
            "busy_groups": pool.busy,
            "open_groups": pool.open,
            "gone_groups": pool.gone,
        }
