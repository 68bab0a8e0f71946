"""What an engine would refuse of the flags in fields and in further arguments, before anything is started."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from swarmtune.engines.arguments import Arguments, Given, literals, options, read
from swarmtune.engines.baseline import is_sound
from swarmtune.engines.flags import Spelling, is_flag, size
from swarmtune.engines.placement import PLACES, load_field, split, substitute, unknown_tokens
from swarmtune.engines.placement import text as written_text
from swarmtune.engines.schema import FILE, Schema, normal, underscored
from swarmtune.records import Value
from swarmtune.space import Dimension, Field

MOST = 20  # mistakes of one kind in further arguments that are told


@dataclass(frozen=True)
class Barred:
    """A flag with which the service that SwarmTune starts would never answer: ``why``, as the rest of a sentence that begins
    with the flag; ``harmless``: the values at which it changes nothing; ``harmful``: what a value holds that does, where
    others do not.
    """

    why: str
    harmless: frozenset[str] = frozenset()
    harmful: str = ""

    def lets(self, value: str | None) -> bool:
        """Can the service answer with this value?"""
        return value in self.harmless or bool(self.harmful and not (value and re.search(self.harmful, value)))


LOCAL = "127.0.0.1"  # the --host of a service on this machine
BY_SCRIPT = "start such a service by a script ([parallel] start_script, or -e command)"
KEYED = Barred(
    "makes the service ask every request for a key, which SwarmTune does not send when it tries a start; leave it out while "
    "you tune"
)
NO_TEXT = (
    "makes it a service that generates no text, and SwarmTune asks for a completion before it measures; leave it out, or "
    "load such a service by hand (swarmtune bench --endpoint-type embeddings)"
)
NO_HTTP = Barred(
    f"lets nothing answer by HTTP on the service's port, where SwarmTune asks; leave it out, or {BY_SCRIPT}"
)


@dataclass(frozen=True)
class FlagChecks:
    """The flags of one engine's section. ``key``: its name; ``others``: its further arguments, and ``where`` they stand.

    ``own``: flags that SwarmTune writes itself, and the key that sets each; ``barred``: those with which its start cannot
    end well. ``on`` False: only what is given twice is a mistake, as the installed engine may have other flags.
    ``written``: the schema by which values are written, where ``schema`` has the flags of the installed engine and no
    others; None: that was not asked. ``env``: what $NAME stands for where no field has that name.
    """

    schema: Schema
    key: str
    others: str | Sequence[str]
    where: str
    own: Mapping[str, str]
    on: bool = True
    written: Schema | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    barred: Mapping[str, Barred] = field(default_factory=dict)

    @cached_property
    def arguments(self) -> Arguments:
        """The further arguments, taken apart; none if they cannot be split."""
        try:
            return read(substitute(split(self.others), self.env), self.schema.commands, self.where)
        except ValueError:
            return Arguments(())

    @cached_property
    def known(self) -> dict[str, Value]:
        """The parameters that the further arguments fix, as rules name them, with their values."""
        fixed = literals(self.arguments.given)
        kept = {flag: text for (flag, path), text in fixed.items() if not path and (len(text) <= 40 or flag == FILE)}
        return {underscored(flag): _value(text) for flag, text in kept.items()}

    def _all(self, flag: str) -> list[Given]:
        return [one for one in self.arguments.given if one.spelling and one.spelling.flag.name == flag]

    def gives(self, flag: str) -> bool:
        """Do the further arguments have this flag, or a part of it (--x.key)?"""
        return bool(self._all(flag))

    def value(self, parameter: str, fields: Iterable[Field], otherwise: Value) -> Value | None:
        """The value of a parameter in every setting; ``otherwise`` where nothing sets it, None where it is open."""
        name = self.schema.fields_by_parameter(placed := self.placed(fields)).get(parameter)
        return next((f.fixed for f in placed if f.name == name), self.known.get(parameter, otherwise))

    def placed(self, fields: Iterable[Field]) -> tuple[Field, ...]:
        """The fields, each whose $NAME is the value of a flag at that flag."""
        flags = {}
        for one in self.arguments.given:
            if one.token and one.spelling and not one.spelling.path:
                flags[one.token] = one.spelling.flag.name
        return tuple(replace(f, config_position=flags.get(f.name.upper(), f.config_position)) for f in fields)

    def mistakes(self, fields: Sequence[Field], by_user: bool) -> list[str]:
        """All mistakes, as sentences. ``by_user``: the user wrote the fields, so that none may be given twice."""
        arguments = self.arguments
        whole = {
            made.name: options(made, self.schema.commands, f"{self.key}.target_field {made.name}")
            for made in fields
            if made.name.upper() in arguments.tokens
        }
        given = [*arguments.given, *(one for several in whole.values() for one in several)]
        found: list[str | None] = [*self._token_mistakes(fields)]
        if self.on:
            found += [self._field_mistake(made) for made in fields]
            found += itertools.islice(filter(None, map(self._given_mistake, given)), MOST)
            found += [
                self._value_mistake(one, made) for one in given for made in fields if one.token == made.name.upper()
            ]
            found += [
                f"{self.where}: {word[:60]!r} belongs to no flag"
                for word in arguments.words[:MOST]
                if self.schema.complete
            ]
            found += [
                f"{self.where}: breaks the engine's rule {rule}"
                for rule in self.schema.broken(self.placed(fields), self.known)
            ]
        found += self._twice(fields, given if by_user else [])
        found += [self._idle(name, one) for name, several in whole.items() for one in several]
        return list(dict.fromkeys(sentence for sentence in found if sentence))

    @cached_property
    def usual(self) -> tuple[str, ...]:
        """The further arguments with every known flag in its usual spelling. ValueError if they cannot be split."""
        return self.schema.commands.usual(substitute(split(self.others), self.env))

    def notes(self) -> list[str]:
        """A sentence if the further arguments name a file of flags, which is not read, one if they name another host, and
        one for each flag that is given with several values.
        """
        unseen = f"{self.where}: the flags in the file of --config are not seen: baselines and rules leave them out"
        return [
            *([unseen] if self._all(FILE) else []),
            *filter(None, map(self._moved, self._all("--host")[-1:])),
            *repeated(self.arguments.given, self.schema.appending, self.where),
        ]

    def _moved(self, host: Given) -> str:
        """A sentence on the --host that counts; empty where it is the one that SwarmTune writes before it."""
        if host.token in PLACES or host.literal == LOCAL:
            return ""
        address = host.literal or "this one"
        return (
            f"{self.where}: --host is given again behind SwarmTune's, and {address} counts: the service must answer at its "
            "group's address, too"
        )

    @cached_property
    def _tokens(self) -> tuple[str, ...]:
        """The NAMEs of all $NAMEs in the further arguments; none if these cannot be split."""
        try:
            return tuple(unknown_tokens(split(self.others), ()))
        except ValueError:
            return ()

    def _token_mistakes(self, fields: Sequence[Field]) -> list[str]:
        known = {*(made.name.upper() for made in fields), *self.env, *PLACES}
        return [
            f"{self.where}: ${token} is not a field, not one of {', '.join(PLACES)}, and not in {self.key}.env"
            for token in [token for token in self._tokens if token not in known][:MOST]
        ]

    # --- one flag ----------------------------------------------------------------------------------------------------

    def unknown(self, name: str, where: str) -> str | None:
        """A sentence if this engine has no such flag, with the near ones; ``where`` says in which key it was written."""
        schema = self.schema
        if schema.commands.find(name):
            return None
        if len(candidates := schema.commands.candidates(name)) > 1:
            several = ", ".join(candidates[:MOST]) + (
                f" and {len(candidates) - MOST} more" if candidates[MOST:] else ""
            )
            taker = f"{schema.engine} {schema.versions}"
            return f"{where}: {name[:80]} is ambiguous: {taker} could take it for {several}; write the whole name"
        near = near_names(name, schema.commands.names, 0.6 if schema.complete else 0.85)
        if not schema.complete and not near:
            return None
        hint = f" Near: {', '.join(near)}." if near else ""
        case = "it takes it all the same" if self.written else "your version has it"
        way = f" If {case}, set {schema.way_out}." if schema.way_out else f" {schema.elsewhere}.".removeprefix(" .")
        return f"{where}: {schema.engine} {schema.versions} has no parameter {name[:80]}.{hint}{way}"

    def _given_mistake(self, one: Given) -> str | None:
        if one.spelling is None:
            return self.unknown(one.written, one.where)
        if one.token not in PLACES and (way := self.own.get(one.spelling.flag.name)) is not None:
            return f"{one.where}: {one.written} is written by SwarmTune; leave it out{way}"
        if refused := self._refused(one.where, one.written, one.spelling, one.refusal()):
            return refused
        barred = self.barred.get(one.spelling.flag.name)
        if barred is None or one.spelling.negated or one.token in PLACES or barred.lets(one.literal):
            return None
        return f"{one.where}: {one.written} {barred.why}"

    def _value_mistake(self, one: Given, made: Field) -> str | None:
        """What is refused where $NAME is the value of a flag."""
        if one.spelling is None or one.spelling.flag.boolean or one.spelling.path or one.adds:
            return None
        values = [written_text(value) for value in _extremes(made, one.spelling)]
        refusals = (one.spelling.refusal(value) for value in values if not is_flag(value.split(" ")[0]))
        where = f"{self.key}.target_field {made.name}"
        return self._refused(where, one.written, one.spelling, next(filter(None, refusals), None))

    def _refused(self, where: str, written: str, spelling: Spelling, refusal: str | None) -> str | None:
        more = spelling.flag.choices and self.schema.way_out
        taker = "it takes it all the same" if self.written else "your version takes it"
        way = f"; if {taker}, set {self.schema.way_out}" if more else ""
        return f"{where}: {written} {refusal}{way}" if refusal else None

    def _field_mistake(self, made: Field) -> str | None:
        position, where = made.config_position, f"{self.key}.target_field {made.name}"
        if load_field(made.name):
            return None
        if made.live:
            return self._live_mistake(made, where)
        if not position.startswith("-") and position != "env":
            return f"{where}: config_position {position!r} is a path, but {self.schema.engine} has no file to put it"
        spelling = self.schema.spelling(made)
        if spelling is None:
            flag = position if position != "env" else (self.written or self.schema).flag_of(made.name)
            return self.unknown(flag, where) if flag else self._variable_mistake(made.name, where)
        if (way := self.own.get(spelling.flag.name)) is not None:
            return f"{where}: {position} is written by SwarmTune; leave it out{way}"
        refusals = (spelling.refusal(value) for value in _extremes(made, spelling))
        refused = self._refused(where, _written(made, spelling), spelling, next(filter(None, refusals), None))
        barred = self.barred.get(spelling.flag.name)
        if barred is None or refused or made.fixed is spelling.negated or barred.lets(str(made.fixed)):
            return refused
        return f"{where}: {_written(made, spelling)} {barred.why}"

    def _variable_mistake(self, name: str, where: str) -> str | None:
        if name.upper() in self._tokens:  # its value stands in the further arguments
            return None
        near = near_names(name, self.schema.commands.names, 0.85)
        return (
            f"{where}: {self.schema.engine} has no parameter of this name. Near: {', '.join(near)}." if near else None
        )

    def _live_mistake(self, made: Field, where: str) -> str | None:
        """An engine that declares what it takes while it runs takes nothing else."""
        known = {underscored(p.name): p.live for p in self.schema.parameters if p.live}
        if not known or known.get(made.name) == made.config_position:
            return None
        ways = ", ".join(f"{name} by {way}" for name, way in known.items())
        return (
            f"{where}: {self.schema.engine} does not take it by {made.config_position} while it runs; it takes {ways}"
        )

    # --- flags that are given twice ----------------------------------------------------------------------------------

    def _twice(self, fields: Iterable[Field], given: Iterable[Given]) -> list[str]:
        found: list[str] = []
        owners: dict[tuple[str, str], Field] = {}
        for made in fields:
            spelling = self.schema.spelling(made)
            if spelling is None:
                continue
            first = owners.setdefault(spelling.key, made)
            if first is not made and not (first.when and made.when):
                found.append(
                    f"{self.key}.target_field {made.name}: {first.name} sets {spelling.flag.name} too; leave one of them out"
                )
        return found + self._overruled(fields, owners, given)

    def _overruled(
        self, fields: Iterable[Field], owners: Mapping[tuple[str, str], Field], given: Iterable[Given]
    ) -> list[str]:
        """A sentence for each field of which no value would count, as the flag is given again behind it. The last of equal
        flags in the further arguments counts; whole options in the values of fields may stand behind it.
        """
        last: dict[tuple[tuple[str, str], str], Given] = {}
        names: dict[tuple[str, str], set[str]] = {}
        for one in given:
            if one.spelling:
                last[one.spelling.key, one.where] = one
                names.setdefault(one.spelling.key, set()).add(one.token)
        by_token = {made.name.upper(): made for made in fields}
        found = []
        for (key, where), one in last.items():
            overruled = [by_token[name] for name in names[key] if name in by_token and not one.adds]
            concerned = {made.name: made for made in (owners.get(key), *overruled) if made}
            for made in concerned.values():
                if one.token != made.name.upper():
                    why = f"{where} sets {one.written} too, so that no value of the field would count"
                    found.append(f"{self.key}.target_field {made.name}: {why}; leave one of them out")
        return found

    def _idle(self, name: str, one: Given) -> str | None:
        """A sentence if a flag in the values of a field never counts, as it stands behind the field's $NAME, too."""
        behind = self.arguments.given[self.arguments.tokens[name.upper()] :]
        later = [
            other for other in behind if one.spelling and other.spelling and other.spelling.key == one.spelling.key
        ]
        if not later or one.adds or one.spelling is None or one.spelling.flag.name in self.schema.appending:
            return None
        return (
            f"{self.key}.target_field {name}: {one.written} in its values never counts, as {self.where} sets "
            f"{later[-1].written} behind ${name.upper()}; leave one of them out, or write ${name.upper()} last"
        )


