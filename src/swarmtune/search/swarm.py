"""Asynchronous particle swarm for mixed spaces: a particle moves as soon as its own evaluation has ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option

from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.history import History, rng_for, unseen
from swarmtune.search.start import evenly_spread
from swarmtune.space import Space
from swarmtune.space.batch import Points
from swarmtune.space.space import Point

Strategy = Literal["constant", "exp_decay", "nonlin_mod", "lin_variation", "random"]

MAX_STEP = 0.4  # of the unit range, per move and dimension
MUTATION = 0.1  # chance that a category is drawn anew
KNOWN_STEPS = 5  # moves onto known settings that a particle makes for free before it is pushed off


class SwarmOptions(BaseModel):
    """[pso_options], [pso_strategy], n_particles and topology of config.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_particles: int | None = Option(
        None, gt=1, lt=1000, description="swarm size; default a quarter of the budget, 4 to 10"
    )
    c1: float = Option(1.496, ge=0, le=4, description="pull towards the particle's own best (Clerc and Kennedy 2002)")
    c2: float = Option(1.496, ge=0, le=4, description="pull towards the best of its neighbours")
    w: float = Option(0.73, ge=0, le=2, description="inertia: how much of the last step is kept")
    c1_strategy: Strategy = Option("constant", description="how c1 changes over the budget")
    c2_strategy: Strategy = Option("constant", description="how c2 changes over the budget: it rises")
    w_strategy: Strategy = Option("constant", description="how w changes over the budget")
    topology: Literal["gbest", "ring"] = Option("gbest", description="neighbours: the whole swarm, or one on each side")


# What each coefficient ends at, as a share of its start: exploration gives way to exploitation. The pull to the neighbours'
# best gains what the pull to the own best loses (Ratnaweera, Halgamuge and Watson 2004).
_END_SHARE = {"c1": 0.5, "c2": 1.5, "w": 0.4}


def coefficient(name: str, start: float, strategy: Strategy, progress: float, rng: np.random.Generator) -> float:
    """The value of c1, c2 or w at ``progress`` (0 = first move, 1 = budget spent): c1 and w fall, c2 rises.

    Between start s and end e: exp_decay e + (s-e) exp(-4 t); lin_variation e + (s-e) (1-t) (Shi and Eberhart 1998);
    nonlin_mod e + (s-e) (1-t)^1.2 (Chatterjee and Siarry 2006); random s (0.5 + u/2), u uniform (Eberhart and Shi 2001).
    """
    end = start * _END_SHARE[name]
    remaining = 1.0 - min(1.0, max(0.0, progress))
    match strategy:
        case "exp_decay":
            return end + (start - end) * math.exp(-4.0 * (1.0 - remaining))
        case "lin_variation":
            return end + (start - end) * remaining
        case "nonlin_mod":
            return end + (start - end) * math.pow(remaining, 1.2)
        case "random":
            return start * (0.5 + float(rng.uniform()) / 2.0)
    return start


@dataclass
class _Particle:
    """The positions of a particle, in the order of its results, and their scores."""

    path: list[tuple[Setting, Score]]

    @property
    def best(self) -> tuple[Setting, Score] | None:
        return min(self.path, key=lambda row: row[1].rank) if self.path else None


