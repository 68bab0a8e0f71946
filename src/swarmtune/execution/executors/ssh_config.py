"""What ssh_config files say of one host, read as OpenSSH 9 reads them: conditions, files inside files, quotes, comments.

asyncssh's own reader knows fewer forms; it is given the lines that count, without conditions. Source: ssh_config(5), and
readconf.c and ssh.c of OpenSSH.
"""

from __future__ import annotations

import contextlib
import difflib
import getpass
import glob
import hashlib
import ipaddress
import os
import pwd
import re
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swarmtune.devices.host import own_addresses
from swarmtune.execution.executors.ssh_keywords import ADDED, ALIASES, BLOCKS, KNOWN, NAMES, SEVERAL, SWITCHES
from swarmtune.execution.executors.ssh_values import jump_mistake, value_mistake
from swarmtune.execution.executors.ssh_words import BLANK, expanded, first_word, listed, matches, split
from swarmtune.files import opened

MOST_BYTES = 1024 * 1024  # of a file
MOST_DEPTH = 16  # of files inside files, as OpenSSH has it
EXEC_S = 10.0  # for a command of Match exec
USER_FILE, SYSTEM_FILE = Path("~/.ssh/config"), Path("/etc/ssh/ssh_config")
_TOKENS = "%CLdhijklnpru"
_EXPANDED = {
    **dict.fromkeys(("certificatefile", "identityagent", "identityfile"), _TOKENS),
    **dict.fromkeys(("globalknownhostsfile", "userknownhostsfile"), _TOKENS),
    **dict.fromkeys(("proxycommand", "proxyjump"), "%hknpr"),
}
_WHOLE = ("knownhostscommand", "proxycommand")  # the rest of the line, with quotes and #
_MAYBE_EMPTY = SEVERAL | {"host", "include", "sendenv"}  # a comment may be all that is behind them
_OURS = (  # asyncssh need not know them
    *("canonicaldomains", "canonicalizefallbacklocal", "canonicalizehostname", "canonicalizemaxdots"),
    *("canonicalizepermittedcnames", "globalknownhostsfile", "ignoreunknown", "knownhostscommand"),
    *("proxycommand", "userknownhostsfile"),
)
_JUMP = re.compile(r"(?:ssh://)?(?:[^@]*@)?(\[[^\]]*\]|[^:/]*)")
_NO_HOST = re.compile(r"""^-|['`"$\\;&<>|(){}\s\x00-\x1f\x7f]""")  # as ssh.c has it
_NO_USER = re.compile(r"""^-|['`";&<>|(){}\x00-\x1f\x7f]|\s-|\\$""")


class NotNowError(ValueError):
    """What a command or the network says; it may say something else another time."""


@dataclass
class Option:
    """The values that count of one keyword. ``where``: the file and line of the first. ``expanded``: the values with what
    %h and the like stand for, of a keyword that has them. ``tokens``: what they stand for, of KnownHostsCommand.
    """

    values: list[str]
    where: str
    expanded: list[str] = field(default_factory=list)
    tokens: Mapping[str, str] = field(default_factory=dict)


