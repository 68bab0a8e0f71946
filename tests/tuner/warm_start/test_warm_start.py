"""Learning from earlier studies: which count, on which scale, decided once; and nothing of them is ever written."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from tests.tuner.loop.test_coordinator import FIELDS, plan

from swarmtune.clock import VirtualClock
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.records import AttemptResult, Event, Measurement, Score, Setting, Trial
from swarmtune.search.base import Earlier
from swarmtune.search.history import unseen
from swarmtune.search.random import RandomSearch
from swarmtune.space import Field, Space
from swarmtune.study.reader import StudyHead
from swarmtune.study.writer import StudyWriter
from swarmtune.testing.search import RULES, service
from swarmtune.testing.synthetic import SyntheticGroup
from swarmtune.tuner.loop.attempts import Attempts
from swarmtune.tuner.loop.coordinator import Coordinator
from swarmtune.tuner.loop.evaluation import Bench
from swarmtune.tuner.loop.groups import dispatcher_of
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.run import _warm_start
from swarmtune.tuner.warm_start.record import WarmStart, scaled
from swarmtune.tuner.warm_start.similar import circumstances, differences, in_space

SPACE = Space(FIELDS, RULES)


class Learner(RandomSearch):
    """Every question depends on everything that was learned."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.earlier: list[Earlier] = []

    def learn(self, earlier: Sequence[Earlier]) -> None:
        self.earlier += earlier

    def ask(self, pending: Sequence[Setting]) -> Setting:
        import numpy as np

        learned = round(sum(abs(e.score.loss) * e.weight for e in self.earlier) * 1e6)
        rng = np.random.default_rng([learned, len(self._history) + len(pending)])
        return replace(unseen(self.space, self._history, pending, rng), origin="learner")


@pytest.fixture(autouse=True)
def _learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "new_search", lambda self: Learner(self.space, self.seed, self.evaluations))


def twice(setting: Setting) -> Score:
    """A machine twice as fast."""
    score = service(setting)
    if score.value is None:
        return score
    violations = {n: (1 + v) / 2 - 1 if n != "success_rate" else v for n, v in score.violations.items()}
    return Score(score.value * 2, score.loss * 2, violations)


class Study:
    """A study in a folder of its own, measured on a virtual machine."""

    def __init__(self, made: Plan, name: str, service: object = service, head: dict[str, object] | None = None) -> None:
        self.events: list[Event] = []
        self.path = made.output / name / "study.db"
        self.path.parent.mkdir(exist_ok=True, parents=True)
        self._plan, self._service = made, service
        self.clock = VirtualClock()
        fingerprint = {**made.fingerprint(), **circumstances(made), **(head or {})}
        self.ledger = StudyWriter(str(self.path), StudyHead(name, {}, fingerprint), made.space, "maximize", self.clock)
        self.warm = _warm_start(made, self.ledger, self.clock, self.events.append)
        group = SyntheticGroup("a", self.clock, service, lambda _: 10.0)  # type: ignore[arg-type]
        bench = Bench(LocalExecutor(made.output, self.clock), self.clock, made.output)
        attempts = Attempts(made, self.ledger, bench, self.events.append)
        dispatcher = dispatcher_of(made, [group], self.clock, self.events.append)
        self.coordinator = Coordinator(made, attempts, dispatcher, self.warm)

    async def run(self) -> list[Trial]:
        try:
            return await self.coordinator.search()
        finally:
            self.ledger.dispose()

    @property
    def learned(self) -> list[Earlier]:
        return self.coordinator._search.earlier  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    return plan(8, output=tmp_path, warm_start=True)


