"""From an engine's fields and the user's rules to a search space: what is wrong with it, and notes on its baseline."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmtune.engines.base import Engine
from swarmtune.engines.placement import LOAD_FIELDS
from swarmtune.engines.target_field import TargetField
from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.records import Group, Setting
from swarmtune.search.load import LoadSearch
from swarmtune.settings import BaseSections
from swarmtune.sources import section_name
from swarmtune.space import Constraint, Field, Space, sound_part
from swarmtune.tuner.planning.parts import tell_of_part
from swarmtune.tuner.planning.ranks import rank_rules

NO_EFFECT = "has no effect beside the other settings of this service"
MOST_TRIED = 2000  # settings
MOST_SHOWN = 60  # characters of a value in a sentence


@dataclass(frozen=True)
class Searched:
    """``space``: that of all fields, or None. ``part``: that of the fields that are right, in which further mistakes are
    found; ``left_out``: the names of the others. ``notices``: sentences.
    """

    space: Space | None = None
    part: Space | None = None
    left_out: frozenset[str] = frozenset()
    notices: list[str] = field(default_factory=list)


def searched(
    settings: BaseSections,
    engine: Engine,
    load_search: LoadSearch | None,
    groups: Sequence[Group],
    mistakes: list[str],
) -> Searched:
    """The search space of this engine on these groups; ``mistakes`` gets everything that is wrong with it."""
    key = f"{section_name(engine)}.target_field"
    fields, rules, reasons, notices = _of_engine(engine, groups, mistakes)
    if not fields:
        mistakes += [f"constraints: {m}" for m in map(_unreadable, settings.constraints) if m]
        return Searched()  # the engine has said so
    loads = [f.name for f in fields if load_search is not None and f.name.lower() in LOAD_FIELDS]
    kept = [f for f in fields if f.name not in loads]
    left = [f"{name} is left to the load search ([load_search] enabled = false turns it off)" for name in loads]
    notices += left
    space, part, left_out = _spaces(kept, [*rules, *settings.constraints], key, mistakes)
    entries = [entry for entry in getattr(engine.config, "target_field", ()) if isinstance(entry, TargetField)]
    mistakes += [f"{key}: {mistake}" for entry in entries for mistake in entry.mistakes()]
    fixed = {d.name: d.decode(0.5) for d in part.dimensions if d.count == 1} if part else {}
    if not any(f.name not in fixed and (f.searched or (f.name in left_out and f.constant is None)) for f in kept):
        why = [_reason(f, engine) for f in kept] + left
        mistakes.append(f"{key}: no parameter is left to search: {'; '.join(why)}")
    if part is None:
        return Searched(notices=notices)
    doubtful = _doubtful(part.fields, key, mistakes)
    mistakes += [*_unset_mistakes(part, key), *_broken_baseline(part, settings, engine, reasons, doubtful)]
    notices += [f"{name}: only {value} is left of its range, so it is not searched" for name, value in fixed.items()]
    notices += _only_baseline(space) if space and not mistakes else []
    return Searched(space, part, left_out, [*notices, *_unset_notes(part), *_unsaid_baselines(part)])


def _only_baseline(space: Space) -> list[str]:
    """A sentence where the rules leave no setting but the baseline; of large spaces nobody can say."""
    if not space.constraints or space.size > MOST_TRIED:
        return []
    axes = [[(i + 0.5) / d.count for i in range(d.count)] for d in space.dimensions if d.count]
    settings = (space.decode(point) for point in itertools.product(*axes))
    if any(space.legal(one) and one != space.default() for one in settings):
        return []
    rules = "; ".join(constraint.text for constraint in space.constraints)
    return [f"nothing is left to search: of all {space.size:g} settings only the baseline keeps the rules ({rules})"]


def user_settings(given: Sequence[dict[str, Any]], found: Searched, mistakes: list[str]) -> tuple[Setting, ...]:
    """The user's own settings of the fields that are right; ``mistakes`` gets those that are none."""
    made: list[Setting] = []
    part = found.part
    if part is None:
        return ()
    for number, values in enumerate(given, 1):
        known = {name: value for name, value in values.items() if name not in found.left_out}
        try:
            setting = part.setting(known, f"user:{number}")
        except ConfigValidationError as error:
            mistakes += [f"optimizer.user_settings.{number}: {m}" for m in error.mistakes]
            continue
        broken = part.broken(setting)
        mistakes += [f"optimizer.user_settings.{number}: breaks the rule {text!r}" for text in broken]
        made.append(setting)
    return tuple(made)


