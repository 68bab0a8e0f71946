"""Known parameters of an engine: flags, defaults, ranges, and the rules between them."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from swarmtune.engines.baseline import is_sound, with_default, with_share
from swarmtune.engines.flags import FLOAT, INT, PAIR, TEXT, Flag, Flags, Spelling
from swarmtune.engines.placement import BoolStyle, flag, load_field, opposite, text
from swarmtune.engines.target_field import TargetField
from swarmtune.records import Setting, Value
from swarmtune.space import Constraint, Dimension, Field

_PARAMETER = re.compile(r"\{(\w+)\}")
FILE = "--config"  # names a file of further flags, which is not read
WITHOUT_FLAG = "as it runs without the flag"
_KINDS = {"bool": PAIR, "int": INT, "float": FLOAT}


@dataclass(frozen=True)
class Parameter:
    """One parameter: the name of its flag or path, the engine's default, the range worth searching, and a note.

    ``default`` None: the engine computes it. ``dtype`` and ``dtype_param`` as in ``space.Field``. ``live``: the method and
    path by which the running engine takes a new value; empty: only at its start. ``when``: the rule, written as those of
    ``Schema.rules``, without which the parameter has no effect. ``own``: by what the engine chooses where its flag is left
    out; ``default`` then only stands for that choice. Empty: the default is the same everywhere.
    """

    name: str
    dtype: str = "int"
    default: Value | None = None
    min: float | None = None
    max: float | None = None
    dtype_param: Any = None
    log: bool = False
    note: str = ""
    live: str = ""
    when: str = ""
    own: str = ""

    def to_field(self, name: str, config_position: str | None = None) -> Field:
        """A field of the search space for this parameter, with the engine's default as its value."""
        made = Field(
            name, config_position or self.name, self.min, self.max, self.dtype, None, self.dtype_param, None, self.log
        )
        return with_default(made, self.default)


