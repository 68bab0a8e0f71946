"""Rankings: a query and passages, answered with their order. The path decides the form of the body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from swarmtune.loadgen.endpoints.base import Answer, ChatMessage, Endpoint, Piece
from swarmtune.loadgen.endpoints.sse import excerpt, join, prompt_tokens, whole
from swarmtune.workload.session import Turn


class Rankings(Endpoint):
    """NVIDIA NIM at /v1/ranking (AIPerf's nim_rankings); Cohere, Jina and vLLM at /v1/rerank and /v2/rerank; Hugging
    Face TEI at /rerank. An answer has no chunks and 0 completion tokens.
    """

    default_path = "/v1/ranking"
    produces_tokens = False
    texts_before = 1  # the query

    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        del history  # rankings have no conversations
        if turn.payload is not None:
            return orjson.dumps({**turn.payload, "model": self.model})
        return orjson.dumps(self._asked(turn) | self.options.extra_body() | dict(turn.extra))

    def _asked(self, turn: Turn) -> dict[str, Any]:
        query, passages = turn.texts[0], list(turn.texts[1:])
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[-1] != "rerank":
            return {"model": self.model, "query": {"text": query}, "passages": [{"text": text} for text in passages]}
        if len(parts) == 1:
            return {"query": query, "texts": passages}
        return {"model": self.model, "query": query, "documents": passages}

    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        del keep_text  # there is none
        answer = Answer(completion_tokens=0)
        body = join(pieces)
        if body.lstrip().startswith(b"["):
            body = b'{"results":%b}' % body  # TEI answers with the list itself
        found = whole([(0, body)], answer)
        if found is None:
            return answer
        if not (found.get("rankings") or found.get("results") or found.get("data")):
            answer.error = f"an answer without a ranking: {excerpt(body)}"
            return answer
        answer.prompt_tokens = prompt_tokens(found.get("usage"))
        answer.finished = True
        return answer