def effective(
    host: str, port: int | None = None, user: str | None = None, files: Sequence[str] = ()
) -> dict[str, Option]:
    """What the files say of a host, by keyword in lower case; ``files`` in place of ~/.ssh/config and OpenSSH's own.

    It blocks: the commands of Match exec are run, and names are looked up. The values are as they are written, except the
    host's. OpenSSH's own files are passed over if they cannot be read, as ssh does. ValueError names file and line of a
    mistake; OSError if one of ``files`` cannot be read.
    """
    for name, value, refused in (("host", host, _NO_HOST), ("user", user or "", _NO_USER)):
        if refused.search(value):  # a shell may get it for %h or %r
            raise ValueError(f"{value[:80]!r} is no name of a {name}, for ssh either")
    reader = _Reader(host, host)
    if user:
        reader.options["user"] = Option([user], "")
    if port:
        reader.options["port"] = Option([str(port)], "")
    reader.read(files)
    reader.host = reader.real_host()
    if not _is_address(reader.host):
        reader.host = reader.host.lower()
    if (reader.value("canonicalizehostname") or "no").lower() not in ("no", "false"):
        reader.host, reader.again = reader.canonical(), True
    named = reader.options.get("hostname")
    reader.options["hostname"] = Option([reader.host], named.where if named else "")
    reader.resolved = True
    if reader.again:
        reader.final = True
        reader.read(files)
    tokens = reader.tokens()
    for key, letters in _EXPANDED.items():
        if option := reader.options.get(key):
            known = {letter: tokens[letter] for letter in letters}
            option.expanded = [expanded(value, known, option.where) for value in option.values]
            if key.endswith("knownhostsfile"):  # the others asyncssh expands
                option.expanded = [os.path.expanduser(os.path.expandvars(path)) for path in option.expanded]  # noqa: PTH111
    if option := reader.options.get("knownhostscommand"):
        place = tokens["k"] if reader.value("hostkeyalias") else tokens["h"]
        if not reader.value("hostkeyalias") and tokens["p"] != "22":
            place = f"[{place}]:{tokens['p']}"
        option.tokens = {**tokens, "H": place}
        for word in split(option.values[0], option.where, comments=False):
            expanded(word, {**option.tokens, **dict.fromkeys("IKft", "")}, option.where)  # a mistake is found now
    return reader.options


def in_shell(command: str) -> list[str]:
    """The command as ssh runs one of its configuration: by the shell of the user."""
    return [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {command}"]


def with_variables(text: str) -> str:
    """With the values of ${NAME}; a variable that is not there stays as it is written."""
    return re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], match[0]), text)


def lines(options: Mapping[str, Option]) -> tuple[list[str], list[str]]:
    """The options as lines that asyncssh reads, and for each line where it comes from."""
    made: list[str] = []
    origins: list[str] = []
    for key, option in options.items():
        if key in _OURS:
            continue
        values = option.expanded or option.values
        if key in ("identityfile", "certificatefile"):
            values = [value for value in values if value.lower() != "none"] or ["none"]
        if key in ("hostname", "identityagent", "identityfile", "certificatefile"):
            values = [value.replace("%", "%%") for value in values]  # asyncssh looks for tokens once more
        rows = [[value] for value in values] if key in ADDED else [values]
        made += [f"{NAMES[key]} {shlex.join(row)}" for row in rows]
        origins += [option.where] * len(rows)
    return made, origins


