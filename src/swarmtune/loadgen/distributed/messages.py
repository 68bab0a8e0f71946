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
from swarmtune.loadgen.distributed.clocks import ClockRelation
from swarmtune.loadgen.judge.certify import Certificate
from swarmtune.loadgen.judge.summary import Results
from swarmtune.loadgen.records import Progress, WorkerFacts
from swarmtune.records import EarlyStop


class BusMessage(msgspec.Struct, frozen=True, tag=True):
    """Base of all. Its class is its topic."""


class Heartbeat(BusMessage, frozen=True):
    """A sign of life, at least once per second; a worker that sends load also tells how far it is."""

    state: str
    progress: Progress | None = None


class Hello(BusMessage, frozen=True):
    """A host has come, with room for so many workers."""

    workers: int


class Configure(BusMessage, frozen=True):
    """To a service: the run (JSON, secret headers included). Answered by Done.

    To a worker also: which of how many it is, whether its credits are granted in blocks, and the fingerprint that its
    data must have.
    """

    spec: str
    worker: int = 0
    workers: int = 1
    granted: bool = False
    digest: str = ""


class Start(BusMessage, frozen=True):
    """To a service: be ready. A worker makes payloads and connects. Answered by Done."""


class Data(BusMessage, frozen=True):
    """From the dataset manager to all: the fingerprint of the run's data, and all credits of the measurement."""

    digest: str
    credits: Block


class Spawn(BusMessage, frozen=True):
    """To a worker manager: start these workers. Answered by Done."""

    workers: list[str]


class TakePart(BusMessage, frozen=True):
    """To the timing manager: the workers of the run, and the managers of those on other hosts. Answered by Done.

    The clocks of those hosts are measured before the answer.
    """

    workers: list[str]
    managers: dict[str, str]


class Execute(BusMessage, frozen=True):
    """To a worker: warm up, measure. Answered by Done when all is over."""


class AtBarrier(BusMessage, frozen=True):
    """From a worker to the timing manager: warmed up."""


class Begin(BusMessage, frozen=True):
    """To a worker, and to the controller: the measurement starts at this CLOCK_MONOTONIC of its host, ns."""

    started_ns: int


class Low(BusMessage, frozen=True):
    """From a worker to the timing manager: credits run low."""


class Grant(BusMessage, frozen=True):
    """To a worker: more credits. None: there are no more."""

    block: Block | None


class Stop(BusMessage, frozen=True):
    """To all workers: end the run; what there is will be used."""


class Finish(BusMessage, frozen=True):
    """To all workers: send no more, and wait for the answers that are under way."""


class Collect(BusMessage, frozen=True):
    """To a worker: parse the spool and write the columns to files. Answered by Collected."""


class Collected(BusMessage, frozen=True):
    """Where columns are, and the rest of what was recorded: by one worker (times: its host's), or by all of them.

    ``early_stop``: of the run; a worker knows of none.
    """

    directory: str
    errors: list[str]
    facts: list[WorkerFacts]
    started_ns: int
    ended_ns: int
    started_unix_ns: int
    request_prefix: str
    lost: bool
    early_stop: EarlyStop | None = None


class MeasureClocks(BusMessage, frozen=True):
    """To the timing manager: the clocks of these hosts once more. Answered by Clocks; a host that is gone is absent."""

    managers: list[str]


class Clocks(BusMessage, frozen=True):
    """How the clock of each host, by its worker manager, relates to ours."""

    relations: dict[str, ClockRelation]


class Merge(BusMessage, frozen=True):
    """To the records manager: bring these together. Answered by Collected, the records of the run.

    ``managers``: of the workers on other hosts, whose files are fetched. ``relations``: of their clocks, by manager.
    ``dead``: workers without records, and why. ``started_ns`` 0: the measurement never began.
    """

    collected: dict[str, Collected]
    managers: dict[str, str]
    relations: dict[str, ClockRelation]
    dead: dict[str, str]
    started_ns: int


class Process(BusMessage, frozen=True):
    """To the post-processor: results and files of these records. Answered by Processed."""

    records: Collected
    interrupted: bool
    directory: str
    formats: tuple[str, ...]
    command: str


class Processed(BusMessage, frozen=True):
    """The results of a run, the certificate of its measurement, and the fingerprint of what was sent."""

    results: Results
    certificate: Certificate
    inputs_sha256: str


class ReadPiece(BusMessage, frozen=True):
    """To a worker manager: a part of a worker's file. Answered by Piece."""

    worker: str
    file: str
    offset: int


class Piece(BusMessage, frozen=True):
    """``data``: compressed (zlib). ``following``: the next offset, -1 at the end."""

    data: bytes
    following: int


class Ping(BusMessage, frozen=True):
    """To a clock. Answered by Pong."""


class Pong(BusMessage, frozen=True):
    """CLOCK_MONOTONIC of the host when the ping came and when this went, ns."""

    received_ns: int
    sent_ns: int


class Died(BusMessage, frozen=True):
    """From its parent to the controller: the process of this service has ended, and why."""

    service: str
    reason: str


class Kill(BusMessage, frozen=True):
    """To the parent of a service's process: end it at once; the reason is told in Died."""

    service: str
    reason: str


class Gone(BusMessage, frozen=True):
    """From a bus to its own services: the sender cannot be reached any more."""


class Shutdown(BusMessage, frozen=True):
    """To a service or a host: leave. ``reason``: why, if the work is not done."""

    reason: str = ""


class Done(BusMessage, frozen=True):
    """The answer to a command that has no other."""


class Failure(BusMessage, frozen=True):
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
        """The message that carries an error to another process."""
        if isinstance(error, ConfigValidationError):
            return cls("ConfigValidationError", error.mistakes)
        if isinstance(error, OSError):
            return cls("OSError", [error.strerror or str(error), str(error.filename or "")], error.errno or 0)
        if isinstance(error, SwarmTuneError):
            kind = next((k.__name__ for k in type(error).__mro__ if k.__name__ in cls.KINDS), "")
            return cls(kind, [error.message])
        return cls("", [repr(error)])

    def error(self, sender: str) -> Exception:
        """The error to raise where the answer is read. An error that is not ours names its process."""
        if self.kind == "ConfigValidationError":
            return ConfigValidationError(self.texts)
        if self.kind == "OSError":
            return OSError(self.number, *(text for text in self.texts if text))
        if self.kind in self.KINDS:
            return self.KINDS[self.kind](self.texts[0])
        return BenchmarkExecutionError(f"{sender} failed: {self.texts[0]}")


if TYPE_CHECKING:
    Anything = BusMessage
else:
    Anything = functools.reduce(operator.or_, BusMessage.__subclasses__())


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
    """The envelope as MessagePack."""
    return _encoder.encode(envelope)


def unpack(data: bytes) -> Envelope:
    """The envelope in these bytes. CommunicationError if they hold none."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CommunicationError(
            f"What another process sent is not understood ({error}); do all hosts run the same version of swarmtune?"
        ) from error
