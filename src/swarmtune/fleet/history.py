"""Which groups have served, which have failed to start a service, and when the run should give up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

from swarmtune.clock import Clock
from swarmtune.errors import Culprit, SwarmTuneError
from swarmtune.fleet.job import Stage

SAME_FAILURES = 3  # pieces of work that fail to start in the same way before the run gives up
MEMORY_FAILURES = 8  # the same limit for lack of memory, which depends more on the setting
UNREACHABLE_FAILURES = 3  # failures to reach each group before the run gives up,
UNREACHABLE_S = 45.0  # but no sooner than this after the first failure: machines may be booting
OUT_OF_MEMORY = "out_of_memory"
MEMORY = 64  # latest failures that are kept of a group


@dataclass(frozen=True)
class Failure:
    """A service that did not become ready: of which work, how, and when (monotonic seconds)."""

    work: Hashable
    stage: Stage
    error: SwarmTuneError
    at: float

    @property
    def cause(self) -> str:
        """The diagnosed cause, else the stage and the kind of error: failures with equal causes are alike."""
        return str(self.error.details.get("cause") or f"{self.stage}: {type(self.error).__name__}")

    @property
    def of_infrastructure(self) -> bool:
        """Is the infrastructure to blame?"""
        return self.error.culprit is Culprit.INFRASTRUCTURE


@dataclass
class History:
    """Results of all service starts in a run, by the name of the group."""

    clock: Clock
    _served: set[str] = field(default_factory=set)
    _failures: defaultdict[str, list[Failure]] = field(default_factory=lambda: defaultdict(list))

    def serves(self, group: str) -> None:
        """Record that a service has become ready on this group."""
        self._served.add(group)
        self._failures.pop(group, None)

    def failed(self, group: str, work: Hashable, stage: Stage, error: SwarmTuneError) -> None:
        """Record that a service has not become ready on this group."""
        kept = self._failures[group]
        kept.append(Failure(work, stage, error.with_traceback(None), self.clock.monotonic()))
        del kept[:-MEMORY]

    def forget(self, group: str) -> None:
        """Forget a group that has left: another one may get its name."""
        self._served.discard(group)
        self._failures.pop(group, None)

    def forget_failures(self) -> None:
        """Forget all failures, not what has served."""
        self._failures.clear()

    def has_served(self, group: str) -> bool:
        """Has any service ever become ready on this group?"""
        return group in self._served

    def any_served(self, groups: Collection[str]) -> bool:
        """Has any service ever become ready on one of these groups?"""
        return not self._served.isdisjoint(groups)

    def in_a_row(self, group: str) -> int:
        """Failed starts since the last successful one."""
        return len(self._failures.get(group, ()))

    def hopeless(self, groups: Collection[str]) -> list[tuple[str, Failure]]:
        """The latest failure of each of these groups if none has ever served and retries would not help; else empty.

        Retries would not help when several pieces of work failed in the same way, or no group was reachable for a while.
        """
        if not groups or self.any_served(groups) or not all(self._failures.get(name) for name in groups):
            return []
        mine = [failure for name in groups for failure in self._failures[name]]
        started = [f for f in mine if f.stage is Stage.READY and not f.of_infrastructure]
        same = Counter(cause for _, cause in {(failure.work, failure.cause) for failure in started})
        patient = any(n >= (MEMORY_FAILURES if cause == OUT_OF_MEMORY else SAME_FAILURES) for cause, n in same.items())
        if not patient and self.hopeless_in(groups) != 0.0:
            return []
        return [(name, self._failures[name][-1]) for name in groups]

    def hopeless_in(self, groups: Collection[str]) -> float | None:
        """Seconds until unreachable groups are given up; None if they are not all unreachable."""
        failures = [[f for f in self._failures.get(name, []) if f.of_infrastructure] for name in groups]
        if self.any_served(groups) or not failures or min(map(len, failures)) < UNREACHABLE_FAILURES:
            return None
        first = min(failure.at for several in failures for failure in several)
        return max(0.0, first + UNREACHABLE_S - self.clock.monotonic())

    def latest(self, groups: Collection[str]) -> list[tuple[str, Failure]]:
        """The latest failure of each of these groups that has one."""
        return [(name, self._failures[name][-1]) for name in groups if self._failures.get(name)]
