"""Baselines: the values that the user's service has today, and the ranges widened for them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from swarmtune.records import Value
from swarmtune.space import ConstraintError, Dimension, Field
from swarmtune.space.field import MAX_NUMBER

MOST_LISTED = 1000  # values of a range that are listed one by one


def with_default(made: Field, default: Any) -> Field:
    """The field with the engine's default as its baseline where the user gave none.

    A range that does not hold the default is widened for it, so that the baseline is the service of today.
    """
    usable = (isinstance(default, (bool, str)) or is_number(default)) and made.searched and made.dtype != "ratio"
    if made.value is not None or not usable or not is_sound(made):
        return made
    if Dimension.of(made).contains(default):
        return replace(made, value=default)
    return _widened(made, default)


def _widened(made: Field, default: Value) -> Field:
    low, high = made.min or 0, made.max or 0
    if made.dtype == "bool":
        return replace(made, value=bool(default)) if default in (0, 1) else made
    if made.dtype == "enum":
        choices = [*made.dtype_param, default]
        numbers = [c for c in choices if is_number(c)]
        return replace(made, value=default, dtype_param=sorted(numbers) if len(numbers) == len(choices) else choices)
    if not is_number(default) or isinstance(default, str) or (made.log and default <= 0):
        return made
    if made.dtype == "range":
        steps = (default - low) / made.dtype_param
        if not math.isclose(steps, round(steps), abs_tol=1e-9):  # the steps go past it
            return _off_grid(made, default)
    if made.dtype == "int" and default != int(default):
        return made
    return replace(made, min=min(low, default), max=max(high, default), value=default)


def _off_grid(made: Field, default: float) -> Field:
    """A range whose steps go past the default: with the default among its values, or without steps if they are many."""
    grid = [*Dimension.of(made).choices, default]
    if len(grid) <= MOST_LISTED:
        return replace(made, dtype="enum", min=None, max=None, dtype_param=sorted(grid, key=float), value=default)
    kind = "int" if all(isinstance(value, int) for value in grid) else "float"
    low, high = min(made.min or 0, default), max(made.max or 0, default)
    return replace(made, dtype=kind, min=low, max=high, dtype_param=None, value=default)


def with_result(made: Field, target: float, result: int) -> Field:
    """A ratio whose baseline is the resulting number ``result`` of a target with the value ``target`` above 0.

    The number is written as the share that gives it, and the range is widened for that share.
    """
    share = 1.0 if result == target else float(f"{(result + 0.5) / target:.6g}")
    low, high = made.min or 0, made.max or 0
    return replace(made, value=share, min=min(low, share), max=max(high, share))


def with_share(made: Field, target: Field | None, current: Any) -> Field:
    """A ratio without ``value`` whose resulting number is ``current`` today, with the share that gives it of the baseline of
    the ``target`` field; any other field as it is.
    """
    whole = None if target is None else target.value if target.fixed is None else target.fixed
    if made.dtype != "ratio" or made.value is not None or not made.searched or not is_number(current):
        return made
    known = is_number(whole) and whole is not None and float(whole) > 0
    return with_result(made, float(whole or 0), int(current)) if known and is_sound(made) else made


def is_sound(made: Field) -> bool:
    """Has the field no mistakes of its own, whatever other fields there are?"""
    try:
        others = made.conditions
    except ConstraintError:
        return False
    return not made.mistakes({made.name, *made.targets, *others})


def is_number(value: Any) -> bool:
    """Is it a number that a field may have? Files of services may also hold NaN, Infinity and thousands of digits."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(abs(value) <= MAX_NUMBER)


def range_notes(before: Iterable[Field], after: Iterable[Field]) -> list[str]:
    """A sentence for each field whose range the baseline has widened, or that is left out of the search."""
    made = {f.name: f for f in after}
    notes = []
    for f in before:
        now = made.get(f.name)
        if now is None or not f.searched:
            continue
        if not now.searched:
            notes.append(f"{f.name} has no effect beside the other settings of this service: it is not searched")
        elif _wider(now, f) and now.dtype == "ratio":
            notes.append(
                f"{f.name}: the range is widened to {now.min:g} to {now.max:g} for the baseline, its value today"
            )
        elif _wider(now, f):
            notes.append(
                f"{f.name}: the range is widened for the baseline {now.value}, its value today; "
                "with `value` the search starts elsewhere"
            )
    return notes


def _wider(now: Field, before: Field) -> bool:
    if now.dtype_param != before.dtype_param:
        return True
    if now.min is None or before.min is None:
        return False
    return now.min < before.min or (now.max or 0) > (before.max or 0)
