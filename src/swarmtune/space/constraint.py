"""Rules between parameters, written as expressions in the TOML, read without eval."""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from swarmtune.records import Value

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}
MAX_LENGTH = 500  # characters of one expression
MAX_DEPTH = 40  # expressions inside each other


class ConstraintError(ValueError):
    """The expression is not in the small language below."""


@dataclass(frozen=True)
class Constraint:
    """An expression over field names that must be true, e.g. ``max_num_batched_tokens >= max_num_seqs``.

    The language: field names, numbers, strings, true/false, + - * / // %, comparisons, in, and/or/not, min max abs.
    """

    text: str
    tree: ast.expr
    names: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read an expression; ConstraintError says what is not allowed in it."""
        if len(text) > MAX_LENGTH:
            raise ConstraintError(f"longer than {MAX_LENGTH} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what Python only warns of ("1or 2", "\\d") is a slip here
                tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError, Warning) as error:
            raise ConstraintError(f"not an expression: {getattr(error, 'msg', error)}") from error
        names: set[str] = set()
        try:
            _check(tree, names)
        except RecursionError as error:
            raise ConstraintError(f"more than {MAX_DEPTH} expressions inside each other") from error
        return cls(text.strip(), tree, frozenset(names))

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Is it true for these values? A division by zero or a comparison of unlike types counts as false."""
        try:
            return bool(_evaluate(self.tree, values))
        except (ArithmeticError, TypeError, ValueError):
            return False


def _check(node: ast.AST, names: set[str], depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ConstraintError(f"more than {MAX_DEPTH} expressions inside each other")
    deeper = depth + 1
    match node:
        case ast.Name(id=name):
            if name not in ("true", "false"):
                names.add(name)
        case ast.Constant(value=value):
            if not isinstance(value, (bool, int, float, str)):
                raise ConstraintError(f"{value!r} is not a number, string or boolean")
        case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                _check(part, names, deeper)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, names, deeper)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _check(left, names, deeper)
            _check(right, names, deeper)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(o) in _COMPARE for o in ops):
            for part in (left, *others):
                _check(part, names, deeper)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            for part in args:
                _check(part, names, deeper)
        case _:
            raise ConstraintError(f"{ast.unparse(node) if isinstance(node, ast.expr) else node!r} is not allowed here")


def _evaluate(node: ast.expr, values: Mapping[str, Value]) -> Any:
    match node:
        case ast.Name(id=name):
            return {"true": True, "false": False}[name] if name in ("true", "false") else values[name]
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return [_evaluate(p, values) for p in parts]
        case ast.BoolOp(op=op, values=parts):
            results = (bool(_evaluate(p, values)) for p in parts)
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.UnaryOp(op=op, operand=operand):
            inner = _evaluate(operand, values)
            return (not inner) if isinstance(op, ast.Not) else -inner if isinstance(op, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left, values), _evaluate(right, values)
            if not (isinstance(a, (int, float)) and isinstance(b, (int, float))):
                raise TypeError("arithmetic on text or lists")
            return _BINARY[type(op)](a, b)
        case ast.Compare(left=left, ops=ops, comparators=others):
            chain = [_evaluate(part, values) for part in (left, *others)]
            return all(_COMPARE[type(o)](a, b) for o, a, b in zip(ops, chain, chain[1:], strict=False))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_evaluate(a, values) for a in args))
    raise ConstraintError(f"cannot evaluate {ast.unparse(node)}")