@dataclass(frozen=True)
class Schema:
    """The parameters of one engine in a range of versions.

    ``flags`` are all that are known to exist; those of ``parameters`` need not be among them. ``complete`` False: there may
    be more, and only a name that looks like a misspelling of a known one is a mistake. ``rules`` are constraints with
    parameters in braces, in lower case and with underscores, the last part of a dotted path alone:
    ``{max_num_batched_tokens} >= {max_num_seqs}``. ``sure``: parameters whose defaults hold on every machine.
    ``resting``: what flags that are no parameters do where they are left out; ``idle``: the conditions of such flags and of
    keys of JSON flags (``eplb_config.window_size``), each as ``Parameter.when``. ``ranks``: the parameters that multiply
    into the number of devices. ``switches``: how an unknown boolean flag is written. ``way_out``: the key that turns the
    checks off; ``elsewhere``: a sentence on flags that it does not have. ``shortened``: the beginning of a flag's name
    may stand for it, if it is that of no other one; ``installed``: of these flags, where the engine was asked.
    ``appending``: flags of which each value counts; of others it is the last.
    """

    engine: str
    versions: str
    parameters: tuple[Parameter, ...]
    flags: tuple[Flag, ...] = ()
    complete: bool = False
    rules: tuple[str, ...] = ()
    sure: frozenset[str] = field(default_factory=frozenset)
    resting: Mapping[str, Value] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)
    ranks: tuple[str, ...] = ()
    underscores: bool = False
    switches: bool = False
    way_out: str = ""
    elsewhere: str = ""
    shortened: bool = False
    installed: tuple[Flag, ...] = ()
    appending: frozenset[str] = frozenset()

    @cached_property
    def commands(self) -> Flags:
        """All known flags, those of the parameters included."""
        known = {name for one in self.flags for name in one.names}
        more = [p for p in self.parameters if p.name.startswith("-") and p.name not in known]
        made = [Flag((p.name,), _KINDS.get(p.dtype, TEXT)) for p in more]
        every = (*self.flags, *made)
        return Flags(every, self.underscores, (self.installed or every) if self.shortened else ())

    def find(self, name: str) -> Parameter | None:
        """By flag in any spelling (--max-num-seqs, -tp), or field name in any case (MAX_NUM_SEQS)."""
        spelling = self.commands.find(name)
        wanted = normal(spelling.flag.name if spelling and not spelling.path else name)
        return next((p for p in self.parameters if normal(p.name) == wanted), None)

    def flag_of(self, name: str) -> str | None:
        """The flag that a field of this name sets, if the engine has one."""
        wanted = normal(name)
        return next((f for f in self.commands.names if f.startswith("--") and normal(f) == wanted), None)

    def spelling(self, made: Field) -> Spelling | None:
        """The flag that a field sets; None if it sets none, or one that is not known."""
        if made.config_position.startswith("-"):
            return self.commands.find(made.config_position)
        name = self.flag_of(made.name) if made.config_position == "env" and not load_field(made.name) else None
        return self.commands.find(name) if name else None

    def write(self, name: str, value: Value) -> tuple[str, ...]:
        """One flag as arguments, a boolean as this flag wants it."""
        spelling = self.commands.find(name)
        if not isinstance(value, bool):
            return (name, text(value))
        if spelling is None or not spelling.flag.boolean:
            return (name, text(value)) if spelling and spelling.path else flag(name, value, self._style)
        if value or spelling.flag.takes != PAIR:
            return (name,) if value else ()
        return (opposite(spelling.flag.name) if not spelling.negated else spelling.flag.name,)

    @property
    def _style(self) -> BoolStyle:
        return "present" if self.switches else "pair"

    def fields_by_parameter(self, fields: Iterable[Field]) -> dict[str, str]:
        """Names of the fields that set each parameter: {"max_num_seqs": "MAX_NUM_SEQS"}."""
        found: dict[str, str] = {}
        for made in fields:
            place = made.name if made.config_position == "env" or made.live else made.config_position
            spelling = self.commands.find(place) if place.startswith("-") else None
            if _speakable(made.name) and not (spelling and spelling.path):
                found.setdefault(underscored(spelling.flag.name if spelling else place), made.name)
        return found

    def constraints(self, fields: Iterable[Field], known: Mapping[str, Value] | None = None) -> tuple[str, ...]:
        """The rules between the fields, in their names. ``known``: the values of parameters that are not fields."""
        names = self.fields_by_parameter(fields)
        found = []
        for rule in self.rules:
            made = self._told(rule, names, known or {})
            if made is not None and Constraint.parse(made).names:
                found.append(made)
        return tuple(found)

    def broken(self, fields: Iterable[Field], known: Mapping[str, Value]) -> list[str]:
        """The rules that values in ``known`` break among themselves, whatever the fields."""
        names = self.fields_by_parameter(fields)
        made = [(rule, self._told(rule, names, known)) for rule in self.rules]
        made = [(rule, told) for rule, told in made if told and not Constraint.parse(told).names]
        return [_PARAMETER.sub(r"\1", rule) for rule, told in made if told and not Constraint.parse(told).holds({})]

    def expressions(self, fields: Iterable[Field], known: Mapping[str, Value]) -> dict[str, str]:
        """The parameters that are fields, by the names of these, and those whose values are known, as rules write them.

        Those with a default that holds everywhere are always there.
        """
        return {**self._expressions({}, {}), **self._expressions(self.fields_by_parameter(fields), known)}

    def _expressions(self, names: Mapping[str, str], known: Mapping[str, Value]) -> dict[str, str]:
        defaults = {key: p.default for p in self.parameters if (key := underscored(p.name)) in self.sure}
        given = {**self.resting, **defaults, **known}
        values = {key: v for key, v in given.items() if v is not None and not self._is_sentinel(key, v)}
        return {**{key: expression(v) for key, v in values.items()}, **names}

    def _told(self, rule: str, names: Mapping[str, str], known: Mapping[str, Value]) -> str | None:
        """A rule in the names of fields and in values; None if one of its parameters is neither."""
        every = self._expressions(names, known)
        return plain(rule.format_map(every)) if set(_PARAMETER.findall(rule)) <= every.keys() else None

    def _is_sentinel(self, key: str, value: Value) -> bool:
        """Does the value stand for "off" or "choose yourself", as -1 and auto do? No rule compares it."""
        parameter = self.find(key)
        if isinstance(value, str):
            return parameter is not None and parameter.dtype in ("int", "float")
        return not isinstance(value, bool) and value < 0

    def rank_names(self, fields: Iterable[Field], known: Mapping[str, Value]) -> dict[str, str]:
        """For each of ``ranks`` the field that sets it, or its number as text; "1" where nothing says more."""
        names = self.fields_by_parameter(fields)
        numbers = {rank: value for rank in self.ranks if type(value := known.get(rank)) is int}
        return {rank: names.get(rank) or str(numbers.get(rank, 1)) for rank in self.ranks}

    def fields(
        self,
        target_fields: Sequence[TargetField],
        defaults: Sequence[Field],
        known: Mapping[str, Value] | None = None,
    ) -> tuple[Field, ...]:
        """The user's fields, each with the engine's default as baseline where none is given; else ``defaults``, without
        those whose flags have a value in ``known``. A parameter that has no effect beside the others is not in use.
        """
        told = known or {}
        if not target_fields:
            made = [f for f in defaults if underscored(f.config_position) not in told]
        else:
            made = [with_default(self._whole(entry.to_field()), self._default(entry)) for entry in target_fields]
            by_name = {f.name: f for f in made}
            pairs = zip(made, target_fields, strict=True)
            made = [with_share(f, by_name.get(str(f.dtype_param)), self._default(entry)) for f, entry in pairs]
        return self.in_use(made, told)

    def _whole(self, made: Field) -> Field:
        """With the whole name of its flag, so that all rules see which one it is."""
        position = made.config_position
        return replace(made, config_position=self.commands.whole(position)) if position.startswith("-") else made

    def _default(self, entry: TargetField) -> Value | None:
        """What the engine does without the flag of this entry, as far as it is known: a boolean one is off then."""
        return self._without_flag(self._of(entry), self.spelling(entry.to_field()))

    def _without_flag(self, parameter: Parameter | None, spelling: Spelling | None) -> Value | None:
        negated = spelling is not None and spelling.negated
        if parameter is not None and parameter.default is not None:
            return not parameter.default if negated and parameter.dtype == "bool" else parameter.default
        if spelling is None or spelling.path:
            return None
        resting = self.resting.get(underscored(spelling.flag.name))
        return negated if spelling.flag.boolean else resting if type(resting) is int else None

    def _of(self, entry: TargetField) -> Parameter | None:
        position = entry.config_position
        return self.find(position if position.startswith("-") else entry.name)

    def in_use(self, fields: Sequence[Field], known: Mapping[str, Value]) -> tuple[Field, ...]:
        """The fields, each with the condition without which its parameter has no effect."""
        names = self.fields_by_parameter(fields)
        by_name = {name: key for key, name in names.items()}
        idle = {} if underscored(FILE) in known else self.idle  # what rests may be turned on there
        conditions = {**idle, **{underscored(p.name): p.when for p in self.parameters if p.when}}
        keys = {f.name: by_name.get(f.name) or self._key_of_json(f) for f in fields}
        return tuple(self._with_when(f, conditions.get(keys[f.name]), names, known) for f in fields)

    def _key_of_json(self, made: Field) -> str:
        spelling = self.spelling(made)
        inside = spelling is not None and spelling.path
        return f"{underscored(spelling.flag.name)}.{underscored(made.config_position)}" if spelling and inside else ""

    def _with_when(
        self, made: Field, condition: str | None, names: Mapping[str, str], known: Mapping[str, Value]
    ) -> Field:
        told = self._told(condition, names, known) if condition else None
        if told is None or made.live:
            return made
        rule = Constraint.parse(told)
        if rule.names:
            return replace(made, when=told if made.when is None else f"({made.when}) and ({told})")
        if rule.holds({}) or not made.searched or not is_sound(made):
            return made
        resting = Dimension.of(made).decode(0.5) if made.value is None else made.value
        return replace(made, constant=resting, when="false")

    def own(self, fields: Sequence[Field], chosen: Collection[str]) -> dict[str, Parameter]:
        """The parameters that the engine chooses at their default, by the names of their fields: the flag is left out then,
        so that the baseline is the service as it runs today. ``chosen``: the fields whose baseline the user wrote.
        """
        names, found = self.fields_by_parameter(fields), {}
        given = {f.name: f for f in fields if f.name not in chosen and f.fixed is None and not f.live}
        for parameter in self.parameters:
            made = given.get(names.get(underscored(parameter.name), ""))
            if made is None or not parameter.own:
                continue
            if made.value == (default := self._without_flag(parameter, self.spelling(made))):
                found[made.name] = replace(parameter, default=default)
        known = {names.get(underscored(p.name)) for p in self.parameters if p.default is not None}
        for made in given.values():
            spelling = self.spelling(made)
            boolean = spelling is not None and spelling.flag.boolean and made.dtype == "bool"
            if boolean and made.name not in known and spelling and made.value is spelling.negated:
                found[made.name] = Parameter(spelling.flag.name, "bool", made.value, own=WITHOUT_FLAG)
        return found

    def passed(self, fields: Sequence[Field], setting: Setting, chosen: Collection[str]) -> tuple[Field, ...]:
        """The fields whose values this setting passes to the engine: all but those that it chooses itself."""
        own = self.own(fields, chosen)
        return tuple(f for f in fields if f.name not in own or setting.values.get(f.name) != f.value)

    def own_notes(self, fields: Sequence[Field], chosen: Collection[str]) -> list[str]:
        """What the values stand for at which the engine chooses, as a sentence."""
        own = self.own(fields, chosen)
        choices = [f"{name} {text(p.default)} ({p.own})" for name, p in own.items() if p.default is not None]
        if not choices:
            return []
        start = f"{self.engine} chooses itself as long as no `value` is written, and the flag is left out at"
        return [f"{start}: {'; '.join(choices)}"]

    def unused(self, fields: Iterable[Field]) -> tuple[tuple[Field, str], ...]:
        """Every parameter that these fields do not set, as a field, and the note on it."""
        names = self.fields_by_parameter(fields)
        rest = [(underscored(p.name), p) for p in self.parameters]
        return tuple((p.to_field(key), p.note) for key, p in rest if key not in names)

    def defaults(self, names: Sequence[str]) -> list[Field]:
        """The fields of these parameters, under these names."""
        known = [(name, self.find(name)) for name in names]
        return [p.to_field(name) for name, p in known if p]


