"""Users that send at even intervals, session after session, and are in mid-conversation when the run starts."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable

from swarmtune.workload.draws import Draws

NS = 1_000_000_000
PLANNED = 2**32  # sessions


class UserPlan:
    """When each session starts and how many turns it has; sessions are numbered by their start.

    Each of ``users`` sends every users/rate seconds, the users 1/rate seconds apart, so that the whole is an even
    stream of ``rate`` requests per second. When a user's session ends, the next session takes the place one interval
    later. At the start every user is somewhere inside a session, with the turns left that a process running for ever
    would show (renewal theory: the session found is drawn with weight ~ its turns, the position in it evenly), so
    that the share of sessions that end and begin is steady from the first second (AIPerf's virtual history).
    """

    def __init__(self, users: int, rate: float, seed: int, turn_count: Callable[[int], int]) -> None:
        self.interval_ns = round(users / rate * NS)
        self._users, self._seed, self._turn_count = users, seed, turn_count
        self._next = [(round(user / rate * NS), user) for user in range(users)]
        self._starts, self._turns = array("q"), array("q")

    def session(self, index: int) -> tuple[int, int]:
        """(intended start in ns after the run's start, number of turns) of a session.

        The plan up to it is made on the first call, a microsecond per session, and kept (16 bytes per session). Sessions
        from PLANNED on are those of a warm-up: they have no place in the plan, and start at once.
        """
        if index >= PLANNED:
            return 0, self._turn_count(index)
        while len(self._starts) <= index:
            number = len(self._starts)
            start, user = self._next[0]
            turns = self._left(number) if number < self._users else self._turn_count(number)
            heapq.heapreplace(self._next, (start + turns * self.interval_ns, user))
            self._starts.append(start)
            self._turns.append(turns)
        return self._starts[index], self._turns[index]

    def _left(self, user: int) -> int:
        """Turns left of the session that a user is in at the start: the longest of a few, by weight, then any place
        in it.
        """
        draws = Draws(f"{self._seed}:age:{user}")
        candidates = [self._turn_count(-1 - user * 16 - place) for place in range(16)]
        at = draws.below(sum(candidates))
        for turns in candidates:
            if at < turns:
                return turns - at
            at -= turns
        return 1  # not reached: at < sum
