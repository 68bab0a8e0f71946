"""Hosts as people write them: hostfiles, node strings and ranges. Pure: text in, hosts and all mistakes out."""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from swarmtune.redaction import looks_secret

MAX_HOSTS = 10_000
MAX_SLOTS = 1024
MOST_HIDDEN, LEAST_HIDDEN = 100, 4  # secrets that are hidden wherever they stand, and the letters of one
SSH_PORT = 22
SSH_PORTS = frozenset({SSH_PORT, 222})  # ports of SSH servers among numbers that may be devices or processes
MOST_DEVICES = 512  # that Intel MPI and MPICH users write behind a colon
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+)(?:/([0-9]+))?)?")
_MAX_DIGITS = 9  # of a number in a range
_IPV6 = re.compile(r"\[([^\[\]]*:[^\[\]]*)\](?::(.*))?", re.DOTALL)
_OUTSIDE_BRACKETS = r"(?![^\[]*\])"
_COMMA = re.compile("," + _OUTSIDE_BRACKETS)
_GROUP_COLON = re.compile(r":(?![0-9]+(?:[,:]|$))" + _OUTSIDE_BRACKETS)  # ":2222" is a port, ":node2" the next group
_NAME_OF_ONE = re.compile(r"[\w.-]+")  # a word that may name a secret
_BEHIND = re.compile(  # the value of a secret; a number behind a colon is the port of a host that is called so
    r"""\s*(?:=|:(?![0-9]{1,5}(?:[\s,]|$)))\s*(?:"[^"]*"?\S*|'[^']*'?\S*|\S+)"""
    r"""|\s+(?:"[^"]*"?|'[^']*'?|[^\s=]+)(?!\S)"""
)
_PASSWORD = re.compile(r"((?:^|[\s,/])[A-Za-z_][\w.-]*:)(?!//|[0-9]+,)\S{1,200}@")  # of USER:PASSWORD@HOST
_OPTIONS = ("slots", "max_slots", "max-slots")  # Open MPI's; max_slots bounds processes and means nothing to us


@dataclass(frozen=True)
class Host:
    """A machine; ``slots``: the number of devices that a service may use there, None if not given."""

    name: str
    port: int = SSH_PORT
    username: str | None = None
    slots: int | None = None

    def __str__(self) -> str:
        return self.name if self.port == SSH_PORT else f"{self.name}:{self.port}"


