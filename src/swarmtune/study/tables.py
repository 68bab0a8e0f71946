"""Our tables, beside Optuna's in the same database: who owns a study, attempts, load points, artefacts, events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Column, Float, Integer, MetaData, String, Table, Text

from swarmtune.database import connection

SCHEMA_VERSION = 1

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
    Column("kind", String(32), nullable=False),  # "trial"; at the end those of the proof (store.py)
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

predictions = Table(  # no trials: what a model says of settings, before and while some of them are measured
    "swarmtune_predictions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study", String(255), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("model", String(64), nullable=False),  # a hash of the model and of what it was anchored to
    Column("prediction", Text, nullable=False),  # JSON
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


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate errors of the database and of Optuna into a StoreError that says what to do."""
    from optuna.exceptions import OptunaError

    begun = "a study that has begun" if what == "be opened" else "it"  # whoever begins one opens a database, too
    advice = (
        "What was finished before is safe; repair the database (disk space, permissions, server) and resume "
        f"{begun} with `swarmtune optimizer -lb`."
    )
    with connection.translated(f"The study database could not {what}", advice, also=(OptunaError,)):
        yield