def _of_engine(
    engine: Engine, groups: Sequence[Group], mistakes: list[str]
) -> tuple[Sequence[Field], list[str], dict[str, str], list[str]]:
    """The fields, the rules between them, why some of these hold, and notices. Where the engine cannot say its fields, they
    are as the user wrote them, without rules.
    """
    section = section_name(engine)
    try:
        fields = engine.fields()
        ranks = rank_rules(engine.ranks(), groups, section, engine.node_rules, getattr(engine.config, "env", None))
        rules, reasons = [*engine.constraints(), *ranks.reasons], {**engine.reasons(), **ranks.reasons}
    except ConfigurationError as error:
        tell_of_part(error, mistakes, section)
        return [entry.to_field() for entry in getattr(engine.config, "target_field", ())], [], {}, []
    mistakes += ranks.mistakes
    return fields, rules, reasons, list(ranks.notices)


def _spaces(
    fields: Sequence[Field], rules: Sequence[str], key: str, mistakes: list[str]
) -> tuple[Space | None, Space | None, frozenset[str]]:
    """The space of all fields, that of the fields that are right, and the names of the others."""
    if (space := _space(fields, rules, key, mistakes)) is not None:
        return space, space, frozenset()
    kept, known = sound_part(fields, rules)
    return None, _space(kept, known, key, mistakes), frozenset(f.name for f in fields) - {f.name for f in kept}


def _space(fields: Sequence[Field], rules: Sequence[str], key: str, mistakes: list[str]) -> Space | None:
    try:
        return Space(fields, rules)
    except ConfigValidationError as error:
        for text in error.mistakes:
            if text.startswith("constraint "):
                mistakes.append(f"constraints: {text.removeprefix('constraint ')}")
            elif not any(m.endswith(text) for m in mistakes):
                mistakes.append(f"{key}: {text}")
    return None


def _unreadable(text: str) -> str:
    """Why this is no rule, whatever the fields; empty if it is one."""
    try:
        Constraint.parse(text)
    except ValueError as error:
        return f"{text[:100]!r}: {error}"
    return ""


def _doubtful(fields: Iterable[Field], key: str, mistakes: Sequence[str]) -> frozenset[str]:
    """The fields that mistakes speak of, by name or by the place that they set: whether their values are right is open."""
    words = set[str]().union(*(text.replace(":", " ").split() for text in mistakes)) - {"env"}
    starts = {f.name: (f"{key} {f.name}:", f"{key}: {f.name}:") for f in fields}
    named = {name for name, start in starts.items() if any(text.startswith(start) for text in mistakes)}
    return frozenset(f.name for f in fields if f.name in named or f.config_position in words)


def _broken_baseline(
    space: Space, settings: BaseSections, engine: Engine, reasons: dict[str, str], doubtful: frozenset[str]
) -> list[str]:
    """A sentence for each rule that the baseline breaks, with the values that break it; none where a field is doubtful."""
    baseline, found = space.default(), []
    for rule in (c for c in space.constraints if doubtful.isdisjoint(c.names) and not c.holds(baseline.values)):
        values = [f"{name} = {repr(baseline.values[name])[:MOST_SHOWN]}" for name in sorted(rule.names)]
        way = f" with {' and '.join(values)}" if values else ""
        if why := reasons.get(rule.text):
            way = f" ({why}){way}; give its fields another value"
        elif rule.text in settings.constraints:
            way += "; change the rule or the fields' value"
        else:
            way += f"; it is a rule of {engine.name}: give the fields another `value`, or change what the service has today"
        found.append(f"constraints: {rule.text!r}: the baseline breaks it{way}")
    return found


def _reason(made: Field, engine: Engine) -> str:
    """Why a field is not searched."""
    entries = {entry.name: entry.to_field() for entry in getattr(engine.config, "target_field", ())}
    written = entries.get(made.name, made)
    if made.constant is not None:
        return f"{made.name} {'is constant' if written.constant is not None else NO_EFFECT}"
    if made.derived:
        return f"{made.name} follows from {' and '.join(made.targets)}"
    return f"{made.name} {'is read from the environment' if made.dtype == 'env' else 'has only one value'}"


def _unset_mistakes(space: Space, key: str) -> list[str]:
    return [
        f"{key}: {f.name}: the environment variable {f.dtype_param} is not set; set it, or give a `value` in its place"
        for f in space.unset
        if f.value is None
    ]


def _unset_notes(space: Space) -> list[str]:
    return [
        f"{f.name} is {f.value!r}, its `value`, as the environment variable {f.dtype_param} is not set"
        for f in space.unset
        if f.value is not None
    ]


def _unsaid_baselines(space: Space) -> list[str]:
    """A sentence on the fields whose values of today nobody has said."""
    baseline = space.default().values
    found = [f"{f.name} {baseline[f.name]}" for f in space.fields if f.searched and f.value is None]
    if not found:
        return []
    names = ", ".join(found)
    return [f"the baseline of {names} is the middle of its range, as no `value` says what is in use today"]
