"""Answers that a server has compressed although nobody asked for that: unpacked read by read, within a bound."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from swarmtune.loadgen.endpoints.base import Piece

UNPACKED_LIMIT = 2**27  # bytes of one answer
WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # of zlib
RAW = -15  # deflate without its head, which some servers send


class PackedError(Exception):
    """Why a compressed answer cannot be read, as a sentence."""


def unpacked(pieces: Sequence[Piece], headers: Mapping[bytes, bytes], limit: int = UNPACKED_LIMIT) -> Sequence[Piece]:
    """The body as it was before it was compressed, each part under the number of the read that brought it.

    ``headers``: names in lower case. PackedError if it is compressed in a way that is not known, is broken, or would be
    longer than ``limit`` bytes. A body that was cut off gives what is there.
    """
    encodings = [text.strip().lower() for text in headers.get(b"content-encoding", b"").decode("latin-1").split(",")]
    encodings = [text for text in encodings if text not in ("", "identity")]
    if not encodings:
        return pieces
    if len(encodings) > 1 or encodings[0] not in WBITS:
        named = ", ".join(encodings)[:40]
        raise PackedError(f"the answer is compressed ({ascii(named)[1:-1]}), which was not asked for")
    (encoding,) = encodings
    bits = WBITS[encoding]
    if encoding == "deflate" and not _has_zlib_head(b"".join(data[:2] for _, data in pieces)):
        bits = RAW
    try:
        return _inflated(pieces, bits, limit)
    except zlib.error as error:
        raise PackedError(f"the answer says that it is compressed ({encoding}), and is not: {error}") from error
    except OverflowError as error:
        raise PackedError(f"the answer is compressed ({encoding}), and unpacked longer than {limit:,} bytes") from error


def _inflated(pieces: Sequence[Piece], bits: int, limit: int) -> Sequence[Piece]:
    found, left, engine = [], limit, zlib.decompressobj(bits)
    for number, data in pieces:
        rest = data
        while rest:
            if engine.eof:  # a further member
                engine = zlib.decompressobj(bits)
            part = engine.decompress(rest, left + 1)
            left -= len(part)
            if left < 0:
                raise OverflowError
            if part:
                found.append((number, part))
            rest = engine.unused_data if engine.eof else engine.unconsumed_tail
    return found


def _has_zlib_head(begin: bytes) -> bool:
    return len(begin) < 2 or (begin[0] & 15 == 8 and (begin[0] * 256 + begin[1]) % 31 == 0)
