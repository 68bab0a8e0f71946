"""The search space: which settings are legal, and their coordinates in the unit cube."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigValidationError
from swarmtune.records import Setting, Value
from swarmtune.space.checks import dependency_order, is_finite, mistakes_by_field
from swarmtune.space.constraint import Constraint, ConstraintError
from swarmtune.space.derive import derive, divisors, legal_pairs
from swarmtune.space.dimension import Dimension
from swarmtune.space.field import Field

Point = NDArray[np.float64]  # coordinates in [0, 1], one per searched dimension

REPAIR_LEVELS = 64  # values per dimension that a repair looks at
REPAIR_SAMPLES = 4000
MAX_FIELDS = 200
MAX_DERIVED = 2.0**63  # a derived value beyond that fits into no service


class Space:
    """Fields, the rules between them, and the mapping between settings and points of the unit cube.

    Every setting that it returns is complete: it has the value of every field, searched, derived and constant.
    """

    def __init__(self, fields: Iterable[Field], constraints: Iterable[str] = ()) -> None:
        """ConfigValidationError lists everything that is wrong with the fields and constraints."""
        self.fields = tuple(fields)
        self._by_name = {f.name: f for f in self.fields}
        if len(self.fields) > MAX_FIELDS:
            raise ConfigValidationError([f"{len(self.fields)} fields are too many; at most {MAX_FIELDS}"])
        parsed, mistakes = _parse(constraints, set(self._by_name))
        mistakes += [m for sentences in mistakes_by_field(self.fields).values() for m in sentences]
        if mistakes:
            raise ConfigValidationError(mistakes)
        self.constraints = tuple(parsed)
        self._order = dependency_order(self.fields)
        self.dimensions = tuple(self._dimension(f) for f in self.fields if f.searched)
        self._at_rest = {d.name: self._rest(d) for d in self.dimensions}
        empty = [
            f"{d.name}: none of its values divides the product of the field derived from it"
            for d in self.dimensions
            if d.kind == "choice" and not d.choices
        ]
        empty += [
            f"{f.name}: no values of {f.targets[0]} and {f.targets[1]} divide its product" for f in self._impossible()
        ]
        if not empty:
            empty = self._too_large() or [*self._ratio_mistakes(), *self._indivisible()]
        if empty:
            raise ConfigValidationError(empty)

    # --- contents ------------------------------------------------------------------------------------------------

    @property
    def size(self) -> float:
        """The number of points of the grid, legal or not; inf with a continuous dimension."""
        return math.prod(float(d.count) if d.count is not None else math.inf for d in self.dimensions)

    @property
    def in_order(self) -> tuple[Field, ...]:
        """The fields, each after those that its value depends on."""
        return self._order

    @property
    def unset(self) -> tuple[Field, ...]:
        """The fields that are read from variables which are not in the environment."""
        read = (f for f in self.fields if f.dtype == "env" and f.constant is None)
        return tuple(f for f in read if str(f.dtype_param) not in os.environ)

    def unit_at_rest(self, name: str) -> float:
        """The coordinate of a searched field that is not in use."""
        return self._at_rest[name]

    def default(self) -> Setting:
        """The baseline: each field's ``value``, the middle of its range where it has none."""
        values: dict[str, Value] = {}
        for field in (self._by_name[d.name] for d in self.dimensions):
            # A ratio's value may be written as the ratio or as the resulting number, as the older tuner allowed.
            if field.value is not None and not (field.dtype == "ratio" and _within(field.value, field)):
                values[field.name] = field.value
        point = self._divisible(np.array([self._at_rest[d.name] for d in self.dimensions]))
        return self._complete(point, values)

    # --- settings and points -------------------------------------------------------------------------------------

    def decode(self, point: Sequence[float] | Point, origin: str = "") -> Setting:
        """The setting at a point; derived values follow exactly. It may still break a constraint."""
        setting = self._complete(self._divisible(np.clip(np.asarray(point, dtype=float), 0.0, 1.0)), {})
        return replace(setting, origin=origin)

    def encode(self, setting: Setting) -> Point:
        """The point of a setting, each coordinate the middle of its value's share: decode(encode(s)) == s."""
        point = np.empty(len(self.dimensions))
        for i, dimension in enumerate(self.dimensions):
            field = self._by_name[dimension.name]
            value = setting.values[dimension.name]
            if field.dtype == "ratio":
                value = _ratio_of(float(value), float(setting.values[field.targets[0]]), field)
            point[i] = dimension.encode(value)
        return point

    def coordinates(self, setting: Setting) -> dict[str, Value]:
        """The searched part in natural units (a ratio as the ratio), for studies and other samplers."""
        point = self.encode(setting)
        return {d.name: d.decode(u) for d, u in zip(self.dimensions, point, strict=True)}

    def from_coordinates(self, natural: Mapping[str, Value], origin: str = "") -> Setting:
        """Inverse of ``coordinates``."""
        return self.decode([d.encode(natural[d.name]) for d in self.dimensions], origin)

    def setting(self, values: Mapping[str, Value], origin: str = "user") -> Setting:
        """A user's own setting: given values as they are, the rest from the baseline, derived ones computed.

        ConfigValidationError names what is unknown or outside its range.
        """
        mistakes = [
            f"{name!r} is not a field; fields: {', '.join(self._by_name)}" for name in values.keys() - self._by_name
        ]
        dimensions = {d.name: d for d in self.dimensions}
        for name, value in values.items():
            field = self._by_name.get(name)
            axis = dimensions.get(name) if field is not None and field.dtype != "ratio" else None
            if axis is not None and not axis.contains(value):
                mistakes.append(f"{name} = {value!r} is outside its range")
            if field is not None and field.dtype == "ratio" and not is_finite(value):
                mistakes.append(f"{name} = {value!r} is not a number")
        if mistakes:
            raise ConfigValidationError(mistakes)
        base = dict(self.default().values)
        on_grid = {n: dimensions[n].exact(v) if n in dimensions else v for n, v in values.items()}
        given = {**{n: v for n, v in base.items() if not self._by_name[n].derived}, **on_grid}
        return replace(self._complete(np.full(len(self.dimensions), 0.5), given), origin=origin)

    def _complete(self, point: Point, known: Mapping[str, Value]) -> Setting:
        at = {d.name: (d, float(u)) for d, u in zip(self.dimensions, point, strict=True)}
        values: dict[str, Value] = {}
        for field in self._order:
            if field.fixed is not None:
                values[field.name] = field.fixed
            elif field.dtype == "env":
                values[field.name] = os.environ.get(str(field.dtype_param), "" if field.value is None else field.value)
            elif field.derived:
                values[field.name] = derive(field, values, self._by_name)
            elif field.name in known and field.active(values):
                values[field.name] = known[field.name]
            else:
                dimension, unit = at[field.name]
                value = dimension.decode(unit if field.active(values) else self._at_rest[field.name])
                if field.dtype == "ratio":
                    value = int(float(value) * float(values[field.targets[0]]))
                values[field.name] = value
        return Setting({f.name: values[f.name] for f in self.fields})

    # --- legality ------------------------------------------------------------------------------------------------

    def broken(self, setting: Setting) -> list[str]:
        """The constraints that this setting breaks; empty = legal."""
        return [c.text for c in self.constraints if not c.holds(setting.values)]

    def legal(self, setting: Setting) -> bool:
        """Does it keep every constraint?"""
        return not self.broken(setting)

    def repair(self, point: Sequence[float] | Point, rng: np.random.Generator) -> Point | None:
        """A legal point near the given one (itself if legal); None if none was found among many tries.

        First the single coordinate that makes it legal with the least move, then the nearest of many random moves.
        """
        start: Point = np.clip(np.asarray(point, dtype=float), 0.0, 1.0)
        if self.legal(self.decode(start)):
            return start
        best: Point | None = None
        for i, dimension in enumerate(self.dimensions):
            levels = min(dimension.count or REPAIR_LEVELS, REPAIR_LEVELS)
            for unit in (np.arange(levels) + 0.5) / levels:
                moved = start.copy()
                moved[i] = unit
                if self.legal(self.decode(moved)) and (best is None or _nearer(moved, best, start)):
                    best = moved
        if best is not None:
            return best
        for sample in range(REPAIR_SAMPLES):
            width = 0.05 + 0.95 * sample / REPAIR_SAMPLES
            moved = np.clip(start + width * rng.uniform(-1, 1, len(start)), 0.0, 1.0)
            if self.legal(self.decode(moved)):
                return np.asarray(moved)
        return None

    def sample(self, rng: np.random.Generator) -> Point:
        """A random point (repaired to a legal one where that is possible)."""
        point: Point = rng.uniform(size=len(self.dimensions))
        repaired = self.repair(point, rng)
        return point if repaired is None else repaired

    # --- construction --------------------------------------------------------------------------------------------

    def _too_large(self) -> list[str]:
        """Derived fields whose values leave the numbers, judged at the ends of the ranges."""
        found = []
        for corner in (0.0, 1.0):
            values = self._complete(np.full(len(self.dimensions), corner), {}).values
            for field in self.fields:
                value = values[field.name]
                if field.derived and not (is_finite(value) and abs(float(value)) < MAX_DERIVED):
                    found.append(f"{field.name}: its value can become {float(value):g}, which is too large")
        return list(dict.fromkeys(found))

    def _ratio_mistakes(self) -> list[str]:
        """A sentence for each ratio whose value is neither one of its ratios nor a number that one of them gives."""
        values, found = self.default().values, []
        for field in self.fields:
            if field.dtype != "ratio" or not field.searched or field.value is None or _within(field.value, field):
                continue
            target = field.targets[0]
            low, high = (int(float(ratio or 0) * float(values[target])) for ratio in (field.min, field.max))
            if not low <= float(field.value) <= high:
                found.append(
                    f"{field.name}: value {field.value!r} is neither a ratio ({field.min:g} to {field.max:g}) nor a number "
                    f"that one gives ({low} to {high} of {target} = {values[target]})"
                )
        return found

    def _indivisible(self) -> list[str]:
        """A sentence for each product that the baselines of its targets do not divide, with the nearest numbers that do."""
        values, found = self.default().values, []
        for field in self.fields:
            if not field.derived or not field.dtype.endswith("factories") or not field.active(values):
                continue
            targets, product = field.targets, int(field.dtype_param["product"])
            if any(self._by_name[t].searched and self._by_name[t].value is None for t in targets):
                continue  # the middle of a range is moved to a number that divides
            number = math.prod(float(values[t]) for t in targets)
            if number == 0 or (number == int(number) and product % int(number) == 0):
                continue
            axis = next((d.choices for d in self.dimensions if d.name == targets[0] and len(targets) == 1), ())
            known = [float(d) for d in axis or divisors(product) if isinstance(d, (int, float))]
            near = [
                max((d for d in known if d < number), default=None),
                min((d for d in known if d > number), default=None),
            ]
            shown = " and ".join(f"{d:g}" for d in near if d is not None)
            baselines = " x ".join(f"{values[t]} of {t}" for t in targets)
            one = "number that does is" if None in near else "numbers that do are"
            found.append(
                f"{field.name}: the baseline {baselines} does not divide its product {product}; the nearest {one} {shown}"
            )
        return found

    def _dimension(self, field: Field) -> Dimension:
        """The grid of a field, reduced to exact divisors where a ``factories`` field divides by it."""
        dimension = Dimension.of(field)
        for other in self.fields:
            if other.derived and other.dtype == "factories" and other.targets == (field.name,):
                product = int(other.dtype_param["product"])
                known = dimension.choices or divisors(product)
                exact = [c for c in known if dimension.contains(c) and isinstance(c, (int, float)) and c >= 1]
                exact = [int(c) for c in exact if c == int(c) and product % int(c) == 0]
                dimension = replace(dimension, kind="choice", choices=tuple(exact))
        return dimension

    def _rest(self, dimension: Dimension) -> float:
        """The coordinate of a field that is not in use: its baseline, the middle where it has none."""
        field = self._by_name[dimension.name]
        if field.value is None or (dimension.kind == "choice" and not dimension.choices):
            return 0.5
        if field.dtype != "ratio":
            return dimension.encode(field.value)
        return dimension.encode(field.value) if _within(field.value, field) else 0.5

    def _divisible(self, point: Point) -> Point:
        """Move the two targets of each ``ternary_factories`` field to the nearest pair that divides exactly."""
        index = {d.name: i for i, d in enumerate(self.dimensions)}
        for field in self.fields:
            if not field.derived or field.dtype != "ternary_factories":
                continue
            values = self._complete(point, {}).values
            a, b = field.targets
            axes = [self._axis(field, name, values) for name in (a, b)]
            pairs = legal_pairs(field, axes[0], axes[1])
            if not pairs or (values[a], values[b]) in pairs:
                continue
            axes_of = {d.name: d for d in self.dimensions if d.name in (a, b)}
            here = {name: float(point[index[name]]) for name in axes_of}
            chosen = _nearest_pair(field, pairs, axes_of, here)
            point = point.copy()
            for name, value in zip((a, b), chosen, strict=True):
                if name in index:
                    point[index[name]] = self.dimensions[index[name]].encode(value)
        return point

    def _impossible(self) -> list[Field]:
        ternary = [f for f in self.fields if f.derived and f.dtype == "ternary_factories"]
        if not ternary or any(d.kind == "choice" and not d.choices for d in self.dimensions):
            return []
        values = self._complete(np.full(len(self.dimensions), 0.5), {}).values
        return [f for f in ternary if not legal_pairs(f, *(self._axis(f, t, values) for t in f.targets))]

    def _axis(self, field: Field, name: str, values: Mapping[str, Value]) -> list[Value]:
        """The values of a target that can divide the field's product."""
        for dimension in self.dimensions:
            if dimension.name == name:
                if dimension.choices:
                    return list(dimension.choices)
                return [d for d in divisors(int(field.dtype_param["product"])) if dimension.contains(d)]
        return [values[name]]


