"""The rules between the parallel ranks in MindIE's config.json, which the daemon checks at its start.

Source: MindIE-LLM's ``backend_config.cpp`` (devices), ``mapping.py`` (ranks) and its pages on parallelism.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swarmtune.engines.document import read_or
from swarmtune.engines.rules import Rule, broken_rules
from swarmtune.errors import ConfigurationError
from swarmtune.records import Value
from swarmtune.space import Constraint, Field, Space
from swarmtune.space.field import DERIVED

BACKEND = "BackendConfig"
SIZES = ("worldSize", "tp", "dp", "pp", "cp", "sp", "moe_tp", "moe_ep")
MOST = 2**31


def rank_rules(
    file: Any, model: str, fields: Sequence[Field], names: Mapping[str, str], nodes: int = 1
) -> tuple[list[Rule], list[str]]:
    """The rules between sizes and devices; and, as sentences, what speaks against rules that are left out: sizes that
    contradict each other in the file already, with which the user's daemon may start all the same, and derived fields that
    follow another product than worldSize. ``model``: the path of the first model in the file; ``names``: the fields by the
    keys that they set; ``nodes``: the machines that serve one model together.
    """
    given = sizes(file, model, names, nodes)
    rules = size_rules(given)
    set_here = {names[key.lower()] for key in SIZES if key.lower() in names}
    doubts = broken_rules(size_rules(sizes(file, model, {}, nodes)), "the file")
    if doubts:
        rules = []
    elif any(field.name in set_here and field.dtype in DERIVED and field.fixed is None for field in fields):
        baseline = _baseline(fields)
        broken = [rule for rule in rules if not Constraint.parse(rule.text).holds(baseline)] if baseline else []
        rules = [rule for rule in rules if rule not in broken]
        doubts = [f"derived fields: {rule.why}" for rule in broken]
    devices = [] if nodes > 1 or "npudeviceids" in names else device_rules(file, given.get("worldSize"))
    return rules + devices, doubts


def _baseline(fields: Sequence[Field]) -> Mapping[str, Value]:
    """The values of today; none where the fields have mistakes."""
    try:
        return Space(fields).default().values
    except ConfigurationError:
        return {}


def sizes(file: Any, model: str, names: Mapping[str, str], nodes: int = 1) -> dict[str, str]:
    """The sizes as rules write them: the field that sets each (``names``, by the key in lower case), else the number in the
    file; those that are left to the daemon (absent, -1) are not among them, nor is worldSize where several machines serve
    the model: their table of ranks counts then. ``model``: the path of the first model; ``nodes``: those machines.
    """
    found = {}
    several = nodes > 1 or joins_machines(file)
    for key in SIZES[several:]:
        value = read_or(file, f"{model}.{key}", None)
        number = isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST
        if words := names.get(key.lower(), str(value) if number else ""):
            found[key] = words
    return found


def joins_machines(file: Any) -> bool:
    """Does the file say that several machines serve the model together?"""
    return read_or(file, f"{BACKEND}.multiNodesInferEnabled", False) is not False


def size_rules(given: Mapping[str, str]) -> list[Rule]:
    """The rules between these sizes."""
    rules: list[Rule] = []
    world = given.get("worldSize")
    split = {key: given[key] for key in ("dp", "cp", "pp") if given.get(key, "1") != "1"}
    for key, other in (("dp", "cp"), ("dp", "pp")):
        if key in split and other in split:
            why = f"MindIE takes no {_phrase(key, split)} beside {_phrase(other, split)}: one of them must be 1"
            rules.append(Rule(f"{split[key]} == 1 or {split[other]} == 1", why))
    if world and "tp" in given:
        rules.append(_product(world, {"tp": given["tp"], **split}))
    elif world and split:  # without tp the daemon gives each part all devices that are left
        product = " * ".join(split.values())
        words = " x ".join(_phrase(key, split) for key in split)
        rules.append(Rule(f"{world} % ({product}) == 0", f"worldSize {world} cannot be divided by {words}"))
    if world and "moe_tp" in given and "moe_ep" in given:
        rules.append(_product(world, {key: given[key] for key in ("moe_tp", "moe_ep")}))
    if "tp" in given and given.get("sp", "1") != "1":
        why = f"{_phrase('sp', given)} is not {_phrase('tp', given)}, and MindIE takes no other sp but 1"
        rules.append(Rule(f"{given['sp']} in (1, {given['tp']})", why))
    return rules


def _phrase(key: str, given: Mapping[str, str]) -> str:
    """A size in words: its number, where it has one."""
    return f"{key} {given[key]}" if given[key].isdecimal() else key


def _product(world: str, parts: Mapping[str, str]) -> Rule:
    words = " x ".join(_phrase(key, parts) for key in parts)
    return Rule(
        f"{' * '.join(parts.values())} == {world}", f"{words} is not worldSize {world}, and MindIE refuses that"
    )


def device_rules(file: Any, world: str | None) -> list[Rule]:
    """Each instance of the model has as many devices as worldSize says; where several machines serve it together, a table
    of ranks counts and not the file.
    """
    devices = read_or(file, f"{BACKEND}.npuDeviceIds", None)
    if not isinstance(devices, list) or joins_machines(file):
        return []
    rules: list[Rule] = []
    for number, one in enumerate(devices):
        if not isinstance(one, list):
            return []
        where = f"npuDeviceIds.{number}"
        if len({repr(device) for device in one}) < len(one):
            rules.append(Rule("false", f"{where} names a device twice, and MindIE refuses that"))
        elif world:
            why = f"worldSize {world} is not the number of devices in {where}, {len(one)}, and MindIE refuses that"
            rules.append(Rule(f"{world} == {len(one)}", why))
    instances = read_or(file, f"{BACKEND}.modelInstanceNumber", None)
    if isinstance(instances, int) and not isinstance(instances, bool) and instances != len(devices):
        why = f"modelInstanceNumber {instances} is not the number of lists in npuDeviceIds, {len(devices)}"
        rules.append(Rule("false", why))
    return rules
