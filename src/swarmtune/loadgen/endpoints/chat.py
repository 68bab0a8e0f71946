"""OpenAI chat completions, as vLLM, SGLang, llama.cpp and MindIE serve them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from swarmtune.loadgen.endpoints.base import Answer, ChatMessage, Endpoint, Piece
from swarmtune.loadgen.endpoints.bodies import messages_of, payload_of, streamed
from swarmtune.loadgen.endpoints.chunks import Reader
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.session import Turn


class Chat(Endpoint):
    """``max_tokens`` and not ``max_completion_tokens``: every server here knows the older name, llama.cpp and MindIE
    only it.
    """

    default_path = "/v1/chat/completions"
    limit_field = "max_tokens"

    def __init__(self, model: str, options: LoadgenOptions) -> None:
        super().__init__(model, options)
        self._extra = options.extra_body()

    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        if turn.payload is not None:
            return payload_of(turn, self.model, self._extra, stream=self.streams)
        body: dict[str, Any] = {"model": self.model, **self._asked(turn, history), "temperature": 0}
        if turn.output_tokens is not None:
            body["max_tokens"] = turn.output_tokens
            if self.options.ignore_eos:
                body["ignore_eos"] = True
        return orjson.dumps(streamed(body, stream=self.streams) | self._extra | dict(turn.extra))

    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        reader = Reader(keep_text)
        return reader.stream(pieces) if self.streams else reader.whole(pieces)

    def _asked(self, turn: Turn, history: Sequence[ChatMessage]) -> dict[str, Any]:
        return {"messages": messages_of(turn, history)}
