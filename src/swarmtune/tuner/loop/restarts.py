"""The service that runs on each group, and the cost of starting another (C7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from swarmtune.errors import SwarmTuneError
from swarmtune.records import Command, Setting
from swarmtune.search.base import Running
from swarmtune.tuner.planning.plan import Plan

PROBES = (0.02, 0.35, 0.65, 0.98)  # places in a field's range at which its effect on the commands is tested
MEMORY = 9  # evaluations whose median is the expected cost; the median, because a start may have waited for its nodes


def free_fields(plan: Plan) -> frozenset[str]:
    """The searched fields that do not change the commands of the service, such as the number of users.

    A field that has no effect on the baseline only because its ``when`` is false there does not count.
    """
    group, space = plan.groups[0], plan.space
    rest = space.encode(plan.baseline())
    base = space.decode(rest)

    def is_free(index: int) -> bool:
        points = np.tile(rest, (len(PROBES), 1))
        points[:, index] = PROBES
        others = [setting for setting in map(space.decode, points) if setting.key != base.key and space.legal(setting)]
        first = plan.commands(base, group)
        same = (all(map(Command.same_process, first, plan.commands(other, group))) for other in others)
        return bool(others) and all(same)

    try:
        return frozenset(d.name for i, d in enumerate(space.dimensions) if is_free(i))
    except SwarmTuneError:  # the engine raises it again when the service is to start
        return frozenset()


@dataclass
class Restarts:
    """Estimates the restart cost of each group from finished evaluations. ``free``: see ``free_fields``."""

    free: frozenset[str]
    _running: dict[str, Setting] = field(default_factory=dict)
    _starts_s: list[float] = field(default_factory=list)
    _others_s: list[float] = field(default_factory=list)

    def ended(self, group: str, setting: Setting | None, seconds: float, facts: Mapping[str, Any]) -> None:
        """Record an evaluation of ``seconds``; ``facts`` gives start_seconds (0: no start was needed) and waited_seconds.

        ``setting``: the one whose service runs on the group now; None: no service runs.
        """
        self._running.pop(group, None)
        if setting is None:
            return
        self._running[group] = setting
        start_s = float(facts.get("start_seconds", 0.0))
        self._others_s.append(max(0.0, seconds - start_s - float(facts.get("waited_seconds", 0.0))))
        if start_s > 0:
            self._starts_s.append(start_s)

    def on(self, group: str) -> Running | None:
        """The running service, for the next question on this group; None if none runs, or every setting needs a restart."""
        if not self.free or not self._starts_s or group not in self._running:
            return None
        start_s, other_s = median(self._starts_s[-MEMORY:]), median(self._others_s[-MEMORY:])
        return Running(self._running[group], self.free, min(0.99, start_s / (start_s + other_s)))
