"""Types of option values that argparse does not have, and lists of values."""

from __future__ import annotations

import argparse
from typing import Any

LONGEST_PAUSE = 1_000_000  # s
LARGEST = 1e9
MANY = 1000


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def interval(text: str) -> float:
    """A number of seconds that is not below 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST_PAUSE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds")
    return value


def few(text: str) -> int:
    """A whole number from 1 to MANY, for argparse."""
    number = count(text)
    if number > MANY:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MANY:,}")
    return number


def count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def not_negative(text: str) -> float:
    """A number of 0 or more, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def repetitions(text: str) -> int:
    """A whole number from 1 to 10, for argparse."""
    if text not in map(str, range(1, 11)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 10")
    return int(text)


def indices(text: str, mistakes: list[str]) -> tuple[int, ...]:
    """The devices of a list such as 0,1; what is wrong with it is added to ``mistakes``."""
    words = [word.strip() for word in text.split(",")] if text else []
    if "" in words:
        mistakes.append(empty_item("devices", text, "0,1"))
        return ()
    if wrong := [word for word in words if not (word.isascii() and word.isdecimal())]:
        mistakes.append(f"--devices: {', '.join(wrong)}: not an index; write for example 0,1")
    return () if wrong else tuple(sorted(map(int, words)))


def empty_item(name: str, value: Any, example: str) -> str:
    """The mistake of a list with nothing between two commas, or at an end."""
    return f"--{name.replace('_', '-')}: {str(value)!r} has an empty item; write for example {example}"
