"""Progress of a batch of particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swarmtune.fleet.pool import PoolCounts


@dataclass
class Progress:
    """Counts of a batch of ``total`` particles."""

    total: int
    evaluated: int = 0  # particles with a result, failed ones included
    failed: int = 0
    seconds: float = 0.0  # sum over the attempts that gave a result

    def add(self, seconds: float, failed: bool) -> None:
        """Count a particle with its result; ``seconds``: the duration of its last attempt."""
        self.evaluated += 1
        self.failed += failed
        self.seconds += seconds

    def facts(self, pool: PoolCounts) -> dict[str, Any]:
        """evaluated, failed, total, average_s, eta_s (None: unknown), and groups by state.

        ETA = remaining particles x average duration so far / healthy groups.
        """
        average = self.seconds / self.evaluated if self.evaluated else None
        remaining = self.total - self.evaluated
        has_eta = average is not None and pool.healthy > 0
        return {
            "evaluated": self.evaluated,
            "failed": self.failed,
            "total": self.total,
            "average_s": None if average is None else round(average, 3),
            "eta_s": round(remaining * (average or 0.0) / pool.healthy, 3) if has_eta else None,
            "healthy_groups": pool.healthy,
            "busy_groups": pool.busy,
            "open_groups": pool.open,
            "gone_groups": pool.gone,
        }
