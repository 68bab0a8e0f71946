"""Damaged rows of Optuna's, and of ours, end in one sentence that names the study, or cost nothing at all."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from swarmtune.clock import RealClock
from swarmtune.errors import StoreError
from swarmtune.records import Event, TrialState
from swarmtune.space import Space
from swarmtune.study.reader import StudyHead, lost_tokens
from swarmtune.study.writer import StudyWriter
from swarmtune.testing.search import MIXED, RULES
from swarmtune.testing.store import GOOD, MEASURED, some_settings
from swarmtune.tuner.warm_start.record import WarmStart

NAME = "study-of-today"
RANGE = '{"name": "IntDistribution", "attributes": {"low": %s, "high": %s, "step": %s, "log": false}}'
VALUES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("trial_params", "distribution_json"): (
        "", "[]", "[" * 100_000, '{"name": "Foo", "attributes": {}}', RANGE % (9, 1, 1), RANGE % (1, 9, 0),
        RANGE % ('"a"', "[]", 1), RANGE % (1, "9" * 5000, 1),
        '{"name": "CategoricalDistribution", "attributes": {"choices": []}}',
    ),
    ("trial_params", "param_value"): ("zz", 9e999, b"\xff"),
    ("trials", "state"): (7, "ODD"),
    ("trials", "number"): ("z", None, -1, 2**63 - 1),
    ("trials", "datetime_start"): ("garbage", 5),
    ("trials", "datetime_complete"): ("garbage", 5),
    ("trial_values", "value_type"): ("ODD",),
    ("trial_values", "value"): ("zz", 9e999),
    ("trial_system_attributes", "value_json"): ("[[",),
    ("trial_user_attributes", "value_json"): ("[[", None),
    ("study_directions", "direction"): ("SIDEWAYS",),
    ("swarmtune_attempts", "trial_number"): ("z", -1),
    ("swarmtune_attempts", "token"): (b"\xff", 7),
    ("swarmtune_studies", "active_seconds"): ("z", 9e999),
    ("swarmtune_events", "facts"): ("{}", "[[", '{"results": 7, "first": 7, "sources": 7, "notices": 7}'),
}  # fmt: skip
OF_THE_FINISHED = [  # what is done with a trial has no need of them
    *(("trial_values", "value_type"), ("trial_values", "value"), ("trial_system_attributes", "value_json")),
    *(("trials", "datetime_start"), ("trials", "datetime_complete")),
]


def opened(path: Path) -> StudyWriter:
    return StudyWriter(str(path), StudyHead(NAME, {}, {"engine": "x"}), Space(MIXED, RULES), "maximize", RealClock())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "study.db"
    study = opened(path)
    for number, setting in enumerate(some_settings(2)):
        attempt = study.open(setting, "a", f"token-of-t{number}")
        study.append(MEASURED, attempt)
        study.close(attempt, GOOD)
    study.append(Event("warm_start", 1.0, WarmStart().to_json()))
    study.open(some_settings(3)[2], "a", "token-of-t2")
    study.dispose()
    return path


def gone_on_with(path: Path) -> list[TrialState]:
    """The trials after the running one and a new one were measured."""
    lost_tokens(str(path), NAME, 1.0)
    study = opened(path)
    try:
        for trial in study.trials():
            if trial.state is TrialState.RUNNING:
                study.close(study.open(trial.setting, "a", "token-of-t3", number=trial.number), GOOD)
        study.close(study.open(some_settings(4)[3], "a", "token-of-t4"), GOOD)
        study.measurements()
        study.search_seconds()
        for facts in study.recorded("warm_start"):
            try:
                WarmStart.from_json(facts)
            except (ValueError, LookupError) as error:
                raise StoreError(NAME) from error
        return [trial.state for trial in study.trials()]
    finally:
        study.dispose()


@pytest.mark.parametrize(("table", "column"), VALUES)
def test_a_damaged_row_ends_in_a_sentence(sound: Path, tmp_path: Path, table: str, column: str) -> None:
    told = []
    for number, value in enumerate(VALUES[table, column]):
        path = Path(shutil.copy(sound, tmp_path / f"{number}.db"))
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"UPDATE {table} SET {column} = ?", (value,))
            database.commit()
        try:
            gone_on_with(path)
        except StoreError as error:
            told.append(error.message)
    assert all(NAME in message and len(message.splitlines()) == 1 for message in told)


@pytest.mark.parametrize(("table", "column"), OF_THE_FINISHED)
def test_what_a_finished_trial_has_no_need_of_costs_nothing(
    sound: Path, tmp_path: Path, table: str, column: str
) -> None:
    path = Path(shutil.copy(sound, tmp_path / "a.db"))
    with closing(sqlite3.connect(path)) as database:
        query = f"UPDATE {table} SET {column} = 'ODD' WHERE trial_id IN (SELECT trial_id FROM trials WHERE number < 2)"
        assert database.execute(query).rowcount >= 2
        database.commit()
    assert gone_on_with(path) == [TrialState.COMPLETE] * 4


def test_a_sound_study_goes_on(sound: Path, tmp_path: Path) -> None:
    assert gone_on_with(Path(shutil.copy(sound, tmp_path / "a.db"))) == [TrialState.COMPLETE] * 4


@pytest.mark.parametrize("column", ["lease_expires_at", "ended_at", "started_at"])
def test_the_times_of_what_is_finished_cost_no_result(sound: Path, tmp_path: Path, column: str) -> None:
    path = Path(shutil.copy(sound, tmp_path / "a.db"))
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE swarmtune_attempts SET {column} = '../x' WHERE trial_number < 2")
        database.commit()
    assert gone_on_with(path) == [TrialState.COMPLETE] * 4
    with closing(sqlite3.connect(path)) as database:
        counts = database.execute("SELECT count(*) FROM swarmtune_attempts GROUP BY trial_number").fetchall()
    assert counts[:2] == [(1,), (1,)], "nothing is measured twice"
