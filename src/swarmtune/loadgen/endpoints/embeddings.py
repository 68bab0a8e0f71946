"""OpenAI embeddings: a batch of texts, answered at once; there are no output tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from swarmtune.loadgen.endpoints.base import Answer, ChatMessage, Endpoint, Piece
from swarmtune.loadgen.endpoints.bodies import plain_payload
from swarmtune.loadgen.endpoints.sse import excerpt, join, prompt_tokens, whole
from swarmtune.workload.session import Turn


class _Embedded(msgspec.Struct):
    data: list[msgspec.Raw]  # vectors of thousands of numbers: they are not decoded
    usage: Any = None
    error: Any = None


VECTOR = re.compile(rb'"embedding"\s*:\s*')
INDEX = re.compile(rb'"index"\s*:\s*(\d+)')
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
DIGITS = tuple(b"%d" % digit for digit in range(10))
DECODE = msgspec.json.Decoder(_Embedded).decode


class Embeddings(Endpoint):
    """An answer has no chunks and 0 completion tokens; ``finished`` says that it brought vectors."""

    default_path = "/v1/embeddings"
    produces_tokens = False

    def refusal(self, turn: Turn) -> str:
        return "this endpoint sends 'text' or 'texts' only, no messages" if turn.messages or turn.system else ""

    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        del history  # embeddings have no conversations
        if turn.payload is not None:
            return orjson.dumps(plain_payload(turn, self.model, self.options.extra_body()))
        body = {"model": self.model, "input": list(turn.texts), "encoding_format": "float"}
        return orjson.dumps(body | self.options.extra_body() | dict(turn.extra))

    def expected_results(self, turn: Turn) -> int:
        return len(turn.texts) if turn.payload is None else -1

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
        if (trouble := vectors_trouble([bytes(entry) for entry in found.data])) is not None:
            answer.error = trouble
            return answer
        answer.finished, answer.results = True, len(found.data)
        return answer


def vectors_trouble(entries: Sequence[bytes]) -> str | None:
    """What is wrong with the vectors of an answer; None: nothing. They are looked at, and not decoded."""
    sizes = [size_of(entry) for entry in entries]
    if None in sizes:
        return f"an embedding without numbers: {excerpt(entries[sizes.index(None)])}"
    if len(set(sizes)) > 1:
        return "embeddings of different lengths"
    numbers = [found[1] for entry in entries if (found := INDEX.search(entry))]
    return "two embeddings of one index" if len(set(numbers)) < len(numbers) else None


def size_of(entry: bytes) -> int | None:
    """How long its vector is: numbers, or characters of base64; None: it has none."""
    begin = VECTOR.search(entry)
    rest = b"" if begin is None else entry[begin.end() :]
    if rest[:1] == b'"':
        text = rest[1:].partition(b'"')[0].replace(b"\\/", b"/")
        return len(text) if text and BASE64.fullmatch(text) else None
    if rest[:1] == b"{":  # a sparse vector
        return 0
    if rest[:1] != b"[":
        return None
    numbers = rest.partition(b"]")[0]
    if b"null" in numbers or b'"' in numbers or not any(digit in numbers for digit in DIGITS):
        return None
    return 0 if numbers[:2] == b"[[" else numbers.count(b",") + 1  # several vectors of a text may be of any number
