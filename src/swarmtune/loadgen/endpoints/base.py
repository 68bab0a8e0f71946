"""The contract of an endpoint: turn in, body out; answer bytes in, Answer out. Pure: no sockets, no clocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.session import Turn

Piece = tuple[int, bytes]  # (where the bytes came from: the number of the read, body bytes of that read)
ChatMessage = Mapping[str, Any]  # a chat message: role and content
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens")  # on the output tokens,
CHOICES = ("n", "best_of")  # and fields that ask for several answers at once
DECIDING = (*LIMITS, *CHOICES)


@dataclass(slots=True)
class Answer:
    """The content of an answer. Mistakes are kept in ``error``, never raised; ``error`` None: it was complete.

    ``chunks``: one entry per event (or, not streamed, one for the whole answer) that carried content: the number of the
    read that brought its last byte. ``chunk_tokens``: tokens of each chunk where the server said so (continuous usage),
    else empty. ``first_answer``: index into ``chunks`` of the first one that is not reasoning, None without any.
    ``text``: the content (without reasoning), filled only if asked for. Token counts: None if the server did not say,
    -1 if it said what is no count; whether the others can be true is decided by read/counts.py.
    """

    chunks: list[int] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    first_answer: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    text: str = ""
    finished: bool = False
    error: str | None = None


class Endpoint(ABC):
    """One API. ``produces_tokens`` False: it has no output tokens (embeddings, rankings), only a latency.

    ``limit_field``: the field of the body with the most output tokens; empty: it sends none.
    ``texts_before``: texts of a turn that come before the batch of prompt_batch_size (the query of rankings).
    """

    default_path: str
    produces_tokens = True
    limit_field = ""
    texts_before = 0

    def __init__(self, model: str, options: LoadgenOptions) -> None:
        self.model = model
        self.options = options
        self.path = options.custom_endpoint or self.default_path
        self._given = {name: value for name, value in options.extra_body().items() if name in DECIDING}

    @property
    def streams(self) -> bool:
        """Do answers come as an event stream?"""
        return self.options.streaming and self.produces_tokens

    @abstractmethod
    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        """The JSON body of this turn's request, after the messages of the turns before."""

    @abstractmethod
    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        """Understand the body of a 200 answer, streamed or not."""

    def most_tokens(self, turn: Turn) -> int:
        """The output tokens that this turn's request allows, those of all its choices together; -1: it sets no limit."""
        if turn.output_tokens is None or not self.limit_field:
            return -1
        if turn.payload is None:
            given: Mapping[str, Any] = {**self._given, **turn.extra} if turn.extra else self._given
            limits = 1 + sum(name in given for name in LIMITS)
        else:
            given = turn.payload
            limits = sum(name in given for name in LIMITS)
        if limits != 1:  # which one the service obeys is not known
            return -1
        choices = [n for name in CHOICES if isinstance(n := given.get(name), int)]
        return turn.output_tokens * max(1, *choices) if choices else turn.output_tokens

    def continued(self, history: Sequence[ChatMessage], turn: Turn, text: str) -> list[ChatMessage]:
        """The history after this turn was answered with ``text``."""
        mine = turn.messages or ({"role": "user", "content": "\n".join(turn.texts)},)
        system = ({"role": "system", "content": turn.system},) if turn.system and not history else ()
        return [*history, *system, *mine, {"role": "assistant", "content": text}]


def understood(endpoint: Endpoint, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
    """``endpoint.read``, whatever the service sent, and also where a plugin's endpoint did not expect it."""
    try:
        return endpoint.read(pieces, keep_text=keep_text)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return Answer(error=f"an answer that cannot be read: {type(error).__name__}: {str(error)[:200]}")
