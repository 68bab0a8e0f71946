"""The ledger in memory, SQLite and a real PostgreSQL: the contract, crashes between any two steps, and Optuna's view."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from swarmtune.clock import Clock, RealClock, VirtualClock
from swarmtune.database.address import database_url
from swarmtune.errors import ConfigurationError, StoreError, StudyBusyError
from swarmtune.records import Event, TrialState
from swarmtune.space import Space
from swarmtune.study.ownership import LEASE_S, RENEW_EVERY_S
from swarmtune.study.reader import StudyHead, latest_study, look_twice, reading
from swarmtune.study.store import Remeasured, Store
from swarmtune.study.writer import StudyWriter
from swarmtune.testing.memory_store import MemoryStore
from swarmtune.testing.search import MIXED, RULES
from swarmtune.testing.store import (
    BROKEN_PROMISE,
    FAILED_SETTING,
    GOOD,
    LOST,
    StoreContract,
    some_settings,
)

SPACE = Space(MIXED, RULES)


def ledger_at(url: str, name: str = "study", fingerprint: dict[str, object] | None = None) -> StudyWriter:
    return StudyWriter(
        url, StudyHead(name, {"overrides": {}}, fingerprint or {"engine": "x"}), SPACE, "maximize", RealClock()
    )


def looked_at(url: str, name: str, clock: Clock | None = None) -> StudyWriter:
    """Another tuner that has looked at the study, and saw its lease not move."""
    with reading(url) as reader:
        return StudyWriter(url, reader.head(name), SPACE, "maximize", clock or RealClock())


def die(ledger: StudyWriter) -> None:
    """What is left when its process is killed: no owner that lives, no connection, attempts as they were."""
    ledger.dispose()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestSqlite(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        ledger = ledger_at(str(tmp_path / "study.db"))
        yield ledger
        ledger.dispose()


class TestPostgres(StoreContract):
    @pytest.fixture
    def store(self, postgres_url: str) -> Iterator[Store]:
        ledger = ledger_at(postgres_url, f"study-{uuid.uuid4().hex}")
        yield ledger
        ledger.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "study.db")


def test_another_tuner_goes_on_where_the_first_one_died(url: str) -> None:
    name = uuid.uuid4().hex
    first = ledger_at(url, name)
    done, lost, running, failing = some_settings(4)
    first.close(first.open(done, "local", "t0"), GOOD)
    first.close(first.open(lost, "local", "t1"), LOST)
    first.open(running, "local", "token-of-a-leftover")
    first.close(first.open(failing, "local", "t3"), FAILED_SETTING)
    first.close(first.open(done, "local", "t4", number=0, kind="confirm:3:0"), GOOD)
    first.open(done, "local", "token-of-t5", number=0, kind="confirm:3:1")
    die(first)
    second = ledger_at(url, name)
    assert {"token-of-t5", "token-of-a-leftover"} <= set(second.swept_tokens)
    states = [t.state for t in second.trials()]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING, TrialState.COMPLETE]
    assert second.confirmations() == [Remeasured("confirm:3:0", 0, "local", GOOD)]
    assert second.ownership.active_seconds() >= 0
    second.dispose()


def test_a_death_between_the_two_steps_of_finishing_loses_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after our row and at every later write to Optuna's tables: the next tuner completes the trial."""
    for crash_at in range(5):
        name = uuid.uuid4().hex
        first = ledger_at(url, name)
        attempt = first.open(some_settings(1)[0], "local", "t")
        calls = iter(range(100))

        def dying(real: object, calls: Iterator[int] = calls, crash_at: int = crash_at) -> object:
            def step(*arguments: object) -> object:
                if next(calls) == crash_at:
                    raise KeyboardInterrupt
                return real(*arguments)  # type: ignore[operator]

            return step

        storage = first._optuna
        for method in ("set_trial_system_attr", "set_trial_user_attr", "set_trial_state_values"):
            monkeypatch.setattr(storage, method, dying(getattr(storage, method)))
        with pytest.raises(KeyboardInterrupt):
            first.close(attempt, BROKEN_PROMISE)
        die(first)
        second = ledger_at(url, name)
        (trial,) = second.trials()
        assert trial.state is TrialState.COMPLETE
        assert trial.score == BROKEN_PROMISE.score
        (told,) = optuna.load_study(study_name=name, storage=second._optuna).trials
        assert told.state == optuna.trial.TrialState.COMPLETE
        assert told.values == [9.0]
        second.dispose()


