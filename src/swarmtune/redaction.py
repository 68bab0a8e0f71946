"""Secrets are known by their values: they are learnt where they come in, and hidden wherever words leave.

A value is a secret by its name (HF_TOKEN, ``--api-key``), by its place (``user:password@`` and ``?token=`` of a URL, the
header Authorization), or by its form (``sk-...``, ``hf_...``, a JWT, a private key). Once learnt it is hidden in every text,
whatever stands around it, also percent-encoded, escaped in JSON, or in base64, alone or within other words.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
WORD_LETTERS = 6  # a value of so many small letters could be any word
LEAST, SURE = 4, 8  # letters of a secret; shorter ones than SURE are hidden only where they are a whole word
# A value of so many letters, with a part between punctuation of so many, of so many bits each, is no word.
OPAQUE_LETTERS, OPAQUE_PART, OPAQUE_BITS = 20, 16, 3.5
MOST_KNOWN = 2000
NAMES = (
    r"(?i)secret|passw(or)?d|passphrase|passcode|credential|(^|_)(key|pwd|token|pw|otp|creds)(_|$)|token$|pass$"
    r"|(api|access|private|auth|master|signing|account|shared|encryption)_?key|(^|_)(pat|jwt|bearer|passkey)$"
    r"|(db|root|admin|user)pw$|session_?id$|conn(ection)?_?str(ing)?$|totp|xsrf|csrf"
)
"""What the supervisor looks for in the environment of its node, which knows none of our code."""
_SECRET_WORDS = frozenset({"key", "pwd", "pw", "token", "otp", "creds"})
_SECRET = re.compile(
    r"secret|passw(or)?d|passphrase|passcode|credential|token$|(?<!by)(?<!com)pass$|(^|[^a-z])(pat|jwt|bearer|passkey)$"
    r"|(api|access|private|auth|master|signing|account|shared|encryption)[_-]?key|(db|root|admin|user)pw$"
    r"|session[_-]?id$|conn(ection)?[_-]?str(ing)?$|totp",
    re.IGNORECASE,
)
# MAX_PREFILL_TOKEN and --long-prefill-token-threshold are numbers of tokens, --speculative-token-map is a file
_COUNT_WORDS = frozenset(
    (
        "max",
        "min",
        "num",
        "threshold",
        "prefill",
        "batch",
        "speculative",
        "budget",
        "count",
        "size",
        "limit",
        "id",
        "ids",
    )
) | frozenset(("pad", "bos", "eos", "unk", "map", "time", "first", "output", "inter", "per"))
_COUNT_WORDS |= frozenset(
    ("stop", "sep", "cls", "mask", "image", "audio", "video", "special", "start", "end")
)  # of models
# of secrets, too
_FACT_WORDS = frozenset(("length", "len", "rounds", "policy", "path", "file", "dir", "folder", "type"))
_ADDRESS_WORDS = frozenset(("url", "uri", "endpoint", "host", "issuer"))
_SOFT = re.compile(r"(^|_)(auth|authorization|cookie|salt|session)(_|$)", re.IGNORECASE)  # names of keys, and of kinds
_HEADER = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)
# What people write where a key is wanted and none is needed; to hide these would hide our own words.
_ORDINARY = re.compile(
    "true|false|none|null|auto|empty|dummy|yes|enabled|disabled|password|token|secret|key|api-?key|optional|test|local"
    "|localhost|default|model|user|admin|root|openai|ollama|vllm|sglang|mindie|llama(cpp)?|simulated|command|swarmtune"
    "|postgres|lm-studio",
    re.IGNORECASE,
)
_SCHEMES = frozenset(("bearer", "basic", "token", "apikey", "digest", "negotiate"))
COOKIES = ("--cookie", "--cookies")
LOGINS = ("-u", "--user", "--auth", "--basic-auth", "--proxy-user", "--http-user")
ENVIRONMENTS = ("-e", "--env")
# NAME=VALUE of a shell
_SETS = re.compile(r"(?:^|[\s;&|(])([A-Za-z_]\w{0,80})=(?:\"([^\"]{4,500})\"|'([^']{4,500})'|([^\s;&|)\"']{4,500}))")
_FIGURE = re.compile(r"[0-9]{1,7}|(?=.{1,12}\Z)[-+]?[0-9]*[.,:][0-9.,:]*(?:e[-+]?[0-9]+)?[a-z%]{0,2}", re.IGNORECASE)
_ESCAPED = re.compile(  # one letter or byte, as strings, addresses and pages write it, once or twice
    r"\\{1,4}u(?P<u>[0-9a-fA-F]{4})|\\{1,4}x(?P<x>[0-9a-fA-F]{2})|%(?:25)?(?P<p>[0-9a-fA-F]{2})"
    r"|&\#(?P<n>[0-9]{1,7});|&\#[xX](?P<h>[0-9a-fA-F]{1,6});|\\{1,3}(?P<o>[0-3][0-7]{2})|\\{1,3}(?P<c>[\"'/\\])"
)
MOST_JSON = 100_000  # letters of a value that is read as JSON
_COMMAND = re.compile(r"(^|\s)--?[a-z]")
_OWN_NAME = re.compile("[a-z_]{0,40}")
_WORD = re.compile(r"[\w.~+/=-]+")

# The forms of keys that their makers publish, so that scanners find them. Each begins with letters of its own, and is only
# looked for where a word begins: that is quick enough for all that a service writes.
_BEHIND = {  # by what stands behind the beginning
    r"[A-Za-z0-9_-]{16,}": "sk-",
    r"[\w-]{10,}": "xoxa- xoxb- xoxe- xoxp- xoxr- xoxs-",
    r"[A-Za-z0-9]{20,}": "hf_",
    r"[A-Za-z0-9]{30,}": "ghp_ gho_ ghu_ ghs_ ghr_ npm_",
    r"\w{22,}": "github_pat_",
    r"[\w-]{20,}": (
        "glpat- gldt- glrt- glptt- glcbt- glft- nvapi- xai- pplx- csk- tskey- PMAK- GOCSPX- NRAK- pul- pypi- xapp- gsk_ r8_ "
        "fw_ pa_ sbp_ ntn_ glsa_ glc_ lsv2_pt_ jina_ wandb_v1_ dckr_pat_ lin_api_ figd_ pscale_tkn_ sntrys_ rubygems_ ya29. "
        "hvs. hvb."
    ),
    r"[0-9A-Z]{16}\b": "AKIA ASIA",
    r"[\w-]{35}": "AIza",
    r"\w{16,}": "sk_live_ sk_test_ rk_live_ rk_test_",
    r"\w{20,}": "whsec_ shpat_ shpss_ shpca_",
    r"[\w.-]{20,}": "dp.pt. dp.st. dp.ct.",
    r"[\w=-]{20,}": "ATATT3",
    r"[0-9A-Z]{40,}": "AGE-SECRET-KEY-1",
    r"[0-9a-f]{40,}": "dop_v1_",
    r"[0-9a-f]{32}\b": "dapi key-",
    r"[A-Za-z0-9+/=]{40,}": "ABSK",
    r"[\w-]{16,}\.[\w-]{16,}": "SG.",
    r"[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+": "eyJ",
}
_FORM = (
    "(?<![A-Za-z0-9_])(?:{})".format(
        "|".join(
            (
                *(re.escape(begin) + behind for behind, begins in _BEHIND.items() for begin in begins.split()),
                r"https://hooks\.slack\.com/[\w/@.-]{16,}",
                r"https://discord(?:app)?\.com/api/webhooks/[\w/@.-]{16,}",
                r"https://[\w.-]{1,80}\.webhook\.office\.com/[\w/@.-]{16,}",
                r"[0-9]{8,10}:AA[\w-]{33}\b",
                r"[A-Za-z0-9]{14}\.atlasv1\.[\w-]{40,}",
            )
        )
    )
    + r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]{0,20000}?(?:-----END [A-Z ]+-----|\Z)"
)
FORMS = _FORM
"""The forms of keys, for what knows none of our code; they hold for bytes, too."""
_NAMED = r"(?:api_?key|access_?key|passw(?:or)?d|passphrase|client_?secret|secret_?key|(?:access|auth|hf|api)_?token)"
_PLACES = re.compile(
    r"(?P<before>://)(?P<user>[^/@\s\"'<>]{1,500})(?=@)"
    r"|(?P<name>[?&][^=&\s]{0,80}(?:key|token|secret|sig|password|code|auth)[^=&\s]{0,80}=)(?P<field>[^&\s,#\"'<>]+)"
    r"|(?P<header>\b(?:proxy-)?authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:[A-Za-z]{2,20}\s{1,4})?)(?P<key>[^\s\"',}]{4,})"
    r"|(?P<bearer>\bbearer\s{1,4})(?P<borne>[\w.~+/=-]{8,})|(?P<login>\blogin\s+\S{1,80}\s+password\s+)(?P<net>\S{4,})"
    r"|(?P<part>(?:[;?&\s](?:password|pwd)|\b(?:account|shared_?access)_?key)=)"
    r"(?P<parted>\{[^}\s]{4,200}\}|[^;&\s\"']{4,})"
    r"|(?P<pair>(?<![\w:])[A-Za-z_][\w.-]{0,60}:)(?P<paired>(?!//)[^\s/@:]{4,80})(?=@(?!sha\d{3}:)[A-Za-z0-9\[])"
    rf"|(?P<said>\b{_NAMED}[\"']?\s{{0,4}}[:=]\s{{0,4}}\[?[\"'])(?P<value>[^\s\"',)\]}}]{{4,}})"
    rf"|(?P<form>{_FORM})",
    re.IGNORECASE,
)


def words_of(name: str) -> set[str]:
    """The words of a name, in small letters."""
    return set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))


def looks_secret(name: str) -> bool:
    """Does the name of a variable, key or flag say that its value is a secret (HF_TOKEN, --api-key, dbPassword)?"""
    words = words_of(name)
    named = _SECRET.search(name) is not None and not name.lower().endswith("token")
    return (named or (bool(words & _SECRET_WORDS or _SECRET.search(name)) and not words & _COUNT_WORDS)) and not (
        words & _FACT_WORDS
    )


class Redactor:
    """The secrets that are known so far, and texts without them."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._coded: set[str] = set()
        self._values: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None

    @property
    def known(self) -> frozenset[str]:
        """Every form of every secret."""
        return frozenset(self._known | self._coded)

    @property
    def values(self) -> list[str]:
        """Every secret as it was learnt, in that order."""
        return list(self._values)

    def learn(self, *values: str) -> None:
        """Hide these from now on. Values that could be ordinary words or numbers are not learnt."""
        for value in values:
            lines = [line.strip() for line in value.splitlines()]
            for line in lines if len(lines) > 1 else (value.strip(),):
                if _is_telling(line) and len(self._known) < MOST_KNOWN:
                    escaped = (json.dumps(line)[1:-1], json.dumps(line, ensure_ascii=False)[1:-1], repr(line)[1:-1])
                    slashes = (line.replace("/", "\\/"), line.replace("/", "\\u002f"), line.replace("/", "\\u002F"))
                    coded = (
                        line.rstrip("="),
                        quote(line, safe=""),
                        quote(line),
                        quote_plus(line),
                        unquote(line),
                        html.escape(line),
                        *escaped,
                        *slashes,
                        *(json.dumps(form)[1:-1] for form in escaped),  # JSON inside of JSON
                        *(form.replace("/", "\\/") for form in escaped),
                        *(re.sub("%[0-9A-F]{2}", lambda f: f[0].lower(), quote(line, safe=safe)) for safe in ("", "/")),
                        repr(line.encode(errors="surrogatepass"))[2:-1],
                        line.encode(errors="surrogatepass").decode("latin-1"),  # bytes, each as a letter
                    )
                    self._values[line] = None
                    self._known.update({line, *filter(_is_telling, coded)})
                    self._coded.update(_in_base64(line))
                    if len(line) >= SURE:
                        digits = line.encode(errors="surrogatepass").hex()
                        self._coded.update((digits, digits.upper()))
                    self._pattern = None

    def learn_in(self, data: Any, name: str = "") -> None:
        """Learn what is secret in plain data: mappings by their keys, lists as command lines, texts by place and form."""
        if isinstance(data, Mapping):
            for key, value in data.items():
                self.learn_in(value, str(key))
                if name == "env" and isinstance(value, str) and _is_opaque(value):
                    self.learn(value)
        elif isinstance(data, (list, tuple)):
            self._learn_words(data, name)
        elif isinstance(data, str):
            soft = _SOFT.search(name) and not words_of(name) & _ADDRESS_WORDS
            if looks_secret(name) or (soft and any(c.isdigit() for c in data) and len(data) >= SURE):
                self.learn(data, *(word for word in data.split() if word.lower() not in _SCHEMES))
            self.learn(*_placed(data), *_parts_of_hook(name, data))
            if (inner := _json_in(data)) is not None:
                self.learn_in(inner)
            self.learn(
                *(next(filter(None, found.groups()[1:])) for found in _SETS.finditer(data) if looks_secret(found[1]))
            )
            self.learn(*_borne(name, data))
            header, colon, rest = data.partition(": ")
            if colon and re.fullmatch(r"[\w-]{1,80}", header) and looks_secret(header):
                self.learn_header(header, rest)
            if _COMMAND.search(data) and len(words := data.split()) > 1:  # a command line, where a list is wanted
                self._learn_words(words, "")

    def learn_environment(self, variables: Mapping[str, str]) -> None:
        """Learn what a process inherits: by name, place and form, and values that are no words (a key of unknown form)."""
        self.learn_in(variables)
        self.learn(*(value for value in variables.values() if _is_opaque(value)))

    def learn_header(self, name: str, value: str) -> None:
        """Learn the key in a header: each word of one that authenticates, and what is no word in any other."""
        self.learn(*_placed(value))
        words = [
            w
            for w in value.split()
            if w.lower() not in _SCHEMES and (_HEADER.search(name) or looks_secret(name) or _is_opaque(w))
        ]
        self.learn(*words, *(w.partition("=")[2].rstrip(";") for w in words))  # of a cookie
        self.learn(*_borne(name, value))

    def _learn_words(self, words: Iterable[Any], name: str) -> None:
        before = first = ""
        for word in words:
            if not isinstance(word, str):
                self.learn_in(word, name)
                continue
            flag, equals, value = word.partition("=")
            header, colon, rest = (value if equals and word.startswith("-") else word).partition(":")
            self.learn_in(word, name)
            if flag in COOKIES and equals:
                self.learn_header("Cookie", value)
            elif before in COOKIES:
                self.learn_header("Cookie", word)
            elif equals and looks_secret(flag):
                self.learn(value)
            elif before.startswith("-") and "=" not in before and not word.startswith("--") and looks_secret(before):
                self.learn(word)
                first = word
            elif first and _is_further(word, first):
                self.learn(word)  # --api-key takes several
            if colon and re.fullmatch(r"[\w-]{1,80}", header) and not words_of(header) & _COUNT_WORDS:
                self.learn_header(header, rest)
            if colon and (before in LOGINS or flag in LOGINS):
                self.learn(rest)  # user:password
            if before in ENVIRONMENTS or flag in ENVIRONMENTS:  # --env NAME=VALUE, --env=NAME=VALUE
                named, _, key = (value if equals and flag in ENVIRONMENTS else word).partition("=")
                self.learn_in({named: key})
            before, first = word, "" if word.startswith("-") else first

    def hide(self, text: str) -> str:
        """The text with stars for each secret: known ones wherever they stand, others by their place or form."""
        if self._known:
            if self._pattern is None:
                longest_first = sorted(self._known | self._coded, key=len, reverse=True)
                forms = (re.escape(form) if form in self._coded else _anywhere(form) for form in longest_first)
                self._pattern = re.compile("|".join(forms))
            text = self._pattern.sub(HIDDEN, text)
            if "\\" in text or "%" in text or "&#" in text:
                text = "\n".join(_sub_escaped(self._pattern, line) for line in text.split("\n"))
        return _PLACES.sub(_starred, text)

    def hide_in(self, data: Any) -> Any:
        """The same plain data without secrets. Names stay, as keys and as values: they are ours, and read again."""
        if isinstance(data, str):
            return data if _OWN_NAME.fullmatch(data) else self.hide(data)
        if isinstance(data, Mapping):
            return {
                self.hide(k) if isinstance(k, str) and not k.isidentifier() else k: self.hide_in(v)
                for k, v in data.items()
            }
        if isinstance(data, (list, tuple)):
            return [self.hide_in(item) for item in data]
        return data


