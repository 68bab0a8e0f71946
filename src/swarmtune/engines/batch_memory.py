"""The bound of the KV cache beside the baseline: the service of today stays in the search, whatever the theory says."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from swarmtune.engines.baseline import is_number
from swarmtune.engines.memory import KvMemory
from swarmtune.records import Value
from swarmtune.space import Constraint, Field


class BatchMemory:
    """The bound on one engine's batch size, with its baseline. An engine queues what its KV cache does not hold."""

    def __init__(self, memory: KvMemory, key: str, chosen: Collection[str]) -> None:
        """``key``: the engine's section; ``chosen``: names of the fields whose baseline the user wrote."""
        self._memory = memory
        self._key = key
        self._chosen = chosen

    def bounded(self, fields: Sequence[Field], name: str | None) -> tuple[Field, ...]:
        """The fields, that of this name ending at the bound, or at its baseline if that is more."""
        made = self._memory.bounded(fields, name)
        return tuple(f if f.name in self._chosen and _beyond(f, m) else m for f, m in zip(fields, made, strict=True))

    def rules(self, fields: Sequence[Field], name: str | None) -> tuple[str, ...]:
        """The constraint on the field of this name; an engine's own default stays legal. ConfigurationError where there are
        mistakes in the table.
        """
        broken = dict(self._broken(fields, name))
        kept = (
            f"{rule} or {name} == {broken[rule]}" if rule in broken else rule
            for rule in self._memory.rules(name, fields)
        )
        return () if broken and name in self._chosen else tuple(kept)

    def mistakes(self, fields: Sequence[Field], name: str | None) -> list[str]:
        """Mistakes in the table, and a baseline of the field of this name that the user wrote beyond the bound."""
        if found := self._memory.mistakes(fields):
            return found
        return [
            f"{self._key}.target_field {name}: value {value} breaks the rule {rule!r}, which follows from the table "
            f"[{self._key}.memory]; lower value, or give the table more memory or fewer tokens_per_sequence"
            for rule, value in self._broken(fields, name)
            if name in self._chosen
        ] or self._memory.exhausted(self._key, fields, name)

    def notes(self, fields: Sequence[Field], name: str | None) -> list[str]:
        """What bounds the field of this name, what could not be understood, and a baseline that is more than fits."""
        return [*self._memory.notes(fields, name), *self._baseline_notes(fields, name)]

    def _baseline_notes(self, fields: Sequence[Field], name: str | None) -> list[str]:
        return [
            f"{name}: the baseline {value} is more than the KV cache holds by the table [{self._key}.memory] ({rule}); "
            "it stays the baseline, as the engine queues what does not fit"
            for rule, value in self._broken(fields, name)
        ]

    def _broken(self, fields: Sequence[Field], name: str | None) -> Iterator[tuple[str, Value]]:
        """The rules that the baseline of the field of this name breaks, each with that baseline."""
        values = [f.value if f.fixed is None else f.fixed for f in fields if f.name == name]
        for value in values:
            if is_number(value) and value is not None and name is not None:
                rules = self._memory.rules(name, fields)
                yield from ((rule, value) for rule in rules if not Constraint.parse(rule).holds({name: value}))


def _beyond(before: Field, after: Field) -> bool:
    """Does the shortened range leave out the baseline?"""
    return after.max is not None and isinstance(before.value, (int, float)) and before.value > after.max
