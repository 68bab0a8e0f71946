"""Rankings: a query and passages, answered with their order. The path decides the form of the body."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from swarmtune.loadgen.endpoints.base import Answer, ChatMessage, Endpoint, Piece
from swarmtune.loadgen.endpoints.bodies import plain_payload
from swarmtune.loadgen.endpoints.sse import excerpt, join, prompt_tokens, whole
from swarmtune.workload.session import Turn

FEWER = ("top_n", "top_k")  # fields that ask for some of the ranks only
SCORES = ("logit", "relevance_score", "score")


class Rankings(Endpoint):
    """NVIDIA NIM at /v1/ranking (AIPerf's nim_rankings); Cohere, Jina and vLLM at /v1/rerank and /v2/rerank; Hugging
    Face TEI at /rerank. An answer has no chunks and 0 completion tokens.
    """

    default_path = "/v1/ranking"
    produces_tokens = False
    texts_before = 1  # the query

    def refusal(self, turn: Turn) -> str:
        wrong = turn.messages or turn.system or len(turn.texts) <= self.texts_before
        return "this endpoint needs 'texts': the query and its passages" if wrong else ""

    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        del history  # rankings have no conversations
        if turn.payload is not None:
            return orjson.dumps(plain_payload(turn, self.model, self.options.extra_body()))
        return orjson.dumps(self._asked(turn) | self.options.extra_body() | dict(turn.extra))

    def _asked(self, turn: Turn) -> dict[str, Any]:
        query, passages = turn.texts[0], list(turn.texts[1:])
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[-1] != "rerank":
            return {"model": self.model, "query": {"text": query}, "passages": [{"text": text} for text in passages]}
        if len(parts) == 1:
            return {"query": query, "texts": passages}
        return {"model": self.model, "query": query, "documents": passages}

    def expected_results(self, turn: Turn) -> int:
        given = self.options.extra_body().keys() | turn.extra.keys()
        return len(turn.texts) - 1 if turn.payload is None and not given & set(FEWER) else -1

    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        del keep_text  # there is none
        answer = Answer(completion_tokens=0)
        body = join(pieces)
        if body.lstrip().startswith(b"["):
            body = b'{"results":%b}' % body  # TEI answers with the list itself
        found = whole([(0, body)], answer)
        if found is None:
            return answer
        ranks = found.get("rankings") or found.get("results") or found.get("data")
        if not ranks:
            answer.error = f"an answer without a ranking: {excerpt(body)}"
            return answer
        if (trouble := ranks_trouble(ranks)) is not None:
            answer.error = trouble
            return answer
        answer.results = len(ranks)
        answer.highest = max(rank["index"] for rank in ranks)
        answer.prompt_tokens = prompt_tokens(found.get("usage"))
        answer.finished = True
        return answer


def ranks_trouble(ranks: Any) -> str | None:
    """What is wrong with the ranks of an answer; None: nothing."""
    if not isinstance(ranks, list) or not all(isinstance(rank, Mapping) for rank in ranks):
        return "a ranking that is no list of ranks"
    if not all(any(is_number(rank.get(name)) for name in SCORES) for rank in ranks):
        return "a rank without a score"
    numbers = [rank.get("index") for rank in ranks]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
        return "a rank without the number of its passage"
    return "two ranks of one passage" if len(set(numbers)) < len(numbers) else None


def is_number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
