"""``Space.decode`` and ``Space.legal`` for many points at once, in arrays, for searches with thousands of candidates."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.space.constraint import Constraint
from swarmtune.space.dimension import FLOAT_DIGITS, Dimension
from swarmtune.space.field import Field
from swarmtune.space.space import Space

Column = NDArray[Any]
Points = NDArray[np.float64]


def vectorisable(space: Space) -> bool:
    """Can the space be decoded in arrays? Fields that move two others to divide exactly need each point on its own."""
    return not any(f.derived and f.dtype == "ternary_factories" for f in space.fields)


def snapped(space: Space, points: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Of points of shape (m, d): the middles of their values' shares (as ``encode(decode(point))``), and which are legal."""
    if vectorisable(space):
        units = np.clip(points, 0.0, 1.0)
        legal = np.ones(len(points), dtype=bool)
        try:
            columns = _columns(space, units)
            with np.errstate(all="ignore"):
                for constraint in space.constraints:
                    legal &= _holds(constraint.tree, columns, len(points))
        except (TypeError, ValueError, ArithmeticError):
            pass  # a rule that compares text with numbers for some of the points
        else:
            return units, legal
    settings = [space.decode(p) for p in points]
    legal = np.array([space.legal(s) for s in settings], dtype=bool)
    return np.array([space.encode(s) for s in settings]).reshape(points.shape), legal


def _columns(space: Space, units: Points) -> dict[str, Column]:
    """The values of every field; ``units`` is snapped in place."""
    m = len(units)
    place = {d.name: (i, d) for i, d in enumerate(space.dimensions)}
    constants = space.default().values
    columns: dict[str, Column] = {}
    for f in space.in_order:
        if f.name not in place:
            columns[f.name] = _derived(f, columns, space) if f.derived else np.full(m, constants[f.name])
            continue
        i, dimension = place[f.name]
        if f.when is not None:
            active = _holds(Constraint.parse(f.when).tree, columns, m)
            units[:, i] = np.where(active, units[:, i], space.unit_at_rest(f.name))
        columns[f.name], units[:, i] = _decoded(dimension, units[:, i])
        if f.dtype == "ratio":
            target = columns[f.targets[0]].astype(float)
            columns[f.name] = np.floor(columns[f.name] * target)
            with np.errstate(all="ignore"):
                ratio = np.clip((columns[f.name] + 0.5) / target, dimension.low, dimension.high)
            units[:, i] = np.where(target == 0, 0.5, (ratio - dimension.low) / (dimension.high - dimension.low))
    return columns


def _decoded(dimension: Dimension, unit: Column) -> tuple[Column, Column]:
    """As ``Dimension.decode`` and ``Dimension.encode``: values, and the middles of their shares."""
    if dimension.choices:
        n = len(dimension.choices)
        index = np.minimum(n - 1, (unit * n).astype(int))
        kinds = {bool: bool, str: str}
        same = len({kinds.get(type(c), float) for c in dimension.choices}) == 1
        return np.array(dimension.choices, dtype=None if same else object)[index], (index + 0.5) / n
    if dimension.kind == "int":
        low, high = dimension.low, dimension.high
        if dimension.log:
            span = math.log(high + 1) - math.log(low)
            value = np.clip(np.floor(np.exp(math.log(low) + unit * span)), low, high)
            return value, ((np.log(value) + np.log(value + 1)) / 2 - math.log(low)) / span
        value = np.clip(np.floor(low + unit * (high + 1 - low)), low, high)
        return value, (value + 0.5 - low) / (high + 1 - low)
    if dimension.log:
        return _rounded(np.exp(math.log(dimension.low) + unit * math.log(dimension.high / dimension.low))), unit
    return _rounded(dimension.low + unit * (dimension.high - dimension.low)), unit


def _rounded(values: Column) -> Column:
    """To FLOAT_DIGITS significant digits."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(np.abs(values)))
    scale = 10.0 ** (FLOAT_DIGITS - 1 - np.where(np.isfinite(exponent), exponent, 0.0))
    return np.round(values * scale) / scale


def _derived(f: Field, columns: Mapping[str, Column], space: Space) -> Column:
    targets = [columns[t].astype(float) for t in f.targets]
    product = float(f.dtype_param["product"]) if isinstance(f.dtype_param, dict) else 0.0
    if f.dtype == "share":
        budget = next(g for g in space.fields if g.name == f.targets[0])
        return np.asarray(float(budget.min or 0) + float(budget.max or 0) - targets[0])
    if f.dtype == "factories":
        return np.asarray(np.floor(product / np.maximum(1.0, targets[0])))
    return np.asarray(functools.reduce(np.multiply, targets, np.array(product)))


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply,
    ast.Div: np.true_divide, ast.FloorDiv: np.floor_divide, ast.Mod: np.mod,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: np.equal, ast.NotEq: np.not_equal, ast.Lt: np.less,
    ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal,
}  # fmt: skip
_FOLDS: dict[str, Callable[[Any, Any], Any]] = {"min": np.minimum, "max": np.maximum}


def _holds(tree: ast.expr, columns: Mapping[str, Column], m: int) -> NDArray[np.bool_]:
    return np.broadcast_to(np.asarray(_evaluate(tree, columns), dtype=bool), (m,))


def _evaluate(node: ast.expr, columns: Mapping[str, Column]) -> Any:
    match node:
        case ast.Name(id=name):
            return {"true": True, "false": False}[name] if name in ("true", "false") else columns[name]
        case ast.Constant(value=value):
            return value
        case ast.BoolOp(op=op, values=parts):
            fold = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return functools.reduce(fold, [np.asarray(_evaluate(p, columns), dtype=bool) for p in parts])
        case ast.UnaryOp(op=op, operand=operand):
            inner = _evaluate(operand, columns)
            return np.logical_not(inner) if isinstance(op, ast.Not) else -inner if isinstance(op, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_evaluate(left, columns), _evaluate(right, columns))
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _compared([left, *others], ops, columns)
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_evaluate(a, columns) for a in args]
            return np.abs(values[0]) if name == "abs" else functools.reduce(_FOLDS[name], values)
    raise TypeError("a list stands only behind in")


def _compared(parts: list[ast.expr], ops: list[ast.cmpop], columns: Mapping[str, Column]) -> Any:
    result: Any = True
    for op, left, right in zip(ops, parts, parts[1:], strict=False):
        a = _evaluate(left, columns)
        if isinstance(op, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.Tuple, ast.List)):
                raise TypeError("a list is needed behind in")
            inside = functools.reduce(
                np.logical_or, [np.equal(a, _evaluate(e, columns)) for e in right.elts], np.array(False)
            )
            result = result & (inside if isinstance(op, ast.In) else ~inside)
        else:
            result = result & _COMPARE[type(op)](a, _evaluate(right, columns))
    return result
