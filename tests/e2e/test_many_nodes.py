"""Groups of machines as a stranger uses them: the real command, real sshd, services of two nodes, cables that are cut."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import TINY, Workplace
from tests.lab import Lab, Machine, NoLab
from tests.lab.sshd import PROJECT

pytestmark = pytest.mark.e2e

CONFIG = f"{TINY}[parallel]\nretry_delay = 0.5\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(Lab(4, [tmp_path_factory.getbasetemp()]))
        except NoLab as reason:
            pytest.skip(str(reason))


@pytest.fixture
def tuner(lab: Lab, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A user who can log in on the machines, with a hostfile of two groups of two."""
    home = workplace.folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "config").write_text(lab.config.read_text())
    monkeypatch.setenv("HOME", str(home))
    workplace.config(CONFIG)
    (workplace.folder / "hosts").write_text("".join(f"{m.address} slots=0\n" for m in lab.machines))
    yield workplace
    for machine in lab.machines:
        machine.heal()
        assert [c for c in machine.commands() if "supervisor" in c or "swarmtune" in c] == []
        assert machine.run("sh", "-c", "ls -A /root/.swarmtune 2>/dev/null || true") == ""


PARALLEL = ("--parallel", "--hostfile", "hosts", "--nodes-per-group", "2")


def rows(study: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(study / "study.db")) as database:
        return database.execute(query).fetchall()


def wait_for(text: str, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"it ended without {text!r}")


def once_each(study: Path, count: int) -> None:
    done = rows(study, "SELECT trial_number FROM swarmtune_attempts WHERE kind = 'trial' AND state = 'done'")
    finished = rows(study, "SELECT number, state FROM trials")
    complete = [n for n, state in finished if state == "COMPLETE"]  # by chance others may refuse all requests: FAIL
    assert len(complete) == count
    assert Counter(n for (n,) in done) == dict.fromkeys(complete, 1)


def test_two_groups_of_two_machines_tune_and_prove(tuner: Workplace) -> None:
    result = tuner.tune(*PARALLEL)
    assert result["evaluations"] == 6
    assert result["verdict"]["groups"] == 2
    assert set(result["verdict"]["group_effects_percent"]) == {"group0", "group1"}
    assert "--node-rank 1" in result["best"]["commands_of_other_ranks"][0]
    study = tuner.study
    assert rows(study, "SELECT DISTINCT service_group FROM swarmtune_attempts ORDER BY 1") == [("group0",), ("group1",)]
    assert (study / "attempts" / "0000-1" / "service" / "output.log").is_file()
    assert (study / "attempts" / "0000-1" / "service-rank-1" / "output.log").is_file()
    once_each(study, 6)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_machine_that_is_cut_off_loses_no_trial(tuner: Workplace, lab: Lab, rank: int) -> None:
    machine = lab.machines[2 + rank]
    process = tuner.start(*PARALLEL, "--json")
    wait_for("[1/6]", process)
    machine.cut()
    wait_for(" failed: ", process)
    machine.heal()
    _, err = process.communicate(timeout=140)
    assert process.returncode == 0, err
    once_each(tuner.study, 6)
    lost = "SELECT service_group FROM swarmtune_attempts WHERE outcome LIKE '%\"score\": null%'"
    undiagnosed = f"{lost} AND outcome NOT LIKE '%log_tail%' AND outcome NOT LIKE '%reasons%'"  # no fault of a setting
    failed = rows(tuner.study, undiagnosed)
    assert set(failed) == {("group1",)}, err


@pytest.mark.parametrize("rank", [0, 1])
def test_an_engine_that_hangs_fails_its_trial_and_no_other(tuner: Workplace, lab: Lab, rank: int) -> None:
    """In the middle of a load; nothing ends, nothing says so."""
    limited = "particles_time_out = 12\n" + CONFIG.replace("confirm = 2", "confirm = 1")
    tuner.config(limited.replace("request_count = 8", "request_count = 24").replace("osl = 8", "osl = 64"))
    process = tuner.start(*PARALLEL, "--json", "--evaluations", "4")
    (engine,) = under_load(lab, lab.machines[2 + rank])
    os.kill(engine, signal.SIGSTOP)
    _, err = process.communicate(timeout=140)
    assert process.returncode == 0, err
    once_each(tuner.study, 4)
    failed = "SELECT service_group, outcome FROM swarmtune_attempts WHERE outcome LIKE '%particles_time_out%'"
    ((group, _),) = rows(tuner.study, failed)
    assert group == "group1"


def under_load(lab: Lab, machine: Machine) -> list[int]:
    """The engine's processes on this machine of group1, once the load generator is connected to its master."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        table = [line.split() for line in lab.machines[2].run("cat", "/proc/net/tcp").splitlines()]
        if sum(row[1].endswith(":1F40") and row[3] == "01" for row in table) >= 2:  # port 8000, established
            return machine.pids("swarmtune.simulator")
    pytest.fail("group1 had no load")


def test_a_killed_tuner_leaves_nothing_and_goes_on(tuner: Workplace, lab: Lab) -> None:
    process = tuner.start(*PARALLEL)
    wait_for("[2/6]", process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any("swarmtune.simulator" in c for m in lab.machines for c in m.commands()):
        time.sleep(0.2)
    assert not [c for m in lab.machines for c in m.commands() if "swarmtune.simulator" in c]
    assert tuner.tune("-lb")["evaluations"] == 6
    once_each(tuner.study, 6)


def test_the_quick_start_of_the_docs_works_literally(tuner: Workplace, lab: Lab) -> None:
    page = (PROJECT / "docs" / "cluster.md").read_text().partition("## Two nodes in five minutes")[2]
    script = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    for number, machine in enumerate(lab.machines[:2], 1):
        script = script.replace(f"server{number}", machine.address)
    (tuner.folder / "config.toml").unlink()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tuner.folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Configuration OK" in done.stdout
    assert rows(tuner.study, "SELECT DISTINCT service_group FROM swarmtune_attempts") == [("group0",)]


def test_groups_come_and_go_with_the_hostfile(tuner: Workplace, lab: Lab) -> None:
    hosts = tuner.folder / "hosts"
    both = hosts.read_text().splitlines(keepends=True)
    hosts.write_text("".join(both[:2]))
    process = tuner.start(*PARALLEL, "--evaluations", "14")
    wait_for("[1/14]", process)
    hosts.write_text("".join(both[2:]))
    _, err = process.communicate(timeout=140)
    assert process.returncode == 0, err
    assert "joins" in err
    assert "leaves" in err
    groups = [g for (g,) in rows(tuner.study, "SELECT service_group FROM swarmtune_attempts ORDER BY id")]
    assert groups[0] == "group0"
    assert groups[-1] == "group1"
    once_each(tuner.study, 14)
