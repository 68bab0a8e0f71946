"""What ssh_config files say of one host, read as OpenSSH 9 reads them: conditions, files inside files, quotes, comments.

asyncssh's own reader knows fewer forms; it is given the lines that count, without conditions. Source: ssh_config(5), and
readconf.c and ssh.c of OpenSSH.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MOST_BYTES = 1024 * 1024  # of a file
MOST_DEPTH = 16  # of files inside files, as OpenSSH has it
EXEC_S = 10.0  # for a command of Match exec
USER_FILE, SYSTEM_FILE = Path("~/.ssh/config"), Path("/etc/ssh/ssh_config")
BLANK = " \t\r\n"
SWITCHES = (
    *("CanonicalizeFallbackLocal", "ChallengeResponseAuthentication", "Compression", "GSSAPIAuthentication"),
    *("GSSAPIDelegateCredentials", "GSSAPIKeyExchange", "HostbasedAuthentication", "IdentitiesOnly"),
    *("KbdInteractiveAuthentication", "PasswordAuthentication", "PubkeyAuthentication", "TCPKeepAlive"),
)
SINGLE = (
    *(
        "AddressFamily",
        "BindAddress",
        "CanonicalizeHostname",
        "CanonicalizeMaxDots",
        "CASignatureAlgorithms",
        "Ciphers",
    ),
    *("HostKeyAlgorithms", "Hostname", "HostKeyAlias", "IdentityAgent", "KexAlgorithms", "MACs", "PKCS11Provider"),
    *("Port", "PreferredAuthentications", "ProxyCommand", "ProxyJump", "Tag", "User"),
)
SEVERAL = (
    *("CanonicalDomains", "CanonicalizePermittedCNAMEs", "GlobalKnownHostsFile", "RekeyLimit", "SetEnv"),
    "UserKnownHostsFile",
)
ADDED = ("CertificateFile", "IdentityFile", "SendEnv")  # of which every line counts
NAMES: Mapping[str, str] = {name.lower(): name for name in (*SWITCHES, *SINGLE, *SEVERAL, *ADDED)}
_SWITCHES, _SEVERAL, _ADDED = ({name.lower() for name in names} for names in (SWITCHES, SEVERAL, ADDED))
_OURS = ("canonicaldomains", "canonicalizefallbacklocal", "canonicalizehostname", "canonicalizemaxdots")


@dataclass
class Option:
    """The values that count of one keyword. ``where``: the file and line of the first."""

    values: list[str]
    where: str


def effective(
    host: str, port: int | None = None, user: str | None = None, files: Sequence[str] = ()
) -> dict[str, Option]:
    """What the files say of a host, by keyword in lower case; ``files`` in place of ~/.ssh/config and OpenSSH's own.

    The host and the files of known hosts are expanded; other values are as they are written. The commands of Match exec are
    run. ValueError names file and line of a mistake; OSError if a file cannot be read.
    """
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
    if reader.again:
        reader.final = True
        reader.read(files)
    for key in ("certificatefile", "globalknownhostsfile", "identityagent", "identityfile", "userknownhostsfile"):
        if option := reader.options.get(key):
            whole = [_expanded(value, reader.tokens(), option.where) for value in option.values]  # or a mistake
            if key.endswith("knownhostsfile"):  # the others asyncssh expands
                option.values = [os.path.expanduser(os.path.expandvars(path)) for path in whole]  # noqa: PTH111
    return reader.options


def lines(options: Mapping[str, Option]) -> tuple[list[str], list[str]]:
    """The options as lines that asyncssh reads, and for each line where it comes from."""
    made: list[str] = []
    origins: list[str] = []
    for key, option in options.items():
        if key in _OURS or key == "canonicalizepermittedcnames":
            continue
        values = option.values
        if key == "hostname":
            values = [values[0].replace("%", "%%")]
        elif key == "proxycommand":
            with contextlib.suppress(ValueError):
                values = [shlex.join(shlex.split(values[0], comments=True))]
            made.append(f"{NAMES[key]} {values[0]}")
            origins.append(option.where)
            continue
        elif key in ("identityfile", "certificatefile"):
            values = [value for value in values if value.lower() != "none"] or ["none"]
        rows = [[value] for value in values] if key in _ADDED else [values]
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
        if self.final or named is None:
            return named or self.host
        return _expanded(named, {"h": self.host, "%": "%"}, self.options["hostname"].where)

    def read(self, files: Sequence[str]) -> None:
        """One pass over the files; what an earlier one set stays."""
        for name in files:
            self._file(Path(name).expanduser(), True)
        for path, own in ((USER_FILE.expanduser(), True), (SYSTEM_FILE, False)):
            if not files:
                self._system = not own
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    self._file(path, own, private=own)

    def _file(self, path: Path, own: bool, private: bool = False) -> None:
        self._active = True
        self._lines(path, own, private, False, 0)

    def _lines(self, path: Path, own: bool, private: bool, never: bool, depth: int) -> None:
        """``own``: a file of the user; ``never``: it stands where a condition fails, so that nothing in it counts."""
        if depth > MOST_DEPTH:
            raise ValueError(f"{self._where}: files are included {MOST_DEPTH} deep (Include)")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if private and (status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022):
                raise ValueError(
                    f"{path}: bad owner or permissions; ssh refuses it: chmod go-w {shlex.quote(str(path))}"
                )
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"{path}: more than {MOST_BYTES} bytes")
        for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
            self._where = f"{path} line {number}"
            self._line(line.rstrip(BLANK + "\f").lstrip(BLANK), own, never, depth)

    def _line(self, line: str, own: bool, never: bool, depth: int) -> None:
        if not line or line.startswith("#"):
            return
        keyword, rest = self._word(line)
        key = keyword.lower()
        if not re.fullmatch(r"[a-z0-9]+", key):
            mark = ": a byte order mark begins the file; save it without one" if key.startswith("\ufeff") else ""
            raise ValueError(f"{self._where}: {keyword[:40]!r} is no keyword{mark}")
        if key not in ("host", "match", "include") and key not in NAMES:
            return
        if not rest:
            raise ValueError(f"{self._where}: no argument after {keyword}")
        if key == "match":
            self._active = not never and self._match(rest)
        elif key in ("proxycommand", "proxyjump"):
            value = rest.lstrip(BLANK + "=")
            self._set(key, [value if key == "proxycommand" else value.partition("#")[0].rstrip(BLANK)])
        else:
            self._words(keyword, self._split(rest), own, never, depth)

    def _words(self, keyword: str, words: list[str], own: bool, never: bool, depth: int) -> None:
        key = keyword.lower()
        if not words or not words[0]:
            raise ValueError(f"{self._where}: no argument after {keyword}")
        if key == "host":
            self._active = not never and self._named(words)
        elif key == "include":
            self._include(words, own, never, depth)
        elif key in _SEVERAL or key == "sendenv":
            self._set(key, words)
        elif len(words) > 1:
            raise ValueError(f"{self._where}: {words[1][:40]!r} is too much after {keyword}")
        else:
            self._set(key, words)

    def _named(self, patterns: Sequence[str]) -> bool:
        """Is one of the patterns of Host the host, and none with a ! before it?"""
        if any(p.startswith("!") and _matches(self.host, p[1:]) for p in patterns):
            return False
        return any(_matches(self.host, p) for p in patterns if not p.startswith("!"))

    def _include(self, patterns: Sequence[str], own: bool, never: bool, depth: int) -> None:
        active, where = self._active, self._where
        for pattern in patterns:
            if pattern.startswith("~") and own:
                pattern = os.path.expanduser(pattern)  # noqa: PLW2901, PTH111 - a pattern, not a path
            folder = (USER_FILE.expanduser() if own else SYSTEM_FILE).parent
            for name in sorted(glob.glob(os.path.join(folder, pattern))):  # noqa: PTH118, PTH207
                if Path(name).is_file():
                    self._active = active
                    self._lines(Path(name), own, True, never or not active, depth + 1)
                    self._where = where
        self._active = active

    def _set(self, key: str, values: list[str]) -> None:
        if key == "port" and not re.fullmatch(r"[0-9]{1,5}", values[0]):
            with contextlib.suppress(OSError):
                values = [str(socket.getservbyname(values[0], "tcp"))]
        if key == "port" and not (values[0].isdecimal() and 0 < int(values[0]) < 65536):
            raise ValueError(f"{self._where}: {values[0][:40]!r} is no port")
        if key == "canonicalizemaxdots" and not values[0].isdecimal():
            raise ValueError(f"{self._where}: {values[0][:40]!r} is no number")
        if key in _SWITCHES:
            kept = {"unbound": "yes", "host-bound": "yes"} if key == "pubkeyauthentication" else {}
            values = [kept.get(values[0].lower(), values[0].lower())]
            if values[0] not in ("yes", "no", "true", "false"):
                raise ValueError(f"{self._where}: {values[0][:40]!r} is neither yes nor no")
        if not self._active or (key == "sendenv" and self._system):
            return
        if key in _ADDED:
            option = self.options.setdefault(key, Option([], self._where))
            option.values += [value for value in values if value not in option.values]
        elif key not in ("proxycommand", "proxyjump") or not {"proxycommand", "proxyjump"} & self.options.keys():
            self.options.setdefault(key, Option(values, self._where))  # the first one counts

    # --- Match -------------------------------------------------------------------------------------------------------

    def _match(self, rest: str) -> bool:
        result, count = True, 0
        while rest and not rest.startswith("#"):
            word, rest = self._word(rest)
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
                wanted, rest = self._word(rest)
                holds = self._holds(name, wanted) if result or name != "exec" else negated
            result = result and holds != negated
        if not count:
            raise ValueError(f"{self._where}: Match needs a condition")
        return result

    def _holds(self, name: str, wanted: str) -> bool:
        if name == "exec":
            return self._runs(wanted)
        local = _local_user()
        compared = {
            "host": self.real_host().lower(),
            "originalhost": self.original.lower(),
            "user": self.value("user") or local,
            "localuser": local,
            "tagged": self.value("tag") or "",
        }
        if name not in compared:
            raise ValueError(f"{self._where}: the condition {name[:40]!r} of Match is not known here")
        wanted = wanted.lower() if name.endswith("host") else wanted
        return _listed(compared[name], wanted)

    def _runs(self, command: str) -> bool:
        """Does the command of Match exec end with code 0? Run as OpenSSH runs it."""
        shell = os.environ.get("SHELL") or "/bin/sh"
        text = _expanded(command, self.tokens(), self._where)
        try:
            quiet = subprocess.DEVNULL
            done = subprocess.run(
                [shell, "-c", f"exec {text}"], stdin=quiet, stdout=quiet, stderr=quiet, timeout=EXEC_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{self._where}: the command of Match exec did not end within {EXEC_S:.0f} s") from error
        return done.returncode == 0

    def tokens(self) -> dict[str, str]:
        """What %h and the like stand for."""
        local, machine, host = _local_user(), socket.gethostname(), self.real_host()
        port, user = self.value("port") or "22", self.value("user") or local
        jump = self.value("proxyjump") or ""
        return {
            "%": "%",
            "C": hashlib.sha1(f"{machine}{host}{port}{user}".encode(), usedforsecurity=False).hexdigest(),
            "L": machine.partition(".")[0],
            "d": str(Path.home()),
            "h": host,
            "i": str(os.getuid()),
            "j": "" if jump.lower() == "none" else jump,
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
            raise ValueError(f"{where}: {self.host!r} is in none of the CanonicalDomains")
        return self.host

    # --- words -------------------------------------------------------------------------------------------------------

    def _word(self, text: str) -> tuple[str, str]:
        """The first word, up to a blank or one =, and the rest. A quote makes what is inside it part of the word."""
        match = re.search(r'[ \t\r\n"=]', text)
        if match is None:
            return text, ""
        before, after = text[: match.start()], text[match.end() :]
        if match[0] == '"':
            inside, quote, rest = after.partition('"')
            if not quote:
                raise ValueError(f"{self._where}: a quote is not closed")
            return before + inside, rest.lstrip(BLANK)
        rest = after.lstrip(BLANK)
        return before, rest[1:].lstrip(BLANK) if match[0] != "=" and rest.startswith("=") else rest

    def _split(self, text: str) -> list[str]:
        """The words up to a comment, without their quotes."""
        words: list[str] = []
        characters = iter(text + " ")
        for character in characters:
            if character in BLANK:
                continue
            if character == "#":
                break
            words.append(self._rest_of_word(character, characters))
        return words

    def _rest_of_word(self, character: str, characters: Iterator[str]) -> str:
        word, quote, escaped = "", "", False
        while True:
            if escaped:
                known = character in "'\"\\" or (not quote and character == " ")
                word, escaped = word + (character if known else f"\\{character}"), False
            elif character == "\\":
                escaped = True
            elif quote and character == quote:
                quote = ""
            elif not quote and character in "'\"":
                quote = character
            elif not quote and character in BLANK:
                return word
            else:
                word += character
            following = next(characters, None)
            if following is None:
                if quote:
                    raise ValueError(f"{self._where}: a quote is not closed")
                return word
            character = following


def _expanded(text: str, tokens: Mapping[str, str], where: str) -> str:
    def known(match: re.Match[str]) -> str:
        if match[1] not in tokens:
            raise ValueError(f"{where}: %{match[1]} stands for nothing in {text[:60]!r}")
        return tokens[match[1]]

    return re.sub(r"%(.?)", known, text, flags=re.DOTALL)


def _matches(text: str, pattern: str) -> bool:
    """With * and ? in the pattern."""
    return (
        re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL) is not None
    )


def _listed(text: str, patterns: str) -> bool:
    """Is one of the patterns, with commas between them, the text, and none with a ! before it?"""
    parts = patterns.split(",")
    if any(part.startswith("!") and _matches(text, part[1:]) for part in parts):
        return False
    return any(_matches(text, part) for part in parts if not part.startswith("!"))


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