def _sub_escaped(pattern: re.Pattern[str], text: str) -> str:
    """A line with stars also for what the pattern finds once escapes are read as the letters that they stand for."""
    parts, places, end = list[str](), list[int](), 0  # places: where each letter of the plain text begins
    for found in _ESCAPED.finditer(text):
        parts.append(text[end : found.start()])
        places += range(end, found.start())
        number = int(found["u"] or found["x"] or found["p"] or found["h"] or "0", 16)
        number = int(found["o"], 8) if found["o"] else int(found["n"]) if found["n"] else number
        parts.append(found["c"] or chr(min(number, 0x10FFFF)))
        places.append(found.start())
        end = found.end()
    if not parts:
        return text
    parts.append(text[end:])
    places += range(end, len(text) + 1)
    shown, at = list[str](), 0
    for found in pattern.finditer("".join(parts)):
        first, behind = places[found.start()], places[found.end()]
        shown += [text[at:first], HIDDEN]
        at = behind
    return "".join([*shown, text[at:]])


def _json_in(text: str) -> Any:
    """The object or list that a text is, or that stands behind ``NAME=`` in it; None: there is none."""
    found = re.match(r"\s*(?:--?[\w.-]{1,80}=|[A-Za-z_]\w{0,80}=)?\s*(?=[\[{])", text)
    if found is None or len(text) > MOST_JSON:
        return None
    try:
        read = json.loads(text[found.end() :])
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, (dict, list)) else None


