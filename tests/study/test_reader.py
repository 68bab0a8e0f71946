"""The reader: any study, also one of the first format, damaged, or being written; never a byte changed."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.study.golden import NAME, restore

from swarmtune.clock import RealClock
from swarmtune.database.connection import read_only
from swarmtune.errors import StoreError
from swarmtune.records import Event, TrialState
from swarmtune.space import Space
from swarmtune.study.reader import StudyHead, latest_study, lost_tokens, reading
from swarmtune.study.store import Remeasured
from swarmtune.study.writer import StudyWriter
from swarmtune.testing.search import MIXED, RULES
from swarmtune.testing.store import GOOD, LOST, MEASURED, some_settings

SPACE = Space(MIXED, RULES)


def written(url: str, name: str) -> StudyWriter:
    """A study with a finished, a lost and a running trial, and a round of the proof; its tuner still works on it."""
    study = StudyWriter(url, StudyHead(name, {"config": None}, {"engine": "x"}), SPACE, "maximize", RealClock())
    done, lost, running = some_settings(3)
    attempt = study.open(done, "a", "token-of-t0")
    study.append(MEASURED, attempt)
    study.append(("logs", "attempts/0000-1"), attempt)
    study.append(Event("trial_started", 1.0, {"trial": 0}))
    study.append(Event("trial_finished", 2.0, {"trial": 0}))
    study.close(attempt, GOOD)
    study.close(study.open(lost, "b", "token-of-t1"), LOST)
    study.open(running, "a", "token-of-t2")
    study.close(study.open(done, "a", "token-of-t3", number=0, kind="confirm:x:0"), GOOD)
    return study


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_everything_can_be_looked_at_while_a_tuner_works(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "study.db") if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    name = f"study-{uuid.uuid4().hex}"
    study = written(url, name)
    with reading(url) as reader:
        head = reader.head(name)
        assert (head.name, head.request, head.fingerprint) == (name, {"config": None}, {"engine": "x"})
        assert head.busy(time.time())
        assert reader.trials(name) == study.trials()
        assert [t.state for t in reader.trials(name)] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]
        assert [(a.token, a.state) for a in reader.attempts(name)] == [
            ("token-of-t0", "done"), ("token-of-t1", "failed"), ("token-of-t2", "running"), ("token-of-t3", "done"),
        ]  # fmt: skip
        assert [p.measurement for p in reader.load_points(name)] == [MEASURED] == study.measurements()
        (first, started), (_, finished) = reader.events(name)
        assert (started, finished) == (
            Event("trial_started", 1.0, {"trial": 0}),
            Event("trial_finished", 2.0, {"trial": 0}),
        )
        assert [event for _, event in reader.events(name, after=first)] == [finished]
        assert [event for _, event in reader.events(name, "trial_started")] == [started]
        assert reader.remeasured(name) == [Remeasured("confirm:x:0", 0, "a", GOOD)] == study.confirmations()
        assert [(label, path) for _, label, path in reader.artifacts(name)] == [("logs", "attempts/0000-1")]
        assert reader.notes == []
    assert lost_tokens(url, name, time.time()) == [], "a live tuner's processes are its own"
    study.dispose()
    assert lost_tokens(url, name, time.time()) == ["token-of-t0", "token-of-t1", "token-of-t2", "token-of-t3"]


def test_a_study_of_the_first_format_is_read(tmp_path: Path) -> None:
    path = restore(tmp_path)
    before = path.read_bytes()
    with reading(str(path)) as reader:
        (head,) = reader.heads()
        trials = reader.trials(NAME)
        assert [t.state for t in trials] == [*[TrialState.COMPLETE] * 3, TrialState.RUNNING]
        assert [t.setting.origin for t in trials[:2]] == ["baseline", "particle:1"]
        assert trials[0].score is not None
        assert trials[0].score.value == pytest.approx(214.396, abs=1e-3)
        assert trials[0].measurement is not None
        assert len(trials[0].measurement.blocks["request_goodput"]) == 10
        assert len(reader.load_points(NAME)) == 4
        assert len(reader.events(NAME)) == 8
        assert reader.remeasured(NAME) == []
        assert reader.notes == []
    assert head.fingerprint["objective"]["kind"] == "goodput"
    assert head.fingerprint["load_search"]["points"] == 2
    assert not head.busy(time.time())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["study.db"]


DAMAGES = {
    "result": ("UPDATE swarmtune_attempts SET outcome = '{' WHERE trial_number = 0", "the result of attempt 1"),
    "huge": ("UPDATE swarmtune_attempts SET outcome = zeroblob(20000000) WHERE id = 1", "the result of attempt 1"),
    "deep": (f"UPDATE swarmtune_attempts SET outcome = '{'[' * 100_000}' WHERE id = 1", "the result of attempt 1"),
    "kind": ("""UPDATE swarmtune_attempts SET outcome = '{"score": 7}' WHERE id = 1""", "the result of attempt 1"),
    "time": ("UPDATE swarmtune_attempts SET started_at = 'noon' WHERE id = 1", "started_at of attempt 1"),
    "measurement": ("UPDATE swarmtune_load_points SET measurement = '[]' WHERE id = 1", "load point 1"),
    "event": ("UPDATE swarmtune_events SET facts = 'x' WHERE id = 1", "event 1"),
    "setting": ("UPDATE trial_user_attributes SET value_json = '[1]' WHERE key = 'setting'", "trials 0, 1, 2, 3"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_row_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    path = restore(tmp_path)
    query, noted = DAMAGES[name]
    with closing(sqlite3.connect(path)) as database:
        database.execute(query)
        database.commit()
    with reading(str(path)) as reader:
        everything = [reader.trials(NAME), reader.attempts(NAME), reader.load_points(NAME), reader.events(NAME)]
    assert any(noted in note for note in reader.notes), reader.notes
    assert len(reader.notes) == 1
    assert sum(map(len, everything)) < 4 + 4 + 4 + 8 or name in ("result", "huge", "deep", "kind", "time")


@pytest.mark.parametrize("column", ["request", "fingerprint", "created_at", "schema_version"])
def test_a_damaged_head_is_one_clear_error(tmp_path: Path, column: str) -> None:
    path = restore(tmp_path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE swarmtune_studies SET {column} = 'x'")
        database.commit()
    with pytest.raises(StoreError, match=f"{NAME}.* is damaged"):
        latest_study(str(path))
    with reading(str(path)) as reader, pytest.raises(StoreError, match="no study"):
        reader.head(NAME)


def test_a_database_of_others_has_no_study(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    assert latest_study(str(path)) is None
    assert not path.exists(), "looking creates nothing"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (x)")
    assert latest_study(str(path)) is None
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(StoreError, match="cannot be read"):
        latest_study(str(path))


@pytest.mark.parametrize(("make", "words"), [(os.mkfifo, "no regular"), (Path.mkdir, "no regular"), (None, "no such")])
def test_a_study_that_is_no_file(tmp_path: Path, make: Callable[[Path], None] | None, words: str) -> None:
    if make is not None:
        make(tmp_path / "x.db")
    with pytest.raises(StoreError, match=f"{words} file"), read_only(str(tmp_path / "x.db")):
        raise AssertionError


def test_a_text_that_is_not_utf_8_costs_no_other_row(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = written(str(path), "s")
    study.dispose()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE swarmtune_attempts SET service_group = CAST(x'ff00fe' AS TEXT) WHERE token = 'token-of-t1'")
        db.commit()
    with reading(str(path)) as reader:
        groups = [attempt.group for attempt in reader.attempts("s")]
    assert groups == ["a", "\N{REPLACEMENT CHARACTER}\0\N{REPLACEMENT CHARACTER}", "a", "a"]
    again = StudyWriter(str(path), StudyHead("s", {"config": None}, {"engine": "x"}), SPACE, "maximize", RealClock())
    assert len(again.trials()) == 3
    again.dispose()
