"""Words, patterns and tokens as ssh_config(5) has them. Source: readconf.c, misc.c and match.c of OpenSSH."""

from __future__ import annotations

import re
from collections.abc import Mapping

BLANK = " \t\r\n"


def first_word(text: str, where: str) -> tuple[str, str]:
    """The first word, up to a blank or one =, and the rest. A quote makes what is inside it part of the word."""
    match = re.search(r'[ \t\r\n"=]', text)
    if match is None:
        return text, ""
    before, after = text[: match.start()], text[match.end() :]
    if match[0] == '"':
        inside, quote, rest = after.partition('"')
        if not quote:
            raise ValueError(f"{where}: a quote is not closed")
        return before + inside, rest.lstrip(BLANK)
    rest = after.lstrip(BLANK)
    return before, rest[1:].lstrip(BLANK) if match[0] != "=" and rest.startswith("=") else rest


def split(text: str, where: str, comments: bool = True) -> list[str]:
    """The words, up to a comment if there may be one, without their quotes. A backslash escapes only a quote, a backslash
    or a blank.
    """
    words: list[str] = []
    word: str | None = None
    quote, position = "", 0
    while position < len(text):
        character, following = text[position], text[position + 1 : position + 2]
        position += 1
        if word is None:
            if character in " \t":
                continue
            if character == "#" and comments:
                break
            word = ""
        if character == "\\" and following and (following in "'\"\\" or (following == " " and not quote)):
            word += following
            position += 1
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif not quote and character in " \t":
            words.append(word)
            word = None
        else:
            word += character
    if quote:
        raise ValueError(f"{where}: a quote is not closed")
    return words if word is None else [*words, word]


def expanded(text: str, tokens: Mapping[str, str], where: str) -> str:
    def known(match: re.Match[str]) -> str:
        if match[1] not in tokens:
            raise ValueError(f"{where}: %{match[1]} stands for nothing in {text[:60]!r}")
        return tokens[match[1]]

    return re.sub(r"%(.?)", known, text, flags=re.DOTALL)


def matches(text: str, pattern: str) -> bool:
    """With * and ? in the pattern."""
    return (
        re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL) is not None
    )


def listed(text: str, patterns: str) -> bool:
    """Is one of the patterns, with commas between them, the text, and none with a ! before it?"""
    parts = patterns.split(",")
    if any(part.startswith("!") and matches(text, part[1:]) for part in parts):
        return False
    return any(matches(text, part) for part in parts if not part.startswith("!"))
