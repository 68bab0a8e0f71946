"""Our tables, beside Optuna's in the same database: who owns a study, attempts, load points, artefacts, events."""

from __future__ import annotations

from sqlalchemy import Column, Engine, Float, Integer, MetaData, String, Table, Text, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from swarmtune.errors import ConfigurationError, MissingExtraError

SCHEMA_VERSION = 1
SQLITE_TIMEOUT_S = 60.0

metadata = MetaData()

studies = Table(
    "swarmtune_studies",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("created_at", Float, nullable=False),  # seconds since the epoch, as all times here
    Column("request", Text, nullable=False),  # JSON: what was asked for on the command line
    Column("fingerprint", Text, nullable=False),  # JSON: what must not change when the study goes on
    Column("owner", String(255)),  # host:pid:start of the tuner that works on it
    Column("owner_expires_at", Float),
    Column("active_seconds", Float, nullable=False, default=0.0),
)

attempts = Table(
    "swarmtune_attempts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study", String(255), nullable=False, index=True),
    Column("trial_number", Integer, nullable=False),
    Column("kind", String(32), nullable=False),  # "trial"; at the end "confirm:...", "fair-load:N" (store.py)
    Column("service_group", String(255), nullable=False),
    Column("token", String(64), nullable=False),  # marks the processes of this attempt, to sweep after a crash
    Column("state", String(16), nullable=False),  # running, done, failed (infrastructure), lost (tuner died)
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("lease_expires_at", Float, nullable=False),
    Column("outcome", Text),  # JSON
)

load_points = Table(
    "swarmtune_load_points",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("attempt_id", Integer, nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("measurement", Text, nullable=False),  # JSON
)

artifacts = Table(
    "swarmtune_artifacts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("attempt_id", Integer, nullable=False, index=True),
    Column("name", String(255), nullable=False),
    Column("path", Text, nullable=False),
)

events = Table(
    "swarmtune_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study", String(255), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("facts", Text, nullable=False),  # JSON
)


def database_url(url: str) -> str:
    """The URL as SQLAlchemy wants it: PostgreSQL through psycopg 3, a bare path as SQLite.

    ConfigurationError for anything else, MissingExtraError without the driver.
    """
    if "://" not in url:
        return f"sqlite:///{url}"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        kind = url.partition("://")[0]  # the rest may hold a password
        raise ConfigurationError(f"The study address {kind}://... is not a database URL; see docs/study.md.") from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        try:
            import psycopg  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise MissingExtraError("A study in PostgreSQL", "postgres") from error
        return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if backend != "sqlite":
        raise ConfigurationError(
            f"A study lives in SQLite (a path, or sqlite:///PATH) or PostgreSQL (postgresql://...), not in {backend!r}."
        )
    return url


def connect_arguments(url: str) -> dict[str, float | str]:
    """Arguments of the driver: SQLite waits for locks, PostgreSQL for a dead server only so long."""
    if url.startswith("sqlite"):
        return {"timeout": SQLITE_TIMEOUT_S}
    return {"connect_timeout": 15, "client_encoding": "utf8"}  # an SQL_ASCII database would answer in bytes


def open_database(url: str) -> Engine:
    """An engine on our tables, which are created if they are missing. SQLite runs in WAL mode."""
    engine = create_engine(url, connect_args=connect_arguments(url), pool_pre_ping=not url.startswith("sqlite"))
    if url.startswith("sqlite"):

        @event.listens_for(engine, "connect")
        def set_wal(connection, _record):  # type: ignore[no-untyped-def]
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")  # a finished trial survives a power cut, too

    metadata.create_all(engine)
    return engine
