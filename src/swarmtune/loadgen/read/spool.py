"""From a spool to columns: join the pieces of each answer, parse it, drop its bytes.

One pass; memory holds the answers that overlap, and the finished rows.
"""

from __future__ import annotations

import struct
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from swarmtune.loadgen.endpoints.base import Answer, Endpoint, Piece, understood
from swarmtune.loadgen.endpoints.packed import UNPACKED_LIMIT, PackedError, unpacked
from swarmtune.loadgen.endpoints.sse import message_of, telling
from swarmtune.loadgen.read.counts import Evidence, Text, estimate, settle, spread
from swarmtune.loadgen.records import CHUNK, REQUEST, Outcome
from swarmtune.loadgen.send.notes import FLIGHTS, IN_FLIGHT, Note
from swarmtune.loadgen.wire.base import PIECE, RECORD, REFUSAL_LIMIT
from swarmtune.loadgen.wire.framing import Framing
from swarmtune.redaction import ours
from swarmtune.workload.tokens import count as count_tokens

READ_BYTES = 8 * 2**20
OK, NOT_FOUND = 200, 404
REDIRECTS = (301, 302, 303, 307, 308)
EXCERPT = 200  # characters of an error body that are kept
ERROR_KINDS = 1000  # different error texts that are kept
LAG_LIMIT = 2**31 - 1
PENDING_CHUNKS = 50_000
MANY_TEXTS = 1024  # of a body that came whole: how many it has is not known
_CHARACTERS = {"i8": "q", "i4": "i", "i2": "h", "u1": "B", "u2": "H", "b1": "?"}
ROW = struct.Struct(
    "=" + "".join(_CHARACTERS[kind[1:]] for kind in (field[1] for field in REQUEST.descr))
)  # a row of REQUEST
THREE = struct.Struct("=3q")

HEAD = struct.Struct("<IIq")  # of a record: length, kind, exchange; then the stamps: read, kernel (0: none), last_empty
STAMPS_FROM = HEAD.size


def collect(
    path: Path,
    endpoint: Endpoint,
    worker: int = 0,
    progress: Callable[[float], None] = lambda _: None,
    count: Callable[[str], int] = count_tokens,
) -> tuple[NDArray[np.void], NDArray[np.void], list[str]]:
    """Requests (REQUEST), chunks (CHUNK) and error texts of a spool. ``progress`` gets the share done; ``count``
    says how many tokens a text has.

    A spool that ends in the middle of a record (its writer was killed, or the disk full) gives what is whole.
    """
    reader = SpoolReader(path, endpoint, worker, count)
    reader.advance(progress)
    return reader.columns()


class SpoolReader:
    """Reads a spool, also one that still grows."""

    def __init__(
        self, path: Path, endpoint: Endpoint, worker: int = 0, count: Callable[[str], int] = count_tokens
    ) -> None:
        self._path = path
        self._rows = _Rows(endpoint, worker, count)
        self._pieces: defaultdict[int, tuple[list[bytes], list[bytes]]] = defaultdict(lambda: ([], []))
        self._at = 0
        self.in_flight = self.until_ns = 0  # requests, and CLOCK_MONOTONIC, when the worker last said so

    def advance(self, progress: Callable[[float], None] = lambda _: None) -> None:
        """Parse what was added to the spool since the last call."""
        for kind, exchange, stamps, data in self._records(progress):
            if kind == PIECE:
                parts, times = self._pieces[exchange]
                parts.append(data)
                times.append(stamps)
            elif exchange == IN_FLIGHT:
                self.until_ns, self.in_flight = FLIGHTS.unpack(data)
            else:
                self._rows.add(Note.unpack(data), *self._pieces.pop(exchange, ([], [])))

    def columns(self) -> tuple[NDArray[np.void], NDArray[np.void], list[str]]:
        """Requests, chunks and error texts so far. They are views: drop them before ``advance`` is called again."""
        return self._rows.columns()

    def _records(self, progress: Callable[[float], None]) -> Iterator[tuple[int, int, bytes, bytes]]:
        size, rest = max(1, self._path.stat().st_size), b""
        with self._path.open("rb") as file:
            file.seek(self._at)
            while block := file.read(READ_BYTES):
                data = rest + block
                at, end = 0, len(data)
                while at + RECORD.size <= end:
                    length, kind, exchange = HEAD.unpack_from(data, at)
                    head = at + RECORD.size
                    if head + length > end:
                        break
                    yield kind, exchange, data[at + STAMPS_FROM : head], data[head : head + length]
                    at = head + length
                rest = data[at:]
                self._at += at
                progress(self._at / size)


