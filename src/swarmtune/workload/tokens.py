"""The built-in tokenizer: nothing to download, a rule that cuts text into pieces of about one token.

A piece is: up to eight Latin letters with the space before them; one digit; up to two other ASCII characters with the
space before them; one CJK character; up to four letters of another script; a run of white space. Checked against
byte-pair encodings: the SmolLM2 vocabulary has 0.93 to 1.08 of its own count for English prose, a licence, and Python
code. Each of ``WORDS`` is exactly one token of that vocabulary, with and without a space before it, so that
``Texts.text`` has exactly the asked tokens in both; with other vocabularies it is off by less than a percent.
Servers' own counts are always preferred.
"""

from __future__ import annotations

import re
import sys
from array import array
from functools import lru_cache
from hashlib import shake_128
from itertools import accumulate

from swarmtune.workload.draws import Draws

PIECE = re.compile(
    r" ?[A-Za-z]{1,8}"
    r"|[0-9]"
    r"|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]"
    r"| ?[!-/:-@\[-`{-~]{1,2}"
    r"|\s+"
    r"| ?[^\x00-\x7f\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]{1,4}"
    r"|."
)
COMMON_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work number night point home water room mother area money story fact
month lot right study book eye job word business issue side kind head house service friend father power hour game line
end member law car city name team minute idea body back parent face others level office door health person art war
history party result change reason research girl moment air teacher force foot boy age policy process music market
sense nation plan college interest death effect use class control field role rate heart drug show leader light voice
wife whole mind price report decision son view town road arm value building action season tax director position player
record paper space ground form event official matter center site project base activity star table court oil half cost
industry figure street image phone data picture practice piece land product doctor wall patient worker news test movie
north love support step baby computer type film tree source
"""
WORDS = tuple(COMMON_WORDS.split())
HEAD = 4  # words that make a text unique
HEADS = len(WORDS) ** HEAD
LISTED = 1 << 15  # words of the list that texts are cut from
STRIDE = 40_503  # odd: neighbours are cut from far apart


def count(text: str) -> int:
    """About how many tokens a text has."""
    return len(PIECE.findall(text))


class Texts:
    """Texts by number, all made from ``seed`` and ``kind``: the same in every process, a few microseconds each.

    Text number i is a head of four words that spell i (so neighbours differ in their first word, and any two of the
    next 1.1 thousand million in their first four: no prefix cache helps), and then a part of a seeded random word
    list. A shorter text of the same number is the beginning of a longer one.
    """

    def __init__(self, seed: int, kind: str) -> None:
        self._list, self._starts = _word_list(seed)
        shift = Draws(f"{seed}:texts:{kind}")
        self._head, self._part = shift.below(HEADS), shift.below(LISTED)

    def text(self, number: int, tokens: int) -> str:
        """The text of this number with exactly this many tokens by ``count``."""
        rest = number + self._head
        head = []
        for _ in range(min(tokens, HEAD)):
            rest, digit = divmod(rest, len(WORDS))
            head.append(WORDS[digit])
        begin, missing = (number * STRIDE + self._part) % LISTED, tokens - HEAD
        while missing > 0:
            taken = min(missing, LISTED)
            head.append(self._list[self._starts[begin] : self._starts[begin + taken] - 1])
            missing -= taken
        return " ".join(head)


class NoTexts(Texts):
    """Empty ones, at no cost."""

    def __init__(self, seed: int, kind: str) -> None:
        del seed, kind

    def text(self, number: int, tokens: int) -> str:
        """Nothing."""
        del number, tokens
        return ""


@lru_cache(maxsize=4)
def _word_list(seed: int) -> tuple[str, list[int]]:
    """(LISTED random words, twice over, as one text; where each begins)."""
    drawn = shake_128(f"{seed}:words".encode()).digest(2 * LISTED)
    numbers = array("H", drawn)
    if sys.byteorder == "big":
        numbers.byteswap()
    words = [WORDS[number % len(WORDS)] for number in numbers] * 2
    starts = [0, *accumulate(len(word) + 1 for word in words)]
    return " ".join(words), starts
