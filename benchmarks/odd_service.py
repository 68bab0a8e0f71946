"""Services that behave oddly, one kind at a time, and write down what was true. Started by odd_servers.py.

    python benchmarks/odd_service.py PORT KIND

Each answer of a well-behaved service: the first token after 40 ms, then one every 10 ms, 16 of them, and a usage that
counts them. GET /odd/truth answers with what was sent so far: requests, the share of them that was whole, tokens of an
answer, time to its first token and time per output token (null: nothing could be measured), in ms.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

FIRST_S, STEP_S, TOKENS = 0.040, 0.010, 16
WORDS = ["time", "year", "people", "way"]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n%b\r\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Step:
    """What is written at once, ``wait_s`` after the step before; ``tokens`` of the answer are in it."""

    data: bytes
    tokens: int = 0
    wait_s: float = STEP_S


@dataclass(frozen=True)
class Reply:
    """One answer. ``whole``: is it one that a user can use? ``end``: "chunk" as HTTP does, "never", "cut"."""

    steps: Sequence[Step] = ()
    whole: bool = True
    status: int = 200
    head: bytes = b""
    end: str = "chunk"
    streamed: bool = True


def event(body: Any) -> bytes:
    """An event with this JSON, which names its kind of object: AIPerf reads no other."""
    if not isinstance(body, bytes) and body.get("choices"):
        body = {"object": "chat.completion.chunk" if "delta" in body["choices"][0] else "text_completion", **body}
    return b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n"


def text(word: str = " time", **more: Any) -> bytes:
    """An event of the completions API."""
    return event({"choices": [{"index": 0, "text": word, "finish_reason": None}], **more})


def delta(**message: Any) -> bytes:
    """An event of the chat API."""
    return event({"choices": [{"index": 0, "delta": message, "finish_reason": None}]})


def usage(completion: Any, prompt: Any = 16) -> bytes:
    """The event with the counts."""
    total = prompt + completion if isinstance(completion, int) else 0
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return event({"choices": [], "usage": counts})


def steps(*tokens: bytes, counts: Sequence[int] = (), ends: bytes = b"") -> tuple[Step, ...]:
    """A step for each event, the first one after 40 ms; ``ends`` comes with the last."""
    amounts = counts or [1] * len(tokens)
    made = [Step(data, n, STEP_S if at else FIRST_S) for at, (data, n) in enumerate(zip(tokens, amounts, strict=True))]
    return (*made, Step(ends + DONE, 0, 0.0))


PLAIN = [text()] * TOKENS
GOOD = Reply(steps(*PLAIN, ends=usage(TOKENS)))


def stating(completion: Any) -> Reply:
    """Sixteen tokens, and this count of them."""
    return Reply(steps(*PLAIN, ends=usage(completion)))


def one_in(n: int, odd: Reply) -> Callable[[int], Reply]:
    """Every n-th answer is this one."""
    return lambda number: odd if number % n == n - 1 else GOOD


def always(reply: Reply) -> Callable[[int], Reply]:
    """The same for every request."""
    return lambda _: reply


PART = [event({"choices": [{"index": 0, "text": "t", "finish_reason": None}]})] * (4 * TOKENS)
PACKED = gzip.compress(b"".join(PLAIN) + usage(TOKENS) + DONE)
HELD = b"".join(PLAIN) + usage(TOKENS) + DONE
THOUGHT = [delta(reasoning_details=[{"type": "reasoning.text", "text": " time"}])] * 8 + [delta(content=" time")] * 8
PARTS = [delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": " time"}]}])] * 8
HALVES = [
    event(rb'{"object":"text_completion","choices":[{"index":0,"text":"\ud83d"}]}'),
    event(rb'{"object":"text_completion","choices":[{"index":0,"text":"\ude00"}]}'),
]
BEATS = [piece for one in PLAIN for piece in (one, b"data:\n\n")]
BROKEN = b'data: {"object":"text_completion","choices":[{"index":0,"text":"\xe4\xbd","finish_reason":null}]}\n\n'
FAILED = steps(*PLAIN[:4], event({"error": {"message": "CUDA out of memory", "code": 500}}))[:-1]


@dataclass(frozen=True)
class Kind:
    """One kind of oddness, and whether it is a chat."""

    what: str
    reply: Callable[[int], Reply]
    chat: bool = False
    warmup: int = 0


KINDS: dict[str, Kind] = {
    "good": Kind("nothing odd", always(GOOD)),
    "negative-usage": Kind("usage says -35 tokens", always(stating(-35))),
    "zero-usage": Kind("usage says 0 tokens", always(Reply(steps(*PLAIN, ends=usage(0, 0))))),
    "small-usage": Kind("usage says 5 tokens", always(stating(5))),
    "huge-usage": Kind("usage says 1,000,000 tokens", always(stating(1_000_000))),
    "usage-per-event": Kind(
        "each event's usage counts that event",
        always(Reply(steps(*[text(usage={"prompt_tokens": 16, "completion_tokens": 1, "total_tokens": 17})] * TOKENS))),
    ),
    "no-usage": Kind(
        "no usage, four words an event",
        always(Reply(steps(*[text(" " + " ".join(WORDS))] * 4, counts=[4] * 4))),
    ),
    "first-of-eight": Kind(
        "the first event brings 8 tokens",
        always(Reply(steps(text(" time" * 8), *PLAIN[:8], counts=[8] + [1] * 8, ends=usage(TOKENS)))),
    ),
    "two-an-event": Kind(
        "two tokens an event",
        always(Reply(steps(*[text(" time year")] * 8, counts=[2] * 8, ends=usage(TOKENS)))),
    ),
    "pieces": Kind(
        "four events a token",
        always(Reply(steps(*PART, counts=[1, 0, 0, 0] * TOKENS, ends=usage(TOKENS)))),
    ),
    "held-back": Kind(
        "a proxy holds the stream back to its end",
        always(Reply((Step(HELD, TOKENS, FIRST_S + 15 * STEP_S),), streamed=False)),
    ),
    "heartbeats": Kind(
        "empty data lines between the events",
        always(Reply(steps(*BEATS, counts=[1, 0] * TOKENS, ends=usage(TOKENS)))),
    ),
    "halves": Kind(
        "a character's halves escaped in two events",
        always(Reply(steps(*HALVES, *PLAIN[:14], ends=usage(TOKENS)))),
    ),
    "bad-utf8": Kind(
        "one answer in four holds broken UTF-8", one_in(4, Reply(steps(BROKEN, *PLAIN[:15], ends=usage(TOKENS))))
    ),
    "reasoning-details": Kind("reasoning in reasoning_details", always(Reply(steps(*THOUGHT, ends=usage(TOKENS)))), True),
    "thinking-parts": Kind(
        "reasoning as parts of the content",
        always(Reply(steps(*PARTS, *THOUGHT[8:], ends=usage(TOKENS)))), True,
    ),
    "connection-stays": Kind("[DONE], and the answer's end never comes", always(Reply(GOOD.steps, end="never"))),
    "gzip": Kind(
        "gzip that was not asked for",
        always(Reply((Step(PACKED, TOKENS, FIRST_S + 15 * STEP_S),), head=b"Content-Encoding: gzip\r\n", streamed=False)),
    ),
    "error-inside": Kind("one answer in four ends with an error event", one_in(4, Reply(FAILED, whole=False))),
    "cut-off": Kind(
        "one answer in four is cut off", one_in(4, Reply(steps(*PLAIN[:4])[:-1], whole=False, end="cut"))
    ),
    "loading": Kind(
        "503 to the first ten requests", lambda number: Reply(whole=False, status=503) if number < 10 else GOOD, warmup=10
    ),
}  # fmt: skip


@dataclass
class Truth:
    """What was sent."""

    requests: int = 0
    whole: int = 0
    tokens: list[int] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    tpot_ms: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, float | None]:
        """Means over the whole answers."""

        def mean(values: Sequence[float]) -> float | None:
            return sum(values) / len(values) if values else None

        return {
            "requests": self.requests,
            "whole_share": self.whole / self.requests if self.requests else None,
            "tokens": mean(self.tokens),
            "ttft_ms": mean(self.ttft_ms),
            "tpot_ms": mean(self.tpot_ms),
        }


class Service:
    """Answers requests of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.truth = kind, Truth()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
                if head.startswith(b"GET"):
                    self._tell(head, writer)
                elif (end := await self._answer(writer)) != "chunk":
                    if end == "never":
                        await reader.read()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _tell(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        models = {"object": "list", "data": [{"id": "mock", "object": "model", "max_model_len": 100_000}]}
        body = json.dumps(self.truth.to_json() if head.startswith(b"GET /odd/truth") else models).encode()
        if head.startswith(b"GET /odd/truth"):
            self.truth = Truth()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    async def _answer(self, writer: asyncio.StreamWriter) -> str:
        """Send one answer; how does it end?"""
        began, truth = time.monotonic(), self.truth
        reply = self.kind.reply(truth.requests)
        truth.requests += 1
        truth.whole += reply.whole  # also where the client then breaks it off
        if reply.status != 200:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7\r\n\r\nloading")
            return "chunk"
        writer.write(HEAD % reply.head)
        arrivals: list[tuple[float, int]] = []
        due = began
        for step in reply.steps:
            due += step.wait_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            writer.write(b"%x\r\n%b\r\n" % (len(step.data), step.data))
            await writer.drain()
            if step.data and step.wait_s:
                arrivals.append((time.monotonic(), step.tokens))
        if reply.whole:
            tokens = sum(amount for _, amount in arrivals)
            truth.tokens.append(tokens)
            truth.ttft_ms.append((arrivals[0][0] - began) * 1000)
            if reply.streamed:
                truth.tpot_ms.append((arrivals[-1][0] - arrivals[0][0]) * 1000 / (tokens - arrivals[0][1]))
        if reply.end == "chunk":
            writer.write(b"0\r\n\r\n")
        return reply.end


async def main() -> None:
    """Serve until SIGTERM."""
    service = Service(KINDS[sys.argv[2]])
    server = await asyncio.start_server(service.connected, "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