def _parse(texts: Iterable[str], names: set[str]) -> tuple[list[Constraint], list[str]]:
    parsed, mistakes = [], []
    for text in texts:
        try:
            constraint = Constraint.parse(text)
        except ConstraintError as error:
            mistakes.append(f"constraint {text[:100]!r}: {error}")
            continue
        for name in sorted(constraint.names - names):
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            mistakes.append(f"constraint {text[:100]!r}: {name!r} is not a field{hint}")
        parsed.append(constraint)
    return parsed, mistakes


def _nearest_pair(
    field: Field, pairs: set[tuple[Value, Value]], axes: Mapping[str, Dimension], here: Mapping[str, float]
) -> tuple[Value, Value]:
    """The legal pair with the least move; with priority_policy "fixed" the first target named moves only if it must."""
    first = field.priority[0] if field.dtype_param.get("priority_policy") == "fixed" else None

    def distance(pair: tuple[Value, Value]) -> tuple[float, str]:
        moves = {n: (axes[n].encode(v) - here[n]) ** 2 for n, v in zip(field.targets, pair, strict=True) if n in axes}
        return sum((100.0 if n == first else 1.0) * m for n, m in moves.items()), repr(pair)

    return min(pairs, key=distance)


def _ratio_of(value: float, target: float, field: Field) -> float:
    """A ratio r in [min, max] with int(r x target) == value, in the middle of those where it can be."""
    low, high = float(field.min or 0.0), float(field.max or 0.0)
    if target == 0:
        return (low + high) / 2
    return min(high, max(low, (value + 0.5) / target))


def _within(value: Value, field: Field) -> bool:
    return (field.min or 0.0) <= float(value) <= (field.max or 0.0)


def _nearer(a: Point, b: Point, start: Point) -> bool:
    return float(np.sum((a - start) ** 2)) < float(np.sum((b - start) ** 2))