async def test_the_best_of_a_study_like_this_is_measured_first_and_everything_is_learned(made: Plan) -> None:
    first = await Study(made, "first").run()
    second = Study(made, "second")
    trials = await second.run()
    assert [t.setting.origin for t in trials[:3]] == ["baseline", "earlier:1", "earlier:2"]
    rest = sorted((t for t in first[1:] if t.score and t.score.feasible), key=lambda t: t.score.loss if t.score else 0)
    assert [t.setting for t in trials[1:3]] == [t.setting for t in rest[:2]]
    assert {e.setting.key: (e.score, e.weight) for e in second.learned} == {
        t.setting.key: (t.score, 1.0) for t in first
    }
    assert second.warm.sentence == "Learning from earlier studies: 8 results of first"
    assert [e.facts["message"] for e in second.events if e.kind == "warm_start"] == [second.warm.sentence]


async def test_a_study_of_other_hardware_counts_less_and_on_our_scale(made: Plan) -> None:
    first = await Study(made, "first", twice, {"hardware": {"cpu": "another"}, "engine_version": "0"}).run()
    second = Study(made, "second")
    await second.run()
    (source,) = second.warm.sources
    assert source.differs == ("hardware", "engine version")
    by_key = {t.setting.key: service(t.setting) for t in first}
    assert len(second.learned) == 8
    for earlier in second.learned:
        assert earlier.weight == pytest.approx(0.09)
        assert earlier.score.loss == pytest.approx(by_key[earlier.setting.key].loss)
        assert earlier.score.violations == pytest.approx(dict(by_key[earlier.setting.key].violations))


async def test_resumed_it_asks_what_it_would_have_asked(made: Plan, tmp_path: Path) -> None:
    await Study(made, "first").run()
    whole = [t.setting.key for t in await Study(made, "whole").run()]
    (made.output / "whole").rename(tmp_path.parent / f"{tmp_path.name}-whole")
    for stop in (1, 2, 3, 5):
        name = f"cut-{stop}"
        await Study(replace(made, evaluations=stop), name).run()
        resumed = Study(made, name)
        assert [t.setting.key for t in await resumed.run()] == whole
        assert len(resumed.warm.results) == 8
        (made.output / name).rename(tmp_path.parent / f"{tmp_path.name}-{name}")


async def test_what_appears_after_the_start_changes_nothing(made: Plan) -> None:
    await Study(replace(made, evaluations=3), "cut").run()
    await Study(replace(made, seed=9), "later").run()
    resumed = Study(made, "cut")
    await resumed.run()
    assert resumed.warm == WarmStart()


async def test_it_can_be_switched_off(made: Plan) -> None:
    await Study(made, "first").run()
    cold = Study(replace(made, warm_start=False), "cold")
    await cold.run()
    assert cold.learned == []
    assert cold.warm == WarmStart()


async def test_useless_databases_are_told_of_and_none_is_written_to(made: Plan) -> None:
    await Study(made, "good").run()
    for name, content in (("corrupt", b"SQLite format 3\0" + b"x" * 5000), ("text", b"hello"), ("empty", b"")):
        (made.output / name).mkdir()
        (made.output / name / "study.db").write_bytes(content)
    (made.output / "foreign").mkdir()
    with contextlib.closing(sqlite3.connect(made.output / "foreign" / "study.db")) as db:
        db.execute("create table t (x)")
    busy = Study(replace(made, seed=4), "busy")  # its ledger is open: this very process works on it
    expires = VirtualClock().wall() + 30
    with contextlib.closing(sqlite3.connect(busy.path, isolation_level=None)) as db:
        db.execute("update swarmtune_studies set owner = 'other-host:1:2.0', owner_expires_at = ?", (expires,))
    files = [p for p in made.output.rglob("*") if p.is_file() and p.parent.name != "busy"]
    before = {p: sha256(p.read_bytes()).hexdigest() for p in files}
    study = Study(made, "new")
    await study.run()
    busy.ledger.dispose()
    assert [s.study for s in study.warm.sources] == ["good"]
    told = "\n".join(study.warm.notices)
    assert all(word in told for word in ("/corrupt/", "/text/", "/empty/", "/foreign/", "a tuner is working on it"))
    assert {p: sha256(p.read_bytes()).hexdigest() for p in files} == before
    assert sorted(p for p in made.output.rglob("*") if p.parent.name not in ("busy", "new") and p.is_file()) == sorted(
        files
    )


