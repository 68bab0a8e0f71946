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


@dataclass(slots=True)
class Answer:
    """The content of an answer. Mistakes are kept in ``error``, never raised; ``error`` None: it was complete.

    ``chunks``: one entry per event (or, not streamed, one for the whole answer) that carried content: the number of the
    read that brought its last byte. ``chunk_tokens``: tokens of each chunk where the server said so (continuous usage),
    else empty. ``first_answer``: index into ``chunks`` of the first one that is not reasoning, None without any.
    ``text``: the content (without reasoning), filled only if asked for. Token counts: None if the server did not say.
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

    ``texts_before``: texts of a turn that come before the batch of prompt_batch_size (the query of rankings).
    """

    default_path: str
    produces_tokens = True
    texts_before = 0

    def __init__(self, model: str, options: LoadgenOptions) -> None:
        self.model = model
        self.options = options
        self.path = options.custom_endpoint or self.default_path

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

    def continued(self, history: Sequence[ChatMessage], turn: Turn, text: str) -> list[ChatMessage]:
        """The history after this turn was answered with ``text``."""
        mine = turn.messages or ({"role": "user", "content": "\n".join(turn.texts)},)
        system = ({"role": "system", "content": turn.system},) if turn.system and not history else ()
        return [*history, *system, *mine, {"role": "assistant", "content": text}]