@dataclass
class _Reader:
    """``original``: the host as it was asked for; ``host``: what Host and Match compare in this pass."""

    original: str
    host: str
    final: bool = False
    again: bool = False
    """Did a line ask for a second pass, once the host is known?"""

    resolved: bool = False
    """Is HostName expanded?"""

    options: dict[str, Option] = field(default_factory=dict)
    _active: bool = True
    _where: str = ""
    _system: bool = False

    def value(self, key: str) -> str | None:
        """The first value; None without one."""
        found = self.options.get(key)
        return found.values[0] if found and found.values else None

    def real_host(self) -> str:
        """The host that is connected to."""
        named = self.value("hostname")
        if self.resolved or named is None:
            return named or self.host
        return expanded(named, {"h": self.host, "%": "%"}, self.options["hostname"].where)

    def read(self, files: Sequence[str]) -> None:
        """One pass over the files; what an earlier one set stays."""
        for name in files:
            path = Path(name).expanduser()
            self._lines(path, self._data(path, private=False), True, False, 0)
        for path, own in ((USER_FILE.expanduser(), True), (SYSTEM_FILE, False)):
            if not files:
                self._system = not own
                try:
                    data = self._data(path, private=own)
                except OSError:  # ssh does without it, too
                    continue
                self._lines(path, data, own, False, 0)

    def _data(self, path: Path, private: bool) -> bytes:
        """``private``: nobody else may write to the file."""
        with opened(path) as file:
            status = os.fstat(file.fileno())
            if private and (status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022):
                raise ValueError(
                    f"{path}: bad owner or permissions; ssh refuses it: chmod go-w {shlex.quote(str(path))}"
                )
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"{path}: more than {MOST_BYTES} bytes")
        return data

    def _lines(self, path: Path, data: bytes, own: bool, never: bool, depth: int) -> None:
        """``own``: a file of the user; ``never``: it stands where a condition fails, so that nothing in it counts."""
        if depth > MOST_DEPTH:
            raise ValueError(f"{self._where}: files are included {MOST_DEPTH} deep (Include)")
        if not depth:
            self._active = True
        for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
            self._where = f"{path} line {number}"
            self._line(line.rstrip(BLANK + "\f").lstrip(BLANK), own, never, depth)

    def _line(self, line: str, own: bool, never: bool, depth: int) -> None:
        if not line or line.startswith("#"):
            return
        keyword, rest = first_word(line, self._where)
        key = ALIASES.get(keyword.lower(), keyword.lower())
        if not rest:
            raise ValueError(f"{self._where}: no argument after {keyword[:40]!r}")
        words = split(rest, self._where)  # or a quote is not closed
        if key not in KNOWN and not listed(key, (self.value("ignoreunknown") or "").lower()):
            close = difflib.get_close_matches(key[:40], KNOWN, 1)
            hint = f"; did you mean {KNOWN[close[0]]}?" if close else ""
            if key.startswith("\ufeff"):
                hint = ": a byte order mark begins the file; save it without one"
            raise ValueError(f"{self._where}: {keyword[:40]!r} is not a keyword of ssh_config{hint}")
        wrong = value_mistake(key, words)
        if wrong and not (not words and key in _MAYBE_EMPTY):
            raise ValueError(f"{self._where}: {wrong}")
        if key not in NAMES and key not in BLOCKS:
            return
        if key == "match":
            self._active = not never and self._match(rest)
        elif key in (*_WHOLE, "proxyjump"):
            value = rest.lstrip(BLANK + "=")
            jump = value.partition("#")[0].rstrip(BLANK)
            if key == "proxyjump" and (wrong := jump_mistake(jump)):
                raise ValueError(f"{self._where}: {wrong}")
            self._set(key, [value if key in _WHOLE else jump])
        else:
            self._words(key, words, own, never, depth)

    def _words(self, key: str, words: list[str], own: bool, never: bool, depth: int) -> None:
        if not words and key in _MAYBE_EMPTY:
            self._active = self._active and key != "host"
            return
        if not words or "" in words:
            raise ValueError(f"{self._where}: no argument after {KNOWN[key]}")
        if key == "host":
            self._active = not never and self._named(words)
        elif key == "include":
            self._include(words, own, never, depth)
        elif key in _MAYBE_EMPTY:
            self._set(key, words)
        elif len(words) > 1:
            raise ValueError(f"{self._where}: {words[1][:40]!r} is too much after {KNOWN[key]}")
        else:
            self._set(key, words)

    def _named(self, patterns: Sequence[str]) -> bool:
        """Is one of the patterns of Host the host, and none with a ! before it?"""
        if any(p.startswith("!") and matches(self.host, p[1:]) for p in patterns):
            return False
        return any(matches(self.host, p) for p in patterns if not p.startswith("!"))

    def _include(self, patterns: Sequence[str], own: bool, never: bool, depth: int) -> None:
        active, where = self._active, self._where
        for pattern in patterns:
            pattern = self._filled(pattern)  # noqa: PLW2901
            if pattern.startswith("~") and own:
                pattern = os.path.expanduser(pattern)  # noqa: PLW2901, PTH111 - a pattern, not a path
            folder = (USER_FILE.expanduser() if own else SYSTEM_FILE).parent
            for name in sorted(glob.glob(os.path.join(folder, pattern))):  # noqa: PTH118, PTH207
                try:
                    if Path(name).exists() and not Path(name).is_file():
                        continue
                    data = self._data(Path(name), private=True)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise ValueError(f"{where}: {name} cannot be read ({error.strerror})") from error
                self._active = active
                self._lines(Path(name), data, own, never or not active, depth + 1)
                self._where = where
        self._active = active

    def _filled(self, pattern: str) -> str:
        """With ${NAME} and tokens, as OpenSSH 9.9 has it; what stands for nothing stays, as it did before."""
        pattern = with_variables(pattern)
        try:
            return expanded(pattern, self.tokens(), self._where) if "%" in pattern else pattern
        except ValueError:
            return pattern

    def _set(self, key: str, values: list[str]) -> None:
        if key == "port" and re.fullmatch(r"\+[0-9]{1,5}", values[0]):
            values = [values[0][1:]]
        if key == "port" and not re.fullmatch(r"[0-9]{1,5}", values[0]):
            with contextlib.suppress(OSError):
                values = [str(socket.getservbyname(values[0], "tcp"))]
        if key == "port" and not (values[0].isdecimal() and 0 < int(values[0]) < 65536):
            raise ValueError(f"{self._where}: {values[0][:40]!r} is not a port")
        if key == "canonicalizemaxdots" and not values[0].isdecimal():
            raise ValueError(f"{self._where}: {values[0][:40]!r} is not a number")
        if key in SWITCHES:
            kept = {"unbound": "yes", "host-bound": "yes"} if key == "pubkeyauthentication" else {}
            values = [kept.get(values[0].lower(), values[0].lower())]
            if values[0] not in ("yes", "no", "true", "false"):
                raise ValueError(f"{self._where}: {values[0][:40]!r} is neither yes nor no")
        if key == "sendenv" and any(not value or "=" in value for value in values):
            raise ValueError(f"{self._where}: SendEnv takes names of variables")
        if not self._active or (key == "sendenv" and self._system):
            return  # the system's file sends LANG and LC_* for people at a terminal; engines keep the locale of their node
        if key == "sendenv":
            self._send(values)
        elif key in ADDED:
            option = self.options.setdefault(key, Option([], self._where))
            option.values += [value for value in values if value not in option.values]
        elif key not in ("proxycommand", "proxyjump") or not {"proxycommand", "proxyjump"} & self.options.keys():
            self.options.setdefault(key, Option(values, self._where))  # the first one counts

    def _send(self, patterns: Sequence[str]) -> None:
        """With a - before it, a pattern takes back those before it that it matches."""
        option = self.options.setdefault("sendenv", Option([], self._where))
        for pattern in patterns:
            if pattern.startswith("-"):
                option.values = [value for value in option.values if not matches(value, pattern[1:])]
            elif pattern not in option.values:
                option.values.append(pattern)

    # --- Match -------------------------------------------------------------------------------------------------------

    def _match(self, rest: str) -> bool:
        result, count = True, 0
        while rest and not rest.startswith("#"):
            word, rest = first_word(rest, self._where)
            negated, name = word.startswith("!"), word.removeprefix("!").lower()
            if name == "all":
                if count > 1 or (rest and not rest.startswith("#")):
                    raise ValueError(f"{self._where}: Match all stands alone")
                return result and not negated
            count += 1
            if name in ("canonical", "final"):
                self.again |= name == "final"
                holds = self.final
            else:
                if not rest or rest.startswith("#"):
                    raise ValueError(f"{self._where}: nothing is behind {word[:40]!r} in Match")
                wanted, rest = first_word(rest, self._where)
                holds = self._holds(name, wanted) if result or name != "exec" else negated
            result = result and holds != negated
        if not count:
            raise ValueError(f"{self._where}: Match needs a condition")
        return result

    def _holds(self, name: str, wanted: str) -> bool:
        if name == "exec":
            return self._runs(wanted)
        if name == "localnetwork":
            try:
                networks = [ipaddress.ip_network(text) for text in wanted.split(",")]
            except ValueError as error:
                raise ValueError(f"{self._where}: {error} (Match localnetwork)") from error
            return any(address in network for address in own_addresses() for network in networks)
        local = _local_user()
        compared = {
            "command": "",  # one login is for all commands
            "sessiontype": "exec",
            "host": self.real_host().lower(),
            "originalhost": self.original.lower(),
            "user": self.value("user") or local,
            "localuser": local,
            "tagged": self.value("tag") or "",
        }
        if name not in compared:
            raise ValueError(f"{self._where}: the condition {name[:40]!r} of Match is not known here")
        wanted = wanted.lower() if name.endswith("host") else wanted
        return listed(compared[name], wanted)

    def _runs(self, command: str) -> bool:
        """Does the command of Match exec end with code 0? Run as OpenSSH runs it."""
        argv = in_shell(expanded(command, self.tokens(), self._where))
        try:
            quiet = subprocess.DEVNULL
            done = subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=quiet, timeout=EXEC_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise NotNowError(f"{self._where}: the command of Match exec did not end within {EXEC_S:.0f} s") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._where}: the command of Match exec does not run: {error}") from error
        if done.returncode < 0:
            raise NotNowError(f"{self._where}: signal {-done.returncode} ended the command of Match exec")
        return done.returncode == 0

    def tokens(self) -> dict[str, str]:
        """What %h and the like stand for."""
        local, machine, host = _local_user(), socket.gethostname(), self.real_host()
        port, user = self.value("port") or "22", self.value("user") or local
        jump = _JUMP.match((self.value("proxyjump") or "none").rpartition(",")[2])
        return {
            "%": "%",
            "C": hashlib.sha1(f"{machine}{host}{port}{user}".encode(), usedforsecurity=False).hexdigest(),
            "L": machine.partition(".")[0],
            "d": str(Path.home()),
            "h": host,
            "i": str(os.getuid()),
            "j": "" if jump is None or jump[1].lower() == "none" else jump[1].strip("[]"),
            "k": self.value("hostkeyalias") or self.original,
            "l": machine,
            "n": self.original,
            "p": port,
            "r": user,
            "u": local,
        }

    # --- names of hosts ----------------------------------------------------------------------------------------------

    def canonical(self) -> str:
        """The whole name of the host, as CanonicalizeHostname asks for it."""
        if "canonicalizepermittedcnames" in self.options and self.value("canonicalizepermittedcnames") != "none":
            where = self.options["canonicalizepermittedcnames"].where
            raise ValueError(
                f"{where}: CanonicalizePermittedCNAMEs is not known here; name the host in full (HostName)"
            )
        proxies = [self.value(key) or "none" for key in ("proxycommand", "proxyjump")]
        proxied = any(proxy.lower() != "none" for proxy in proxies)
        dots = int(self.value("canonicalizemaxdots") or 1)
        if _is_address(self.host) or self.host.endswith(".") or self.host.count(".") > dots:
            return self.host
        if proxied and (self.value("canonicalizehostname") or "").lower() != "always":
            return self.host
        domains = self.options.get("canonicaldomains")
        for domain in domains.values if domains else ():
            with contextlib.suppress(OSError, UnicodeError):
                socket.getaddrinfo(f"{self.host}.{domain}.", None)
                return f"{self.host}.{domain}".lower()
        if (self.value("canonicalizefallbacklocal") or "yes") in ("no", "false"):
            where = self.options["canonicalizefallbacklocal"].where
            raise NotNowError(f"{where}: {self.host!r} is in none of the CanonicalDomains")
        return self.host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _local_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return getpass.getuser()