async def test_predicted_results_are_not_used(made: Plan) -> None:
    """No study of ours has any; a database may come from anyone."""
    study = Study(made, "first")
    for i in range(2):
        setting = made.baseline() if i == 0 else SPACE.setting({"seqs": 99})
        study.ledger.append(Event("trial_started", 0.0, {"trial": i, "origin": "", "setting": dict(setting.values)}))
        attempt = study.ledger.open(setting, "a", "t")
        study.ledger.close(attempt, AttemptResult(service(setting), Measurement({})))
    study.ledger.dispose()
    with contextlib.closing(sqlite3.connect(made.output / "first" / "study.db")) as database:
        changed = (
            "UPDATE swarmtune_attempts SET outcome = replace(outcome, '\"measured\"', '\"predicted\"') WHERE id = 2"
        )
        assert database.execute(changed).rowcount == 1
        database.commit()
    second = Study(made, "second")
    second.ledger.dispose()
    assert [t.setting for t in second.warm.results] == [made.baseline()]


def test_what_must_agree_and_what_may_differ() -> None:
    ours = {"engine": "e", "model": "m", "objective": "o", "workload": "w", "hardware": {"cores": 2}, "service": "s"}
    assert differences(ours, ours) == ()
    assert differences(ours, {**ours, "objective": "p"}) is None
    assert differences(ours, {**ours, "hardware": {"cores": 4}, "load_search": "l"}) == ("hardware", "workload")
    assert differences(ours, {**ours, "hardware": "several"}) == ("hardware",)


def test_settings_are_mapped_by_name_where_they_are_the_same_setting() -> None:
    space = Space([Field("n", min=1, max=8, value=4), Field("new", dtype="bool", value=False)])
    made = in_space(space, {"n": 3, "old": 1}, {"n": 4, "old": 1})
    assert made is not None
    assert dict(made.values) == {"n": 3, "new": False}
    assert in_space(space, {"n": 3, "old": 2}, {"n": 4, "old": 1}) is None, "it was measured with another value of old"
    assert in_space(space, {"n": 9}, {}) is None
    ruled = Space([Field("n", min=1, max=8, value=4)], ["n != 3"])
    assert in_space(ruled, {"n": 3}, {}) is None


def test_scaling_leaves_alone_what_is_no_ratio() -> None:
    anchor = Score(
        10.0, -10.0, {"p95_ttft_ms": -0.5, "success_rate": -0.01}, {"throughput": -10.0, "p95_ttft_ms": 50.0}
    )
    ours = Score(5.0, -5.0, {"p95_ttft_ms": 0.0, "success_rate": 0.0}, {"throughput": -5.0, "p95_ttft_ms": 100.0})
    theirs = Score(20.0, -20.0, {"p95_ttft_ms": -0.25, "success_rate": 0.2}, {"throughput": -20.0, "p95_ttft_ms": 75.0})
    found = scaled(theirs, anchor, ours)
    assert found is not None
    assert (found.value, found.loss) == (10.0, -10.0)
    assert found.violations == pytest.approx({"p95_ttft_ms": 0.5, "success_rate": 0.2})
    assert found.values == {"throughput": -10.0, "p95_ttft_ms": 150.0}
    assert scaled(Score.failed(), anchor, ours) == Score.failed()
    assert scaled(theirs, anchor, Score.failed()) is None, "without our baseline there is no scale"
    assert scaled(theirs, anchor, Score(0.0, 0.0)) is None


async def test_a_study_that_moved_to_other_hardware_goes_on_and_is_never_alike_again(made: Plan) -> None:
    await Study(replace(made, evaluations=3), "moving", head={"hardware": {"cpu": "before"}}).run()
    await Study(made, "moving").run()
    second = Study(made, "second")
    second.ledger.dispose()
    assert [s.differs for s in second.warm.sources] == [("hardware",)]