def repeated(given: Iterable[Given], appending: Collection[str], where: str) -> list[str]:
    """A sentence for each flag that is given several times with different values, of which only the last one counts."""
    found: list[str] = []
    by_key: dict[tuple[str, str], list[Given]] = {}
    parts: dict[str, dict[str, None]] = {}
    for one in given:
        if one.spelling is None or one.adds or one.spelling.flag.name in appending:
            continue
        by_key.setdefault(one.spelling.key, []).append(one)
        if one.spelling.path:
            parts.setdefault(one.spelling.flag.name, {})[one.written.partition(".")[0].replace("_", "-")] = None
    for (name, path), several in by_key.items():
        if len({one.effect for one in several}) > 1:
            values = ", then ".join(" ".join(one.effect)[:40] or "nothing" for one in several[:MOST])
            whole = f"{name}.{path}" if path else name
            found.append(f"{where}: {whole} is given {len(several)} times, {values}: the last one counts")
        if not path and name in parts:
            found.append(
                f"{where}: {several[-1].written} does not count beside its parts ({next(iter(parts[name]))}.x)"
            )
    return found + [
        f"{where}: {' and '.join(heads)} are the same flag, and only the parts under {list(heads)[-1]} count"
        for heads in parts.values()
        if len(heads) > 1
    ]


def near_names(name: str, known: Sequence[str], cutoff: float) -> list[str]:
    """At most three of the known flags that look like this one, the most similar first."""
    by_normal: dict[str, str] = {}
    for flag in known:
        if len(normal(flag)) > 1:
            by_normal.setdefault(normal(flag), flag)
    return [by_normal[n] for n in difflib.get_close_matches(normal(name)[:80], list(by_normal), n=3, cutoff=cutoff)]


def _written(made: Field, spelling: Spelling) -> str:
    return spelling.flag.name if made.config_position == "env" else made.config_position


def _extremes(made: Field, spelling: Spelling) -> list[Value]:
    """The values of a field at which a flag would show that it refuses them."""
    if not is_sound(made):
        return []
    if made.fixed is not None:
        return [made.fixed]
    if made.dtype == "ratio":
        return [1] if spelling.flag.boolean else []
    if not made.searched:
        return []
    axis = Dimension.of(made)
    ends = axis.choices if made.dtype == "enum" else (axis.decode(0.0), axis.decode(0.37), axis.decode(1.0))
    return list(ends) if made.value is None else [*ends, made.value]


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    number = size(text)
    return text if number is None else number