def test_optuna_sees_what_we_see(url: str) -> None:
    name = uuid.uuid4().hex
    ledger = ledger_at(url, name)
    for setting, outcome in zip(some_settings(3), (GOOD, BROKEN_PROMISE, FAILED_SETTING), strict=True):
        ledger.close(ledger.open(setting, "local", "t"), outcome)
    ledger.open(some_settings(4)[3], "local", "t")
    ledger.dispose()
    storage = optuna.storages.RDBStorage(database_url(url))
    study = optuna.load_study(study_name=name, storage=storage)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING"]
    assert study.best_trial.number == 0, "the better value breaks a promise, so Optuna must not take it for the best"
    legacy = [t.system_attrs["constraints"] for t in study.trials[:3]]
    assert [max(c) > 0 for c in legacy] == [False, True, True]
    assert study.trials[0].user_attrs["metrics"]["p95_ttft_ms"] == 12.5
    storage.remove_session()
    storage.engine.dispose()


def test_a_study_has_one_owner(url: str) -> None:
    name = uuid.uuid4().hex
    first = ledger_at(url, name)
    with first._database.begin() as db:  # as if another live process on this machine had it
        parent = first.ownership.identity.replace(f":{_pid(first)}:", ":1:")
        db.exec_driver_sql(f"UPDATE swarmtune_studies SET owner = '{_live_owner(parent)}' WHERE name = '{name}'")
    with pytest.raises(StudyBusyError, match="working on the study"):
        ledger_at(url, name)
    first._disconnect()


def test_a_tuner_that_was_stopped_too_long_writes_nothing_more(url: str) -> None:
    """Its own clock has stood still meanwhile: only the row tells that the study is another's."""
    name = uuid.uuid4().hex
    stopped = ledger_at(url, name)
    attempt = stopped.open(some_settings(1)[0], "local", "t0")
    with stopped._database.begin() as db:  # its lease has run out, and it is on another machine
        db.exec_driver_sql(
            f"UPDATE swarmtune_studies SET owner = 'elsewhere:1:1.00', owner_expires_at = 0 WHERE name = '{name}'"
        )
    other = looked_at(url, name)
    other.ownership._lease.identity = other.ownership.identity = "another:2:2.00"
    with other._database.begin() as db:
        db.exec_driver_sql(f"UPDATE swarmtune_studies SET owner = 'another:2:2.00' WHERE name = '{name}'")
    before = other.reader.attempts(name), other.reader.events(name), other.trials()
    for write in (
        lambda: stopped.close(attempt, GOOD),
        lambda: stopped.open(some_settings(2)[1], "local", "t1"),
        lambda: stopped.open(some_settings(1)[0], "local", "t2", number=0, kind="confirm:3:0"),
        lambda: stopped.append(Event("stale", 1.0)),
        lambda: stopped.append(("log", "path"), attempt),
        stopped.ownership.renew,
    ):
        with pytest.raises(StudyBusyError, match="took over the study"):
            write()
    assert (other.reader.attempts(name), other.reader.events(name), other.trials()) == before
    other.close(other.open(some_settings(1)[0], "local", "t3", number=0), GOOD)
    stopped.dispose()  # the other one keeps the study
    assert other.trials()[0].score == GOOD.score
    other.ownership.renew()
    other.dispose()


def _pid(ledger: StudyWriter) -> str:
    return ledger.ownership.identity.split(":")[1]


def _live_owner(identity: str) -> str:
    import psutil

    host = identity.split(":")[0]
    return f"{host}:1:{psutil.Process(1).create_time():.2f}"


def test_a_study_does_not_go_on_with_another_configuration(tmp_path: Path) -> None:
    url = str(tmp_path / "study.db")
    ledger_at(url, fingerprint={"engine": "vllm", "model": "a"}).dispose()
    with pytest.raises(ConfigurationError, match="model changed"):
        ledger_at(url, fingerprint={"engine": "vllm", "model": "b"})


