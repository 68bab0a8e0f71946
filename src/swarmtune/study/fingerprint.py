"""What must not change while a study goes on, compared: fingerprints of today, and those of the first format.

The first format (until the commit after 7201293) held objective, workload and load search as the ``repr`` of private
classes. ``upgraded`` reads these texts as what they are, calls with literal arguments, and gives the same data that
``identity()`` gives today. So a changed objective, workload or load search is refused for old studies, too; what it
cannot read stays as it is and is refused.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

# What may change when a study goes on. It tells later studies how far they are alike.
CIRCUMSTANCES = ("hardware", "engine_version", "service")
MOST_TEXT = 100_000  # characters of one repr

_KINDS = {"Goodput": "goodput", "Throughput": "throughput", "Weighted": "weighted", "Latency": "latency"}
_FIELD_DEFAULTS = {"config_position": "env", "dtype": "int", "log": False}  # not part of a field's identity


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys in which two fingerprints differ, circumstances included, sorted."""
    old, new = upgraded(before), json.loads(json.dumps(now))
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def upgraded(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A stored fingerprint in today's format."""
    if not isinstance(fingerprint.get("objective"), str):
        return dict(fingerprint)
    try:
        parts = {name: _value(fingerprint[name]) for name in ("objective", "workload", "load_search")}
        per, several = (_value(fingerprint.get(name, "None")) for name in ("per", "pareto"))
        fields = [_field(field) for field in fingerprint["fields"]]
        return {
            **{key: value for key, value in fingerprint.items() if key not in ("per", "pareto")},
            "fields": fields,
            "objective": _objective(parts["objective"], per, several),
            "workload": _workload(parts["workload"]),
            "load_search": parts["load_search"] and _arguments(parts["load_search"]),
        }
    except (SyntaxError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError):
        return dict(fingerprint)


def _objective(made: dict[str, Any], per: dict[str, Any] | None, several: dict[str, Any] | None) -> dict[str, Any]:
    identity = {"kind": _KINDS[made["()"]], "slos": made["limits"], "min_success_rate": made["min_success_rate"]}
    if made["()"] == "Weighted":
        identity["weights"] = _arguments(made["weights"])
    if per:
        identity["per"] = _arguments(per)
    if several:
        identity["pareto"] = {name: one["unit"] for name, one in several.items()}
    return identity


def _workload(made: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in _arguments(made).items() if name != "seed"}
    return {**plain, "load": _arguments(made["load"])}


def _field(field: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in field.items() if key not in _FIELD_DEFAULTS or value != _FIELD_DEFAULTS[key]}


def _arguments(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made.items() if name != "()"}


def _value(text: str) -> Any:
    """What a repr says: a call as a table of its arguments, with the name of the class under ``()``."""
    if len(text) > MOST_TEXT:
        raise ValueError("too long")
    return _literal(ast.parse(text, mode="eval").body)


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name(id="inf" | "nan" as name):
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_literal(operand)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_literal(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            return {_literal(key): _literal(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
            return {"()": name, **{str(k.arg): _literal(k.value) for k in keywords}}
    raise ValueError(f"not a literal: {ast.dump(node):.80}")