def _speakable(name: str) -> bool:
    """Can rules speak of a field of this name?"""
    return name.isidentifier() and len(name) <= 100 and not keyword.iskeyword(name) and name not in ("true", "false")


def normal(name: str) -> str:
    """Flags and field names in one form: max-num-seqs."""
    return name.lstrip("-").lower().replace("_", "-")


def underscored(name: str) -> str:
    """The name by which rules speak of a flag or of the last part of a path: max_num_seqs."""
    return normal(name.rpartition(".")[2]).replace("-", "_")


def plain(rule: str) -> str:
    """A rule of alternatives or of several conditions, without those that name no field: their value is known."""
    tree = Constraint.parse(rule).tree
    if not isinstance(tree, ast.BoolOp):
        return rule
    parts = [Constraint.parse(ast.unparse(part)) for part in tree.values]
    decisive = isinstance(tree.op, ast.Or)
    if any(not part.names and part.holds({}) == decisive for part in parts):
        return "true" if decisive else "false"
    open_parts = [part.text for part in parts if part.names]
    if len(open_parts) == len(parts):
        return rule
    return (" or " if decisive else " and ").join(open_parts) or ("false" if decisive else "true")


def expression(value: Value) -> str:
    """A value as the language of constraints writes it."""
    return text(value) if isinstance(value, (bool, int, float)) else repr(value)