def parse_hostfile(text: str, source: str = "hostfile") -> tuple[list[Host], list[str]]:
    """The hosts of a hostfile in order, and all mistakes, each with ``source`` and the number of its line.

    One host or range a line: ``[USER@]HOST[:PORT] [slots=N]``; ``#`` begins a comment. HOST is a name, an address (IPv6 in
    brackets), or a set like ``node[0-7,12]``.
    """
    hosts: list[Host] = []
    mistakes: list[str] = []
    hidden: set[str] = set()
    seen: dict[tuple[str, int], str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = _without_secrets(line.partition("#")[0], hidden).split()
        if not words:
            continue
        slots, wrong = _slots(words[1:])
        named, bad = parse_hosts(words[0])
        bad += _repeated(named, f"line {number}", seen)
        mistakes += [f"{source}, line {number}: {mistake}" for mistake in [*bad, *wrong]]
        hosts += [replace(host, slots=slots) for host in named]
        if len(hosts) > MAX_HOSTS:
            mistakes.append(f"{source}: more than {MAX_HOSTS} hosts are too many")
            break
    if not hosts and not mistakes:
        mistakes.append(f"{source}: no host in it; write one a line, like: node1 slots=8")
    for secret in sorted(hidden, key=len, reverse=True)[:MOST_HIDDEN]:
        mistakes = [mistake.replace(secret, "***") for mistake in mistakes]
    return hosts, mistakes


def _without_secrets(line: str, hidden: set[str]) -> str:
    """The line with *** for each value behind the name of a secret, so that no mistake shows one; they are added to
    ``hidden``.
    """
    shown, end = "", 0
    for name in _NAME_OF_ONE.finditer(line):
        value = _BEHIND.match(line, name.end()) if name.start() >= end and looks_secret(name[0]) else None
        if value:
            sign, text = value[0].lstrip()[0], value[0].strip("=: \t'\"")
            shown += f"{line[end : name.end()]}{sign if sign in '=:' else ' '}***"
            end = value.end()
            hidden.update([text] if sign in "=:" and len(text) >= LEAST_HIDDEN else [])
    return shown + line[end:]


def parse_node_string(text: str) -> tuple[list[list[Host]], list[str]]:
    """The groups of ``"n0,n1:n2,n3"`` (commas between nodes, colons between groups), and all mistakes.

    A colon before a whole number begins a port: ``"n0:2222,n1"`` is one group.
    """
    tidy = re.sub(r"\s*([,:])\s*", r"\1", text.strip())
    groups: list[list[Host]] = []
    seen: dict[tuple[str, int], str] = {}
    mistakes = [
        f"node string: {word} is an IPv6 address; write it in brackets: [{word}]"
        for word in tidy.split(",")
        if _is_ipv6(word)
    ]
    for number, part in enumerate([] if mistakes else _GROUP_COLON.split(tidy), 1):
        hosts, wrong = parse_hosts(part)
        wrong += _repeated(hosts, f"group {number}", seen)
        mistakes += [f"node string, group {number}: {mistake}" for mistake in wrong]
        groups.append(hosts)
        if sum(map(len, groups)) > MAX_HOSTS:
            return [], [*mistakes, f"node string: more than {MAX_HOSTS} hosts are too many"]
    return groups, mistakes


def parse_hosts(text: str) -> tuple[list[Host], list[str]]:
    """The hosts of one word, such as ``me@node[0-7,12]:2222`` or ``n0,n1``, and what is wrong with it."""
    hosts: list[Host] = []
    mistakes: list[str] = []
    for piece in _COMMA.split(_PASSWORD.sub(r"\1***@", text)):
        try:
            hosts += _hosts(piece)
        except ValueError as error:
            mistakes.append(str(error))
        if len(hosts) > MAX_HOSTS:
            return [], [*mistakes, f"{text[:60]!r} names more than {MAX_HOSTS} hosts"]
    return hosts, mistakes


def _hosts(piece: str) -> list[Host]:
    if not piece:
        raise ValueError("a host is missing; write names with one comma or colon between them")
    username, at, place = piece.rpartition("@")
    if "@" in username:
        raise ValueError(f"{piece[:60]!r} has several '@'; write USER@HOST")
    if at and not place:
        raise ValueError(f"{piece[:60]!r} names no host; write USER@HOST")
    if at and not _USER.fullmatch(username):
        raise ValueError(f"{username[:40]!r} is not a user name; write USER@HOST")
    if address := _IPV6.fullmatch(place):
        names, port = [_ipv6(address[1])], address[2]
    elif place.count(":") > 1 and ("[" in place or "]" in place):
        raise ValueError(f"{place[:60]!r} is no IPv6 address in brackets; write it like [fe80::1] or [fe80::1]:2222")
    else:
        pattern, colon, rest = place.partition(":")
        if ":" in rest:
            raise ValueError(f"{place[:60]!r} has several colons; write an IPv6 address in brackets: [{place[:60]}]")
        names, port = expand(pattern), rest if colon else None
    for name in names:
        _check_name(name)
    return [Host(name, _port(port, piece), username or None) for name in names]


def expand(pattern: str) -> list[str]:
    """The names of a set: ``r[1-2]n[00-03,7]``; ``[0-8/2]`` goes in steps. ValueError says what is wrong with it."""
    before, opened, rest = pattern.partition("[")
    if not opened:
        if "]" in pattern:
            raise ValueError(f"{pattern[:60]!r}: ']' without '['")
        return [pattern]
    inside, closed, after = rest.partition("]")
    if not closed:
        raise ValueError(f"{pattern[:60]!r}: '[' without ']'")
    numbers = [number for part in inside.split(",") for number in _numbers(part, pattern)]
    tails = expand(after)
    if len(numbers) * len(tails) > MAX_HOSTS:
        raise ValueError(f"{pattern[:60]!r} names {len(numbers) * len(tails)} hosts; at most {MAX_HOSTS}")
    return [f"{before}{number}{tail}" for number in numbers for tail in tails]


def _numbers(part: str, pattern: str) -> list[str]:
    match = _RANGE.fullmatch(part)
    if not match:
        raise ValueError(f"{pattern[:60]!r}: {part[:40]!r} is not a range; write it like node[0-7,12]")
    if any(len(digits or "") > _MAX_DIGITS for digits in match.groups()):
        raise ValueError(f"{pattern[:60]!r}: a number in {part[:40]!r} is too long; at most {_MAX_DIGITS} digits")
    low, high, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
    if step < 1:
        raise ValueError(
            f"{pattern[:60]!r}: the range {part} has no steps; write a whole number above 0 behind the '/'"
        )
    if high < low:
        raise ValueError(f"{pattern[:60]!r}: the range {part} goes backwards; write the smaller number first")
    if (high - low) // step >= MAX_HOSTS:
        raise ValueError(f"{pattern[:60]!r}: the range {part} is too long; at most {MAX_HOSTS} hosts")
    width = len(match[1]) if match[1].startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(low, high + 1, step)]


