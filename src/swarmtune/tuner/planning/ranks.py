"""The rules between a service's parallel ranks and the devices of its group."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from swarmtune.engines.schema import plain
from swarmtune.execution.service_group import VISIBLE
from swarmtune.records import Group
from swarmtune.space import Constraint


@dataclass
class RankRules:
    """``reasons``: constraints over fields, each with why. ``mistakes``: fixed numbers that cannot be, as sentences."""

    reasons: dict[str, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add(self, rules: Mapping[str, str], sentence: str) -> None:
        """Rules with their reasons: constraints if they speak of fields, mistakes if numbers break them. ``sentence``: of
        a mistake, with places for the rule and its reason.
        """
        for given, reason in rules.items():
            rule = plain(given)
            constraint = Constraint.parse(rule)
            if constraint.names:
                self.reasons[rule] = reason
            elif not constraint.holds({}):
                self.mistakes.append(sentence.format(rule, reason))


def rank_rules(
    ranks: Mapping[str, str],
    groups: Sequence[Group],
    section: str,
    node_rules: Callable[[int], Mapping[str, str]] = lambda _: {},
    variables: Mapping[str, str] | None = None,
) -> RankRules:
    """What devices and nodes ask of these ranks (``Engine.ranks``): no more than devices, and an equal part on each node.

    Groups differ: the one with the fewest devices decides. ``node_rules``: those of the engine (``Engine.node_rules``).
    ``variables``: of the service's environment; where a group tells no devices, one that says which it sees counts.
    """
    found = RankRules()
    if not groups:
        return found
    rules = _device_rules(ranks, groups, found, _seen(variables or {})) if ranks else {}
    told = " x ".join(f"{name} {number}" for name, number in ranks.items())
    found.add(rules, f"{section}: its parallel ranks ({told}) break the rule {{!r}}: {{}}")
    for nodes in sorted({len(group.nodes) for group in groups}):
        found.add(node_rules(nodes), f"{section}: {{1}}")
    return found


def _seen(variables: Mapping[str, str]) -> tuple[str, int]:
    """The variable that says which devices a service sees, and how many; 0: none does."""
    for name in VISIBLE:
        listed = [word.strip() for word in str(variables.get(name, "")).split(",")]
        seen = list(itertools.takewhile(lambda word: word not in ("", "-1"), listed))  # as the drivers read it
        if seen and "$" not in "".join(seen):
            return name, len(seen)
    return "", 0


def _device_rules(
    ranks: Mapping[str, str], groups: Sequence[Group], found: RankRules, seen: tuple[str, int]
) -> dict[str, str]:
    parts = [number for number in ranks.values() if number != "1"]
    product = " * ".join(parts) or "1"
    smallest = min(groups, key=_usable)
    devices = _usable(smallest)
    rules: dict[str, str] = {}
    variable, visible = seen
    if not devices and visible and not _uneven(smallest):
        rules[f"{product} <= {visible * len(smallest.nodes)}"] = (
            f"{variable} of its environment names {visible} device{'' if visible == 1 else 's'}"
        )
    elif devices or _uneven(smallest):
        rules[f"{product} <= {devices}"] = _limit(smallest)
    elif searched := [part for part in parts if not part.isdecimal()]:
        found.notices.append(
            f"the devices of the groups are not known, so nothing bounds the parallel ranks ({', '.join(searched)}); "
            "a hostfile with slots= or a group's device list tells them"
        )
    for nodes in sorted({len(group.nodes) for group in groups} - {1}):
        whole = f"({product})" if len(parts) > 1 else product
        told = f" with {devices} devices" if devices else ""
        rules[f"{whole} % {nodes} == 0"] = (
            f"a service runs on {nodes} nodes{told}, with the same number of ranks on each"
        )
    return rules


def _usable(group: Group) -> int:
    """The devices that ranks can have which are spread evenly over the nodes."""
    return len(group.nodes) * min(len(node.devices) for node in group.nodes)


def _uneven(group: Group) -> bool:
    return len({len(node.devices) for node in group.nodes}) > 1


def _limit(group: Group) -> str:
    """Why a service of this group has at most so many ranks."""
    devices = _usable(group)
    if not _uneven(group):
        return f"a group has {devices} device{'s' if devices > 1 else ''}"
    least = min(group.nodes, key=lambda node: len(node.devices))
    have = len(least.devices)
    return (
        f"group {group.name} has {len(group.nodes)} nodes with the same number of ranks on each, and its node "
        f"{least.host} has only {have} device{'' if have == 1 else 's'}"
    )
