"""Particles in the form of the older tool, rows of numbers or values by name, and their results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from swarmtune.errors import ConfigValidationError
from swarmtune.records import Setting, Value
from swarmtune.space import Dimension, Field, Space


@runtime_checkable
class FieldLike(Protocol):
    """An entry of an engine's ``target_field``."""

    def to_field(self) -> Field:
        """Convert it to a field of the space."""
        ...


@dataclass(frozen=True, eq=False)
class ParticleResult(float):
    """The result of one particle, which is also its cost as a number, as in the older extension: ``float(result)``,
    ``min(results)``. ``cost`` is inf if it could not be measured; ``failure`` then says why.

    ``values`` has all fields, derived ones too; each is also an attribute, unless the result has its own of that name.
    ``group`` served the last of ``attempts``, which took ``seconds``.
    """

    cost: float
    values: Mapping[str, Value]
    group: str | None
    seconds: float
    attempts: int
    failure: str | None = None

    def __new__(cls, cost: float, *_: Any, **__: Any) -> Self:
        return super().__new__(cls, cost)

    def __getattr__(self, name: str) -> Value:
        values: Mapping[str, Value] = self.__dict__.get("values", {})
        if name in values:
            return values[name]
        known = ", ".join(values)
        raise AttributeError(f"a result has no attribute {name!r}; the fields are: {known}", name=name, obj=self)


class ParticleResults(list[ParticleResult]):
    """The results of one call, in the order of its particles. As an array they are the costs: ``numpy.asarray(results)``,
    ``numpy.argmin(results)``.
    """

    @property
    def shape(self) -> tuple[int]:
        """The shape of the array of costs."""
        return (len(self),)

    def min(self, *arguments: Any, **options: Any) -> Any:
        """``numpy.ndarray.min`` of the costs."""
        return np.array(self, dtype=float).min(*arguments, **options)

    def argmin(self, *arguments: Any, **options: Any) -> Any:
        """``numpy.ndarray.argmin`` of the costs."""
        return np.array(self, dtype=float).argmin(*arguments, **options)


def space_of(target_field: Sequence[Field | FieldLike | Mapping[str, Any]]) -> Space:
    """The space of these fields; ConfigValidationError with all mistakes."""
    fields, mistakes = [], []
    for number, entry in enumerate(target_field):
        if isinstance(entry, Field):
            fields.append(entry)
        elif isinstance(entry, FieldLike):
            fields.append(entry.to_field())
        else:
            try:
                fields.append(Field(**entry))
            except TypeError as error:
                mistakes.append(f"target_field {number}: {error}")
    if mistakes:
        raise ConfigValidationError(mistakes)
    return Space(fields)


def decode(space: Space, particles: Any) -> list[Setting]:
    """The settings of a 2-d array (a row each) or of a sequence of dicts (a name for each value).

    A row has one number for each field in the order of ``space.fields``, or for each searched one: the number itself for
    int, float and range (the nearest legal one is taken) and for ratio the ratio; for bool and enum a place between min
    and max (0 and 1 unless given), which its values share equally. A dict may leave fields at their baseline.
    ConfigValidationError names every particle that is wrong.
    """
    settings, mistakes = [], []
    for number, particle in enumerate(particles):
        try:
            values = isinstance(particle, Mapping)
            settings.append(space.setting(particle) if values else _from_row(space, np.asarray(particle, dtype=float)))
        except ConfigValidationError as error:
            mistakes += [f"particle {number}: {mistake}" for mistake in error.mistakes]
        except (TypeError, ValueError) as error:
            mistakes.append(f"particle {number}: {error}")
    if mistakes:
        raise ConfigValidationError(mistakes)
    return settings


def _from_row(space: Space, row: Any) -> Setting:
    names = [field.name for field in space.fields]
    searched = [dimension.name for dimension in space.dimensions]
    if row.shape not in ((len(names),), (len(searched),)):
        raise ValueError(
            f"a row of {len(names)} numbers (all fields) or {len(searched)} (the searched ones) is needed, "
            f"not shape {row.shape}"
        )
    at = dict(zip(names if len(row) == len(names) else searched, map(float, row), strict=True))
    wrong = [name for name in searched if not math.isfinite(at[name])]
    if wrong:
        raise ValueError(f"not a finite number: {', '.join(wrong)}")
    fields = {field.name: field for field in space.fields}
    return space.decode(
        [_unit(dimension, fields[dimension.name], at[dimension.name]) for dimension in space.dimensions]
    )


def _unit(dimension: Dimension, field: Field, number: float) -> float:
    """The coordinate between 0 and 1."""
    if field.dtype not in ("bool", "enum"):
        return dimension.encode(number)
    low, high = 0.0 if field.min is None else field.min, 1.0 if field.max is None else field.max
    if not low <= number <= high:
        raise ValueError(
            f"{field.name} = {number:g} is not between {low:g} and {high:g}; "
            f"give values by name: {{{field.name!r}: ...}}"
        )
    return (number - low) / (high - low) if high > low else 0.5