def test_the_newest_study_is_found(tmp_path: Path) -> None:
    url = str(tmp_path / "study.db")
    assert latest_study(url) is None
    for name in ("first", "second"):
        ledger_at(url, name).dispose()
    head = latest_study(url)
    assert head is not None
    assert head.name == "second"


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """SQLite's own page limit stands for the disk: the error is the same SQLITE_FULL."""
    path = tmp_path / "study.db"
    ledger = ledger_at(str(path))
    settings = some_settings(400)
    finished = 0
    with ledger._database.connect() as db:
        pages = db.exec_driver_sql("PRAGMA page_count").scalar_one()
    raw = ledger._database.raw_connection()
    raw.execute(f"PRAGMA max_page_count = {pages + 4}")
    raw.close()
    with pytest.raises(StoreError, match="full"):  # noqa: PT012 - the loop is what fills it
        for setting in settings:
            ledger.close(ledger.open(setting, "local", "t"), GOOD)
            finished += 1
    ledger._disconnect()
    with sqlite3.connect(path) as db:
        done = db.execute("SELECT count(*) FROM swarmtune_attempts WHERE state = 'done'").fetchone()[0]
    db.close()
    assert done >= finished


def test_leases_run_out_on_another_machine(tmp_path: Path) -> None:
    """Of a tuner on another machine only the lease tells whether it lives."""
    path, clock = str(tmp_path / "study.db"), VirtualClock()
    head = StudyHead("study", {}, {"engine": "x"})
    first = StudyWriter(path, head, SPACE, "maximize", clock)
    with first._database.begin() as db:
        db.exec_driver_sql("UPDATE swarmtune_studies SET owner = 'elsewhere:17:1.00'")
    first._disconnect()
    with pytest.raises(StudyBusyError, match="elsewhere"):
        StudyWriter(path, head, SPACE, "maximize", clock)
    clock._now += LEASE_S + 1
    with pytest.raises(StudyBusyError, match="elsewhere"):
        StudyWriter(path, head, SPACE, "maximize", clock)
    looked_at(path, "study", clock).dispose()


@pytest.mark.parametrize("left_s", [-3600.0, -1.0, 61.0, 300.0, 1e12, math.inf, None])
@pytest.mark.parametrize("lives", [False, True])
async def test_clocks_that_differ_decide_nothing(tmp_path: Path, left_s: float | None, lives: bool) -> None:
    """A lease that is not in force by our clock is watched: who renews it keeps the study, and who does not loses it."""
    path, clock = str(tmp_path / "study.db"), VirtualClock()
    StudyWriter(path, StudyHead("study", {}, {"engine": "x"}), SPACE, "maximize", clock).dispose()
    until = None if left_s is None else clock.wall() + left_s
    owned(path, until)
    head, told = latest_study(path), list[str]()
    assert head is not None

    async def renewing() -> None:
        await clock.sleep(RENEW_EVERY_S)
        owned(path, (until or 0.0) + RENEW_EVERY_S if until != math.inf else 0.0)

    other = asyncio.create_task(renewing()) if lives else None
    with pytest.raises(StudyBusyError, match="elsewhere") if lives else contextlib.nullcontext():
        await look_twice(path, head, clock, told.append)
    if other is not None:
        await other
    assert ["elsewhere:17:1.00" in text for text in told] == [True]
    if lives:
        with pytest.raises(StudyBusyError, match="elsewhere"):
            StudyWriter(path, head, SPACE, "maximize", clock)
    else:
        StudyWriter(path, head, SPACE, "maximize", clock).dispose()


async def test_a_lease_in_force_and_a_dead_tuner_are_known_at_once(tmp_path: Path) -> None:
    path, clock, told = str(tmp_path / "study.db"), VirtualClock(), list[str]()
    first = StudyWriter(path, StudyHead("study", {}, {"engine": "x"}), SPACE, "maximize", clock)
    begun, gone = clock.monotonic(), first.ownership.identity.replace(f":{_pid(first)}:", ":999999999:")
    first.dispose()
    for owner, left_s, busy in (("elsewhere:17:1.00", 20.0, True), (gone, 1e12, False), (gone, 20.0, False)):
        owned(path, clock.wall() + left_s, owner)
        head = latest_study(path)
        assert head is not None
        with pytest.raises(StudyBusyError) if busy else contextlib.nullcontext():
            await look_twice(path, head, clock, told.append)
    assert (told, clock.monotonic()) == ([], begun)
    StudyWriter(path, head, SPACE, "maximize", clock).dispose()


def owned(path: str, until: float | None, owner: str = "elsewhere:17:1.00") -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE swarmtune_studies SET owner = ?, owner_expires_at = ?", (owner, until))
        db.commit()
