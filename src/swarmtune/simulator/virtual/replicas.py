"""A replica, in C where it was compiled, else in Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.tables import CostTables
from swarmtune.simulator.virtual import native
from swarmtune.simulator.virtual.native import NativeReplica
from swarmtune.simulator.virtual.plain import PlainReplica
from swarmtune.simulator.virtual.requests import Answers, Reason, Requests


class Replica(Protocol):
    """One copy of the service."""

    @property
    def now(self) -> float: ...
    @property
    def next(self) -> float: ...
    @property
    def in_engine(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def rows(self) -> NDArray[Any]: ...
    def add(self, requests: Requests) -> int: ...
    def add_one(
        self, arrival: float, prompt: int, output: int, contents: Sequence[int] = (), priority: int = 0
    ) -> int: ...
    def remove(self, number: int) -> None: ...
    def ended(self) -> list[int]: ...
    def run(self, limit: float = math.inf, *, stop: bool = False) -> Reason: ...
    def answers(self, first: int = 0) -> Answers: ...


def make_replica(
    rules: Rules, cost: CostTables, *, rows: bool = False, firsts: bool = False
) -> NativeReplica | PlainReplica:
    """In C where it was compiled, else in Python."""
    kind = NativeReplica if native.available() else PlainReplica
    return kind(rules, cost, rows=rows, firsts=firsts)
