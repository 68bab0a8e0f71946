"""The swarm as a sampler for any Optuna study: ``study.optimize(objective, n_trials=100, n_jobs=8)``."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from swarmtune.records import Score, Setting
from swarmtune.search.assisted import AssistedSwarm
from swarmtune.space import Field, Space
from swarmtune.space.field import MAX_NUMBER

ORIGIN = "swarmtune:origin"  # a trial's system attribute: the particle that proposed it
CONSTRAINT = "constraints:"  # prefix of the system attributes that Trial.set_constraint writes


class SwarmSampler(BaseSampler):
    """Asynchronous particle swarm with surrogates; one objective, any number of constraints (``trial.set_constraint``).

    Its state is the study's trials alone: a study continues in another process unchanged. Failed trials
    (``TrialState.FAIL``) are ignored; report a setting that cannot work as a violated constraint.
    Parameters that are not in every trial are drawn at random, unless ``search_space`` names all of them.
    """

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution] | None = None,
        *,
        seed: int | None = None,
        n_trials: int = 100,
        options: object = None,
    ) -> None:
        """``n_trials`` is the planned budget (a hint), ``options`` a SwarmOptions."""
        self._given = dict(search_space) if search_space is not None else None
        self._seed = 0 if seed is None else seed
        self._independent = RandomSampler(seed=seed)
        if seed is None:
            self.reseed_rng()
        self._budget, self._options = n_trials, options
        self._intersection = IntersectionSearchSpace()
        self._lock = threading.Lock()
        self._search: AssistedSwarm | None = None
        self._names: dict[str, BaseDistribution] = {}
        self._told: list[int] = []
        self._asked: dict[int, Setting] = {}  # trials whose parameters the storage does not have yet

    def reseed_rng(self) -> None:
        """Optuna calls this in each process of a parallel run."""
        import secrets

        self._seed = secrets.randbelow(2**31)
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self,
        study: optuna.Study,
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's signature
    ) -> dict[str, BaseDistribution]:
        """The given space, or the parameters that all finished trials have."""
        distributions = self._given if self._given is not None else self._intersection.calculate(study)
        return {name: d for name, d in distributions.items() if not d.single() and _supported(d)}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Where the swarm goes next."""
        if not search_space:
            return {}
        if len(study.directions) > 1:
            raise ValueError("SwarmSampler has one objective; use NSGAIISampler or GPSampler for several.")
        with self._lock:
            return self._next(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random: a parameter that not every trial has."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _next(self, study: optuna.Study, trial: FrozenTrial, names: dict[str, BaseDistribution]) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False)
        finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        finished = [t for t in finished if names.keys() <= t.params.keys()]
        finished.sort(key=lambda t: (t.datetime_complete or t.datetime_start or 0, t.number))
        numbers = [t.number for t in finished]
        if self._search is None or self._names != names or numbers[: len(self._told)] != self._told:
            self._search = AssistedSwarm(Space(_fields(names)), self._seed, self._budget, self._options)
            self._names, self._told, self._asked = dict(names), [], {}
        sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
        for t in finished[len(self._told) :]:
            score = _score(t, sign)
            if score is not None:
                self._search.tell(self._setting(t), score)
        self._told = numbers
        running = [t for t in trials if t.state == TrialState.RUNNING and t.number != trial.number]
        pending = [
            self._setting(t) if names.keys() <= t.params.keys() else self._asked[t.number]
            for t in running
            if names.keys() <= t.params.keys() or t.number in self._asked
        ]
        setting = self._asked[trial.number] = self._search.ask(pending)
        study._storage.set_trial_system_attr(trial._trial_id, ORIGIN, setting.origin)  # noqa: SLF001 - as samplers do
        return {name: _external(d, setting.values[f"p{i}"]) for i, (name, d) in enumerate(names.items())}

    def _setting(self, trial: FrozenTrial) -> Setting:
        search = self._search
        if search is None:
            raise RuntimeError("the swarm must exist before its settings")
        values = {f"p{i}": _internal(d, trial.params[name]) for i, (name, d) in enumerate(self._names.items())}
        return search.space.from_coordinates(values, trial.system_attrs.get(ORIGIN, ""))


def _fields(names: Mapping[str, BaseDistribution]) -> list[Field]:
    """The parameters as fields with generated names, because Optuna's names may be any text."""
    return [_field(f"p{i}", distribution) for i, distribution in enumerate(names.values())]


def _supported(distribution: BaseDistribution) -> bool:
    """Whole numbers must be exact as floats; others are drawn at random."""
    low, high = getattr(distribution, "low", 0.0), getattr(distribution, "high", 0.0)
    return bool(max(abs(low), abs(high)) <= MAX_NUMBER)


def _steps(distribution: BaseDistribution) -> float | None:
    """The step of a range that is not a continuous or integer axis."""
    step: float | None = getattr(distribution, "step", None)
    return None if step is None or (isinstance(distribution, IntDistribution) and step == 1) else step


def _field(name: str, distribution: BaseDistribution) -> Field:
    if isinstance(distribution, CategoricalDistribution):
        return Field(name, dtype="enum", dtype_param=[f"#{i}" for i in range(len(distribution.choices))])
    if isinstance(distribution, (IntDistribution, FloatDistribution)):
        low, high, step = float(distribution.low), float(distribution.high), _steps(distribution)
        if step is not None:
            return Field(name, min=0, max=round((high - low) / step), dtype="int")
        kind = "int" if isinstance(distribution, IntDistribution) else "float"
        return Field(name, min=low, max=high, dtype=kind, log=distribution.log)
    raise TypeError(f"{name}: a {type(distribution).__name__} is not known")


def _external(distribution: BaseDistribution, value: Any) -> Any:
    """A value of our space as Optuna's."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(str(value)[1:])]
    if isinstance(distribution, (IntDistribution, FloatDistribution)) and (step := _steps(distribution)) is not None:
        value = distribution.low + value * step
    if isinstance(distribution, FloatDistribution):
        return min(distribution.high, max(distribution.low, float(value)))
    return int(value)


def _internal(distribution: BaseDistribution, value: Any) -> Any:
    """Inverse of ``_external``."""
    if isinstance(distribution, CategoricalDistribution):
        return f"#{distribution.to_internal_repr(value):.0f}"
    if isinstance(distribution, (IntDistribution, FloatDistribution)) and (step := _steps(distribution)) is not None:
        return round((value - distribution.low) / step)
    return value


def _score(trial: FrozenTrial, sign: float) -> Score | None:
    """The value and constraints of a finished trial; a pruned one counts with its last intermediate value."""
    value = trial.value if trial.state == TrialState.COMPLETE else None
    if value is None and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    named = {k.removeprefix(CONSTRAINT): v for k, v in trial.system_attrs.items() if k.startswith(CONSTRAINT)}
    older: Sequence[float] = trial.system_attrs.get("constraints") or ()
    constraints = named or {str(i): v for i, v in enumerate(older)}
    violations = {name: float(v) / (1.0 + abs(float(v))) for name, v in constraints.items()}
    if value is None:
        return Score.failed() if violations else None
    return Score(value=float(value), loss=sign * float(value), violations=violations)
