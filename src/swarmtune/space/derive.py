"""Values that follow from other values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from swarmtune.records import Value
from swarmtune.space.field import Field


def divisors(product: int) -> list[int]:
    """All whole numbers that divide ``product`` exactly, ascending."""
    small = [d for d in range(1, int(product**0.5) + 1) if product % d == 0]
    return sorted({*small, *(product // d for d in small)})


def derive(field: Field, values: Mapping[str, Value], fields: Mapping[str, Field]) -> Value:
    """The value of a derived field, given the values of its targets.

    ``factories`` and ``ternary_factories`` divide exactly when the targets come from a Space; a user's own setting that
    does not divide gives the quotient rounded down, clamped to ``min_value``..``max_value``.
    """
    targets = [float(values[t]) for t in field.targets]
    param = field.dtype_param
    match field.dtype:
        case "share":
            budget = fields[field.targets[0]]
            return _whole(float(budget.min or 0) + float(budget.max or 0) - targets[0])
        case "factories":
            return _whole(float(param["product"]) // max(1.0, targets[0]))
        case "times":
            return _whole(float(param["product"]) * targets[0])
        case "ternary_factories":
            quotient = float(param["product"]) // max(1.0, targets[0] * targets[1])
            return _whole(min(param.get("max_value", quotient), max(param.get("min_value", quotient), quotient)))
        case "ternary_times":
            return _whole(float(param["product"]) * targets[0] * targets[1])
    raise ValueError(f"{field.name}: dtype {field.dtype} is not derived")


def legal_pairs(field: Field, first: Sequence[Value], second: Sequence[Value]) -> set[tuple[Value, Value]]:
    """The pairs of target values for which a ``ternary_factories`` field is exact and within its bounds."""
    product = int(field.dtype_param["product"])
    low = field.dtype_param.get("min_value", 1)
    high = field.dtype_param.get("max_value", product)
    exact = set(divisors(product))
    pairs: set[tuple[Value, Value]] = set()
    for a in (x for x in first if x in exact):
        for b in (y for y in second if y in exact):
            both = int(a) * int(b)
            if product % both == 0 and low <= product // both <= high:
                pairs.add((a, b))
    return pairs


def _whole(number: float) -> Value:
    """Whole numbers as int, so that they read and compare as written."""
    return int(number) if math.isfinite(number) and number == int(number) else number
