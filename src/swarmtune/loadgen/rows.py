"""One row per measured request: what was asked, what came when, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How a request ended. Incomplete: the measurement ended before its answer did; that is nobody's failure."""

    COMPLETED = "completed"
    FAILED = "failed"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Row:
    """One request. All ``_ns`` are CLOCK_MONOTONIC nanoseconds, taken when the bytes were read.

    ``token_ns`` has one stamp per chunk with content; ``end_ns`` is when the answer's last byte came or when it was
    given up. ``output_tokens`` is the server's count if it gave one, else the number of chunks with content.
    """

    id: str
    scheduled_ns: int
    sent_ns: int | None
    token_ns: tuple[int, ...]
    end_ns: int
    input_tokens: int
    output_tokens: int
    outcome: Outcome
    error: str | None = None
    status: int | None = None
    retried: bool = False

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: first chunk with content (or reasoning) minus send."""
        return (self.token_ns[0] - self.sent_ns) / 1e6 if self.token_ns and self.sent_ns is not None else None

    @property
    def e2el_ms(self) -> float | None:
        """End-to-end latency: last chunk with content minus send."""
        return (self.token_ns[-1] - self.sent_ns) / 1e6 if self.token_ns and self.sent_ns is not None else None

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first: (e2el - ttft) / (output_tokens - 1), with at least two tokens."""
        if not self.token_ns or self.output_tokens < 2:
            return None
        return (self.token_ns[-1] - self.token_ns[0]) / 1e6 / (self.output_tokens - 1)

    def to_json(self) -> dict[str, Any]:
        """Plain data; first and last token stamps and ``ok`` are there for readers."""
        return {
            **asdict(self),
            "ok": self.outcome is Outcome.COMPLETED,
            "first_token_ns": self.token_ns[0] if self.token_ns else None,
            "last_token_ns": self.token_ns[-1] if self.token_ns else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """Inverse of ``to_json``."""
        known = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "token_ns": tuple(data["token_ns"]), "outcome": Outcome(data["outcome"])})