def _is_further(word: str, first: str) -> bool:
    """Is a word behind the first value of ``--api-key`` another key, and no name of a program or model?"""
    alike = len(word) == len(first) >= SURE and any(c.isdigit() for c in word) and "/" not in word
    return alike or _is_opaque(word)


def _password_in(coded: str) -> Iterator[str]:
    """The password of ``user:password`` in base64, as Basic authentication and registries have it."""
    with contextlib.suppress(ValueError):
        user, colon, password = base64.b64decode(coded, validate=True).decode().partition(":")
        if user and colon and password.isprintable():
            yield password


def _borne(name: str, value: str) -> Iterator[str]:
    """What an authorization, a cookie or a DSN carries, whatever its name or scheme says of itself."""
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() in ("basic", "bearer") and len(rest) >= SURE and re.fullmatch(r"(?=.*\d)[\w.~+/=-]+", rest):
        yield rest
    if scheme.lower() == "basic" or "auth" in words_of(name):
        yield from _password_in(rest or scheme)
        if found := re.fullmatch(r"[^\s:/@]{1,80}:([^\s/]{4,200})", rest or scheme):  # user:password
            yield found[1]
    if "cookie" in words_of(name):
        yield from (pair.partition("=")[2].strip() for pair in value.split(";"))
    if "dsn" in words_of(name) and (user := re.match(r"\w+://([^/@:\s]{8,200})@", value)):
        yield user[1]


