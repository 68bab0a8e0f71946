"""From what a worker spooled to columns: stamps, doubts, outcomes, spools that end too early or still grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read.spool import SpoolReader, collect
from swarmtune.loadgen.records import Outcome
from swarmtune.loadgen.send.notes import FLIGHTS, IN_FLIGHT, Note
from swarmtune.loadgen.wire.base import NOTE, PIECE, RECORD

ENDPOINT = make_endpoint("m", LoadgenOptions())
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def token(reason: str = "null") -> bytes:
    return chunk(b'data: {"choices":[{"index":0,"text":"x","finish_reason":%b}]}\n\n' % reason.encode())


def piece(exchange: int, data: bytes, read: int = 0, kernel: int = 0, looked: int = 0) -> bytes:
    return RECORD.pack(len(data), PIECE, exchange, read, kernel, looked) + data


def note(exchange: int, **changed: object) -> bytes:
    fields: dict[str, object] = {
        "session": exchange, "turn": 0, "phase": 1, "outcome": Outcome.COMPLETED, "scheduled_ns": 5, "ready_ns": 6,
        "sent_ns": 7, "connect_ns": 0, "end_ns": 900, "end_read_ns": 901, "received_bytes": 0,
        "sent_bytes": 200, "most_tokens": 2, "expected_results": -1, "asked_input_tokens": 11,
        "asked_output_tokens": 2, "status": 200, "retried": False, "error": "", **changed,
    }  # fmt: skip
    data = Note(**fields).pack()  # type: ignore[arg-type] # fields of Note
    return RECORD.pack(len(data), NOTE, exchange, 0, 0, 0) + data


def answered(exchange: int) -> bytes:
    return piece(exchange, HEAD + token() + token('"length"') + chunk(DONE) + END, 100, 90, 80) + note(exchange)


def test_chunks_have_the_kernels_stamp_and_the_others_of_a_read_a_doubt(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(
        piece(1, HEAD + token(), read=100, kernel=90, looked=80)
        + piece(1, token() + token('"length"'), read=250, kernel=240, looked=200)
        + piece(1, chunk(DONE) + END, read=300, kernel=290, looked=280)
        + note(1)
    )
    requests, chunks, errors = collect(path, ENDPOINT)
    assert errors == []
    assert (requests["outcome"][0], requests["output_tokens"][0], requests["first_byte_ns"][0]) == (0, 3, 90)
    assert chunks["ns"].tolist() == [90, 240, 240]
    assert chunks["lag_ns"].tolist() == [10, 10, 10]
    assert chunks["doubt_ns"].tolist() == [0, 40, 0]


def test_without_kernel_stamps_every_chunk_is_in_doubt_since_the_last_look(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(piece(1, HEAD + token('"stop"') + chunk(DONE) + END, read=100, looked=60) + note(1))
    _, chunks, _ = collect(path, ENDPOINT)
    assert (chunks["ns"][0], chunks["lag_ns"][0], chunks["doubt_ns"][0]) == (100, -1, 40)


def test_answers_that_overlap_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    parts = [piece(n, HEAD, 1, 1, 1) for n in (1, 2)] + [piece(n, token('"stop"'), n, n, n) for n in (2, 1)]
    path.write_bytes(b"".join(parts) + piece(1, END, 9, 9, 9) + note(1) + piece(2, END, 9, 9, 9) + note(2))
    requests, chunks, _ = collect(path, ENDPOINT)
    assert requests["session"].tolist() == [1, 2]
    assert [chunks["ns"][first] for first in requests["first_chunk"]] == [1, 2]


@pytest.mark.parametrize(
    ("spooled", "outcome", "words"),
    [
        (note(1, outcome=Outcome.FAILED, error="cannot connect: refused", status=0), Outcome.FAILED, "refused"),
        (
            piece(1, HEAD + token(), 1, 1) + note(1, outcome=Outcome.INCOMPLETE, error="late"),
            Outcome.INCOMPLETE,
            "late",
        ),
        (piece(1, HEAD + token() + END, 1, 1) + note(1), Outcome.FAILED, "cut off"),
        (
            piece(1, b"HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\nhm", 1, 1) + note(1, status=500),
            Outcome.FAILED,
            "HTTP 500: hm",
        ),
        (piece(1, b"junk\r\n\r\n", 1, 1) + note(1), Outcome.FAILED, "not HTTP"),
        (
            piece(1, HEAD + token('"stop"') + chunk(DONE), 1, 1) + note(1, outcome=Outcome.FAILED, error="closed"),
            Outcome.COMPLETED,
            "",
        ),
    ],
)
def test_outcomes_are_what_they_were(tmp_path: Path, spooled: bytes, outcome: Outcome, words: str) -> None:
    path = tmp_path / "spool"
    path.write_bytes(spooled)
    requests, _, errors = collect(path, ENDPOINT)
    assert requests["outcome"][0] == outcome
    assert bool(requests["error"][0] == -1) is (words == "")
    assert words in " ".join(errors)


def test_a_spool_that_ends_in_the_middle_gives_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    whole = answered(1) + answered(2)
    for length in range(len(answered(1)), len(whole)):
        path.write_bytes(whole[:length])
        assert len(collect(path, ENDPOINT)[0]) == 1


def test_a_spool_that_grows_is_read_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    whole = b"".join(answered(n) for n in range(5)) + RECORD.pack(16, NOTE, IN_FLIGHT, 0, 0, 0) + FLIGHTS.pack(7, 42)
    path.write_bytes(b"")
    reader = SpoolReader(path, ENDPOINT)
    with path.open("ab", buffering=0) as file:
        for at in range(0, len(whole), 37):
            file.write(whole[at : at + 37])
            reader.advance()
    requests, chunks, _ = reader.columns()
    expected, expected_chunks, _ = collect(path, ENDPOINT)
    assert np.array_equal(requests, expected)
    assert np.array_equal(chunks, expected_chunks)
    assert (len(requests), reader.until_ns, reader.in_flight) == (5, 7, 42)
