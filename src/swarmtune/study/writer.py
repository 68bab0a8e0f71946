"""The ledger in a database: an Optuna study (dashboard, plots, samplers) with our own tables beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from sqlalchemy import Engine, Row, insert, select, update
from sqlalchemy.engine import make_url

from swarmtune.clock import Clock
from swarmtune.errors import ConfigurationError
from swarmtune.records import Event, Measurement, Setting, Trial
from swarmtune.search.optuna_adapter import distribution, system_attributes
from swarmtune.space import Space
from swarmtune.study.ownership import LEASE_S, Ownership, lost_tokens
from swarmtune.study.store import Attempt, Outcome, Remeasured, Store, as_trial, translated
from swarmtune.study.tables import (
    SCHEMA_VERSION,
    artifacts,
    attempts,
    connect_arguments,
    database_url,
    events,
    load_points,
    open_database,
    studies,
)

# Of the fingerprint: what may change when a study goes on. It tells later studies how far they are alike.
CIRCUMSTANCES = ("hardware", "engine_version", "service")
SEVERAL = "several"  # stands for a circumstance that changed while the study was measured
# What a setting that cannot work is worth in the study's plots; searches see its violated promise.
WORST_VALUE = {"maximize": 0.0, "minimize": 1e9}


@dataclass(frozen=True)
class StudyHead:
    """What a study was started with. ``request`` is the command line, ``fingerprint`` what must not change."""

    name: str
    request: dict[str, Any]
    fingerprint: dict[str, Any]


def latest_study(url: str) -> StudyHead | None:
    """The newest study in a database; None if there is none."""
    with _reading(url) as database, database.begin() as db:
        row = db.execute(select(studies).order_by(studies.c.created_at.desc()).limit(1)).first()
    return StudyHead(row.name, json.loads(row.request), json.loads(row.fingerprint)) if row else None


def leftovers(url: str, study: str, now: float) -> list[str]:
    """Tokens of what a tuner that has died may have left behind, to be swept before anything is read or started."""
    with _reading(url) as database:
        return lost_tokens(database, study, now)


@contextmanager
def _reading(url: str) -> Iterator[Engine]:
    with translated("be read"):
        database = open_database(database_url(url))
        try:
            yield database
        finally:
            database.dispose()


class Ledger(Store):
    """A study in SQLite or PostgreSQL.

    A trial is finished in two steps that may be interrupted between: first our attempt row (from here on nothing is
    lost), then Optuna's trial; opening the study again completes the second step.
    """

    def __init__(self, url: str, head: StudyHead, space: Space, direction: str, clock: Clock) -> None:
        """Open or create the study and take it over. StudyBusyError, StoreError, ConfigurationError."""
        self.url = database_url(url)
        self.head = head
        self.space = space
        self._direction = direction
        self._clock = clock
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with translated("be opened"):
            self._database = open_database(self.url)
            self._optuna = RDBStorage(self.url, engine_kwargs={"connect_args": connect_arguments(self.url)})
            try:
                self._take_over()
            except BaseException:
                self._disconnect()
                raise

    # --- the contract --------------------------------------------------------------------------------------------

    def open(
        self, setting: Setting, group: str, token: str, *, number: int | None = None, kind: str = "trial"
    ) -> Attempt:
        now = self._clock.wall()
        with translated("record a new attempt"):
            if number is None:
                number = self._new_trial(setting)
            row = {
                "study": self.head.name,
                "trial_number": number,
                "kind": kind,
                "service_group": group,
                "token": token,
                "state": "running",
                "started_at": now,
                "lease_expires_at": now + LEASE_S,
            }
            with self._database.begin() as db:
                created = db.execute(insert(attempts).values(row)).inserted_primary_key
        return Attempt(int(created[0]) if created else 0, number, setting, group, token, kind)

    def close(self, attempt: Attempt, outcome: Outcome) -> None:
        state = "done" if outcome.score is not None else "failed"
        with translated("record a result"):
            with self._database.begin() as db:
                db.execute(
                    update(attempts)
                    .where(attempts.c.id == attempt.id)
                    .values(state=state, ended_at=self._clock.wall(), outcome=outcome.to_json())
                )
            if attempt.kind == "trial":
                self._finish(attempt.trial_number, outcome)

    def append(self, record: Event | Measurement | tuple[str, str], attempt: Attempt | None = None) -> None:
        with translated("record an event"), self._database.begin() as db:
            if isinstance(record, Event):
                facts = json.dumps(dict(record.facts), default=str)
                db.execute(insert(events).values(study=self.head.name, at=record.at, kind=record.kind, facts=facts))
            elif attempt is None:
                raise ValueError("a load point or artefact belongs to an attempt")
            elif isinstance(record, Measurement):
                text = json.dumps(record.to_json())
                db.execute(insert(load_points).values(attempt_id=attempt.id, at=self._clock.wall(), measurement=text))
            else:
                db.execute(insert(artifacts).values(attempt_id=attempt.id, name=record[0], path=record[1]))

    def trials(self) -> list[Trial]:
        with translated("be read"):
            found = self._optuna.get_all_trials(self._study_id, deepcopy=False)
            outcomes, times = self._outcomes("trial")
        return [
            as_trial(t.number, _setting(t.user_attrs), outcomes[t.number], times.get(t.number))
            for t in sorted(found, key=lambda t: t.number)
        ]

    # --- what only a database can tell ---------------------------------------------------------------------------

    def confirmations(self) -> list[Remeasured]:
        """Finished re-measurements, in the order they ended."""
        with translated("be read"), self._database.begin() as db:
            rows = db.execute(
                select(attempts.c.kind, attempts.c.trial_number, attempts.c.service_group, attempts.c.outcome)
                .where(
                    attempts.c.study == self.head.name,
                    attempts.c.kind != "trial",
                    attempts.c.state == "done",
                )
                .order_by(attempts.c.ended_at, attempts.c.id)
            ).all()
        return [
            Remeasured(row.kind, row.trial_number, row.service_group, Outcome.from_json(row.outcome)) for row in rows
        ]

    def measurements(self) -> list[Measurement]:
        """Every load point of the search, in the order they were measured."""
        with translated("be read"), self._database.begin() as db:
            rows = db.execute(
                select(load_points.c.measurement)
                .join(attempts, attempts.c.id == load_points.c.attempt_id)
                .where(attempts.c.study == self.head.name, attempts.c.kind == "trial")
                .order_by(load_points.c.id)
            ).all()
        return [Measurement.from_json(json.loads(row.measurement)) for row in rows]

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        """The facts of all events of a kind, in the order they happened."""
        with translated("be read"), self._database.begin() as db:
            rows = db.execute(
                select(events.c.facts)
                .where(events.c.study == self.head.name, events.c.kind == kind)
                .order_by(events.c.id)
            ).all()
        return [json.loads(row.facts) for row in rows]

    def accelerator_seconds(self, accelerators: Mapping[str, int], of_trials: bool = True) -> float:
        """What all ended attempts of trials (else: of the proof) took: seconds times the accelerators of their group.

        Lost attempts count up to when their tuner was last heard of. A group that is not listed counts once.
        """
        wanted = attempts.c.kind == "trial" if of_trials else attempts.c.kind != "trial"
        with translated("be read"), self._database.begin() as db:
            rows = db.execute(
                select(attempts).where(attempts.c.study == self.head.name, wanted, attempts.c.ended_at.is_not(None))
            ).all()
        return sum(accelerators.get(row.service_group, 1) * _seconds(row) for row in rows)

    def search_seconds(self) -> float:
        """What all runs of the study took, without the time in which their proofs measured."""
        proof = (attempts.c.study == self.head.name, attempts.c.kind != "trial", attempts.c.ended_at.is_not(None))
        with translated("be read"), self._database.begin() as db:
            rows = db.execute(select(attempts).where(*proof).order_by(attempts.c.started_at)).all()
        proof_s = until = 0.0
        for row in rows:  # those of several groups overlap
            ended = row.started_at + _seconds(row)
            proof_s += max(0.0, ended - max(row.started_at, until))
            until = max(until, ended)
        return max(0.0, self.ownership.active_seconds() - proof_s)

    def dispose(self) -> None:
        """Let go of the study and the database."""
        with translated("be released"):
            try:
                self.ownership.release()
            finally:
                self._disconnect()

    # --- construction --------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        self._create_study()
        self.ownership = Ownership(self._database, self.head.name, self._clock)
        self.ownership.acquire()
        self._study_id = self._optuna_study()
        self.swept_tokens = self._close_lost_attempts()
        self._roll_forward()

    def _disconnect(self) -> None:
        self._database.dispose()
        self._optuna.remove_session()
        self._optuna.engine.dispose()

    def _create_study(self) -> None:
        with self._database.begin() as db:
            row = db.execute(select(studies).where(studies.c.name == self.head.name)).first()
            if row is None:
                db.execute(
                    insert(studies).values(
                        name=self.head.name,
                        schema_version=SCHEMA_VERSION,
                        created_at=self._clock.wall(),
                        request=json.dumps(self.head.request),
                        fingerprint=json.dumps(self.head.fingerprint),
                        active_seconds=0.0,
                    )
                )
                return
        if row.schema_version != SCHEMA_VERSION:
            raise ConfigurationError(
                f"The study {self.head.name!r} was written by another version of SwarmTune (schema {row.schema_version}, "
                f"this one reads {SCHEMA_VERSION}). Start a new study."
            )
        before = json.loads(row.fingerprint)
        now = json.loads(json.dumps(self.head.fingerprint))
        differ = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        changed = [k for k in differ if k not in CIRCUMSTANCES]
        if changed:
            raise ConfigurationError(
                f"The study {self.head.name!r} cannot go on: {', '.join(changed)} changed since it was started, and its "
                "results would not be comparable. Put the configuration back, or start a new study (without -lb)."
            )

        if differ and now.keys() >= set(CIRCUMSTANCES):
            text = json.dumps({**before, **dict.fromkeys(differ, SEVERAL)})
            with self._database.begin() as db:
                db.execute(update(studies).where(studies.c.name == self.head.name).values(fingerprint=text))

    def _optuna_study(self) -> int:
        direction = StudyDirection.MAXIMIZE if self._direction == "maximize" else StudyDirection.MINIMIZE
        try:
            return self._optuna.create_new_study([direction], self.head.name)
        except optuna.exceptions.DuplicatedStudyError:
            return self._optuna.get_study_id_from_name(self.head.name)

    def _close_lost_attempts(self) -> list[str]:
        """Attempts of a tuner that died are lost; the marks of the study's processes tell what may be left."""
        of_study = attempts.c.study == self.head.name
        mine = (of_study, attempts.c.state == "running")
        with self._database.begin() as db:
            tokens = [row.token for row in db.execute(select(attempts.c.token).where(of_study))]
            db.execute(update(attempts).where(*mine).values(state="lost", ended_at=self._clock.wall()))
        return tokens

    def _roll_forward(self) -> None:
        outcomes, _ = self._outcomes("trial")
        for trial in self._optuna.get_all_trials(self._study_id, deepcopy=False):
            ended = [o for o in outcomes[trial.number] if o is not None and (o.score is not None or o.gave_up)]
            if trial.state == OptunaState.RUNNING and ended:
                self._finish(trial.number, ended[0])

    def _new_trial(self, setting: Setting) -> int:
        template = create_trial(
            state=OptunaState.RUNNING,
            params=self.space.coordinates(setting),
            distributions={d.name: distribution(d) for d in self.space.dimensions},
            user_attrs={"setting": dict(setting.values), "origin": setting.origin},
        )
        return self._optuna.get_trial(self._optuna.create_new_trial(self._study_id, template_trial=template)).number

    def _finish(self, number: int, outcome: Outcome) -> None:
        trial_id = self._optuna.get_trial_id_from_study_id_trial_number(self._study_id, number)
        score = outcome.score
        if not (score or outcome.gave_up) or self._optuna.get_trial(trial_id).state.is_finished():
            return
        if outcome.failure is not None:
            self._optuna.set_trial_user_attr(trial_id, "failure", outcome.failure)
        if score is None:
            self._optuna.set_trial_state_values(trial_id, OptunaState.FAIL)
            return
        for name, value in system_attributes(score).items():
            self._optuna.set_trial_system_attr(trial_id, name, value)
        if outcome.measurement is not None:
            self._optuna.set_trial_user_attr(trial_id, "metrics", dict(outcome.measurement.metrics))
            self._optuna.set_trial_user_attr(trial_id, "load", dict(outcome.measurement.load))
        value = WORST_VALUE[self._direction] if score.value is None else score.value
        self._optuna.set_trial_state_values(trial_id, OptunaState.COMPLETE, [value])

    def _outcomes(self, kind: str) -> tuple[dict[int, list[Outcome | None]], dict[int, tuple[float, float]]]:
        with self._database.begin() as db:
            rows = db.execute(
                select(attempts)
                .where(attempts.c.study == self.head.name, attempts.c.kind == kind)
                .order_by(attempts.c.id)
            ).all()
        outcomes: dict[int, list[Outcome | None]] = defaultdict(list)
        times: dict[int, tuple[float, float]] = {}
        for row in rows:
            outcomes[row.trial_number].append(Outcome.from_json(row.outcome) if row.outcome else None)
            if row.ended_at is not None:
                times[row.trial_number] = (row.started_at, row.ended_at)
        return outcomes, times


def shown_url(url: str) -> str:
    """The address of a study without its password."""
    return make_url(database_url(url)).render_as_string(hide_password=True)


def _seconds(attempt: Row[Any]) -> float:
    last_heard = attempt.lease_expires_at - LEASE_S
    ended = min(attempt.ended_at, last_heard) if attempt.state == "lost" else attempt.ended_at
    return max(0.0, float(ended - attempt.started_at))


def _setting(attributes: dict[str, Any]) -> Setting:
    return Setting(attributes["setting"], attributes.get("origin", ""))