def _parts_of_hook(name: str, value: str) -> Iterator[str]:
    """The address of a webhook, whose path is its key, by its name or its form; and what of it is as long as a key."""
    if "://" in value and ("webhook" in words_of(name) or re.match(_FORM, value, re.IGNORECASE)):
        yield value
        yield from (
            part for part in re.split(r"[/?&=]", value) if len(part) >= OPAQUE_PART and re.search("[0-9]", part)
        )


def _is_telling(value: str) -> bool:
    """Is it long and rare enough that hiding it everywhere hides nothing else?"""
    ordinary = _ORDINARY.fullmatch(value) is not None or value == HIDDEN or _FIGURE.fullmatch(value) is not None
    ordinary = ordinary or (value.isalpha() and value.islower() and len(value) <= WORD_LETTERS)
    kept = value.startswith(("/", "./", "~/", "$")) or value.endswith((".pem", ".key", ".crt", ".json"))  # files
    return len(value.strip()) >= LEAST and not ordinary and not kept


def _is_key(value: str) -> bool:
    """Could what stands in the place of a key be one, and no name for it as in ``?key=KEY`` or ``$TOKEN``?"""
    named = (
        value.lower() in _SCHEMES or _ORDINARY.fullmatch(value) is not None or value.startswith(("$", "<", "{", "..."))
    )
    return not named and (any(c.isdigit() for c in value) or len(value) >= SURE)


