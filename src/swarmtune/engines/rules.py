"""Rules of one service that follow from its model and its nodes, each with the reason; over fields, or numbers alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarmtune.engines.flags import size
from swarmtune.engines.schema import plain
from swarmtune.space import Constraint, Field

QUANTIZATIONS: Mapping[str, tuple[str, ...]] = {  # methods in checkpoints, and the values of --quantization that fit
    "awq": ("awq", "awq_marlin", "auto_awq"),
    "gptq": ("gptq", "gptq_marlin", "auto_gptq"),
    "fp8": ("fp8",),
    "compressed-tensors": ("compressed-tensors",),
    "bitsandbytes": ("bitsandbytes",),
}

OF_CHECKPOINTS = ("awq", "gptq", "compressed-tensors")  # of these, methods that quantize nothing while a service loads


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


def length_rules(length: str, fields: Iterable[Field], most: int | None, why: str) -> tuple[Rule, ...]:
    """A context is at most as long as the model's. ``length``: the name of a field, or a number; ``most``: tokens."""
    if most is None or not (length.isidentifier() or re.fullmatch(r"-?[0-9]+", length)):
        return ()
    made = [field for field in fields if field.name == length]
    choices = [
        v for f in made if isinstance(f.dtype_param, (list, tuple)) for v in (f.value, f.constant, *f.dtype_param)
    ]
    short = [v for v in choices if isinstance(v, str) and (size(v) or 0) <= most]  # such as auto and 8k
    return (Rule(" or ".join([*(f"{length} == {value!r}" for value in short), f"{length} <= {most}"]), why),)


def quantization_rules(given: str | None, method: str | None, unquantized: bool = False) -> tuple[Rule, ...]:
    """The flag names the method of the checkpoint (vLLM, ``_verify_quantization``), and of one that is ``unquantized`` none
    that only reads. Of methods that are not in QUANTIZATIONS nothing is known. ``given``: a field, or a text in quotes;
    None: nothing sets it.
    """
    if given is not None and unquantized:
        names = tuple(name for family in OF_CHECKPOINTS for name in QUANTIZATIONS[family])
        shown = given.strip("'")
        why = f"--quantization {shown} reads weights that are quantized already, and config.json says nothing of these"
        return (Rule(f"{given} not in {names!r}", f"{why}; leave it out, or name the quantized model"),)
    others = [name for family, names in QUANTIZATIONS.items() if family != method for name in names]
    if given is None or method not in QUANTIZATIONS:
        return ()
    why = f"the model is quantized by {method} (quantization_config in its config.json), and --quantization names another "
    return (Rule(f"{given} not in {tuple(others)!r}", f"{why}method; leave it out"),)
