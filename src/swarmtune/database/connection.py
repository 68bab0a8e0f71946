"""Connections to a database: one that writes, and one that only reads and changes no byte."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, MetaData, NullPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from swarmtune.database.address import SHOWN, database_url
from swarmtune.errors import ConfigurationError, StoreError
from swarmtune.files import refuse_planted

SQLITE_TIMEOUT_S = 60.0
T = TypeVar("T")
MOST_MEETINGS = 5  # tables that another process makes at the same moment
MOST_COPIED_BYTES = 2**30
MOST_VALUE_BYTES = 2**28  # of one value or row; SQLite itself allows four times that
LONGEST_READ_S = 30.0  # of one connection that only reads
COPY_TRIES = 5
LOGS = ("-wal", "-journal")  # beside a database of SQLite: what it has not taken in yet
MOST_RULES_BYTES = 100_000  # of the SQL of one table or index
# Of each row: whether a column is computed (hidden kinds above 1), whether an index computes, and whether SQLite, which
# reads up to a NUL and takes bytes for text, would read the row otherwise than we do.
SCHEMA = """
    SELECT lower(type), name, coalesce(rootpage, 0), coalesce(sql, ''), lower(tbl_name),
    EXISTS (SELECT 1 FROM pragma_table_xinfo(iif(lower(found.type) = 'table', found.name, NULL)) WHERE hidden > 1),
    EXISTS (SELECT 1 FROM pragma_index_xinfo(iif(lower(found.type) = 'index', found.name, NULL)) WHERE cid = -2),
    typeof(type) || typeof(name) || typeof(tbl_name) <> 'texttexttext' OR typeof(sql) NOT IN ('text', 'null')
    OR typeof(rootpage) NOT IN ('integer', 'null') OR instr(type || name || tbl_name || coalesce(sql, ''), char(0))
    FROM sqlite_master AS found
"""
OPTUNA = frozenset(
    (
        *("studies", "study_directions", "study_user_attributes", "study_system_attributes", "trials", "trial_params"),
        *("trial_user_attributes", "trial_system_attributes", "trial_values", "trial_intermediate_values"),
        *("trial_heartbeats", "version_info", "alembic_version"),
    )
)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TRIGGER = re.compile(r"\s*CREATE\s+(?:TEMP\w*\s+)?TRIGGER\b", re.IGNORECASE)
# A comparison of columns and values alone takes no time; all that calls, selects or matches may take for ever.
_HARMLESS = re.compile(r"\bCHECK\s*\((?:[^()]|\bIN\s*\([^()]*\))*\)", re.IGNORECASE)
_PARTIAL = re.compile(r"\bWHERE\b", re.IGNORECASE)
_RULE = re.compile(
    r"\b(?:CHECK|CONFLICT|COLLATE|GENERATED|SELECT|LIKE|GLOB|REGEXP|MATCH)\b|\bDEFAULT\s*\(", re.IGNORECASE
)


def code_in(schema: Iterable[tuple[str, str, int, str, str, int, int, int]]) -> tuple[str, str] | None:
    """What a database brings with it that would run as we read and write, as its kind and name: a trigger, what stands for a
    table of ours or Optuna's but holds no rows of its own (a view, a virtual table), and what computes a column, a rule, a
    default or an index of such a table. ``schema``: rows of SCHEMA.
    """
    for kind, name, root, sql, table, computed, indexed, misread in schema:
        if misread:
            return "damaged row", str(name)
        if kind == "trigger" or _TRIGGER.match(sql):
            return "trigger", name
        if not (table.startswith("swarmtune") or table in OPTUNA):
            continue
        if kind not in ("table", "index") or len(sql) > MOST_RULES_BYTES:
            return kind, name
        if kind == "table" and (not root or computed):
            return "computed table" if root else "table", name
        plain = _QUOTED.sub(" ", sql)
        if kind == "index" and (indexed or _PARTIAL.search(plain)):
            return "computed index", name
        if _RULE.search(_HARMLESS.sub(lambda found: _without_check(found[0]), plain)):
            return f"rule of the {kind}", name
    return None


def _without_check(rule: str) -> str:
    return rule[len("CHECK") :]


class PlainFile(sqlite3.Connection):
    """A connection to a file of SQLite's that runs no code of it, and takes no value without bound.

    SQLAlchemyError: it holds code.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        try:
            self.text_factory = _text
            self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE_BYTES)
            found = code_in(self.execute(SCHEMA))
        except BaseException:
            self.close()
            raise
        if found:
            self.close()
            kind, name = found
            raise SQLAlchemyError(f"it holds code, the {kind} {name!r:.80}, which SwarmTune never made: drop it")


def connect_arguments(url: str) -> dict[str, Any]:
    """Arguments of the driver: SQLite waits for locks, PostgreSQL for a dead server only so long."""
    if url.startswith("sqlite"):
        return {"timeout": SQLITE_TIMEOUT_S, "factory": PlainFile}
    return {"connect_timeout": 15, "client_encoding": "utf8"}  # an SQL_ASCII database would answer in bytes


