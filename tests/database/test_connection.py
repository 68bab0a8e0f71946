"""Databases that are only read keep every byte, and their errors are told in a few words."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import Column, Float, MetaData, String, Table, insert, inspect, select
from sqlalchemy.exc import OperationalError

from swarmtune.clock import VirtualClock
from swarmtune.database.address import database_url, shown_url
from swarmtune.database.connection import once_made, open_database, read_only, snapshot, translated
from swarmtune.database.lease import Lease
from swarmtune.errors import ConfigurationError, StoreError
from swarmtune.study.tables import metadata


def rows(place: Path | str) -> list[int]:
    with read_only(str(place)) as database, snapshot(database) as db:
        return list(db.exec_driver_sql("SELECT x FROM t ORDER BY x").scalars())


def digests(folder: Path) -> dict[str, str]:
    """All files but the index of the log, in which SQLite notes its readers."""
    files = [p for p in folder.iterdir() if not p.name.endswith("-shm")]
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        yield connection


def test_a_database_at_rest_is_read_and_nothing_appears_beside_it(writer: sqlite3.Connection, tmp_path: Path) -> None:
    writer.close()
    before = digests(tmp_path)
    assert list(before) == ["a.db"]
    assert rows(tmp_path / "a.db") == [1]
    assert rows(f"sqlite:///{tmp_path / 'a.db'}") == [1]
    assert digests(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.db"]


def test_what_a_live_writer_has_in_its_log_is_seen(writer: sqlite3.Connection, tmp_path: Path) -> None:
    before = digests(tmp_path)
    assert rows(tmp_path / "a.db") == [1]
    assert digests(tmp_path) == before
    writer.execute("INSERT INTO t VALUES (2)")
    assert rows(tmp_path / "a.db") == [1], "it is not committed"
    writer.commit()
    assert rows(tmp_path / "a.db") == [1, 2]


def test_a_copy_without_the_index_of_its_log_is_read_in_its_place(writer: sqlite3.Connection, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    copied.mkdir()
    for name in ("a.db", "a.db-wal"):
        shutil.copyfile(tmp_path / name, copied / name)
    before = digests(copied)
    assert rows(copied / "a.db") == [1]
    assert digests(copied) == before
    assert sorted(p.name for p in copied.iterdir()) == ["a.db", "a.db-wal"]


def test_a_reader_cannot_write(writer: sqlite3.Connection, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="readonly"), read_only(str(tmp_path / "a.db")) as database:  # noqa: SIM117
        with database.begin() as db:
            db.exec_driver_sql("INSERT INTO t VALUES (3)")
    assert rows(tmp_path / "a.db") == [1]


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\0" + b"x" * 5000, None])
def test_what_is_no_database_is_said_in_a_line(tmp_path: Path, content: bytes | None) -> None:
    place = tmp_path / "odd ?#%.db"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(StoreError) as told:
        rows(place)
    assert len(told.value.message.splitlines()) == 1


def test_a_name_with_every_odd_sign_is_a_name(writer: sqlite3.Connection, tmp_path: Path) -> None:
    writer.close()
    odd = (tmp_path / "a.db").rename(tmp_path / "odd ?mode=rw#%20&=.db")
    assert rows(odd) == [1]


def test_addresses() -> None:
    assert database_url("a/b.db") == "sqlite:///a/b.db"
    assert database_url("postgresql://u:p@h/d") == "postgresql+psycopg://u:p@h/d"
    assert "secret" not in shown_url("postgresql://u:secret@h/d")
    for bad in ("mysql://h/d", "http://x", "://"):
        with pytest.raises(ConfigurationError):
            database_url(bad)


def test_errors_are_told_with_the_way_out() -> None:
    with pytest.raises(StoreError, match=r"^It could not be read: gone\. Call somebody\.$"):  # noqa: SIM117
        with translated("It could not be read", "Call somebody.", also=(KeyError,)):
            raise OSError("gone")
    with pytest.raises(ZeroDivisionError), translated("x", "y"):
        raise ZeroDivisionError


@pytest.mark.parametrize("umask", [0o022, 0, 0o777])
def test_a_new_database_is_readable_by_its_owner_alone(tmp_path: Path, umask: int) -> None:
    metadata, before = MetaData(), os.umask(umask)
    table = Table("t", metadata, Column("x", Float))
    try:
        database = open_database(f"sqlite:///{tmp_path / 'a.db'}", metadata)
        with database.begin() as db:
            db.execute(insert(table).values(x=1))
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("a.db", "a.db-wal", "a.db-shm"), 0o600)
    database.dispose()


def test_a_database_that_is_shared_stays_so(writer: sqlite3.Connection, tmp_path: Path) -> None:
    writer.close()
    (tmp_path / "a.db").chmod(0o660)
    open_database(f"sqlite:///{tmp_path / 'a.db'}", MetaData()).dispose()
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o660
    with pytest.raises(OperationalError, match="unable to open database file"):
        open_database(f"sqlite:///{tmp_path / 'no' / 'a.db'}", Table("t", MetaData(), Column("x", Float)).metadata)


def test_a_lease_is_taken_over_when_it_has_run_out(tmp_path: Path) -> None:
    metadata, clock = MetaData(), VirtualClock()
    table = Table(
        "t", metadata, Column("name", String), Column("owner", String), Column("owner_expires_at", Float)
    )  # fmt: skip
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}", metadata)
    with database.begin() as db:
        db.execute(insert(table).values(name="row"))
    first, second = (Lease(database, table, table.c.name == "row", clock, 30.0) for _ in range(2))
    second.identity = "another-host:1:1.00"
    assert first.acquire() is None
    assert first.acquire() is None, "again is no harm"
    assert second.acquire() == first.identity
    clock._now += 31
    assert second.acquire() == first.identity, "clocks differ: it takes a second look"
    with database.connect() as db:
        seen = tuple(db.execute(select(table.c.owner, table.c.owner_expires_at)).one())
    with database.begin() as db:
        assert first.renew(db)
    clock._now += 31
    assert second.acquire(seen) == first.identity, "it was renewed between the looks"
    with database.connect() as db:
        seen = tuple(db.execute(select(table.c.owner, table.c.owner_expires_at)).one())
    assert second.acquire(seen) is None
    with database.begin() as db:
        assert not first.renew(db)
        assert second.renew(db)
    first.release()
    assert first.acquire() == "another-host:1:1.00", "only the holder can give it back"
    second.release()
    assert first.acquire() is None
    database.dispose()


def test_several_that_begin_at_one_moment_share_a_new_database(tmp_path: Path) -> None:
    url, begin = f"sqlite:///{tmp_path}/s.db", threading.Barrier(6)

    def opened() -> list[str]:
        begin.wait()
        engine = open_database(url, metadata)
        try:
            return sorted(inspect(engine).get_table_names())
        finally:
            engine.dispose()

    for _ in range(8):
        with ThreadPoolExecutor(6) as pool:
            found = [one.result() for one in [pool.submit(opened) for _ in range(6)]]
        assert all(set(metadata.tables) <= {*names} for names in found)
        (tmp_path / "s.db").unlink()


def test_another_trouble_with_a_database_is_told_at_once() -> None:
    calls = []

    def create() -> None:
        calls.append(1)
        raise OperationalError("CREATE", {}, sqlite3.OperationalError("disk I/O error"))

    with pytest.raises(OperationalError):
        once_made(create)
    assert len(calls) == 1
