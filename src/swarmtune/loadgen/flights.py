"""A request on its way: the raw facts until the run is over, then a row."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from swarmtune.loadgen import sse
from swarmtune.loadgen.client import Exchange
from swarmtune.loadgen.requests import Request
from swarmtune.loadgen.rows import Outcome, Row

OK = 200
EXCERPT = 200  # characters of an error body that a row keeps


@dataclass
class Flight:
    """One request from its scheduled time on. ``ended`` stays False when the run was over before the answer was."""

    request: Request
    scheduled_ns: int
    exchange: Exchange = field(default_factory=Exchange)
    ended: bool = False
    _answer: sse.Answer | None = None

    def read(self) -> sse.Answer:
        """Understand the raw answer and let go of it."""
        if self._answer is None:
            self._answer = sse.read(self.exchange.pieces) if self.exchange.status == OK else self._refusal()
            self.exchange.pieces.clear()
        return self._answer

    def row(self, given_up_ns: int) -> Row:
        """The finished row; ``given_up_ns`` is when the run stopped waiting."""
        answer, exchange = self.read(), self.exchange
        error = answer.error if answer.finished or not exchange.error else exchange.error
        outcome = Outcome.FAILED if error else Outcome.COMPLETED
        if not self.ended:
            outcome = Outcome.INCOMPLETE
            error = "not answered before the end" if exchange.sent_ns else "not sent before the end: no free slot"
        return Row(
            id=self.request.id,
            scheduled_ns=self.scheduled_ns,
            sent_ns=exchange.sent_ns,
            token_ns=tuple(answer.stamps_ns),
            end_ns=exchange.end_ns or given_up_ns,
            input_tokens=self.request.input_tokens if answer.prompt_tokens is None else answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            outcome=outcome,
            error=error,
            status=exchange.status,
            retried=exchange.retried,
        )

    def _refusal(self) -> sse.Answer:
        """The answer of a request that got no 200."""
        if self.exchange.status is None:
            return sse.Answer(error=self.exchange.error or "no answer")
        body = b"".join(data for _, data in self.exchange.pieces)
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            parsed = None
        message = sse.error_message(parsed) if isinstance(parsed, dict) else body.decode(errors="replace")
        return sse.Answer(error=f"HTTP {self.exchange.status}: {message.strip()[:EXCERPT]}".rstrip(": "))
