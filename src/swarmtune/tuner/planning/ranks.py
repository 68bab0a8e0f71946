"""The rules between a service's parallel ranks and the devices of its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from swarmtune.records import Group
from swarmtune.space import Constraint


@dataclass
class RankRules:
    """``reasons``: constraints over fields, each with why. ``mistakes``: fixed numbers that cannot be, as sentences."""

    reasons: dict[str, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def rank_rules(ranks: Mapping[str, str], groups: Sequence[Group], section: str) -> RankRules:
    """What devices and nodes ask of these ranks (``Engine.ranks``): no more than devices, and an equal part on each node.

    Groups differ: the one with the fewest devices decides.
    """
    found = RankRules()
    if not ranks or not groups:
        return found
    parts = [number for number in ranks.values() if number != "1"]
    product = " * ".join(parts) or "1"
    devices = min(sum(len(node.devices) for node in group.nodes) for group in groups)
    rules: dict[str, str] = {}
    if devices:
        rules[f"{product} <= {devices}"] = f"a group has {devices} device{'s' if devices > 1 else ''}"
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
    for rule, reason in rules.items():
        constraint = Constraint.parse(rule)
        if constraint.names:
            found.reasons[rule] = reason
        elif not constraint.holds({}):
            told = " x ".join(f"{name} {number}" for name, number in ranks.items())
            found.mistakes.append(f"{section}: its parallel ranks ({told}) break the rule {rule!r}: {reason}")
    return found