def open_database(url: str, metadata: MetaData) -> Engine:
    """An engine on these tables, which are created if they are missing. SQLite runs in WAL mode, in a file that only this
    user may read; one that is there keeps its mode.
    """
    engine = create_engine(url, connect_args=connect_arguments(url), pool_pre_ping=not url.startswith("sqlite"))
    if url.startswith("sqlite"):
        refuse_planted(Path(make_url(url).database or ""))
        _make_private(engine.url.database or ":memory:")

        @event.listens_for(engine, "connect")
        def set_wal(connection, _record):  # type: ignore[no-untyped-def]
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")  # a finished trial survives a power cut, too

    once_made(lambda: metadata.create_all(engine))
    return engine


def once_made(create: Callable[[], T]) -> T:
    """The result of ``create``, which makes the tables that it does not find, and may meet another process that does."""
    for _ in range(MOST_MEETINGS):
        try:
            return create()
        except (OperationalError, ProgrammingError, IntegrityError) as error:
            if not re.search("already exists|unique|duplicate", str(error.orig), re.IGNORECASE):
                raise
    return create()


def _make_private(path: str) -> None:
    """Make the empty file of a new database; its log and index get the same mode. SQLite says what is wrong."""
    if path.startswith((":memory:", "file:")):
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)


@contextmanager
def read_only(place: str) -> Iterator[Engine]:
    """An engine that only reads a database (a path or an address), also while another process writes to it.

    Nothing is created and no byte of the database changes. The folder may be read-only.
    StoreError says in a few words why the database cannot be used.
    """
    with _reason_only():
        url = database_url(place)
        if url.startswith("sqlite"):
            with _sqlite_address(Path(make_url(url).database or "")) as address:
                engine = create_engine("sqlite://", creator=lambda: _connected(address), poolclass=NullPool)
                yield engine
            return
        server = create_engine(url, connect_args=connect_arguments(url), poolclass=NullPool)
        yield server.execution_options(postgresql_readonly=True, isolation_level="REPEATABLE READ")


@contextmanager
def snapshot(database: Engine) -> Iterator[Connection]:
    """A connection whose queries all see the same moment."""
    with database.connect() as db:
        if database.dialect.name == "sqlite":
            db.exec_driver_sql("BEGIN")  # Python's driver would begin at the first write only
        yield db


@contextmanager
def translated(what: str, advice: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Translate errors of the database (and of ``also``) into a StoreError: ``what``, the reason, the ``advice``."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (SQLAlchemyError, OSError, UnicodeError, *also)):
            raise
        reason = _reason(error)
        raise StoreError(f"{what}: {reason}. {advice}", details={"reason": reason}) from error


@contextmanager
def _reason_only() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, UnicodeError) as error:
        raise StoreError(_reason(error)) from error
    except (OSError, ConfigurationError) as error:
        raise StoreError(getattr(error, "strerror", None) or str(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):  # of a message of SQLite's that quotes the file
        return "the file is damaged"
    lines = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error).splitlines()
    return lines[0][:SHOWN] if lines else type(error).__name__


def _connected(address: str) -> sqlite3.Connection:
    connection = PlainFile(address, uri=True, timeout=SQLITE_TIMEOUT_S)
    until = time.monotonic() + LONGEST_READ_S
    connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)  # whatever it asks for
    return connection


def _text(stored: bytes) -> str:
    """A text that is not UTF-8 is damaged, and no reason to read nothing else."""
    return stored.decode(errors="replace")


@contextmanager
def _sqlite_address(path: Path) -> Iterator[str]:
    """The SQLite URI for reading: the file as immutable if it has no log, else shared with its writers.

    A log without its index (a copied folder, or one that cannot be written to) is read from a copy of both.
    """
    if not path.is_file():
        raise StoreError("it is no regular file" if path.exists() else "no such file")
    address = f"file:{quote(str(path.resolve()))}"
    logs = [log for end in LOGS if (log := Path(f"{path}{end}")).is_file() and log.stat().st_size > 0]
    if not logs:
        yield f"{address}?immutable=1"
    elif Path(f"{path}-shm").is_file() and _answers(f"{address}?mode=ro"):
        yield f"{address}?mode=ro"
    else:
        with tempfile.TemporaryDirectory(prefix="swarmtune-") as folder:
            yield f"file:{quote(str(_copy(path, Path(folder))))}"


def _answers(address: str) -> bool:
    try:
        connection = _connected(address)
    except sqlite3.Error:
        return False
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


def _copy(path: Path, folder: Path) -> Path:
    """The database and its logs, copied within a time in which none of them changed."""
    copy = folder / "study.db"
    for _ in range(COPY_TRIES):
        before = _stamps(path)
        if sum(size for _, size in before.values()) > MOST_COPIED_BYTES:
            raise StoreError(f"it is larger than {MOST_COPIED_BYTES // 2**30} GiB")
        for end in before:
            shutil.copyfile(f"{path}{end}", f"{copy}{end}")
        if _stamps(path) == before:
            return copy
        for file in folder.iterdir():
            file.unlink()
    raise StoreError("it is being written to; try again in a moment")


def _stamps(path: Path) -> dict[str, tuple[int, int]]:
    files = {end: Path(f"{path}{end}") for end in ("", *LOGS)}
    return {end: (file.stat().st_mtime_ns, file.stat().st_size) for end, file in files.items() if file.is_file()}
