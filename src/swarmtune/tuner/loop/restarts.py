"""Which services run where, and what it costs to start another (C7)."""

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

PROBES = (0.02, 0.35, 0.65, 0.98)  # places in a field's range where its effect on the commands is looked at
MEMORY = 9  # evaluations that an expectation rests on; their median, because a start may have waited for its nodes


def free_fields(plan: Plan) -> frozenset[str]:
    """The searched fields whose change leaves the commands of the service as they are, such as its number of users.

    One that has no effect on the baseline because its ``when`` does not hold there is not among them.
    """
    group, space = plan.groups[0], plan.space
    rest = space.encode(plan.baseline())
    base = space.decode(rest)

    def is_free(index: int) -> bool:
        points = np.tile(rest, (len(PROBES), 1))
        points[:, index] = PROBES
        others = [setting for setting in map(space.decode, points) if setting.key != base.key and space.legal(setting)]
        first = plan.engine.commands(base, group)
        same = (all(map(Command.same_process, first, plan.engine.commands(other, group))) for other in others)
        return bool(others) and all(same)

    try:
        return frozenset(d.name for i, d in enumerate(space.dimensions) if is_free(i))
    except SwarmTuneError:  # the engine will say so when it is to start
        return frozenset()


@dataclass
class Restarts:
    """Looks at what evaluations told. Groups are known by name; ``free``: see ``free_fields``."""

    free: frozenset[str]
    _running: dict[str, Setting] = field(default_factory=dict)
    _starts_s: list[float] = field(default_factory=list)
    _others_s: list[float] = field(default_factory=list)

    def ended(self, group: str, setting: Setting | None, seconds: float, facts: Mapping[str, Any]) -> None:
        """An evaluation took ``seconds``; of ``facts`` count start_seconds (0: no start was needed) and waited_seconds.

        ``setting``: what runs there now; None: nothing.
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
        """For the next question on this group; None while nothing runs there, or no setting can do without a restart."""
        if not self.free or not self._starts_s or group not in self._running:
            return None
        start_s, other_s = median(self._starts_s[-MEMORY:]), median(self._others_s[-MEMORY:])
        return Running(self._running[group], self.free, min(0.99, start_s / (start_s + other_s)))