def _is_opaque(value: str) -> bool:
    """A key by its look: a word with a long part of capital and small letters and digits, as random as base64."""
    part = max(re.split(r"[-_./=+~]", value), key=len)
    if len(value) < OPAQUE_LETTERS or len(part) < OPAQUE_PART or not _WORD.fullmatch(value):
        return False
    if not (re.search("[a-z]", part) and re.search("[A-Z]", part) and re.search("[0-9]", part)):
        return False
    shares = [count / len(part) for count in Counter(part).values()]
    return -sum(share * math.log2(share) for share in shares) >= OPAQUE_BITS


def _in_base64(secret: str) -> Iterator[str]:
    """The base64 of a secret, and what of it is the same wherever it stands in what is encoded; in both alphabets."""
    data = secret.encode(errors="surrogatepass")
    forms = [base64.b64encode(data).decode()]
    for before in range(3):  # bytes, of each three that become four letters
        whole = base64.b64encode(bytes(before) + data).decode()
        forms.append(whole[-(-8 * before // 6) : 8 * (before + len(data)) // 6])
    for form in forms:
        if len(form) >= SURE:
            yield form
            yield form.replace("+", "-").replace("/", "_")
            yield quote(form, safe="")


def _placed(text: str) -> Iterator[str]:
    """The secrets of a text by their place or form; of ``user:password@`` also what HTTP makes of it."""
    for found in _PLACES.finditer(text):
        if user := found["user"]:
            name, colon, password = (unquote(part) for part in user.partition(":"))
            if not colon and not _is_opaque(name):
                continue  # who logs in is no secret
            yield password if colon else name
            yield base64.b64encode(f"{name}:{password}".encode()).decode()
        else:
            value = _value_of(found)
            if found["parted"] and value.startswith("{"):  # of ODBC, which quotes so
                yield from (value, value.strip("{}"))
            elif found["form"] or found["field"] or _is_key(value):
                yield value


def _starred(found: re.Match[str]) -> str:
    before = next(
        (found[n] for n in ("before", "name", "header", "bearer", "login", "part", "pair", "said") if found[n]), ""
    )
    value = found["user"] or _value_of(found)
    word = (
        (":" not in value and not _is_opaque(value))
        if found["user"]
        else not (found["form"] or found["field"] or (found["parted"] and value.startswith("{")) or _is_key(value))
    )
    if word or value == HIDDEN:
        return found[0]
    return before + HIDDEN


def _value_of(found: re.Match[str]) -> str:
    return next(found[n] for n in ("field", "key", "borne", "net", "parted", "paired", "value", "form") if found[n])


def _anywhere(secret: str) -> str:
    """A pattern: a short one, or one of letters alone, is hidden as a whole word only, or other words would go with it."""
    alone = len(secret) < SURE or (secret.isalpha() and len(secret) < OPAQUE_LETTERS)
    return rf"(?<!\w){re.escape(secret)}(?!\w)" if alone else re.escape(secret)


def cover_arguments() -> None:
    """Cover the secrets in the command line of this process, as the process list shows it to every user of the machine;
    what stands behind the name of a header is one.

    The kernel reads it where proc(5) says that it lies (/proc/pid/stat 48 and 49); where that cannot be written it stays.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        first, last = (int(f) for f in Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[45:47])
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(first)
            words = memory.read(last - first).split(b"\0")
            headers = [before in (b"-H", b"--header") for before in (b"", *words)]
            covered = [_covered(word, header) for word, header in zip(words, headers, strict=False)]
            if covered != words:
                memory.seek(first)
                memory.write(b"\0".join(covered))


def _covered(word: bytes, header: bool) -> bytes:
    """As long as before."""
    text = word.decode(errors="surrogateescape")
    name, colon, _ = text.partition(":")
    shown = (f"{name}:{HIDDEN}" if header and colon else ours.hide(text)).encode(errors="surrogateescape")
    return word if shown == word else shown[: len(word)].ljust(len(word))


ours = Redactor()  # what this process knows: the door of the command teaches it, and every exit asks it