def _ipv6(text: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?", text):
        with contextlib.suppress(ValueError):
            return str(ipaddress.IPv6Address(text))
    raise ValueError(f"[{text[:60]}] is not an IPv6 address")


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(text), ipaddress.IPv6Address)
    except ValueError:
        return False


def _check_name(name: str) -> None:
    if ":" in name:
        return  # an IPv6 address, checked already
    if re.fullmatch(r"[0-9.]+", name):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            raise ValueError(f"{name[:60]!r} is neither a host name nor an IPv4 address") from None
    elif not _NAME.fullmatch(name):
        raise ValueError(f"{name[:60]!r} is not a host name; use letters, digits, '.', '-' and '_'")


def _port(text: str | None, piece: str) -> int:
    if text is None:
        return SSH_PORT
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"{piece[:60]!r}: {text[:20]!r} is not a port; ports are numbers from 1 to 65535")
    if int(text) <= MOST_DEVICES and int(text) not in SSH_PORTS:
        host = piece.rpartition(":")[0]
        raise ValueError(
            f"{piece[:60]!r}: is {text} a number of devices? write: {host} slots={text}; a colon means an SSH port (for a "
            f"server that really listens there: Port {text} in ~/.ssh/config)"
        )
    return int(text)


def _slots(words: Iterable[str]) -> tuple[int | None, list[str]]:
    slots, mistakes, seen = None, [], set[str]()
    for word in words:
        key, equals, value = word.partition("=")
        if key not in _OPTIONS or not equals:
            near = difflib.get_close_matches(key, _OPTIONS, n=1)
            hint = f"; did you mean {near[0]}=N?" if near else "; after the host only slots=N may follow"
            mistakes.append(f"{word[:40]!r} means nothing here{hint}")
        elif not re.fullmatch(r"[0-9]{1,9}", value) or int(value) > MAX_SLOTS:
            mistakes.append(f"{word[:40]!r}: give a whole number from 0 to {MAX_SLOTS}")
        elif key in seen:
            mistakes.append(f"{word[:40]!r}: {key} is given twice; write it once")
        else:
            seen.add(key)
            slots = int(value) if key == "slots" else slots
    return slots, mistakes


def _repeated(hosts: list[Host], here: str, seen: dict[tuple[str, int], str]) -> list[str]:
    """A mistake for each host that was named before; ``seen`` maps each host to its first place."""
    mistakes = []
    for host in hosts:
        key = (host.name.lower(), host.port)
        if key in seen:
            mistakes.append(f"{host} is given twice, first in {seen[key]}; name each host once")
        seen.setdefault(key, here)
    return mistakes
