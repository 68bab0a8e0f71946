"""A searched parameter as a coordinate of the unit cube, on its own grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

from swarmtune.records import Value
from swarmtune.space.field import Field

FLOAT_DIGITS = 6  # significant digits of a float setting: enough for any service, and equal settings stay equal


@dataclass(frozen=True)
class Dimension:
    """Maps [0, 1] onto the values of one field, each value of a grid owning an equal share (log: of the log axis).

    ``choices`` is set for grids given by a list (enum, bool, range, divisors); otherwise ``low`` and ``high`` bound an
    integer or float axis.
    """

    name: str
    kind: str  # "int", "float", "choice" (ordered) or "category" (no order)
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Value, ...] = ()

    @classmethod
    def of(cls, field: Field) -> Dimension:
        """The dimension of a searched field."""
        if field.dtype == "bool":
            return cls(field.name, "category", choices=(False, True))
        if field.dtype == "enum":
            numeric = all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in field.dtype_param)
            kind = "choice" if numeric and list(field.dtype_param) == sorted(field.dtype_param) else "category"
            return cls(field.name, kind, choices=tuple(field.dtype_param))
        low, high = float(field.min or 0.0), float(field.max or 0.0)
        if field.dtype == "range":
            step = field.dtype_param
            count = math.floor((high - low) / step + 1e-9) + 1
            steps = [float(f"{low + i * step:.12g}") for i in range(count)]
            whole = all(s == int(s) for s in steps)
            return cls(field.name, "choice", choices=tuple(int(s) if whole else s for s in steps))
        if field.dtype == "int":
            return cls(field.name, "int", math.ceil(low), math.floor(high), field.log)
        return cls(field.name, "float", low, high, field.log)

    @property
    def count(self) -> int | None:
        """How many values there are; None for a continuous axis."""
        if self.choices:
            return len(self.choices)
        return int(self.high - self.low) + 1 if self.kind == "int" else None

    def decode(self, unit: float) -> Value:
        """The value at this coordinate; coordinates outside [0, 1] are clipped."""
        unit = min(1.0, max(0.0, float(unit)))
        if self.choices:
            return self.choices[min(len(self.choices) - 1, int(unit * len(self.choices)))]
        if self.kind == "int":
            if self.log:
                value = math.exp(math.log(self.low) + unit * (math.log(self.high + 1) - math.log(self.low)))
            else:
                value = self.low + unit * (self.high + 1 - self.low)
            return int(min(self.high, max(self.low, math.floor(value))))
        if self.log:
            value = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + unit * (self.high - self.low)
        return min(self.high, max(self.low, float(f"{value:.{FLOAT_DIGITS}g}")))

    def encode(self, value: Value) -> float:
        """The coordinate of a value: the middle of its share. Values off the grid go to the nearest one."""
        if self.choices:
            return (self._index(value) + 0.5) / len(self.choices)
        number = min(self.high, max(self.low, float(value)))
        if self.kind == "int":
            number = round(number)
            if self.log:
                middle = (math.log(number) + math.log(number + 1)) / 2
                return (middle - math.log(self.low)) / (math.log(self.high + 1) - math.log(self.low))
            return (number + 0.5 - self.low) / (self.high + 1 - self.low)
        if self.low == self.high:
            return 0.5
        if self.log:
            return (math.log(number) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (number - self.low) / (self.high - self.low)

    def _index(self, value: Value) -> int:
        for i, choice in enumerate(self.choices):
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return i
        numbers = [c for c in self.choices if isinstance(c, (int, float))]
        if len(numbers) == len(self.choices) and isinstance(value, (int, float)):
            return min(range(len(numbers)), key=lambda i: abs(numbers[i] - value))
        raise ValueError(f"{self.name}: {value!r} is not one of {list(self.choices)}")

    def exact(self, value: Value) -> Value:
        """A value of this dimension in the type of its grid: 64.0 of whole numbers is 64."""
        if self.choices:
            return self.choices[self._index(value)]
        return int(value) if self.kind == "int" else value

    def contains(self, value: Value) -> bool:
        """Is it one of the values of this dimension?"""
        if self.choices:
            return any(c == value and isinstance(c, bool) == isinstance(value, bool) for c in self.choices)
        if isinstance(value, (bool, str)) or not math.isfinite(value):
            return False
        return self.low <= value <= self.high and (self.kind == "float" or value == int(value))
