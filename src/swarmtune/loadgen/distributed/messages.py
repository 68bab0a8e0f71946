"""What services tell each other: one type per topic, frozen, packed as MessagePack.

Between processes these are all there is. Credits go in blocks; nothing is sent per request.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, ClassVar

import msgspec

from swarmtune.errors import (
    BenchmarkExecutionError,
    CommunicationError,
    ConfigPathError,
    ConfigurationError,
    ConfigValidationError,
    SwarmTuneError,
)
from swarmtune.loadgen.ask.source import Block
from swarmtune.loadgen.records import WorkerFacts


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all. Its class is its topic."""


class Heartbeat(Message, frozen=True):
    """Once per second from every service."""

    state: str


class Hello(Message, frozen=True):
    """A host has come, with room for so many workers."""

    workers: int


class Spawn(Message, frozen=True):
    """To a worker manager: start these workers. Answered by Done."""

    workers: list[str]


class Data(Message, frozen=True):
    """From the dataset manager: the fingerprint of the run's data, and how many sessions there are (-1: without end)."""

    digest: str
    sessions: int


class Configure(Message, frozen=True):
    """To a worker: the run (JSON, secret headers included), and which of how many workers it is. Answered by Configured."""

    spec: str
    worker: int
    workers: int
    granted: bool


class Configured(Message, frozen=True):
    """The fingerprint of a worker's replica of the data."""

    digest: str


class Prepare(Message, frozen=True):
    """To a worker: its first credits (None: it knows them itself); connect. Answered by Done."""

    block: Block | None


class Execute(Message, frozen=True):
    """To a worker: warm up, measure. Answered by Done when all is over."""


class AtBarrier(Message, frozen=True):
    """From a worker: warmed up."""


class Begin(Message, frozen=True):
    """To a worker: the measurement starts at this CLOCK_MONOTONIC of its host, ns."""

    started_ns: int


class Low(Message, frozen=True):
    """From a worker: credits run low."""


class Grant(Message, frozen=True):
    """To a worker: more credits. None: there are no more."""

    block: Block | None


class Counts(Message, frozen=True):
    """From a worker, a few times per second; see worker.Progress."""

    sent: int
    ended: int
    failed: int
    in_flight: int
    warming_up: bool


class Stop(Message, frozen=True):
    """To all: end the run; what there is will be used."""


class Collect(Message, frozen=True):
    """To a worker: understand your spool and leave the columns as files. Answered by Collected."""


class Collected(Message, frozen=True):
    """Where the columns are, and the rest of the worker's Records. Times: its host's."""

    directory: str
    errors: list[str]
    facts: WorkerFacts
    started_ns: int
    ended_ns: int
    request_prefix: str
    lost: bool


class ReadPiece(Message, frozen=True):
    """To a worker manager: a part of a worker's file. Answered by Piece."""

    worker: str
    file: str
    offset: int


class Piece(Message, frozen=True):
    """``data``: compressed (zlib). ``following``: the next offset, -1 at the end."""

    data: bytes
    following: int


class Ping(Message, frozen=True):
    """To a clock. Answered by Pong."""


class Pong(Message, frozen=True):
    """CLOCK_MONOTONIC of the host when the ping came and when this went, ns."""

    received_ns: int
    sent_ns: int


class Died(Message, frozen=True):
    """From a worker manager: this worker is no more, and why."""

    worker: str
    reason: str


class Kill(Message, frozen=True):
    """To all worker managers: end this worker at once; the reason is told in Died."""

    worker: str
    reason: str


class Gone(Message, frozen=True):
    """From a bus to its own services: the sender cannot be reached any more."""


class Shutdown(Message, frozen=True):
    """To a worker or a host: leave. ``reason``: why, if the work is not done."""

    reason: str = ""


class Done(Message, frozen=True):
    """The answer to a command that has no other."""


class Failure(Message, frozen=True):
    """The answer to a command that failed. ``kind``: name of the error's class; ``number``: errno of an OSError."""

    KINDS: ClassVar[dict[str, type[SwarmTuneError]]] = {
        kind.__name__: kind
        for kind in (CommunicationError, ConfigPathError, ConfigurationError, BenchmarkExecutionError)
    }
    kind: str
    texts: list[str]
    number: int = 0

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What an error becomes on its way to another process."""
        if isinstance(error, ConfigValidationError):
            return cls("ConfigValidationError", error.mistakes)
        if isinstance(error, OSError):
            return cls("OSError", [error.strerror or str(error), str(error.filename or "")], error.errno or 0)
        if isinstance(error, SwarmTuneError):
            kind = next((k.__name__ for k in type(error).__mro__ if k.__name__ in cls.KINDS), "")
            return cls(kind, [error.message])
        return cls("", [repr(error)])

    def error(self, sender: str) -> Exception:
        """And what it is there. An error that is not ours names its process."""
        if self.kind == "ConfigValidationError":
            return ConfigValidationError(self.texts)
        if self.kind == "OSError":
            return OSError(self.number, *(text for text in self.texts if text))
        if self.kind in self.KINDS:
            return self.KINDS[self.kind](self.texts[0])
        return BenchmarkExecutionError(f"{sender} failed: {self.texts[0]}")


if TYPE_CHECKING:
    Anything = Message
else:
    Anything = functools.reduce(operator.or_, Message.__subclasses__())


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A message on its way. ``to`` empty: to all. ``number`` above 0: an answer is wanted; ``answers``: this is it."""

    sender: str
    to: str
    number: int
    answers: int
    message: Anything


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def pack(envelope: Envelope) -> bytes:
    """As bytes."""
    return _encoder.encode(envelope)


def unpack(data: bytes) -> Envelope:
    """CommunicationError on bytes that are none."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CommunicationError(
            f"What another process sent is not understood ({error}); do all hosts run the same version of swarmtune?"
        ) from error
