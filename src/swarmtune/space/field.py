"""One parameter of a service: a ``[[ENGINE.target_field]]`` entry."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from swarmtune.records import Value
from swarmtune.space.constraint import Constraint, ConstraintError

SEARCHED = ("int", "float", "bool", "enum", "range", "ratio")
DERIVED = ("share", "factories", "times", "ternary_factories", "ternary_times")
DTYPES = (*SEARCHED, *DERIVED, "env")

MAX_CHOICES = 100_000  # values of one enum or range
MAX_NUMBER = 1e15  # below 2^53, so that whole numbers stay exact as floats
MAX_PRODUCT = {"factories": 10**9, "ternary_factories": 10**6}  # their divisors are listed
_PARAM_KEYS = (
    *("target_name", "target_names", "product", "dtype"),
    *("min_value", "max_value", "priority_policy", "priority"),
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_LIVE = re.compile(r"(POST|PUT) (/[!-~]*)")
_NUMERAL = re.compile(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{1,15})?\s*")
_FLAG = re.compile(r"--?[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Field:
    """A parameter, where its value goes, and what values it may take.

    ``config_position``: ``"env"`` (an environment variable of that name), a command-line flag (``"--max-num-seqs"``), a
    dotted path into the service's JSON/YAML file, numbers indexing lists (``"ModelConfig.0.tp"``), or a method and a path
    (``"POST /settings"``): the value is sent to the running service, which needs no restart for it.
    ``dtype`` and ``dtype_param``:

    ==================  ================================================================================
    int, float, bool    a number between ``min`` and ``max`` (``log`` = on a logarithmic scale); True or False
    enum                one of the list in ``dtype_param``
    range               ``min`` to ``max`` in steps of ``dtype_param``
    ratio               int(r x value of the field named in ``dtype_param``), r between ``min`` and ``max``
    share               min + max of the field named in ``dtype_param``, less its value
    factories           {target_name, product}: product / target, exact divisors only
    times               {target_name, product}: product x target
    ternary_factories   {target_names: [a, b], product, min_value, max_value, priority_policy, priority}: product/(a b)
    ternary_times       {target_names: [a, b], product}: product x a x b
    env                 the value of the environment variable named in ``dtype_param`` when the plan is made
    ==================  ================================================================================

    ``value`` is the baseline. ``constant`` (0 and False count) or ``min`` == ``max`` takes a field out of the search.
    ``when`` is an expression over other fields: where it is false the field is at rest: not searched, at its baseline
    value, and not written into the service's command or files.
    Whole numbers written with a point become int where ``dtype`` is int, 0 and 1 become booleans where it is bool.
    """

    name: str
    config_position: str = "env"
    min: float | None = None
    max: float | None = None
    dtype: str = "int"
    value: Value | None = None
    dtype_param: Any = None
    constant: Value | None = None
    log: bool = False
    when: str | None = None

    def __post_init__(self) -> None:
        for key in ("value", "constant"):
            object.__setattr__(self, key, self._typed(getattr(self, key)))

    def _typed(self, value: Value | None) -> Value | None:
        if self.dtype == "int" and isinstance(value, float) and value.is_integer():
            return int(value)
        if self.dtype == "bool" and isinstance(value, (int, float)) and value in (0, 1):
            return bool(value)
        return value

    @property
    def live(self) -> tuple[str, str] | None:
        """Method and path by which the running service takes the value; None: it is part of how the service is started."""
        match = _LIVE.fullmatch(self.config_position)
        return (match[1], match[2]) if match else None

    @property
    def derived(self) -> bool:
        """Does its value follow from other fields?"""
        return self.constant is None and self.dtype in DERIVED

    @property
    def fixed(self) -> Value | None:
        """The only value that it may take, if there is only one."""
        if self.constant is not None:
            return self.constant
        if self.min is None or self.min != self.max or not math.isfinite(self.min):
            return self._only_choice
        if self.dtype in ("int", "float", "range"):
            return int(self.min) if self.dtype == "int" or self.min == int(self.min) else self.min
        if self.dtype == "bool":
            return self.min > 0.5
        return self.value if self.dtype == "enum" and self.value is not None else self._only_choice

    @property
    def _only_choice(self) -> Value | None:
        if self.dtype == "enum" and isinstance(self.dtype_param, (list, tuple)) and len(self.dtype_param) == 1:
            return self.dtype_param[0]  # type: ignore[no-any-return]
        return None

    @property
    def searched(self) -> bool:
        """Is it a dimension of the search?"""
        return self.dtype in SEARCHED and self.fixed is None

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the fields that its value depends on."""
        if self.dtype in ("ratio", "share"):
            return (self.dtype_param,) if isinstance(self.dtype_param, str) else ()
        if self.dtype in DERIVED and isinstance(self.dtype_param, dict):
            named = self.dtype_param.get("target_names", self.dtype_param.get("target_name"))
            if isinstance(named, (list, tuple)):
                return tuple(n for n in named if isinstance(n, str))
            return (named,) if isinstance(named, str) else ()
        return ()

    @property
    def priority(self) -> tuple[str, ...]:
        """The targets in the order in which they keep their values, as the user wrote it; names, or one name."""
        named = self.dtype_param.get("priority") if isinstance(self.dtype_param, dict) else None
        return tuple(map(str, named)) if isinstance(named, (list, tuple)) else (str(named),) if named else ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the fields that decide whether it is in use."""
        return () if self.when is None else tuple(sorted(_condition(self.when).names))

    def active(self, values: Mapping[str, Value]) -> bool:
        """Is it in use with these values of the other fields?"""
        return self.when is None or _condition(self.when).holds(values)

    def mistakes(self, known: set[str]) -> list[str]:
        """Everything wrong with this entry, as sentences; ``known`` are the names of all fields."""
        if not _NAME.fullmatch(self.name):
            shown = repr(self.name[:40])
            return [
                f"name {shown} must be letters, digits, '_', '-' and '.', begin with no digit, and have at most 100"
            ]
        if self.dtype not in DTYPES:
            near = difflib.get_close_matches(self.dtype, DTYPES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return [f"{self.name}: dtype {self.dtype[:40]!r} is not one of {', '.join(DTYPES)}{hint}"]
        found = self._place_mistakes() + self._number_mistakes() + self._when_mistakes(known)
        found += [f"{self.name}: dtype_param names {t!r}, which is not a field" for t in self.targets if t not in known]
        if self.name in self.targets:
            found.append(f"{self.name}: depends on itself")
        if self.constant is not None:
            return found + self._constant_mistakes(self.constant)
        return found + (self._range_mistakes() or self._param_mistakes())

    def unlike(self, value: Value) -> str:
        """Why no field of this dtype has this value, as the end of a sentence that begins with it; empty: one may."""
        if self.dtype in ("enum", "env"):
            return ""
        if self.dtype == "bool":
            if isinstance(value, str) and value.lower() in ("true", "false"):
                return f"is text; write {value.lower()} without quotes"
            return "" if isinstance(value, bool) else "is neither true nor false"
        if isinstance(value, str):
            return f"is text; write {value.strip()} without quotes" if _NUMERAL.fullmatch(value) else "is not a number"
        if isinstance(value, bool):
            return "is not a number"
        return "is not a whole number" if self.dtype == "int" and not float(value).is_integer() else ""

    @property
    def described_range(self) -> str:
        """The values that it may take, in words."""
        if self.dtype == "enum":
            return f"one of {', '.join(map(repr, self.dtype_param[:10]))}"
        steps = f" in steps of {self.dtype_param}" if self.dtype == "range" else ""
        if self.min is None or self.max is None:
            return f"from {self.min} on" if self.max is None else f"up to {self.max}"
        return f"{self.min} to {self.max}{steps}"

    def _constant_mistakes(self, constant: Value) -> list[str]:
        """That the constant is of another kind than is written, or outside the range that is. A constant alone may be of any
        kind, as int is what no ``dtype`` stands for, too.
        """
        alone = self.dtype == "int" and self.min is None and self.max is None
        if alone or (isinstance(constant, float) and not math.isfinite(constant)):
            return []
        if reason := self.unlike(constant):
            return [f"{self.name}: constant {constant!r} {reason}"]
        if self.dtype == "enum":
            listed = self.dtype_param if isinstance(self.dtype_param, (list, tuple)) else ()
            inside = not listed or any(
                c == constant and isinstance(c, bool) == isinstance(constant, bool) for c in listed
            )
        else:
            inside = self.dtype not in ("int", "float", "range") or self._has_inside(float(constant))
        return [] if inside else [f"{self.name}: constant {constant!r} is outside its range ({self.described_range})"]

    def _has_inside(self, number: float) -> bool:
        """Does it lie between the bounds that are given, and on the steps?"""
        low, high = (-math.inf if self.min is None else self.min), (math.inf if self.max is None else self.max)
        if not low <= number <= high:
            return False
        if self.dtype != "range" or self.min is None or not _number(self.dtype_param) or not self.dtype_param > 0:
            return True
        steps = (number - self.min) / self.dtype_param
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def _when_mistakes(self, known: set[str]) -> list[str]:
        if self.when is None:
            return []
        try:
            names = _condition(self.when).names
        except ConstraintError as error:
            return [f"{self.name}: when {self.when[:100]!r}: {error}"]
        found = [f"{self.name}: when names {n!r}, which is not a field" for n in sorted(names - known)]
        return [*found, f"{self.name}: depends on itself"] if self.name in names else found

    def _place_mistakes(self) -> list[str]:
        position = self.config_position
        if position.startswith("-") and not _FLAG.fullmatch(position):
            return [f"{self.name}: config_position {position[:40]!r} is not a flag; write it like --max-num-seqs"]
        if position.startswith(("POST ", "PUT ")) and not self.live:
            return [f"{self.name}: config_position {position[:40]!r} is not a method and a path like POST /settings"]
        if not position or not position.isprintable() or len(position) > 500:
            return [
                f'{self.name}: config_position {position[:40]!r} is neither "env", a flag, a dotted path nor POST /path'
            ]
        return []

    def _number_mistakes(self) -> list[str]:
        numbers = {"min": self.min, "max": self.max, "value": self.value, "constant": self.constant}
        found = []
        for key, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if not math.isfinite(number):
                found.append(f"{self.name}: {key} must be a finite number, not {number}")
            elif abs(number) > MAX_NUMBER:
                found.append(f"{self.name}: {key} must lie between -{MAX_NUMBER:g} and {MAX_NUMBER:g}")
        if self.dtype == "ratio" and self.constant is None and isinstance(self.value, (bool, str)):
            found.append(f"{self.name}: value {self.value!r} is not a number; a ratio needs one")
        return found

    def _range_mistakes(self) -> list[str]:
        needs_range = self.dtype in ("int", "float", "range", "ratio")
        if needs_range and (self.min is None or self.max is None):
            return [f"{self.name}: dtype {self.dtype} needs min and max"]
        bounds = [b for b in (self.min, self.max) if b is not None]
        if not all(math.isfinite(b) and abs(b) <= MAX_NUMBER for b in bounds):
            return []  # said already
        found = []
        if self.min is not None and self.max is not None and self.min > self.max:
            found.append(f"{self.name}: min {self.min} is larger than max {self.max}")
        if not found and self.dtype == "int" and needs_range and math.ceil(self.min or 0) > math.floor(self.max or 0):
            found.append(f"{self.name}: no whole number lies between min {self.min} and max {self.max}")
        if self.log and (self.dtype not in ("int", "float") or (self.min is not None and self.min <= 0)):
            found.append(f"{self.name}: log = true needs dtype int or float and min > 0")
        return found

    def _param_mistakes(self) -> list[str]:
        p = self.dtype_param
        match self.dtype:
            case "enum":
                if not isinstance(p, (list, tuple)) or not p:
                    return [f"{self.name}: dtype enum needs dtype_param = [a list of different values]"]
                return self._enum_mistakes(p)
            case "range":
                if not _number(p) or not 0 < p < math.inf:
                    return [f"{self.name}: dtype range needs dtype_param = the step, a number above 0"]
                low, high = float(self.min or 0), float(self.max or 0)
                if low < high and p > high - low:
                    only = f"a step of {p:g} leaves only one value, {low:g}, between min {low:g} and max {high:g}"
                    return [f"{self.name}: {only}; make it smaller, or write that value as constant"]
                if (high - low) / p >= MAX_CHOICES or max(abs(low), abs(high)) / p > 1e11:
                    return [
                        f"{self.name}: the step {p:g} gives too many values; at most {MAX_CHOICES} (use int or float)"
                    ]
            case "ratio" | "share" | "env":
                if not isinstance(p, str) or not p or not p.isprintable():
                    what = "the environment variable" if self.dtype == "env" else "the field"
                    return [f"{self.name}: dtype {self.dtype} needs dtype_param = the name of {what}"]
            case "factories" | "times" | "ternary_factories" | "ternary_times":
                return self._product_mistakes(p)
        return []

    def _product_mistakes(self, p: Any) -> list[str]:
        key, count = ("target_names", 2) if self.dtype.startswith("ternary") else ("target_name", 1)
        if not isinstance(p, dict) or key not in p or "product" not in p:
            return [f"{self.name}: dtype {self.dtype} needs dtype_param = {{{key} = ..., product = ...}}"]
        found = self._key_mistakes(p)
        if len(set(self.targets)) != count:
            found.append(f"{self.name}: {key} names {count} different field{'s' if count > 1 else ''}")
        product = p["product"]
        limit = MAX_PRODUCT.get(self.dtype, MAX_NUMBER)
        whole = isinstance(product, int) and not isinstance(product, bool) and product >= 1
        if self.dtype.endswith("factories") and not whole:
            found.append(f"{self.name}: product must be a whole number of at least 1, not {_shown(product)}")
        elif not _number(product) or not math.isfinite(product):
            found.append(f"{self.name}: product must be a number, not {_shown(product)}")
        elif abs(product) > limit:
            found.append(f"{self.name}: product {_shown(product)} is too large; at most {limit:g}")
        for bound in ("min_value", "max_value"):
            if bound in p and (not _number(p[bound]) or not math.isfinite(p[bound])):
                found.append(f"{self.name}: {bound} must be a number, not {_shown(p[bound])}")
        if p.get("priority_policy", "balanced") not in ("balanced", "fixed"):
            found.append(f"{self.name}: priority_policy is 'balanced' or 'fixed', not {_shown(p['priority_policy'])}")
        first = self.priority
        if p.get("priority_policy") == "fixed" and not (first and set(first) <= set(self.targets)):
            found.append(
                f"{self.name}: priority_policy 'fixed' needs priority = one of {', '.join(self.targets)}, or a list of them"
            )
        return found

    def _key_mistakes(self, p: dict[str, Any]) -> list[str]:
        found = []
        for key in sorted(p.keys() - set(_PARAM_KEYS), key=str):
            near = difflib.get_close_matches(str(key), _PARAM_KEYS, n=1, cutoff=0.7)
            if near:
                found.append(f"{self.name}: dtype_param has no key {_shown(key)}; did you mean {near[0]}?")
        return found

    def _enum_mistakes(self, p: Any) -> list[str]:
        if len(p) > MAX_CHOICES:
            return [f"{self.name}: an enum has at most {MAX_CHOICES} values, not {len(p)}"]
        if not all(isinstance(x, (bool, int, float, str)) for x in p):
            return [f"{self.name}: the values of an enum are strings, numbers or booleans"]
        if not all(math.isfinite(x) and abs(x) <= MAX_NUMBER for x in p if _number(x)):
            return [f"{self.name}: the numbers of an enum must lie between -{MAX_NUMBER:g} and {MAX_NUMBER:g}"]
        if len({(isinstance(x, bool), x) for x in p}) != len(p):
            return [f"{self.name}: dtype enum needs dtype_param = [a list of different values]"]
        return []


@lru_cache(maxsize=1000)
def _condition(text: str) -> Constraint:
    return Constraint.parse(text)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
