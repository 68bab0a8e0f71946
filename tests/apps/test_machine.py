"""A machine that is busy before anything was started is named, with what keeps it busy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cli_runs import Cli

from swarmtune.apps.cli import machine
from swarmtune.devices.busiest import MachineUse, Program
from swarmtune.records import Group, Node
from swarmtune.settings import read_settings
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan

BUSY = MachineUse(0.63, (Program("python", 4711, 0.48), Program("cc1plus", 4720, 0.12)))
BUSY_NOTE = (
    "This machine is busy: 63% of its CPUs are in use before anything was started, most of it by python (pid 4711, 48%) and "
    "cc1plus (pid 4720, 12%). Results will be noisy"
)


def plan(*nodes: Node) -> Plan:
    made = make_plan(read_settings(None, {"optimizer": {"engine": "simulated"}}))
    return replace(made, groups=(Group("g", nodes),), notices=("first",))


def found(monkeypatch: pytest.MonkeyPatch, use: MachineUse | None, **memory: tuple[float, float]) -> list[object]:
    """Let the machine look like this; the devices that are asked for."""
    asked: list[object] = []
    monkeypatch.setattr(machine, "machine_use", lambda: use)
    monkeypatch.setattr(machine, "memory_in_use", lambda devices: asked.append(devices) or memory)
    return asked


def test_a_busy_machine_is_named_in_check_and_dry_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, BUSY)
    for command in (("check",), ("optimizer", "--dry-run")):
        assert f"note: {BUSY_NOTE}" in " ".join(cli(*command, "-e", "simulated").out.split())
    hidden = replace(BUSY, busiest=(Program("cron", 7, 0.02),))
    found(monkeypatch, hidden)
    assert "are in use before anything was started, some of it by cron (pid 7, 2%)." in " ".join(
        cli("check", "-e", "simulated").out.split()
    )
    found(monkeypatch, replace(BUSY, share=0.2))
    assert "busy" not in cli("check", "-e", "simulated").out


def test_accelerators_that_hold_something_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = found(monkeypatch, None, **{"1": (41.2 * 2**30, 80 * 2**30), "3": (2**29, 80 * 2**30)})
    here, there = Node("127.0.0.1", (3, 1)), Node("192.0.2.1", (5,))
    first, note = machine.noticed(plan(there, here)).notices
    assert (first, asked) == ("first", [[1, 3]])
    assert note.startswith("Accelerator 1 is in use: 41.2 of its 80.0 GiB are taken before anything was started.")
    machine.noticed(plan(Node()))
    assert asked[1:] == [None], "all of them, where none is named"


def test_only_a_machine_that_serves_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = found(monkeypatch, BUSY, **{"0": (1.0, 1.0)})
    elsewhere = plan(Node("192.0.2.1"))
    assert machine.noticed(elsewhere) is elsewhere
    assert asked == []
    assert len(machine.noticed(plan(Node())).notices) == 3