class _Rows:
    """Growing columns. Chunks are turned into CHUNK rows some ten thousand at a time."""

    def __init__(self, endpoint: Endpoint, worker: int, count: Callable[[str], int]) -> None:
        self._endpoint = endpoint
        self._count = count
        self._worker = worker
        self._rows = bytearray()
        self._chunks = bytearray()
        self._chunk_count = 0
        self._stamps = bytearray()  # of the reads that the pending chunks came with: read, kernel, last_empty
        self._reads = array("q")  # per pending chunk: which of these reads
        self._tokens, self._choices = array("f"), array("B")
        self._errors: dict[str, int] = {}
        self._status = 0

    def add(self, note: Note, parts: list[bytes], stamps: list[bytes]) -> None:
        """One request, with what was read of its answer, and when (24 bytes each: read, kernel, last_empty)."""
        answer, bodies = self._understood(note, parts)
        received = note.received_bytes or sum(map(len, parts))
        texts = 1 if self._endpoint.produces_tokens else max(note.expected_results, 0) or MANY_TEXTS
        evidence = Evidence(note.most_tokens, max(0, note.end_ns - note.sent_ns), note.sent_bytes, received, texts)
        by_text = cache(lambda: self._text_of(bodies))
        false_usage = settle(answer, evidence, by_text)
        counted = answer.completion_tokens is not None
        tokens = _or(answer.completion_tokens, 0) if counted else self._estimated(answer, evidence, by_text)
        reads = (*answer.chunks[-1:], *answer.silent[-1:])
        hidden = spread(answer, tokens, by_text) if self._endpoint.streams else 0
        if answer.highest >= note.expected_results >= 0 and answer.error is None:
            answer.error = f"a rank of passage {answer.highest}, where {note.expected_results} were sent"
        if answer.results is not None and note.expected_results not in (-1, answer.results) and answer.error is None:
            answer.error = f"an answer with {answer.results} results for {note.expected_results} texts"
        outcome, error = note.outcome, note.error
        if outcome == Outcome.COMPLETED and answer.error:
            outcome, error = Outcome.FAILED, answer.error
        elif outcome == Outcome.FAILED and answer.finished and not answer.error:
            outcome, error = Outcome.COMPLETED, ""  # it was cut off after its last word
        first = THREE.unpack(stamps[0]) if stamps else (0, 0, 0)
        last = THREE.unpack(stamps[max(reads)]) if reads and stamps else (0, 0, 0)
        self._rows += ROW.pack(
            note.session, note.turn, note.phase, outcome, self._worker, note.scheduled_ns, note.ready_ns, note.sent_ns,
            note.connect_ns, first[1] or first[0], note.end_ns, note.end_read_ns, self._chunk_count, len(answer.chunks),
            _or(answer.first_answer, -1), note.asked_input_tokens, _or(answer.prompt_tokens, note.asked_input_tokens),
            note.asked_output_tokens, tokens, _or(answer.reasoning_tokens, -1), _or(answer.cached_tokens, -1),
            last[1] or last[0], hidden, answer.choices, counted, false_usage,
            note.status or self._status, note.retried, received,
            self._error(error) if outcome != Outcome.COMPLETED else -1,
        )  # fmt: skip
        self._add_chunks(answer, stamps)

    def _text_of(self, bodies: Sequence[Piece]) -> Text:
        """What an answer's text tells; it is read again for that, as most answers need no tokenizer."""
        content = understood(self._endpoint, bodies, keep_text=True).content
        return Text.of(content, self._count(content))

    def _estimated(self, answer: Answer, evidence: Evidence, by_text: Callable[[], Text]) -> int:
        if not self._endpoint.produces_tokens or not answer.chunks:
            return 0
        return estimate(answer, evidence, by_text(), streamed=self._endpoint.streams)

    def _understood(self, note: Note, parts: list[bytes]) -> tuple[Answer, Sequence[Piece]]:
        """What the answer says, and its body, by the reads that brought it."""
        bodies: list[Piece] = []
        self._status = 0
        if not parts:
            return Answer(error=note.error or "no answer"), bodies
        number = 0
        framing = Framing(lambda body: bodies.append((number, body)))
        for number, data in enumerate(parts):  # noqa: B007 - the callback reads it
            try:
                framing.feed(data)
            except ValueError as error:
                return Answer(error=f"the answer is not HTTP: {error}"), bodies
        framing.release()
        self._status = framing.status
        refused = "" if framing.status == OK else f"HTTP {framing.status}: "
        try:
            plain = unpacked(bodies, framing.headers, REFUSAL_LIMIT if refused else UNPACKED_LIMIT)
        except PackedError as error:
            return Answer(error=f"{refused}{error}"), bodies
        if not refused:
            return understood(self._endpoint, plain), plain
        if framing.status in REDIRECTS:
            return Answer(error=_redirect(framing.status, framing.headers.get(b"location", b""))), plain
        refusal = _refusal(framing.status, b"".join(data for _, data in plain))
        asked = f" (asked for was {self._endpoint.path})" if framing.status == NOT_FOUND else ""
        return Answer(error=f"{refusal}{asked}"), plain

    def _add_chunks(self, answer: Answer, stamps: list[bytes]) -> None:
        if not answer.chunks:
            return
        base = len(self._stamps) // THREE.size
        self._stamps += b"".join(stamps)
        self._reads.extend([base + read for read in answer.chunks])
        self._tokens.extend(answer.chunk_tokens or [0.0] * len(answer.chunks))
        self._choices.extend(answer.chunk_choices or [0] * len(answer.chunks))
        self._chunk_count += len(answer.chunks)
        if len(self._reads) >= PENDING_CHUNKS:
            self._finish_chunks()

    def _finish_chunks(self) -> None:
        """Of several chunks in one read, only the last came at the kernel's stamp; of the others it is known that they came
        after the socket was last seen empty (or, where the host woke us late, before we read)."""
        if not self._reads:
            return
        reads = np.array(self._reads)
        read_ns, kernel_ns, last_empty_ns = np.array(np.frombuffer(self._stamps, np.int64)).reshape(-1, 3)[reads].T
        stamped = kernel_ns > 0
        found = np.zeros(len(reads), CHUNK)
        found["ns"] = ns = np.where(stamped, kernel_ns, read_ns)
        found["lag_ns"] = np.where(stamped, np.clip(read_ns - kernel_ns, 0, LAG_LIMIT), -1)
        alone = stamped & np.append(reads[1:] != reads[:-1], True)
        doubt = np.where(last_empty_ns > ns, read_ns - ns, ns - last_empty_ns)
        found["doubt_ns"] = np.where(alone, 0, np.clip(doubt, 0, LAG_LIMIT))
        found["tokens"], found["choice"] = self._tokens, self._choices
        self._chunks += found.tobytes()
        self._stamps, self._reads = bytearray(), array("q")
        self._tokens, self._choices = array("f"), array("B")

    def _error(self, text: str) -> int:
        if text not in self._errors and len(self._errors) >= ERROR_KINDS:
            text = "further errors, of other texts"
        return self._errors.setdefault(text, len(self._errors))

    def columns(self) -> tuple[NDArray[np.void], NDArray[np.void], list[str]]:
        """All rows so far."""
        self._finish_chunks()
        return np.frombuffer(self._rows, REQUEST), np.frombuffer(self._chunks, CHUNK), list(self._errors)


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _redirect(status: int, location: bytes) -> str:
    """What to say of an answer that sends the client elsewhere."""
    to = " ".join(location.decode(errors="replace").split())
    where = f" to {to[:EXCERPT]}" if to else ", which does not say where to,"
    return f"HTTP {status}: a redirect{where} is not followed: give the address of the service itself"


def _refusal(status: int, body: bytes) -> str:
    """The message of an answer whose status is not 200, in one line."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    told = message_of(parsed) if isinstance(parsed, dict) else None
    text = telling(body.decode(errors="replace")) if told is None else telling(told)
    return f"HTTP {status}: {ours.hide(text[: 4 * EXCERPT])[:EXCERPT]}".rstrip(": ")  # half a key is not known any more
