"""Replicas of one service behind a router, in virtual time."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Literal

import numpy as np

from swarmtune.simulator.virtual.replicas import Replica
from swarmtune.simulator.virtual.requests import Counts, Reason, Requests

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
        self._replica, self._inside = array("q"), array("q")  # of each request: its replica, and its number there
        self._numbers = [array("q") for _ in replicas]  # of each replica's requests: their numbers here
        self._router = router
        self._turn = 0
        self._known: dict[tuple[int, ...], int] = {}

    def add(self, requests: Requests) -> None:
        """These arrive, none before the replicas' time. Those of one call are routed by what is known at their arrival."""
        if self._router == "round-robin":
            self._dealt(requests)
            return
        for i in range(len(requests)):
            one = requests.at(i)
            for replica in self.replicas:
                replica.run(float(one.arrival[0]))
            chosen = self._chosen(one.contents[:FIRST_BLOCKS].tolist())
            self._given(chosen, self.replicas[chosen].add(one))

    def _dealt(self, requests: Requests) -> None:
        """By turns."""
        count, first = len(self.replicas), len(self._inside)
        self._replica.extend([0] * len(requests))
        self._inside.extend([0] * len(requests))
        for number, replica in enumerate(self.replicas):
            mine = range((number - self._turn) % count, len(requests), count)
            inside = replica.add(requests.chosen(mine) if count > 1 else requests)
            self._numbers[number].extend(first + i for i in mine)
            for place, i in enumerate(mine, inside):
                self._replica[first + i], self._inside[first + i] = number, place
        self._turn += len(requests)

    def _given(self, replica: int, inside: int) -> None:
        self._numbers[replica].append(len(self._inside))
        self._replica.append(replica)
        self._inside.append(inside)

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
        self._given(chosen, self.replicas[chosen].add_one(arrival, prompt, output, contents, priority))

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
        self.replicas[self._replica[number]].remove(self._inside[number])

    def where(self, numbers: Counts) -> tuple[Counts, Counts]:
        """The replicas of these requests, and their numbers there; -1 for the number -1."""
        known = numbers >= 0
        replica, inside = (np.full(len(numbers), -1) for _ in range(2))
        replica[known] = np.array(self._replica, np.int64)[numbers[known]]
        inside[known] = np.array(self._inside, np.int64)[numbers[known]]
        return replica, inside

    def seen_at(self, number: int) -> float:
        """When what ``ended`` has just told happened, s."""
        return self.replicas[self._replica[number if number >= 0 else -1 - number]].now

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
