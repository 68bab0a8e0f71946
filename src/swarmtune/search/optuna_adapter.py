"""Optuna's samplers behind our ask and tell. The study on disk is not touched: each question builds one in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.history import History, rng_for, unseen
from swarmtune.space import Dimension, Space

ASK_TRIES = 8  # proposals of a known or illegal setting before a random new one is taken


def distribution(dimension: Dimension) -> BaseDistribution:
    """The Optuna distribution of a dimension, in natural units."""
    if dimension.choices:
        return CategoricalDistribution(list(dimension.choices))
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def system_attributes(score: Score) -> dict[str, Any]:
    """A score's SLOs as Optuna 5 stores constraints, and as optuna-dashboard 0.21 still reads them (a list)."""
    named: dict[str, Any] = {f"constraints:{name}": value for name, value in score.violations.items()}
    return {**named, "constraints": list(score.violations.values())}


class OptunaSearch(Search):
    """A sampler of Optuna on the history, which each question puts into a study in memory.

    A failed setting becomes a complete trial with a violated constraint, because samplers ignore failed trials.
    """

    name = ""

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._told: list[tuple[Setting, Score]] = []
        self._history = History()
        self._objectives: list[str] = []
        self._distributions = {d.name: distribution(d) for d in space.dimensions}

    @abstractmethod
    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """A new sampler."""

    def system_attributes(self, number: int) -> dict[str, Any]:  # noqa: ARG002
        """The attributes that the sampler would have written to its ``number``-th trial."""
        return {}

    def ask(self, pending: Sequence[Setting]) -> Setting:
        count = len(self._told) + len(pending)
        rng = rng_for(self.seed, count)
        taken = {p.key for p in pending}
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = self._study(pending, int(rng.integers(2**31)))
            for _ in range(ASK_TRIES):
                trial = study.ask(self._distributions)
                wanted = self.space.from_coordinates(trial.params)
                point = self.space.repair(self.space.encode(wanted), rng)
                setting = wanted if point is None else self.space.decode(point)
                if point is not None and setting.key not in taken and self._history.score(setting) is None:
                    return replace(setting, origin=self.name)
        finally:
            optuna.logging.set_verbosity(level)
        return replace(unseen(self.space, self._history, pending, rng), origin=f"{self.name}:random")

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)
        self._told.append((setting, score))

    def _study(self, pending: Sequence[Setting], seed: int) -> optuna.Study:
        names = sorted({name for _, score in self._told for name in score.values})
        self._objectives = names if len(names) > 1 else []
        study = optuna.create_study(sampler=self.sampler(seed), directions=["minimize"] * max(1, len(self._objectives)))
        study.add_trials([self._trial(i, s, score) for i, (s, score) in enumerate(self._told)])
        study.add_trials([self._trial(len(self._told) + i, s, None) for i, s in enumerate(pending)])
        return study

    def _losses(self, score: Score) -> list[float]:
        """The loss of each objective; for a setting without one, the worst known."""
        if not self._objectives:
            return [score.loss]
        return [score.values.get(n, max(s.values.get(n, -1e9) for _, s in self._told)) for n in self._objectives]

    def _trial(self, number: int, setting: Setting, score: Score | None) -> FrozenTrial:
        attributes = {} if score is None else system_attributes(score)
        return create_trial(
            params=self.space.coordinates(setting),
            distributions=self._distributions,
            state=TrialState.RUNNING if score is None else TrialState.COMPLETE,
            values=None if score is None else self._losses(score),
            system_attrs={**attributes, **self.system_attributes(number)},
        )


class TpeSearch(OptunaSearch):
    """Tree-structured Parzen estimator (Bergstra et al. 2011) with constant liar; SLOs as constraints."""

    name = "tpe"

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        startup = max(3, min(10, self.budget // 3))
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)


class Nsga2Search(OptunaSearch):
    """NSGA-II (Deb et al. 2002) with Deb's rules for SLOs; each ``population`` results in a row are a generation."""

    name = "nsga2"

    @property
    def population(self) -> int:
        """Size of a generation: about eight of them in a budget."""
        return max(4, min(50, self.budget // 8))

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=self.population)

    def system_attributes(self, number: int) -> dict[str, Any]:
        return {"NSGAIISampler:generation": number // self.population}
