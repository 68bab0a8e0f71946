"""Earlier studies, read without writing a byte to them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from swarmtune.errors import ConfigurationError, StoreError
from swarmtune.records import Setting
from swarmtune.study.ownership import owned
from swarmtune.study.store import Outcome
from swarmtune.study.tables import SCHEMA_VERSION, attempts, connect_arguments, database_url, events, studies

MOST_BYTES = 2**30  # a larger database is not copied


@dataclass(frozen=True)
class EarlierStudy:
    """A study as it lies there: its results in the order of its trials. ``busy``: a live tuner works on it."""

    name: str
    place: str
    fingerprint: dict[str, Any]
    created_at: float
    busy: bool
    results: tuple[tuple[Setting, Outcome], ...]


def read_studies(place: str, now: float) -> list[EarlierStudy]:
    """All studies of a database (a path or an address), newest first. StoreError says why it is of no use."""
    try:
        with _copied(database_url(place)) as database, database.connect() as db:
            if not inspect(db).has_table(studies.name):
                raise StoreError("it holds no studies of SwarmTune")
            rows = db.execute(select(studies).order_by(studies.c.created_at.desc())).all()
            if any(row.schema_version != SCHEMA_VERSION for row in rows):
                raise StoreError("it was written by another version of SwarmTune")
            return [
                EarlierStudy(
                    row.name,
                    place,
                    dict(json.loads(row.fingerprint)),
                    float(row.created_at),
                    owned(row.owner, row.owner_expires_at, now),
                    _results(db, row.name),
                )
                for row in rows
            ]
    except SQLAlchemyError as error:
        raise StoreError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error
    except (OSError, ConfigurationError) as error:
        raise StoreError(getattr(error, "strerror", None) or str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(f"its content is damaged ({error!r:.80})") from error


@contextmanager
def _copied(url: str) -> Iterator[Engine]:
    """A database that may be opened as one likes: of SQLite a copy with its log, of a server one that only reads."""
    if not url.startswith("sqlite"):
        server = create_engine(url, connect_args=connect_arguments(url))
        try:
            yield server.execution_options(postgresql_readonly=True)
        finally:
            server.dispose()
        return
    path = Path(make_url(url).database or "")
    if not path.is_file():
        raise StoreError("it is no file")
    if path.stat().st_size > MOST_BYTES:
        raise StoreError(f"it is larger than {MOST_BYTES // 2**30} GiB")
    with tempfile.TemporaryDirectory(prefix="swarmtune-") as folder:
        copy = Path(folder) / "study.db"
        for end in ("", "-wal"):
            if (source := Path(f"{path}{end}")).is_file():
                shutil.copyfile(source, f"{copy}{end}")
        database = create_engine(f"sqlite:///{copy}")
        try:
            yield database
        finally:
            database.dispose()


def _results(db: Connection, study: str) -> tuple[tuple[Setting, Outcome], ...]:
    """Settings (from the events that started their trials) and what they came to."""
    started = db.execute(select(events.c.facts).where(events.c.study == study, events.c.kind == "trial_started"))
    settings = {
        facts["trial"]: Setting(facts["setting"], facts["origin"])
        for facts in (json.loads(row.facts) for row in started)
    }
    done = db.execute(
        select(attempts.c.trial_number, attempts.c.outcome)
        .where(attempts.c.study == study, attempts.c.kind == "trial", attempts.c.state == "done")
        .order_by(attempts.c.trial_number, attempts.c.id)
    )
    outcomes = {row.trial_number: Outcome.from_json(row.outcome) for row in done}
    return tuple((settings[n], outcome) for n, outcome in outcomes.items() if n in settings)
