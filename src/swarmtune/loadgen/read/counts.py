"""How many tokens has an answer? What the service states is evidence, and held against what came. Pure.

What accounts for a token: a word of the text (each has at least one), an event with text, an event without any behind the
first with text, reasoning that is counted, and what a tokenizer finds in the text, with its error.

A count of output tokens is believed if the request allowed so many, or text is seen to be longer; if either the bytes of the
answer can hold them (a token takes at least one byte there: text, or the event around it), or the time was long enough to
make so many that do not show (reasoning that is kept back, special tokens without text); if the words of the text are not
more; and if they are as many as the events that carried text, or the server is seen to send pieces of tokens: their number
is what the request allowed, or the text itself is that short. Where no count can be believed, the tokens are estimated: as
many as the built-in tokenizer finds in the text, and as many as there were events with text.

Tokens of a believed count that nothing accounts for came at an unknown time: they are counted, and belong to no gap between
events (``spread``).

A count of prompt tokens is believed if the bytes of the request can hold them, beside what the service may add by itself:
a template, a system prompt, tools. ``HIDDEN_TOKENS`` holds the longest of those that inference services add. Embeddings and
ranks may add it to each text. Whether counts fit the prompts within that is seen over all requests (judge/prompts.py).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from swarmtune.loadgen.endpoints.base import Answer

ALLOWED_MORE = 2  # tokens beyond the limit of a request: some servers count the end of the text, too
ALLOWED_PART = 50  # and one in so many
FASTEST = 20_000  # tokens per second of one answer: several times what any service makes
HIDDEN_TOKENS = 2**14  # of a prompt, that the service itself may add: its template, a system prompt, tools
UNCOUNTED_EVENTS = 2  # events with text beyond the tokens: an end of the text, a rest that was held back
UNCOUNTED_PART = 10  # and one in so many
LONG_TOKEN = 7  # characters per token: only text with more is looked at for words beyond its tokens,
SHORT_TOKEN = 4  # and only text with fewer for tokens beyond the text
LONG_WORD = 10  # letters
PIECE = 2.5
VOCABULARY = 1.5  # times as many tokens as our own count may a text have by another vocabulary


class Text(NamedTuple):
    """The text of an answer: tokens by a tokenizer; words between blanks, each of which is at least one token; bytes that it
    has beyond one a character, each of which may be one; letters of words that are longer than LONG_WORD, which another
    vocabulary may cut into tokens of PIECE letters."""

    tokens: int
    words: int
    more_bytes: int = 0
    long_letters: int = 0

    @property
    def most_tokens(self) -> int:
        """More tokens than this it does not have by any vocabulary."""
        return int(self.tokens * VOCABULARY) + self.more_bytes + int(self.long_letters / PIECE)

    @classmethod
    def of(cls, content: str, tokens: int) -> Text:
        """What a text tells; ``tokens``: by a tokenizer."""
        words = content.split()
        wordless = not content.strip("?")  # how many tokens it may have is not known
        more_bytes = sys.maxsize if wordless else len(content.encode(errors="replace")) - len(content)
        return cls(tokens, len(words), more_bytes, sum(len(word) for word in words if len(word) > LONG_WORD))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an exchange without the service's word.

    ``most_tokens``: what the request allowed, -1 if it set no limit; ``duration_ns``: from sending to the answer's end;
    ``sent_bytes``, ``received_bytes``: heads included, and of the request what stands behind its addresses; ``texts``: that
    the service may read as prompts of their own.
    """

    most_tokens: int
    duration_ns: int
    sent_bytes: int
    received_bytes: int
    texts: int = 1

    @property
    def prompt_limit(self) -> int:
        """More prompt tokens than this cannot be."""
        return (self.sent_bytes + HIDDEN_TOKENS) * self.texts

    @property
    def possible(self) -> int:
        """More output tokens than this cannot be, whatever was allowed."""
        return max(self.received_bytes, self.duration_ns * FASTEST // 1_000_000_000)

    @property
    def output_limit(self) -> int:
        """More output tokens than this cannot be, if the service keeps to what the request allowed."""
        if self.most_tokens < 0:
            return self.possible
        return min(self.possible, self.most_tokens + max(ALLOWED_MORE, self.most_tokens // ALLOWED_PART))


def settle(answer: Answer, evidence: Evidence, by_text: Callable[[], Text]) -> bool:
    """Take out of the answer each count that cannot be true, and fill ``chunk_tokens``; was there a false one?

    ``by_text``: what its text tells; called only where it matters. An answer without content whose only sign of a token was
    such a count becomes an error.
    """
    limit = evidence.output_limit
    if _beyond(answer, limit) and _overrun(answer, limit, by_text):
        limit = min(
            evidence.possible, max(by_text().most_tokens, len(answer.chunks) + len(answer.silent)) + ALLOWED_MORE
        )
    found = _settle_stated(answer, evidence, limit)
    stated = answer.completion_tokens
    if not _possible(stated, limit) or _too_few(answer, evidence, by_text) or _too_wordy(answer, by_text):
        answer.completion_tokens, answer.chunk_tokens, found = None, [], True
        if not answer.chunks and answer.error is None:
            answer.error = "an answer without a token"
    outputs = limit if answer.completion_tokens is None else answer.completion_tokens
    if answer.prompt_tokens == 0 or not _possible(answer.prompt_tokens, evidence.prompt_limit):
        answer.prompt_tokens, found = None, True
    prompt = evidence.prompt_limit if answer.prompt_tokens is None else answer.prompt_tokens
    if not _possible(answer.reasoning_tokens, outputs):
        answer.reasoning_tokens, found = None, True
    if not _possible(answer.cached_tokens, prompt):
        answer.cached_tokens, found = None, True
    return found


def estimate(answer: Answer, evidence: Evidence, text: Text, *, streamed: bool) -> int:
    """The output tokens of an answer without a count that can be believed; more than the request allowed only where the text
    is surely longer.
    """
    events, most = len(answer.chunks) if streamed else min(1, len(answer.chunks)), evidence.most_tokens
    if _overrun(answer, evidence.output_limit, lambda: text):
        return max(text.tokens, events if events <= text.most_tokens else 0)
    if events > evidence.output_limit:  # pieces of tokens
        return max(1, min(text.tokens, most if most >= 0 else text.tokens))
    tokens = max(events, text.tokens)
    return min(tokens, max(events, most)) if most >= 0 else tokens


def spread(answer: Answer, tokens: int, by_text: Callable[[], Text]) -> int:
    """Fill ``chunk_tokens``, where nothing is known of each chunk and there are not as many tokens as chunks. Returns how
    many tokens nothing accounts for: they are in no chunk.

    Reasoning that the service counts and keeps to itself was over before the first chunk. If there are as many tokens as
    events with and without text, each is one, and those without text behind the first chunk become chunks. Else the tokens
    are those of the text, and each chunk has them by the text that it brought, the first one at least one.
    """
    chunks, sizes, before = len(answer.chunks), answer.chunk_sizes, answer.silent_before
    if answer.chunk_tokens or not chunks or tokens == chunks or len(sizes) != chunks or tokens <= answer.choices:
        return 0
    near = _near(chunks)
    shown = tokens - (answer.reasoning_tokens or 0)
    if answer.first_answer != 0 or shown + near < chunks:  # fewer than events: then the reasoning is in the text
        shown = tokens
    shown = max(min(tokens, chunks), shown)
    silent = answer.silent if answer.choices == 1 else []
    hidden = 0
    if (before or silent) and abs(chunks + before + len(silent) - shown) <= near:
        rest = max(0, shown - before - chunks)
        _share(answer, max(min(shown, chunks), shown - before - len(silent[:rest])))
        _take_silent(answer, silent[:rest])
        return 0
    if shown > chunks + near and shown * SHORT_TOKEN > sum(sizes):
        text = by_text()
        if text.tokens and shown > text.most_tokens + near:
            hidden, shown = shown - max(chunks, text.tokens), max(chunks, text.tokens)
    _share(answer, shown)
    return hidden


def _near(events: int) -> int:
    """By how much may tokens and events differ, and mean the same?"""
    return max(UNCOUNTED_EVENTS, events // UNCOUNTED_PART)


def _share(answer: Answer, tokens: int) -> None:
    """Give each chunk its part of these tokens."""
    sizes = answer.chunk_sizes
    total = sum(sizes)
    first = max(1.0, tokens * sizes[0] / total)
    rest = (tokens - first) / max(1, total - sizes[0])
    answer.chunk_tokens = [1.0] * len(sizes) if tokens == len(sizes) else [first, *(size * rest for size in sizes[1:])]


def _take_silent(answer: Answer, silent: Sequence[int]) -> None:
    """Make chunks of one token of these events without text, in order of time."""
    if not silent:
        return
    spoken = zip(answer.chunks, answer.chunk_sizes, answer.chunk_tokens, range(len(answer.chunks)), strict=True)
    merged = sorted([*spoken, *((read, 0, 1.0, -1) for read in silent)], key=lambda chunk: chunk[0])
    if answer.first_answer is not None:
        answer.first_answer = [number for *_, number in merged].index(answer.first_answer)
    answer.chunks, answer.chunk_sizes, answer.chunk_tokens = (
        [*column] for column in list(zip(*merged, strict=True))[:3]
    )


def _beyond(answer: Answer, limit: int) -> bool:
    """Is there more of anything than the limit?"""
    return max(answer.completion_tokens or 0, len(answer.chunks), *answer.stated_counts, 0) > limit


def _overrun(answer: Answer, limit: int, by_text: Callable[[], Text]) -> bool:
    """Is the answer itself longer than that, whatever is stated: has it more words, or more events and more tokens?"""
    if limit <= 0 or sum(answer.chunk_sizes) <= limit:
        return False
    text = by_text()
    return text.words > limit or (text.tokens > limit and len(answer.chunks) > limit)


def _too_wordy(answer: Answer, by_text: Callable[[], Text]) -> bool:
    """Has the text more words than tokens are stated?"""
    tokens = answer.completion_tokens
    if not tokens or sum(answer.chunk_sizes) <= LONG_TOKEN * tokens:
        return False
    return by_text().words > tokens + _near(tokens)


def _settle_stated(answer: Answer, evidence: Evidence, limit: int) -> bool:
    """The tokens of each chunk, from the counts that came with each; were they false?

    Most servers state the tokens so far, some those of the event alone: then the counts do not rise, and their sum can be.
    """
    stated, total = answer.stated_counts, answer.completion_tokens
    if not stated:
        return False
    if not all(_possible(count, limit) for count in stated):
        return True
    steps = [stated[0], *(later - earlier for earlier, later in itertools.pairwise(stated))]
    rises = min(steps) >= 0
    if rises and (len(stated) == 1 or stated[-1] > stated[0]):
        answer.chunk_tokens = [float(step) for step in steps]
        answer.completion_tokens = stated[-1] if total is None else total
        return False
    amount, allowed = sum(stated), limit if evidence.most_tokens < 0 else evidence.most_tokens
    if amount <= allowed and total in (None, stated[-1], amount):
        answer.completion_tokens = amount
        answer.chunk_tokens = [float(count) for count in stated]
        return False
    return not rises


def _too_few(answer: Answer, evidence: Evidence, by_text: Callable[[], Text]) -> bool:
    """Are there fewer tokens than events with text, and not because the server sends pieces of tokens?"""
    tokens, events = answer.completion_tokens, len(answer.chunks)
    if tokens is None or not events:
        return False
    near = _near(events)
    if tokens + near >= events > 0 and tokens:
        return False
    thought = answer.reasoning_tokens or 0
    if tokens and thought > 0 and events <= tokens + thought + near and tokens + thought <= evidence.output_limit:
        answer.completion_tokens = tokens + thought  # reasoning is not among its completion tokens
        return False
    if not tokens or events == evidence.most_tokens:
        return True
    if tokens == evidence.most_tokens or events > evidence.output_limit:
        return False
    return 2 * by_text().tokens > events


def _possible(count: int | None, most: int) -> bool:
    return count is None or 0 <= count <= most