class SwarmSearch(Search):
    """Particle swarm (Kennedy and Eberhart 1995) without generations, on ordinals and categories, under SLOs.

    Best positions follow Deb's feasibility rules. A particle's velocity is its last displacement, so that the state of
    the swarm is the told history and nothing else. Ordinals move on their (log) scale; a category is copied from the own
    best or the neighbours' best with chances given by c1 and c2, or drawn anew. A move onto a known setting takes the
    known result for free and goes on from there.
    """

    uses_particles = True

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self.swarm = options if isinstance(options, SwarmOptions) else SwarmOptions()
        self.size = self.swarm.n_particles or max(4, min(10, budget // 4))
        self._history = History()
        self._particles = [_Particle([]) for _ in range(self.size)]
        self._start = evenly_spread(self.size, len(space.dimensions), seed)
        self._categories = np.array([d.kind == "category" for d in space.dimensions], dtype=bool)

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)
        owner = _owner(setting, self.size)
        if owner is not None:
            self._particles[owner].path.append((setting, score))

    def ask(self, pending: Sequence[Setting]) -> Setting:
        count = len(self._history) + len(pending)
        rng = rng_for(self.seed, count)
        number = self._next_particle(pending)
        for setting in self._moves(number, count, rng):
            if self._is_new(setting, pending):
                return setting
        origin = f"particle:{number}"
        return self._nearby(number, pending, rng) or replace(
            unseen(self.space, self._history, pending, rng), origin=origin
        )

    def _next_particle(self, pending: Sequence[Setting]) -> int:
        """The idle particle with the fewest moves; with more workers than particles the least busy one."""
        busy = [0] * self.size
        for setting in pending:
            owner = _owner(setting, self.size)
            if owner is not None:
                busy[owner] += 1
        return min(range(self.size), key=lambda i: (busy[i], len(self._particles[i].path), i))

    def _moves(self, number: int, question: int, rng: np.random.Generator) -> list[Setting]:
        """Proposals of one particle, best first: its start, or a few steps along known settings."""
        particle = self._particles[number]
        origin = f"particle:{number}"
        if not particle.path:
            point = self.space.repair(self._start[number], rng)
            return [] if point is None else [self.space.decode(point, origin)]
        walker = _Particle(list(particle.path))
        proposals: list[Setting] = []
        for _ in range(KNOWN_STEPS):
            point = self.space.repair(self._steps(number, walker, question, rng)[0], rng)
            if point is None:
                break
            setting = self.space.decode(point, origin)
            proposals.append(setting)
            known = self._history.score(setting)
            if known is None:
                break
            walker.path.append((setting, known))
        return proposals

    def _steps(
        self, number: int, particle: _Particle, question: int, rng: np.random.Generator, count: int = 1
    ) -> Points:
        """``count`` possible next positions of the particle, each with other random pulls; shape (count, d)."""
        progress = question / max(1, self.budget)
        o = self.swarm
        c1 = coefficient("c1", o.c1, o.c1_strategy, progress, rng)
        c2 = coefficient("c2", o.c2, o.c2_strategy, progress, rng)
        w = coefficient("w", o.w, o.w_strategy, progress, rng)
        here = self.space.encode(particle.path[-1][0])
        before = self.space.encode(particle.path[-2][0]) if len(particle.path) > 1 else here
        own = self.space.encode((particle.best or particle.path[-1])[0])
        leader = self.space.encode(self._leader(number))
        r1, r2 = rng.uniform(size=(2, count, len(here)))
        velocity = w * (here - before) + c1 * r1 * (own - here) + c2 * r2 * (leader - here)
        moved = _reflect(here + np.clip(velocity, -MAX_STEP, MAX_STEP))
        chance = np.cumsum(np.array([1.0, c1, c2]) / (c1 + c2 + 1.0) * (1.0 - MUTATION))
        source = np.searchsorted(chance, rng.uniform(size=moved.shape))  # stay, own, leader, anew
        copied = np.choose(source, [here, own, leader, rng.uniform(size=moved.shape)])
        return np.where(self._categories, copied, moved)

    def _leader(self, number: int) -> Setting:
        """The best known to the particle's neighbourhood; in gbest that includes baseline and users' settings."""
        if self.swarm.topology == "ring":
            around = [self._particles[(number + d) % self.size].best for d in (-1, 0, 1)]
            rows = [row for row in around if row is not None]
            return min(rows, key=lambda row: row[1].rank)[0]
        best = self._history.best()
        return best if best is not None else self._particles[number].path[-1][0]

    def _nearby(self, number: int, pending: Sequence[Setting], rng: np.random.Generator) -> Setting | None:
        """A new setting close to the particle's leader, farther with every try."""
        if not self._particles[number].path:
            return None
        centre = self.space.encode(self._leader(number))
        for attempt in range(60):
            point = centre.copy()
            count = 1 + attempt // 20
            chosen = rng.permutation(len(point))[:count]
            point[chosen] = np.where(
                self._categories[chosen],
                rng.uniform(size=len(chosen)),
                _reflect(point[chosen] + rng.normal(0, 0.05 + 0.3 * attempt / 60, len(chosen))),
            )
            repaired = self.space.repair(point, rng)
            setting = None if repaired is None else self.space.decode(repaired, f"particle:{number}")
            if setting is not None and self._is_new(setting, pending):
                return setting
        return None

    def _is_new(self, setting: Setting, pending: Sequence[Setting]) -> bool:
        return self._history.score(setting) is None and all(setting.key != p.key for p in pending)


def _owner(setting: Setting, size: int) -> int | None:
    """The particle that proposed a setting. The first particle starts from the baseline."""
    if setting.origin == "baseline":
        return 0
    kind, _, number = setting.origin.partition(":")
    return int(number) if kind == "particle" and number.isdigit() and int(number) < size else None


def _reflect(point: Point) -> Point:
    """Bounce off the walls of the unit cube."""
    folded = np.abs(point) % 2.0
    return np.asarray(np.where(folded > 1.0, 2.0 - folded, folded))
