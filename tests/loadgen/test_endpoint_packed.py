"""Answers that are compressed although nobody asked for it."""

from __future__ import annotations

import gzip
import itertools
import resource
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.endpoints.packed import PackedError, unpacked


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS = {b"gzip": gzip.compress, b"x-gzip": gzip.compress, b"deflate": zlib.compress, b"Deflate": raw_deflate}


def headers(encoding: bytes) -> dict[bytes, bytes]:
    return {b"content-encoding": encoding}


@given(
    data=st.binary(max_size=2000),
    encoding=st.sampled_from(sorted(PACKERS)),
    shares=st.sets(st.floats(0, 1), max_size=6),
    members=st.integers(1, 3),
)
def test_it_is_unpacked_however_it_is_cut(data: bytes, encoding: bytes, shares: set[float], members: int) -> None:
    packed = PACKERS[encoding](data) * (members if encoding == b"gzip" else 1)
    places = sorted({int(share * len(packed)) for share in shares})
    parts = [packed[a:b] for a, b in itertools.pairwise([0, *places, len(packed)])]
    found = unpacked(list(enumerate(parts)), headers(encoding))
    assert b"".join(part for _, part in found) == data * (members if encoding == b"gzip" else 1)
    assert [number for number, _ in found] == sorted(number for number, _ in found)


def test_each_part_keeps_the_number_of_its_read() -> None:
    packer = zlib.compressobj(wbits=31)
    parts = [packer.compress(word) + packer.flush(zlib.Z_SYNC_FLUSH) for word in (b"one", b"two", b"three")]
    assert list(unpacked([*enumerate(parts)], headers(b"gzip"))) == [(0, b"one"), (1, b"two"), (2, b"three")]


@pytest.mark.parametrize("encoding", [b"", b"identity", b" Identity ,"])
def test_what_is_not_compressed_stays(encoding: bytes) -> None:
    pieces = [(0, b"a"), (3, b"b")]
    assert unpacked(pieces, headers(encoding)) == pieces
    assert unpacked(pieces, {}) == pieces


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, br", b"compress", b"\x1b[31m\xff"])
def test_what_cannot_be_unpacked_is_named(encoding: bytes) -> None:
    with pytest.raises(PackedError, match="which was not asked for") as refused:
        unpacked([(0, b"xyz")], headers(encoding))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_ends_at_the_bound(encoding: bytes) -> None:
    packer = zlib.compressobj(9, wbits=31 if encoding == b"gzip" else 15)
    parts = [packer.compress(bytes(2**24)) for _ in range(64)]  # a gigabyte
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PackedError, match=r"longer than 4,000,000 bytes"):
        unpacked([*enumerate(parts)], headers(encoding), 4_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@given(st.binary(min_size=3, max_size=300))
def test_what_only_says_that_it_is_compressed(data: bytes) -> None:
    with pytest.raises(PackedError, match="and is not"):
        unpacked([(0, b"no" + data)], headers(b"gzip"))


@given(data=st.binary(min_size=1, max_size=500), share=st.floats(0, 1))
def test_what_was_cut_off_gives_what_is_there(data: bytes, share: float) -> None:
    packed = gzip.compress(data)
    found = unpacked([(0, packed[: int(share * len(packed))])], headers(b"gzip"))
    assert data.startswith(b"".join(part for _, part in found))
