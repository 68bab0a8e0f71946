"""Replicas of one service behind a router, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.tables import CostTables
from swarmtune.simulator.virtual import native
from swarmtune.simulator.virtual.native import NativeReplica
from swarmtune.simulator.virtual.plain import PlainReplica
from swarmtune.simulator.virtual.requests import Answers, Reason, Requests

Router = Literal["round-robin", "least-loaded", "prefix"]
ROUTERS: tuple[Router, ...] = ("round-robin", "least-loaded", "prefix")
FIRST_BLOCKS = 4  # by which requests with one prefix are known


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
    def add(self, requests: Requests) -> int: ...
    def remove(self, number: int) -> None: ...
    def ended(self) -> list[int]: ...
    def run(self, limit: float = math.inf, *, stop: bool = False) -> Reason: ...
    def answers(self, first: int = 0) -> Answers: ...


def make_replica(rules: Rules, cost: CostTables, *, rows: bool = False) -> NativeReplica | PlainReplica:
    """In C where it was compiled, else in Python."""
    return NativeReplica(rules, cost, rows=rows) if native.available() else PlainReplica(rules, cost, rows=rows)


class Fleet:
    """``replicas``, and who gets which request. With one, there is nothing to decide.

    round-robin: by turns. least-loaded: the one with the fewest requests that run or wait, the first of equals. prefix: the
    one that had the last request with the same first blocks, unless it has twice as many requests as the least loaded one.
    """

    def __init__(self, replicas: Sequence[Replica], router: Router = "round-robin") -> None:
        self.replicas = list(replicas)
        self.places: list[tuple[int, int]] = []  # of each request: its replica, and its number there
        self._numbers: list[list[int]] = [[] for _ in replicas]
        self._router = router
        self._turn = 0
        self._known: dict[tuple[int, ...], int] = {}

    def add(self, requests: Requests) -> None:
        """These arrive, none before the replicas' time. Those of one call are routed by what is known at their arrival."""
        if len(self.replicas) == 1:
            self._give(0, requests, len(requests))
            return
        begin = 0
        for i in range(len(requests)):
            end = int(requests.ends[i])
            one = Requests(
                *(c[i : i + 1] for c in (requests.arrival, requests.prompt, requests.output, requests.priority)),
                np.array([end - begin], np.int64),
                requests.contents[begin:end],
            )
            begin = end
            if self._router != "round-robin":
                for replica in self.replicas:
                    replica.run(float(one.arrival[0]))
            self._give(self._chosen(one), one, 1)

    def run(self, limit: float = math.inf, *, stop: bool = False) -> Reason:
        """As of a replica: what happens first anywhere comes first, so that with ``stop`` none is ahead of another's end."""
        if len(self.replicas) == 1:
            return self.replicas[0].run(limit, stop=stop)
        if not stop:
            reasons = [replica.run(limit) for replica in self.replicas]
            return max(reasons)
        while True:
            times = [replica.next for replica in self.replicas]
            at = min(range(len(times)), key=times.__getitem__)
            if times[at] >= limit or times[at] == math.inf:
                return Reason.LIMIT if times[at] < math.inf else Reason.DRAINED
            others = min(time for i, time in enumerate(times) if i != at)
            bound = min(limit, math.nextafter(others, math.inf))
            reason = self.replicas[at].run(max(bound, math.nextafter(times[at], math.inf)), stop=True)
            if reason in (Reason.ENDED, Reason.STALLED):
                return reason

    def ended(self) -> list[int]:
        """The requests that have ended since the last call, by their number in the order of ``add``."""
        return [self._numbers[i][n] for i, replica in enumerate(self.replicas) for n in replica.ended()]

    def remove(self, number: int) -> None:
        """The client of this request has gone."""
        replica, inside = self.places[number]
        self.replicas[replica].remove(inside)

    @property
    def now(self) -> float:
        """Seconds: of the replica that is farthest."""
        return max(replica.now for replica in self.replicas)

    def _give(self, replica: int, requests: Requests, count: int) -> None:
        first = self.replicas[replica].add(requests)
        self._numbers[replica] += range(len(self.places), len(self.places) + count)
        self.places += [(replica, first + i) for i in range(count)]

    def _chosen(self, one: Requests) -> int:
        if self._router == "round-robin":
            self._turn += 1
            return (self._turn - 1) % len(self.replicas)
        loads = [replica.in_engine for replica in self.replicas]
        least = min(range(len(loads)), key=loads.__getitem__)
        if self._router == "least-loaded":
            return least
        key = tuple(one.contents[:FIRST_BLOCKS].tolist())
        chosen = self._known.get(key, least) if key else least
        if loads[chosen] > 2 * loads[least] + 1:
            chosen = least
        self._known[key] = chosen
        return chosen
