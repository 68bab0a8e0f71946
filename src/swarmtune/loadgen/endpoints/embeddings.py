"""OpenAI embeddings: a batch of texts, answered at once; there are no output tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from swarmtune.loadgen.endpoints.base import Answer, ChatMessage, Endpoint, Piece
from swarmtune.loadgen.endpoints.sse import excerpt, join, prompt_tokens, whole
from swarmtune.workload.session import Turn


class _Embedded(msgspec.Struct):
    data: list[msgspec.Raw]  # vectors of thousands of numbers: they are not decoded
    usage: Any = None
    error: Any = None


DECODE = msgspec.json.Decoder(_Embedded).decode


class Embeddings(Endpoint):
    """An answer has no chunks and 0 completion tokens; ``finished`` says that it brought vectors."""

    default_path = "/v1/embeddings"
    produces_tokens = False

    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        del history  # embeddings have no conversations
        if turn.payload is not None:
            return orjson.dumps({**turn.payload, "model": self.model})
        body = {"model": self.model, "input": list(turn.texts), "encoding_format": "float"}
        return orjson.dumps(body | self.options.extra_body() | dict(turn.extra))

    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        del keep_text  # there is none
        answer = Answer(completion_tokens=0)
        try:
            found = DECODE(join(pieces))
        except (msgspec.MsgspecError, RecursionError):
            found = None
        if found is None or found.error or not found.data:
            if whole(pieces, answer) is not None:
                answer.error = f"an answer without embeddings: {excerpt(join(pieces))}"
            return answer
        answer.prompt_tokens = prompt_tokens(found.usage)
        answer.finished = True
        return answer
