"""A study that somebody has worked on with Optuna goes on: what SwarmTune did not make is left out, with a note."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState as OptunaState
from sqlalchemy import create_engine

from swarmtune.clock import RealClock
from swarmtune.database.address import database_url
from swarmtune.records import TrialState
from swarmtune.space import Space
from swarmtune.study.reader import StudyHead
from swarmtune.study.writer import StudyWriter
from swarmtune.testing.search import MIXED, RULES
from swarmtune.testing.store import GOOD, some_settings

SPACE = Space(MIXED, RULES)


def opened(url: str, name: str) -> StudyWriter:
    return StudyWriter(url, StudyHead(name, {}, {"engine": "x"}), SPACE, "maximize", RealClock())


@contextmanager
def by_optuna(url: str, name: str) -> Iterator[optuna.Study]:
    storage = optuna.storages.RDBStorage(database_url(url))
    try:
        yield optuna.load_study(study_name=name, storage=storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def ask(study: optuna.Study) -> None:
    study.ask({"seqs": IntDistribution(1, 512, log=True)})


def enqueue(study: optuna.Study) -> None:
    study.enqueue_trial({"seqs": 8})


def fail(study: optuna.Study) -> None:
    study.add_trial(optuna.trial.create_trial(state=OptunaState.FAIL))


def complete(study: optuna.Study) -> None:
    study.add_trial(optuna.trial.create_trial(value=1e6))


def no_setting(study: optuna.Study) -> None:
    study.add_trial(optuna.trial.create_trial(value=1e6, user_attrs={"setting": ["a"], "origin": "me"}))


def a_setting(study: optuna.Study) -> None:
    study.add_trial(optuna.trial.create_trial(value=1e6, user_attrs={"setting": {"seqs": 3}, "origin": "particle:1"}))


def attributes(study: optuna.Study) -> None:
    study.set_user_attr("note", "mine")


def second(study: optuna.Study) -> None:
    optuna.create_study(study_name=f"another-{uuid.uuid4().hex}", storage=study._storage).ask()


TOUCHES = {
    "ask": (ask, 1),
    "enqueue": (enqueue, 1),
    "fail": (fail, 1),
    "complete": (complete, 1),
    "no setting": (no_setting, 1),
    "a setting": (a_setting, 1),
    "attributes": (attributes, 0),
    "second": (second, 0),
}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "study.db")


@pytest.mark.parametrize("touch", TOUCHES)
def test_foreign_trials_are_left_out_and_shift_nothing(url: str, touch: str) -> None:
    name = uuid.uuid4().hex
    settings = some_settings(5)
    first = opened(url, name)
    first.close(first.open(settings[0], "a", "t0"), GOOD)
    first.open(settings[1], "a", "t1")
    first.dispose()
    change: Callable[[optuna.Study], None]
    change, foreign = TOUCHES[touch]
    with by_optuna(url, name) as study:
        change(study)
    again = opened(url, name)
    assert [(t.number, t.state) for t in again.trials()] == [(0, TrialState.COMPLETE), (1, TrialState.RUNNING)]
    assert len(again.notices) == foreign
    assert all("trial 2 of the study" in note for note in again.notices)
    again.close(again.open(settings[1], "a", "t2", number=1), GOOD)
    numbers = [again.open(s, "a", f"t{n}").trial_number for n, s in enumerate(settings[2:], 3)]
    assert numbers == [n + foreign for n in (2, 3, 4)]
    for number, setting in zip(numbers, settings[2:], strict=True):
        again.close(again.open(setting, "a", "t", number=number), GOOD)
    assert [t.setting for t in again.trials()] == settings
    assert {t.state for t in again.trials()} == {TrialState.COMPLETE}
    again.dispose()
    with by_optuna(url, name) as study:
        own = [t for t in study.trials if t.number in (0, 1, *numbers)]
        assert [t.state for t in own] == [OptunaState.COMPLETE] * 5


def test_a_trial_that_was_deleted_gives_no_number_twice(url: str) -> None:
    """Optuna numbers a trial by counting the rows before it."""
    name = uuid.uuid4().hex
    settings = some_settings(6)
    first = opened(url, name)
    for number, setting in enumerate(settings[:4]):
        first.close(first.open(setting, "a", f"t{number}"), GOOD)
    first.dispose()
    delete(url, name, 1)
    again = opened(url, name)
    assert [t.number for t in again.trials()] == [0, 2, 3]
    assert ["removed" in note and "trial 1" in note for note in again.notices] == [True]
    attempt = again.open(settings[4], "a", "t4")
    assert attempt.trial_number == 4
    delete(url, name, 4)
    again.close(attempt, GOOD)
    again.close(again.open(settings[5], "a", "t5"), GOOD)
    assert [t.setting for t in again.trials()] == [settings[0], *settings[2:4], settings[5]]
    again.dispose()
    third = opened(url, name)
    assert [t.setting for t in third.trials()] == [settings[0], *settings[2:4], settings[5]]
    third.dispose()


def delete(url: str, name: str, number: int) -> None:
    engine = create_engine(database_url(url))
    of_study = f"number = {number} AND study_id = (SELECT study_id FROM studies WHERE study_name = '{name}')"
    with engine.begin() as db:
        for child in ("trial_user_attributes", "trial_system_attributes", "trial_params", "trial_values"):
            db.exec_driver_sql(f"DELETE FROM {child} WHERE trial_id IN (SELECT trial_id FROM trials WHERE {of_study})")
        db.exec_driver_sql(f"DELETE FROM trials WHERE {of_study}")
    engine.dispose()
