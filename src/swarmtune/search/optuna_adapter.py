"""Optuna's samplers behind our ask and tell. The ledger is not touched: each question builds its study in memory."""

from __future__ import annotations

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
    """A score's promises as Optuna 5 stores constraints, and as optuna-dashboard 0.21 still reads them (a list)."""
    named: dict[str, Any] = {f"constraints:{name}": value for name, value in score.violations.items()}
    return {**named, "constraints": list(score.violations.values())}


class TpeSearch(Search):
    """Tree-structured Parzen estimator (Bergstra et al. 2011) with constant liar; promises as constraints.

    A failed setting is told as complete with a violated constraint: samplers do not see failed trials.
    """

    def __init__(self, space: Space, seed: int, budget: int, options: object = None) -> None:
        super().__init__(space, seed, budget, options)
        self._history = History()
        self._distributions = {d.name: distribution(d) for d in space.dimensions}

    def ask(self, pending: Sequence[Setting]) -> Setting:
        asked = len(self._history) + len(pending)
        rng = rng_for(self.seed, asked)
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
                    return replace(setting, origin="tpe")
        finally:
            optuna.logging.set_verbosity(level)
        return replace(unseen(self.space, self._history, pending, rng), origin="tpe:random")

    def tell(self, setting: Setting, score: Score) -> None:
        self._history.tell(setting, score)

    def _study(self, pending: Sequence[Setting], seed: int) -> optuna.Study:
        startup = max(3, min(10, self.budget // 3))
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
        study = optuna.create_study(sampler=sampler, direction="minimize")
        study.add_trials([self._trial(s, score) for s, score in self._history])
        study.add_trials([self._trial(s, None) for s in pending])
        return study

    def _trial(self, setting: Setting, score: Score | None) -> FrozenTrial:
        return create_trial(
            params=self.space.coordinates(setting),
            distributions=self._distributions,
            state=TrialState.RUNNING if score is None else TrialState.COMPLETE,
            value=None if score is None else score.loss,
            system_attrs={} if score is None else system_attributes(score),
        )
