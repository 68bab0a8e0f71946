"""Which of the token counts that a service states can be true? The others are as if it had not stated them. Pure.

A count of output tokens can be true if the request allowed so many, and if either the bytes of the answer can hold them
(a token takes at least one byte there: text, or the event around it), or the time was long enough to make so many that do
not show (reasoning that is kept back, special tokens without text).
"""

from __future__ import annotations

from dataclasses import dataclass

from swarmtune.loadgen.endpoints.base import Answer

ALLOWED_MORE = 8  # tokens beyond the limit of a request: some servers count the end of the text, too
ALLOWED_PART = 50  # and one in so many
FASTEST = 20_000  # tokens per second of one answer: several times what any service makes
TEMPLATE_TOKENS = 2**17  # of a prompt, that the service itself may add: its template, tools, images behind an address


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an exchange without the service's word.

    ``most_tokens``: what the request allowed, -1 if it set no limit; ``duration_ns``: from sending to the answer's end;
    ``sent_bytes``, ``received_bytes``: heads included.
    """

    most_tokens: int
    duration_ns: int
    sent_bytes: int
    received_bytes: int

    @property
    def output_limit(self) -> int:
        """More output tokens than this cannot be."""
        possible = max(self.received_bytes, self.duration_ns * FASTEST // 1_000_000_000)
        if self.most_tokens < 0:
            return possible
        return min(possible, self.most_tokens + max(ALLOWED_MORE, self.most_tokens // ALLOWED_PART))


def disbelieve(answer: Answer, evidence: Evidence) -> bool:
    """Take out of the answer each count that cannot be true; was there one?

    An answer without content whose only sign of a token was such a count becomes an error.
    """
    limit = evidence.output_limit
    found = False
    if not _possible(answer.completion_tokens, limit):
        answer.completion_tokens, answer.chunk_tokens, found = None, [], True
        if not answer.chunks and answer.error is None:
            answer.error = "an answer without a token"
    outputs = limit if answer.completion_tokens is None else answer.completion_tokens
    if not _possible(answer.prompt_tokens, evidence.sent_bytes + TEMPLATE_TOKENS):
        answer.prompt_tokens, found = None, True
    prompt = evidence.sent_bytes + TEMPLATE_TOKENS if answer.prompt_tokens is None else answer.prompt_tokens
    if not _possible(answer.reasoning_tokens, outputs):
        answer.reasoning_tokens, found = None, True
    if not _possible(answer.cached_tokens, prompt):
        answer.cached_tokens, found = None, True
    if max(answer.chunk_tokens, default=0) > outputs:
        answer.chunk_tokens, found = [], True
    return found


def _possible(count: int | None, most: int) -> bool:
    return count is None or 0 <= count <= most
