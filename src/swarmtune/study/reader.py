"""Reads studies, without taking them over or changing a byte.

A damaged row is left out and named in ``StudyReader.notes``; a database that cannot be read is a StoreError.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, Row, inspect, select

from swarmtune.clock import Clock
from swarmtune.database.address import shown_url
from swarmtune.database.connection import read_only, snapshot
from swarmtune.database.lease import is_alive, is_in_force
from swarmtune.errors import StoreError
from swarmtune.records import AttemptResult, Event, Measurement, Prediction, Trial, from_plain
from swarmtune.study.fingerprint import upgraded
from swarmtune.study.optuna_rows import OptunaTrials, bounded, optuna_trials
from swarmtune.study.ownership import LEASE_S, RENEW_EVERY_S, WATCH_S, busy_with
from swarmtune.study.store import Remeasured, as_trial
from swarmtune.study.tables import SCHEMA_VERSION, artifacts, attempts, events, load_points, predictions, studies

T = TypeVar("T")
TOKEN = re.compile(r"[0-9A-Za-z_-]{8,64}")  # as execution/supervisor.py takes it
MOST_ROWS = 1_000_000  # of one table and study


@dataclass(frozen=True)
class StudyHead:
    """The head of a study. ``request``: the command line that started it; ``fingerprint``: what must not change."""

    name: str
    request: dict[str, Any]
    fingerprint: dict[str, Any]
    created_at: float = 0.0
    schema_version: int = SCHEMA_VERSION
    owner: str | None = None
    owner_expires_at: float | None = None
    active_seconds: float = 0.0

    def busy(self, now: float) -> bool:
        """Does a live tuner own it? ``now``: wall clock."""
        return is_alive(self.owner) and is_in_force(self.owner_expires_at, now, 2 * LEASE_S)  # clocks differ


TIMES = ("started_at", "ended_at", "lease_expires_at")


@dataclass(frozen=True)
class AttemptRow:
    """An attempt as it is stored. Times: seconds since the epoch; ``ended_at`` and ``result`` are None while it runs."""

    id: int
    trial_number: int
    kind: str
    group: str
    token: str
    state: str
    started_at: float
    ended_at: float | None
    lease_expires_at: float
    result: AttemptResult | None = None


@dataclass(frozen=True)
class LoadPointRow:
    """A measurement at one load, by the attempt that made it."""

    attempt_id: int
    at: float
    measurement: Measurement


@dataclass
class StudyReader:
    """Queries to a database of studies. Each sees one moment of it, and writes nothing, also when it fails."""

    database: Engine
    notes: list[str] = field(default_factory=list)  # what was left out, as sentences

    def heads(self) -> list[StudyHead]:
        """All studies, newest first; none in a database without our tables."""
        with snapshot(self.database) as db:
            if not inspect(db).has_table(studies.name):
                return []
            rows = db.execute(select(studies).order_by(studies.c.created_at.desc()).limit(MOST_ROWS)).all()
        return [head for row in rows if (head := self._head(row)) is not None]

    def head(self, name: str) -> StudyHead:
        """The study of this name; StoreError if there is none that can be read."""
        head = next((head for head in self.heads() if head.name == name), None)
        if head is None:
            raise StoreError(f"it holds no study {name!r} that can be read")
        return head

    def trials(self, study: str) -> list[Trial]:
        """Our trials by number. Trials that other programs added to the study are left out, with a note."""
        outcomes: dict[int, list[AttemptResult | None]] = defaultdict(list)
        times: dict[int, tuple[float, float]] = {}
        for attempt in self.attempts(study):
            if attempt.kind == "trial":
                outcomes[attempt.trial_number].append(attempt.result)
                if attempt.ended_at is not None:
                    times[attempt.trial_number] = (attempt.started_at, attempt.ended_at)
        own = self.optuna_trials(study).own
        return [as_trial(n, own[n].setting, outcomes[n], times.get(n)) for n in sorted(own)]

    def optuna_trials(self, study: str) -> OptunaTrials:
        """Our trials as Optuna stores them, and every number that is taken."""
        of_trials = select(attempts.c.trial_number).where(attempts.c.study == study, attempts.c.kind == "trial")
        with snapshot(self.database) as db:
            numbers = {number for number in db.execute(of_trials.distinct()).scalars() if isinstance(number, int)}
            trials = optuna_trials(db, study, numbers)
        self._note(*trials.notes)
        return trials

    def attempts(self, study: str) -> list[AttemptRow]:
        """All attempts of trials and of the proof, in the order they began."""
        columns = [c for c in attempts.c if c.name != "outcome"]
        query = select(*columns, bounded(attempts.c.outcome).label("text"), attempts.c.outcome.is_(None).label("open"))
        with snapshot(self.database) as db:
            rows = db.execute(query.where(attempts.c.study == study).order_by(attempts.c.id).limit(MOST_ROWS)).all()
        return [attempt for row in rows if (attempt := self._attempt(row)) is not None]

    def load_points(self, study: str, kind: str | None = "trial") -> list[LoadPointRow]:
        """Every load point of attempts of this kind (None: of any), in the order they were measured."""
        text = bounded(load_points.c.measurement).label("text")
        query = (
            select(load_points.c.id, load_points.c.attempt_id, load_points.c.at, text)
            .join(attempts, attempts.c.id == load_points.c.attempt_id)
            .where(attempts.c.study == study, *([] if kind is None else [attempts.c.kind == kind]))
        )
        with snapshot(self.database) as db:
            rows = db.execute(query.order_by(load_points.c.id).limit(MOST_ROWS)).all()
        read = [(row, self._record(row.text, Measurement, f"load point {row.id}")) for row in rows]
        return [LoadPointRow(row.attempt_id, row.at, found) for row, found in read if found is not None]

    def events(self, study: str, kind: str | None = None, after: int = 0) -> list[tuple[int, Event]]:
        """Events (of this kind) with their numbers, in the order they happened; those after a number follow a run."""
        query = select(events.c.id, events.c.at, events.c.kind, bounded(events.c.facts).label("text"))
        query = query.where(events.c.study == study, events.c.id > after)
        if kind is not None:
            query = query.where(events.c.kind == kind)
        with snapshot(self.database) as db:
            rows = db.execute(query.order_by(events.c.id).limit(MOST_ROWS)).all()
        read = [(row, self._table(row.text, f"event {row.id}")) for row in rows]
        return [(row.id, Event(row.kind, row.at, facts)) for row, facts in read if facts is not None]

    def predictions(self, study: str, model: str | None = None) -> list[Prediction]:
        """What models (or this one) said of settings, in that order; none in a study of an earlier version."""
        query = select(predictions.c.id, bounded(predictions.c.prediction).label("text"))
        query = query.where(predictions.c.study == study)
        if model is not None:
            query = query.where(predictions.c.model == model)
        with snapshot(self.database) as db:
            if not inspect(db).has_table(predictions.name):
                return []
            rows = db.execute(query.order_by(predictions.c.id).limit(MOST_ROWS)).all()
        read = [self._record(row.text, Prediction, f"prediction {row.id}") for row in rows]
        return [one for one in read if one is not None]

    def artifacts(self, study: str) -> list[tuple[int, str, str]]:
        """(attempt, name, path) of the files of attempts."""
        query = select(artifacts.c.attempt_id, artifacts.c.name, artifacts.c.path)
        query = query.join(attempts, attempts.c.id == artifacts.c.attempt_id).where(attempts.c.study == study)
        with snapshot(self.database) as db:
            rows = db.execute(query.order_by(artifacts.c.id).limit(MOST_ROWS)).all()
        return [(row.attempt_id, row.name, row.path) for row in rows]

    def remeasured(self, study: str) -> list[Remeasured]:
        """Finished re-measurements of the proof, in the order they ended."""
        done = [a for a in self.attempts(study) if a.kind != "trial" and a.state == "done" and a.result is not None]
        done.sort(key=lambda a: (a.ended_at or 0.0, a.id))
        return [Remeasured(a.kind, a.trial_number, a.group, a.result) for a in done if a.result is not None]

    # --- rows --------------------------------------------------------------------------------------------------------

    def _head(self, row: Row[Any]) -> StudyHead | None:
        what = f"the study {row.name!r:.80}"
        request, fingerprint = self._table(row.request, what), self._table(row.fingerprint, what)
        if request is None or fingerprint is None:
            return None
        values = {**row._asdict(), "request": request, "fingerprint": upgraded(fingerprint)}
        return self._converted(values, StudyHead, what)

    def _attempt(self, row: Any) -> AttemptRow | None:
        what = f"attempt {row.id}"
        values = {**row._asdict(), "group": row.service_group}
        if not row.open:  # it is over: what it has measured does not depend on its times
            sound = [value for name in TIMES if isinstance(value := values[name], int | float)]
            for name in (name for name in TIMES if not isinstance(values[name], int | float)):
                values[name] = max(sound, default=0.0)
                self._note(f"{name} of {what} is damaged and left out")
        attempt = self._converted(values, AttemptRow, what)
        if attempt is None or row.open:
            return attempt
        return replace(attempt, result=self._record(row.text, AttemptResult, f"the result of {what}"))

    def _record(self, text: str | None, kind: type[T], what: str) -> T | None:
        table = self._table(text, what)
        return None if table is None else self._converted(table, kind, what)

    def _converted(self, table: dict[str, Any], kind: type[T], what: str) -> T | None:
        try:
            return from_plain({str(name): value for name, value in table.items()}, kind)
        except (ValueError, TypeError, AttributeError) as error:
            self._note(f"{what} is damaged and left out: {error!s:.120}")
            return None

    def _table(self, text: str | None, what: str) -> dict[str, Any] | None:
        try:
            table = json.loads(text or "")
        except (ValueError, TypeError, RecursionError):
            table = None
        if not isinstance(table, dict):
            self._note(f"{what} is damaged and left out")
            return None
        return table

    def _note(self, *notes: str) -> None:
        self.notes += [note for note in notes if note not in self.notes]


@contextmanager
def reading(place: str) -> Iterator[StudyReader]:
    """A reader of a database (a path or an address). StoreError says in a few words why it cannot be used."""
    with read_only(place) as database:
        yield StudyReader(database)


def latest_study(place: str) -> StudyHead | None:
    """The newest study in a database; None if there is no database, or none in it. StoreError if it cannot be read."""
    if "://" not in place and not Path(place).exists():
        return None
    trouble = f"The study database {shown_url(place)} cannot be read"
    try:
        with reading(place) as reader:
            heads, notes = reader.heads(), reader.notes
    except StoreError as error:
        raise StoreError(f"{trouble}: {error.message}.") from error
    if not heads and notes:
        raise StoreError(f"{trouble}: {'; '.join(notes)}.")
    return heads[0] if heads else None


async def look_twice(place: str, head: StudyHead, clock: Clock, tell: Callable[[str], None]) -> None:
    """StudyBusyError if a live tuner owns the study. Where its lease is not in force by our clock, only whether it moves
    tells, because clocks differ: it is watched for a while, which ``tell`` is told.
    """
    if head.busy(clock.wall()):
        raise busy_with(head.name, str(head.owner))
    if not is_alive(head.owner):
        return
    tell(f"Looking for {WATCH_S:g} s whether the tuner {head.owner} still works on the study {head.name!r}.")
    until = clock.monotonic() + WATCH_S
    while clock.monotonic() < until:
        await clock.sleep(RENEW_EVERY_S / 5)
        with reading(place) as reader:
            now = reader.head(head.name)
        if now.owner is not None and (now.owner, now.owner_expires_at) != (head.owner, head.owner_expires_at):
            raise busy_with(head.name, now.owner)


def lost_tokens(place: str, study: str, now: float) -> list[str]:
    """Tokens of all attempts of a study whose tuner has died; empty while a live one works on it. ``now``: wall clock.

    All, not only those that were cut off: a service lives on while the next setting needs no other. What cannot be a token
    of ours is left out: files are put back by it.
    """
    with reading(place) as reader:
        found = [] if reader.head(study).busy(now) else [attempt.token for attempt in reader.attempts(study)]
    return usable(found)


def usable(tokens: Iterable[object]) -> list[str]:
    """Those that can be tokens of ours."""
    return [token for token in tokens if isinstance(token, str) and TOKEN.fullmatch(token)]
