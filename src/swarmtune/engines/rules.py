"""Rules of one service that follow from its model and its nodes, each with the reason; over fields, or numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarmtune.engines.schema import plain
from swarmtune.space import Constraint


@dataclass(frozen=True)
class Rule:
    """``text``: a constraint over names of fields and numbers; ``why``: what is wrong where it does not hold."""

    text: str
    why: str


def open_rules(rules: Iterable[Rule]) -> dict[str, str]:
    """The constraints that speak of fields, with their reasons."""
    made = {plain(rule.text): rule.why for rule in rules}
    return {text: why for text, why in made.items() if Constraint.parse(text).names}


def broken_rules(rules: Iterable[Rule], where: str) -> list[str]:
    """A sentence for each rule that numbers break, whatever the fields. ``where``: the key that gives the numbers."""
    made = [(Constraint.parse(plain(rule.text)), rule.why) for rule in rules]
    return [f"{where}: {why}" for rule, why in made if not rule.names and not rule.holds({})]


def head_rules(heads: int | None, kv_heads: Sequence[int], tensor: str) -> tuple[Rule, ...]:
    """Heads are divided evenly among tensor ranks; KV heads may also be repeated. ``kv_heads``: as ``ModelFacts`` has them;
    ``tensor``: the number of ranks, as a field, a number or an expression.
    """
    rules: list[Rule] = []
    if heads:
        why = f"the model's {heads} attention heads cannot be divided by {tensor} tensor ranks"
        rules.append(Rule(f"{heads} % {tensor} == 0", why))
    for count in kv_heads:
        if count not in (1, heads):
            why = f"the model's {count} KV heads can neither be divided among {tensor} tensor ranks nor repeated evenly"
            rules.append(Rule(f"{count} % {tensor} == 0 or {tensor} % {count} == 0", why))
    return tuple(rules)


def context_rules(heads: int | None, kv_heads: Sequence[int], tensor: str, context: str) -> tuple[Rule, ...]:
    """Ranks that share the cache of a KV head are those that would repeat it (vLLM, ``verify_with_parallel_config``)."""
    if len(kv_heads) != 1 or not heads:
        return ()
    (count,) = kv_heads
    each, shared = heads // count, f"{context} ranks of decode context parallelism"
    few = f"{shared} want as many tensor ranks for each of the model's {count} KV heads, and there are {tensor} in all"
    return (
        Rule(f"{context} == 1 or {context} <= {tensor} // {count}", few),
        Rule(
            f"{context} == 1 or {each} % {context} == 0", f"{shared} cannot divide the {each} query heads of a KV head"
        ),
    )
