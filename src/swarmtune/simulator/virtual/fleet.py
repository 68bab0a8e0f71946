"""Replicas of one service behind a router, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from swarmtune.simulator.virtual.replicas import Replica
from swarmtune.simulator.virtual.requests import Reason, Requests

Router = Literal["round-robin", "least-loaded", "prefix"]
ROUTERS: tuple[Router, ...] = ("round-robin", "least-loaded", "prefix")
FIRST_BLOCKS = 4  # by which requests with one prefix are known


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
            first = self.replicas[0].add(requests)
            self._numbers[0] += range(len(self.places), len(self.places) + len(requests))
            self.places += [(0, first + i) for i in range(len(requests))]
            return
        if self._router == "round-robin":
            self._dealt(requests)
            return
        for i in range(len(requests)):
            one = requests.at(i)
            for replica in self.replicas:
                replica.run(float(one.arrival[0]))
            chosen = self._chosen(one.contents[:FIRST_BLOCKS].tolist())
            self._numbers[chosen].append(len(self.places))
            self.places.append((chosen, self.replicas[chosen].add(one)))

    def _dealt(self, requests: Requests) -> None:
        """By turns."""
        count, first = len(self.replicas), len(self.places)
        self.places += [(0, 0)] * len(requests)
        for number, replica in enumerate(self.replicas):
            mine = range((number - self._turn) % count, len(requests), count)
            inside = replica.add(requests.chosen(mine))
            self._numbers[number] += [first + i for i in mine]
            for place, i in enumerate(mine):
                self.places[first + i] = (number, inside + place)
        self._turn += len(requests)

    def add_one(
        self, arrival: float, prompt: int, output: int, contents: Sequence[int] = (), priority: int = 0
    ) -> None:
        """The same of one request, quickly."""
        chosen = 0
        if len(self.replicas) > 1:
            if self._router != "round-robin":
                for replica in self.replicas:
                    replica.run(arrival)
            chosen = self._chosen(contents)
        inside = self.replicas[chosen].add_one(arrival, prompt, output, contents, priority)
        self._numbers[chosen].append(len(self.places))
        self.places.append((chosen, inside))

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
        """As of a replica, by their numbers in the order of ``add``."""
        told = [
            (numbers, n) for numbers, replica in zip(self._numbers, self.replicas, strict=True) for n in replica.ended()
        ]
        return [numbers[n] if n >= 0 else -1 - numbers[-1 - n] for numbers, n in told]

    def remove(self, number: int) -> None:
        """The client of this request has gone."""
        replica, inside = self.places[number]
        self.replicas[replica].remove(inside)

    def seen_at(self, number: int) -> float:
        """When what ``ended`` has just told happened, s."""
        return self.replicas[self.places[number if number >= 0 else -1 - number][0]].now

    @property
    def in_engine(self) -> int:
        """Requests that run or wait."""
        return sum(replica.in_engine for replica in self.replicas)

    def _chosen(self, contents: Sequence[int]) -> int:
        if self._router == "round-robin":
            self._turn += 1
            return (self._turn - 1) % len(self.replicas)
        loads = [replica.in_engine for replica in self.replicas]
        least = min(range(len(loads)), key=loads.__getitem__)
        if self._router == "least-loaded":
            return least
        key = tuple(contents[:FIRST_BLOCKS])
        chosen = self._known.get(key, least) if key else least
        if loads[chosen] > 2 * loads[least] + 1:
            chosen = least
        self._known[key] = chosen
        return chosen
