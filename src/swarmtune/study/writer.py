"""A study in a database, written: an Optuna study (dashboard, plots, samplers) with our own tables beside it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from sqlalchemy import Connection, insert, select, update

from swarmtune.clock import Clock
from swarmtune.database.address import database_url
from swarmtune.database.connection import connect_arguments, once_made, open_database
from swarmtune.errors import ConfigurationError, StoreError, one_line
from swarmtune.records import Attempt, AttemptResult, Event, Measurement, Prediction, Setting, Trial, to_plain
from swarmtune.redaction import ours
from swarmtune.search.optuna_adapter import distribution, system_attributes
from swarmtune.space import Space
from swarmtune.study.fingerprint import CIRCUMSTANCES, changes
from swarmtune.study.optuna_rows import is_finished
from swarmtune.study.ownership import LEASE_S, Ownership
from swarmtune.study.reader import AttemptRow, StudyHead, StudyReader, usable
from swarmtune.study.store import Remeasured, Store, refuse_predicted
from swarmtune.study.tables import (
    SCHEMA_VERSION,
    artifacts,
    attempts,
    events,
    load_points,
    metadata,
    predictions,
    studies,
    translated,
)

MOST_NUMBERS = 10_000  # of deleted trials, after which none is asked for any more
SEVERAL = "several"  # value of a circumstance that changed between runs of the study
# The value of a setting that cannot work in the study's plots; searches see its violated constraint.
WORST_VALUE = {"maximize": 0.0, "minimize": 1e9}


CALLED = {  # parts of a fingerprint, as people call them
    "fields": "the parameters (target_field)",
    "constraints": "the rules between parameters",
    "load_search": "[load_search]",
    "sections": "keys in the table of the engine or the load generator",
}


class StudyWriter(Store):
    """A study in SQLite or PostgreSQL.

    A trial is finished in two steps that may be interrupted between: first our attempt row (from here on nothing is
    lost), then Optuna's trial; opening the study again completes the second step.
    """

    def __init__(self, url: str, head: StudyHead, space: Space, direction: str, clock: Clock) -> None:
        """Open or create the study and take it over. StudyBusyError if another live tuner owns it, or one that is not what
        ``head`` was when ``look_twice`` looked; StoreError, ConfigurationError; then the database is closed. After a
        StoreError the lease may last until it expires.
        """
        self.url = database_url(url)
        self.head = head
        self.space = space
        self._direction = direction
        self._clock = clock
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with translated("be opened"):
            self._database = open_database(self.url, metadata)
            self.reader = StudyReader(self._database)
            driver = {"connect_args": connect_arguments(self.url)}
            self._optuna = once_made(lambda: RDBStorage(self.url, engine_kwargs=driver))
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
                with self._writing():
                    pass  # a tuner that has lost the study asks Optuna for no trial
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
            with self._writing() as db:
                created = db.execute(insert(attempts).values(row)).inserted_primary_key
        return Attempt(int(created[0]) if created else 0, number, setting, group, token, kind)

    def close(self, attempt: Attempt, outcome: AttemptResult) -> None:
        refuse_predicted(outcome)
        state = "done" if outcome.score is not None else "failed"
        with translated("record a result"):
            with self._writing() as db:
                db.execute(
                    update(attempts)
                    .where(attempts.c.id == attempt.id)
                    .values(state=state, ended_at=self._clock.wall(), outcome=_json(to_plain(outcome)))
                )
            if attempt.kind == "trial":
                self._finish(attempt.trial_number, outcome)

    def append(self, record: Event | Measurement | tuple[str, str], attempt: Attempt | None = None) -> None:
        with translated("record an event"), self._writing() as db:
            if isinstance(record, Event):
                facts = _json(dict(record.facts))
                db.execute(insert(events).values(study=self.head.name, at=record.at, kind=record.kind, facts=facts))
            elif attempt is None:
                raise ValueError("a load point or artefact belongs to an attempt")
            elif isinstance(record, Measurement):
                text = _json(to_plain(record))
                db.execute(insert(load_points).values(attempt_id=attempt.id, at=self._clock.wall(), measurement=text))
            else:
                db.execute(insert(artifacts).values(attempt_id=attempt.id, name=record[0], path=record[1]))

    def trials(self) -> list[Trial]:
        with translated("be read"):
            return self.reader.trials(self.head.name)

    # --- beyond the contract -------------------------------------------------------------------------------------

    @property
    def notices(self) -> list[str]:
        """The parts of the study that were left out when it was opened, as sentences for the user."""
        return [f"study {self.head.name}: {note}" for note in self.reader.notes]

    def keep_predictions(self, made: Sequence[Prediction], model: str, event: Event) -> None:
        """Add predictions by this model, and the event that says so: all or nothing."""
        now = self._clock.wall()
        rows = [
            {"study": self.head.name, "at": now, "model": model, "prediction": _json(to_plain(one))} for one in made
        ]
        facts = _json(dict(event.facts))
        with translated("record predictions"), self._writing() as db:
            if rows:
                db.execute(insert(predictions), rows)
            db.execute(insert(events).values(study=self.head.name, at=event.at, kind=event.kind, facts=facts))

    def predictions(self, model: str) -> list[Prediction]:
        """Those by this model, in the order they were made."""
        with translated("be read"):
            return self.reader.predictions(self.head.name, model)

    def confirmations(self) -> list[Remeasured]:
        """Finished re-measurements, in the order they ended."""
        with translated("be read"):
            return self.reader.remeasured(self.head.name)

    def measurements(self) -> list[Measurement]:
        """Every load point of the search, in the order they were measured."""
        with translated("be read"):
            return [point.measurement for point in self.reader.load_points(self.head.name)]

    def measurements_of(self, trial: int) -> list[Measurement]:
        """Every load point of a trial in the search, in the order they were measured."""
        with translated("be read"):
            own = {a.id for a in self.reader.attempts(self.head.name) if a.trial_number == trial and a.kind == "trial"}
            return [p.measurement for p in self.reader.load_points(self.head.name) if p.attempt_id in own]

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        """The facts of all events of a kind, in the order they happened."""
        with translated("be read"):
            return [dict(event.facts) for _, event in self.reader.events(self.head.name, kind)]

    def accelerator_seconds(self, accelerators: Mapping[str, int], of_trials: bool = True) -> float:
        """Cost of all ended attempts of trials (else: of the proof): seconds times the accelerators of their group.

        Lost attempts count up to the last renewal of their lease. A group that is not listed counts once.
        """
        ended = self._ended(of_trials)
        return sum(accelerators.get(attempt.group, 1) * _seconds(attempt) for attempt in ended)

    def search_seconds(self) -> float:
        """Seconds of all runs of the study, without the time in which their proofs measured."""
        proof_s = until = 0.0
        for attempt in sorted(self._ended(of_trials=False), key=lambda a: a.started_at):  # several groups overlap
            ended = attempt.started_at + _seconds(attempt)
            proof_s += max(0.0, ended - max(attempt.started_at, until))
            until = max(until, ended)
        return max(0.0, self.ownership.active_seconds() - proof_s)

    def _ended(self, of_trials: bool) -> list[AttemptRow]:
        with translated("be read"):
            rows = self.reader.attempts(self.head.name)
        return [a for a in rows if (a.kind == "trial") is of_trials and a.ended_at is not None]

    def dispose(self) -> None:
        """Release the study and close the database."""
        with translated("be released"):
            try:
                self.ownership.release()
            finally:
                self._disconnect()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction of the study's owner. StudyBusyError, and nothing is written, if that is another tuner by now."""
        with self._database.begin() as db:
            self.ownership.guard(db)
            yield db

    # --- construction --------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        fingerprint = self._create_study()
        self.ownership = Ownership(self._database, self.head.name, self._clock)
        self.ownership.acquire((self.head.owner, self.head.owner_expires_at))
        with self._writing() as db:
            db.execute(update(studies).where(studies.c.name == self.head.name).values(fingerprint=fingerprint))
        self._study_id = self._optuna_study()
        self.swept_tokens = self._close_lost_attempts()
        self._roll_forward()

    def _disconnect(self) -> None:
        self._database.dispose()
        self._optuna.remove_session()
        self._optuna.engine.dispose()

    def _create_study(self) -> str:
        """Create it if it is not there; the fingerprint that it has from now on. ConfigurationError: it cannot go on so."""
        with self._database.begin() as db:
            row = db.execute(select(studies).where(studies.c.name == self.head.name)).first()
            if row is None:
                fingerprint = json.dumps(self.head.fingerprint)
                db.execute(
                    insert(studies).values(
                        name=self.head.name,
                        schema_version=SCHEMA_VERSION,
                        created_at=self._clock.wall(),
                        request=json.dumps(self.head.request),
                        fingerprint=fingerprint,
                        active_seconds=0.0,
                    )
                )
                return fingerprint
        if row.schema_version != SCHEMA_VERSION:
            raise ConfigurationError(
                f"The study {self.head.name!r} was written by another version of SwarmTune (schema {row.schema_version}, "
                f"this one reads {SCHEMA_VERSION}). Start a new study."
            )
        stored = json.loads(row.fingerprint)
        differ = changes(stored, self.head.fingerprint)
        changed = [k for k in differ if k not in CIRCUMSTANCES]
        if changed:
            parts = ", ".join(CALLED.get(key, key) for key in changed)
            raise ConfigurationError(
                f"The study {self.head.name!r} cannot go on: {parts} changed since it was started, and its "
                "results would not be comparable. Put the configuration back, or start a new study (without -lb)."
            )
        if differ and self.head.fingerprint.keys() >= set(CIRCUMSTANCES):
            return json.dumps({**stored, **dict.fromkeys(differ, SEVERAL)})
        return str(row.fingerprint)

    def _optuna_study(self) -> int:
        direction = StudyDirection.MAXIMIZE if self._direction == "maximize" else StudyDirection.MINIMIZE
        with self._by_optuna():
            try:
                return self._optuna.create_new_study([direction], self.head.name)
            except optuna.exceptions.DuplicatedStudyError:
                return self._optuna.get_study_id_from_name(self.head.name)

    @contextlib.contextmanager
    def _by_optuna(self) -> Iterator[None]:
        """Optuna reads rows of its own on the way, and takes what is damaged in them for the mistake of a caller."""
        try:
            yield
        except (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, RecursionError) as error:
            raise StoreError(
                f"The study {self.head.name!r} cannot go on: a row of Optuna's in its database is damaged "
                f"({type(error).__name__}: {one_line(str(error))[:120]}). Repair it, or start a new study (without -lb)."
            ) from error

    def _close_lost_attempts(self) -> list[str]:
        """Mark the attempts of a dead tuner as lost; returns the tokens of processes that may still run."""
        of_study = attempts.c.study == self.head.name
        mine = (of_study, attempts.c.state == "running")
        with self._database.begin() as db:
            tokens = usable(row.token for row in db.execute(select(attempts.c.token).where(of_study)))
            db.execute(update(attempts).where(*mine).values(state="lost", ended_at=self._clock.wall()))
        return tokens

    def _roll_forward(self) -> None:
        """Finish those of Optuna's trials whose results are already in our table."""
        trials = self.reader.optuna_trials(self.head.name)
        self._ids = {number: trial.id for number, trial in trials.own.items()}
        self._numbers = set(trials.numbers)
        for attempt in self.reader.attempts(self.head.name):
            if attempt.kind == "trial" and attempt.result is not None:
                self._finish(attempt.trial_number, attempt.result)

    def _new_trial(self, setting: Setting) -> int:
        """The number of a new trial in Optuna, which counts the rows of the study.

        Where another program has deleted rows the count gives a number a second time; that row is closed and left out.
        """
        template = create_trial(
            state=OptunaState.RUNNING,
            params=self.space.coordinates(setting),
            distributions={d.name: distribution(d) for d in self.space.dimensions},
            user_attrs={"setting": dict(setting.values), "origin": setting.origin},
        )
        with self._by_optuna():
            for _ in range(MOST_NUMBERS):
                trial_id = self._optuna.create_new_trial(self._study_id, template_trial=template)
                number = self._optuna.get_trial(trial_id).number
                if number not in self._numbers:
                    self._numbers.add(number)
                    self._ids[number] = trial_id
                    return number
                self._optuna.set_trial_user_attr(trial_id, "setting", None)
                self._optuna.set_trial_state_values(trial_id, OptunaState.FAIL)
        raise StoreError(
            f"The study {self.head.name!r} cannot go on: {MOST_NUMBERS} new trials in a row got numbers that were given "
            "before; another program, or a rule of its database, removes rows. Start a new study (without -lb)."
        )

    def _finish(self, number: int, outcome: AttemptResult) -> None:
        score, trial_id = outcome.score, self._ids.get(number)
        if trial_id is None or not (score or outcome.gave_up) or self._is_finished(trial_id):
            return
        with self._by_optuna():
            if outcome.failure is not None:
                self._optuna.set_trial_user_attr(trial_id, "failure", ours.hide(outcome.failure))
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

    def _is_finished(self, trial_id: int) -> bool:
        with self._database.connect() as db:
            return is_finished(db, trial_id)


def _json(facts: Any) -> str:
    """What a study keeps: whatever a service said, without secrets."""
    return json.dumps(ours.hide_in(facts), default=str)


def _seconds(attempt: AttemptRow) -> float:
    last_renewed, ended = attempt.lease_expires_at - LEASE_S, attempt.ended_at or attempt.started_at
    return max(0.0, (min(ended, last_renewed) if attempt.state == "lost" else ended) - attempt.started_at)
