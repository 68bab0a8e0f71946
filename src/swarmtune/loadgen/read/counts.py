"""How many tokens has an answer? What the service states is evidence, and held against what came. Pure.

A count of output tokens is believed if the request allowed so many; if either the bytes of the answer can hold them (a token
takes at least one byte there: text, or the event around it), or the time was long enough to make so many that do not show
(reasoning that is kept back, special tokens without text); and if they are as many as the events that carried text, or the
server is seen to send pieces of tokens: their number is what the request allowed, or the text itself is that short. Where
no count can be believed, the tokens are estimated: as many as the built-in tokenizer finds in the text, and as many as there
were events with text.

A count of prompt tokens is believed if the bytes of the request can hold them, beside what the service may add by itself:
a template, a system prompt, tools. ``HIDDEN_TOKENS`` holds the longest of those that inference services add. Embeddings and
ranks may add it to each text. Whether counts fit the prompts within that is seen over all requests (judge/prompts.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from swarmtune.loadgen.endpoints.base import Answer

ALLOWED_MORE = 2  # tokens beyond the limit of a request: some servers count the end of the text, too
ALLOWED_PART = 50  # and one in so many
FASTEST = 20_000  # tokens per second of one answer: several times what any service makes
HIDDEN_TOKENS = 2**14  # of a prompt, that the service itself may add: its template, a system prompt, tools
UNCOUNTED_EVENTS = 2  # events with text beyond the tokens: an end of the text, a rest that was held back
UNCOUNTED_PART = 10  # and one in so many


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
    def output_limit(self) -> int:
        """More output tokens than this cannot be."""
        possible = max(self.received_bytes, self.duration_ns * FASTEST // 1_000_000_000)
        if self.most_tokens < 0:
            return possible
        return min(possible, self.most_tokens + max(ALLOWED_MORE, self.most_tokens // ALLOWED_PART))


def settle(answer: Answer, evidence: Evidence, by_text: Callable[[], int]) -> bool:
    """Take out of the answer each count that cannot be true, and fill ``chunk_tokens``; was there a false one?

    ``by_text``: the tokens of its text by a tokenizer; called only where it matters. An answer without content whose only
    sign of a token was such a count becomes an error.
    """
    limit = evidence.output_limit
    found = _settle_stated(answer, evidence, limit)
    if not _possible(answer.completion_tokens, limit) or _too_few(answer, evidence, by_text):
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


def estimate(answer: Answer, evidence: Evidence, by_text: int, *, streamed: bool) -> int:
    """The output tokens of an answer without a count that can be believed. ``by_text``: those of its text."""
    events = len(answer.chunks) if streamed else min(1, len(answer.chunks))
    if events > evidence.output_limit:  # pieces of tokens
        return max(1, min(by_text, evidence.most_tokens if evidence.most_tokens >= 0 else by_text))
    tokens = max(events, by_text)
    return min(tokens, max(events, evidence.most_tokens)) if evidence.most_tokens >= 0 else tokens


def spread(answer: Answer, tokens: int) -> None:
    """Fill ``chunk_tokens`` by the text that each chunk brought, where nothing is known of each and there are not as many
    tokens as chunks. The first chunk of an answer brings at least one token. Reasoning that the service counts and keeps to
    itself came with none of them: it was over before the first.
    """
    chunks, sizes = len(answer.chunks), answer.chunk_sizes
    if answer.chunk_tokens or chunks < 2 or tokens == chunks or len(sizes) != chunks or tokens <= answer.choices:
        return
    streamed = tokens - (answer.reasoning_tokens or 0)
    if answer.first_answer == 0 and streamed + max(UNCOUNTED_EVENTS, chunks // UNCOUNTED_PART) >= chunks:
        tokens = max(chunks, streamed)  # fewer than events: then the reasoning is in the text
    total = sum(sizes)
    first = max(1.0, tokens * sizes[0] / total)
    rest = (tokens - first) / max(1, total - sizes[0])
    answer.chunk_tokens = [first, *(size * rest for size in sizes[1:])]


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
        return False
    amount, allowed = sum(stated), limit if evidence.most_tokens < 0 else evidence.most_tokens
    if amount <= allowed and total in (None, stated[-1], amount):
        answer.completion_tokens = amount
        answer.chunk_tokens = [float(count) for count in stated]
        return False
    return not rises


def _too_few(answer: Answer, evidence: Evidence, by_text: Callable[[], int]) -> bool:
    """Are there fewer tokens than events with text, and not because the server sends pieces of tokens?"""
    tokens, events = answer.completion_tokens, len(answer.chunks)
    if tokens is None or not events:
        return False
    if tokens + max(UNCOUNTED_EVENTS, events // UNCOUNTED_PART) >= events > 0 and tokens:
        return False
    thought = answer.reasoning_tokens or 0
    near = max(UNCOUNTED_EVENTS, events // UNCOUNTED_PART)
    if tokens and thought > 0 and events <= tokens + thought + near and tokens + thought <= evidence.output_limit:
        answer.completion_tokens = tokens + thought  # reasoning is not among its completion tokens
        return False
    if not tokens or events == evidence.most_tokens:
        return True
    if tokens == evidence.most_tokens or events > evidence.output_limit:
        return False
    return 2 * by_text() > events


def _possible(count: int | None, most: int) -> bool:
    return count is None or 0 <= count <= most
