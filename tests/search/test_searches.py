"""Every built-in search passes the contract; the swarm uses what it is given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from swarmtune.records import Setting
from swarmtune.search.assisted import AssistedSwarm
from swarmtune.search.auto import AutoSearch
from swarmtune.search.base import Search
from swarmtune.search.bayesian import BayesianSearch
from swarmtune.search.cmaes import CmaEsSearch
from swarmtune.search.grid import GridSearch
from swarmtune.search.optuna_adapter import Nsga2Search, TpeSearch
from swarmtune.search.qmc import QmcSearch
from swarmtune.search.random import RandomSearch
from swarmtune.search.swarm import SwarmOptions, SwarmSearch, coefficient
from swarmtune.space import Space
from swarmtune.testing.search import MIXED, RULES, SearchContract, service


class TestRandom(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return RandomSearch(space, seed, budget)


class TestSwarm(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return SwarmSearch(space, seed, budget)


class TestRingSwarm(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return SwarmSearch(space, seed, budget, SwarmOptions(n_particles=5, topology="ring"))


class TestAssistedSwarm(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return AssistedSwarm(space, seed, budget)


class TestBayesian(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return BayesianSearch(space, seed, budget)


class TestTpe(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return TpeSearch(space, seed, budget)


class TestCmaEs(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return CmaEsSearch(space, seed, budget)


class TestNsga2(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return Nsga2Search(space, seed, budget)


class TestQmc(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return QmcSearch(space, seed, budget)


class TestGrid(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return GridSearch(space, seed, budget)


class TestAuto(SearchContract):
    def make(self, space: Space, seed: int, budget: int) -> Search:
        return AutoSearch(space, seed, budget)


def questions(options: SwarmOptions, evaluations: int = 20) -> list[str]:
    space = Space(MIXED, RULES)
    search = SwarmSearch(space, 1, evaluations, options)
    asked = []
    for _ in range(evaluations):
        setting = search.ask(())
        search.tell(setting, service(setting))
        asked.append(setting.key)
    return asked


def test_every_option_changes_the_search() -> None:
    """The older tuner read c1, c2, w and their strategies and used none of them."""
    base = SwarmOptions(n_particles=5)
    runs = {"base": questions(base)}
    for change in (
        {"c1": 0.5},
        {"c2": 0.5},
        {"w": 0.2},
        {"n_particles": 8},
        {"topology": "ring"},
        {"c1_strategy": "exp_decay"},
        {"c2_strategy": "random"},
        {"c2_strategy": "exp_decay"},
        {"c2_strategy": "nonlin_mod"},
        {"c2_strategy": "lin_variation"},
        {"w_strategy": "exp_decay"},
        {"w_strategy": "nonlin_mod"},
        {"w_strategy": "lin_variation"},
    ):
        runs[str(change)] = questions(base.model_copy(update=change))
    same = [(a, b) for a, b in itertools.combinations(runs, 2) if runs[a] == runs[b]]
    assert same == []


@pytest.mark.parametrize("strategy", ["exp_decay", "nonlin_mod", "lin_variation"])
def test_strategies_fall_from_start_to_end(strategy: str) -> None:
    rng = np.random.default_rng(0)
    values = [coefficient("w", 1.8, strategy, t, rng) for t in np.linspace(0, 1, 11)]
    assert values[0] == pytest.approx(1.8)
    assert all(a > b for a, b in itertools.pairwise(values))
    assert values[-1] == pytest.approx(0.72, rel=0.05)


@pytest.mark.parametrize("strategy", ["exp_decay", "nonlin_mod", "lin_variation"])
def test_c2_gains_what_c1_loses(strategy: str) -> None:
    rng = np.random.default_rng(0)
    c1, c2 = ([coefficient(c, 1.5, strategy, t, rng) for t in np.linspace(0, 1, 11)] for c in ("c1", "c2"))
    assert all(a < b for a, b in itertools.pairwise(c2))
    assert [a + b for a, b in zip(c1, c2, strict=True)] == pytest.approx([3.0] * 11)


def test_random_strategy_stays_between_half_and_whole() -> None:
    rng = np.random.default_rng(0)
    values = [coefficient("c1", 2.0, "random", 0.5, rng) for _ in range(200)]
    assert min(values) >= 1.0
    assert max(values) <= 2.0
    assert max(values) - min(values) > 0.5


def test_a_particle_moves_when_its_own_evaluation_ends() -> None:
    """No barrier: with one slow particle pending for ever, the others go on moving."""
    space = Space(MIXED, RULES)
    search = SwarmSearch(space, 3, 60, SwarmOptions(n_particles=4))
    slow = search.ask(())
    moves: dict[str, int] = {}
    for _ in range(30):
        setting = search.ask((slow,))
        assert setting.origin != slow.origin
        moves[setting.origin] = moves.get(setting.origin, 0) + 1
        search.tell(setting, service(setting))
    assert len(moves) == 3
    assert min(moves.values()) >= 9


def test_baseline_is_where_the_first_particle_starts() -> None:
    space = Space(MIXED, RULES)
    baseline = Setting(space.default().values, origin="baseline")
    search = SwarmSearch(space, 3, 20, SwarmOptions(n_particles=3))
    search.tell(baseline, service(baseline))
    assert [search.ask(()).origin] == ["particle:1"]
