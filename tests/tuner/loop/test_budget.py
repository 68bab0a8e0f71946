"""Accelerator-seconds: every attempt is paid for, on every group, across every restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.tuner.loop.test_coordinator import FIELDS, Loop, plan

from swarmtune.clock import VirtualClock
from swarmtune.records import Group, Node
from swarmtune.space import Space
from swarmtune.study.reader import StudyHead
from swarmtune.study.writer import StudyWriter
from swarmtune.testing.search import RULES
from swarmtune.testing.store import GOOD, LOST, some_settings
from swarmtune.tuner.loop.budget import Budget

FOUR = Group("a", (Node("h1", (0, 1)), Node("h2", (0, 1))))


async def test_accelerator_seconds_end_the_search_but_not_a_measurement() -> None:
    """Two groups of 10 s an evaluation: 8 accelerators in all, spent are 80 every 10 s."""
    loop = Loop(plan(100, accelerator_s=170.0), groups=2)
    for group in loop.groups:
        group.group = replace(FOUR, name=group.group.name)
    trials = await loop.coordinator.search()
    assert len(trials) == 6
    assert loop.coordinator.budget.accelerator_s == pytest.approx(240.0)
    (said,) = [e.facts["message"] for e in loop.events if e.kind == "exhausted"]
    assert said == "the 170 accelerator-seconds (accelerator_seconds) are spent after 6 evaluations"
    assert loop.events[-2].facts.get("accelerator_seconds", 0) <= 240


async def test_failed_attempts_are_paid_for_and_earlier_runs_count() -> None:
    lossy = Loop(plan(100, accelerator_s=60.0), lose=lambda a: a.id == 1)
    assert len(await lossy.coordinator.search()) == 5
    resumed = Loop(plan(100, accelerator_s=60.0))
    assert len(await resumed.coordinator.search(accelerator_s=30.0)) == 3


async def test_running_attempts_count() -> None:
    clock = VirtualClock()
    budget = Budget(clock, accelerator_s=100.0, spent=(5.0, 20.0))
    budget.begin(FOUR)
    assert budget.exhausted() is None
    await clock.sleep(20.0)
    assert budget.accelerator_s == 100.0
    assert budget.wall_s == 25.0
    assert budget.exhausted() is not None
    budget.end(FOUR)
    await clock.sleep(9.0)
    assert budget.accelerator_s == 100.0


async def test_the_ledger_knows_what_every_attempt_took(tmp_path: Path) -> None:
    """A lost attempt counts up to when its tuner was last heard of, not until somebody came back."""
    clock = VirtualClock()

    def ledger() -> StudyWriter:
        return StudyWriter(str(tmp_path / "study.db"), StudyHead("s", {}, {}), Space(FIELDS, RULES), "maximize", clock)

    first = ledger()
    one, two, three = some_settings(3)
    for setting, outcome, seconds, group in ((one, GOOD, 10.0, "a"), (two, LOST, 7.0, "b")):
        attempt = first.open(setting, group, "t")
        await clock.sleep(seconds)
        first.close(attempt, outcome)
    proof = first.open(one, "a", "t", number=0, kind="confirm:x:0")
    await clock.sleep(2.0)
    first.close(proof, GOOD)
    first.open(three, "b", "t")
    await clock.sleep(5.0)
    first.ownership.renew()
    first.dispose()
    await clock.sleep(3600.0)
    second = ledger()
    assert second.accelerator_seconds({"a": 4}) == pytest.approx(4 * 10 + 7 + 5, abs=1e-6)
    assert second.accelerator_seconds({"a": 4}, of_trials=False) == pytest.approx(8)
    second.dispose()


async def test_the_time_of_the_proof_is_not_the_searchs(tmp_path: Path) -> None:
    """20 s of search, and a proof of 30 s on two groups that overlap."""
    clock = VirtualClock()
    ledger = StudyWriter(str(tmp_path / "study.db"), StudyHead("s", {}, {}), Space(FIELDS, RULES), "maximize", clock)
    (one,) = some_settings(1)
    attempt = ledger.open(one, "a", "t")
    await clock.sleep(20.0)
    ledger.close(attempt, GOOD)
    first = ledger.open(one, "a", "t", number=0, kind="confirm:x:0")
    await clock.sleep(10.0)
    second = ledger.open(one, "b", "t", number=0, kind="confirm:x:1")
    await clock.sleep(10.0)
    ledger.close(first, GOOD)
    await clock.sleep(10.0)
    ledger.close(second, GOOD)
    ledger.ownership.renew()
    assert ledger.ownership.active_seconds() == pytest.approx(50.0)
    assert ledger.search_seconds() == pytest.approx(20.0)
    ledger.dispose()


def test_a_group_without_devices_counts_as_one() -> None:
    assert Group("cpu", (Node("h1"), Node("h2"))).accelerators == 1
    assert FOUR.accelerators == 4
