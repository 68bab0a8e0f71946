"""What is wrong with fields, each on its own; and which of them are right whatever the others are."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from swarmtune.records import Value
from swarmtune.space.constraint import Constraint, ConstraintError
from swarmtune.space.dimension import Dimension
from swarmtune.space.field import Field


def mistakes_by_field(fields: Sequence[Field]) -> dict[str, list[str]]:
    """Everything that is wrong with each field, as sentences; a mistake in one hides none in the others."""
    by_name = {f.name: f for f in fields}
    found: dict[str, list[str]] = {name: [] for name in by_name}
    for field in fields:
        found[field.name] += field.mistakes(set(by_name))
    for name, times in Counter(f.name for f in fields).items():
        found[name] += [f"{name}: given more than once"] if times > 1 else []
    flawed = {name for name, sentences in found.items() if sentences}
    for field in fields:
        if field.name not in flawed:
            found[field.name] += _target_mistakes(field, by_name, flawed) + _value_mistakes(field)
    _, circle = _ordered(_closed([f for f in fields if not found[f.name]]))
    for field in circle:
        found[field.name].append(_circular(circle))
    return found


def sound_part(fields: Sequence[Field], constraints: Iterable[str]) -> tuple[list[Field], list[str]]:
    """The fields that are right, without those that depend on a wrong one, and the constraints that speak of no others."""
    wrong = mistakes_by_field(fields)
    kept = _closed([f for f in fields if not wrong[f.name]])
    names, rules = {f.name for f in kept}, []
    for text in constraints:
        with contextlib.suppress(ConstraintError):
            rules += [text] if Constraint.parse(text).names <= names else []
    return kept, rules


def dependency_order(fields: Sequence[Field]) -> tuple[Field, ...]:
    """Fields with every target before its dependants; ValueError names a circle."""
    placed, circle = _ordered(fields)
    if circle:
        raise ValueError(_circular(circle))
    return placed


def _ordered(fields: Sequence[Field]) -> tuple[tuple[Field, ...], list[Field]]:
    """Fields with every target before its dependants, and those for which there is no such order."""
    placed: dict[str, Field] = {}
    waiting = list(fields)
    while waiting:
        ready = [f for f in waiting if f.fixed is not None or all(t in placed for t in (*f.targets, *f.conditions))]
        if not ready:
            break
        placed.update({f.name: f for f in ready})
        waiting = [f for f in waiting if f.name not in placed]
    return tuple(placed.values()), waiting


def _circular(fields: Sequence[Field]) -> str:
    return f"these fields depend on each other in a circle: {', '.join(f.name for f in fields)}"


def _closed(fields: list[Field]) -> list[Field]:
    """Those of these fields that depend on no others."""
    while True:
        names = {f.name for f in fields}
        kept = [f for f in fields if names.issuperset((*f.targets, *f.conditions))]
        if len(kept) == len(fields):
            return kept
        fields = kept


def _target_mistakes(field: Field, by_name: Mapping[str, Field], flawed: set[str]) -> list[str]:
    """Only numbers can be multiplied and divided; a share needs a budget to share."""
    found = []
    for target in (by_name[t] for t in field.targets if field.constant is None and t not in flawed):
        choices = target.dtype_param if target.dtype == "enum" and target.constant is None else ()
        values = [*choices, *([] if target.constant is None else [target.constant])]
        if target.dtype in ("bool", "env") or not all(is_finite(v) for v in values):
            found.append(f"{field.name}: {target.name} is not a number, so nothing can be computed from it")
        elif field.dtype == "share" and (target.min is None or target.max is None):
            found.append(f"{field.name}: a share needs the min and max of {target.name}, which has none")
    return found


def _value_mistakes(field: Field) -> list[str]:
    """That the baseline is of another kind than the field, or none of its values."""
    only = field.dtype == "enum" and field.constant is None
    if field.value is None or field.dtype == "ratio" or not (field.searched or only):
        return []
    if reason := field.unlike(field.value):
        return [f"{field.name}: value {field.value!r} {reason}"]
    if Dimension.of(field).contains(field.value):
        return []
    return [f"{field.name}: value {field.value!r} is outside its range ({field.described_range})"]


def is_finite(value: Value) -> bool:
    """Is it a number that something can be computed from?"""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
