"""One parameter of a service: a ``[[ENGINE.target_field]]`` entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from swarmtune.records import Value

SEARCHED = ("int", "float", "bool", "enum", "range", "ratio")
DERIVED = ("share", "factories", "times", "ternary_factories", "ternary_times")
DTYPES = (*SEARCHED, *DERIVED, "env")


@dataclass(frozen=True)
class Field:
    """A parameter, where its value goes, and what values it may take.

    ``config_position``: ``"env"`` (an environment variable of that name), a command-line flag (``"--max-num-seqs"``), or
    a dotted path into the service's JSON/YAML file, numbers indexing lists (``"ModelConfig.0.tp"``).
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

    @property
    def derived(self) -> bool:
        """Does its value follow from other fields?"""
        return self.constant is None and self.dtype in DERIVED

    @property
    def fixed(self) -> Value | None:
        """The only value that it may take, if there is only one."""
        if self.constant is not None:
            return self.constant
        if self.dtype in ("int", "float", "range") and self.min is not None and self.min == self.max:
            return int(self.min) if self.dtype == "int" or self.min == int(self.min) else self.min
        if self.dtype == "bool" and self.min is not None and self.min == self.max:
            return self.min > 0.5
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

    def mistakes(self, known: set[str]) -> list[str]:
        """Everything wrong with this entry, as sentences; ``known`` are the names of all fields."""
        found = []
        if self.dtype not in DTYPES:
            return [f"{self.name}: dtype {self.dtype!r} is not one of {', '.join(DTYPES)}"]
        found += [f"{self.name}: dtype_param names {t!r}, which is no field" for t in self.targets if t not in known]
        if self.name in self.targets:
            found.append(f"{self.name}: depends on itself")
        if self.constant is not None:
            return found
        return found + self._range_mistakes() + self._param_mistakes()

    def _range_mistakes(self) -> list[str]:
        needs_range = self.dtype in ("int", "float", "range", "ratio")
        if needs_range and (self.min is None or self.max is None):
            return [f"{self.name}: dtype {self.dtype} needs min and max"]
        bounds = [b for b in (self.min, self.max) if b is not None]
        found = [f"{self.name}: min and max must be finite numbers, not {b}" for b in bounds if not math.isfinite(b)]
        if not found and self.min is not None and self.max is not None and self.min > self.max:
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
                if not isinstance(p, (list, tuple)) or not p or len({repr(x) for x in p}) != len(p):
                    return [f"{self.name}: dtype enum needs dtype_param = [a list of different values]"]
                if not all(isinstance(x, (bool, int, float, str)) for x in p):
                    return [f"{self.name}: the values of an enum are strings, numbers or booleans"]
            case "range":
                if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 < p < math.inf:
                    return [f"{self.name}: dtype range needs dtype_param = the step, a number above 0"]
            case "ratio" | "share" | "env":
                if not isinstance(p, str) or not p:
                    what = "the environment variable" if self.dtype == "env" else "the field"
                    return [f"{self.name}: dtype {self.dtype} needs dtype_param = the name of {what}"]
            case "factories" | "times" | "ternary_factories" | "ternary_times":
                return self._product_mistakes(p)
        return []

    def _product_mistakes(self, p: Any) -> list[str]:
        key, count = ("target_names", 2) if self.dtype.startswith("ternary") else ("target_name", 1)
        if not isinstance(p, dict) or key not in p or "product" not in p:
            return [f"{self.name}: dtype {self.dtype} needs dtype_param = {{{key} = ..., product = ...}}"]
        found = []
        if len(self.targets) != count:
            found.append(f"{self.name}: {key} names {count} field{'s' if count > 1 else ''}")
        product = p["product"]
        whole = isinstance(product, int) and not isinstance(product, bool) and product >= 1
        if self.dtype.endswith("factories") and not whole:
            found.append(f"{self.name}: product must be a whole number of at least 1, not {product!r}")
        elif isinstance(product, bool) or not isinstance(product, (int, float)) or not math.isfinite(product):
            found.append(f"{self.name}: product must be a number, not {product!r}")
        if p.get("priority_policy", "balanced") not in ("balanced", "fixed"):
            found.append(f"{self.name}: priority_policy is 'balanced' or 'fixed', not {p['priority_policy']!r}")
        if p.get("priority_policy") == "fixed" and p.get("priority") not in self.targets:
            found.append(f"{self.name}: priority_policy 'fixed' needs priority = one of {', '.join(self.targets)}")
        return found
