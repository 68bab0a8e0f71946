"""Groups on which nothing starts, through the command: their failures are no results, and the run says who must act."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Workplace
from tests.lab import Lab, NoLab

pytestmark = pytest.mark.e2e

MISSING = "libengine.so.2: cannot open shared object file: No such file or directory"
START = """#!/bin/sh
case " $(cat {sick}) " in *" $SWARMTUNE_GROUP "*)
  echo "error while loading shared libraries: {missing}" >&2
  exit 127
esac
exec {python} -P -m swarmtune.simulator --host "$SWARMTUNE_MASTER" --port "$1" --max-num-seqs "$2" --model m
"""
CONFIG = """
[optimizer]
engine = "command"
evaluations = 12
confirm = 1
finalists = 1
[objective]
slo = {{ p95_ttft_ms = 4000, p95_tpot_ms = 1000 }}
[load_search]
enabled = false
[loadgen]
concurrency = 2
request_count = 8
max_unsure_share = 1.0
max_idle_share = 1.0
isl = 16
osl = 8
[command]
argv = ["./start.sh", "$PORT", "$SEQS"]
cwd = "{folder}"
model = "m"
[[command.target_field]]
name = "SEQS"
config_position = "env"
dtype = "int"
min = 1
max = 64
value = 8
[parallel]
enabled = true
{parallel}
"""
LOCAL = 'executor = "local"\nnode_string = "127.0.0.1:127.0.0.2"\nnpus_per_node = 0\nretry_delay = 0.2\n'


def configure(workplace: Workplace, sick: str, parallel: str = LOCAL) -> None:
    script = workplace.folder / "start.sh"
    script.write_text(START.format(sick=workplace.folder / "sick", missing=MISSING, python=sys.executable))
    script.chmod(0o755)
    (workplace.folder / "sick").write_text(sick)  # the groups on which nothing starts
    workplace.config(CONFIG.format(folder=workplace.folder, parallel=parallel))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(Lab(3, [tmp_path_factory.getbasetemp()]))
        except NoLab as reason:
            pytest.skip(str(reason))


def rows(study: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(study / "study.db")) as database:
        return database.execute(query).fetchall()


def test_no_failure_of_a_group_with_a_broken_engine_is_a_result(workplace: Workplace) -> None:
    configure(workplace, sick="group1")
    code, _, err = workplace.run("--json")
    assert code == 0, err
    done = rows(workplace.study, "SELECT DISTINCT service_group FROM swarmtune_attempts WHERE state = 'done'")
    assert done == [("group0",)]
    outcomes = rows(workplace.study, "SELECT outcome FROM swarmtune_attempts WHERE service_group = 'group1'")
    assert outcomes
    assert all('"culprit": "infrastructure"' in outcome for (outcome,) in outcomes)
    assert rows(workplace.study, "SELECT count(*) FROM trials WHERE state = 'COMPLETE'") == [(12,)]
    assert MISSING in err, "the line that tells is on the screen"
    assert "1 of 2 groups healthy" in err


def test_a_machine_with_a_broken_engine_costs_no_result(
    lab: Lab, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on machines over SSH: three groups of one, the second of which is sick."""
    home = workplace.folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "config").write_text(lab.config.read_text())
    monkeypatch.setenv("HOME", str(home))
    nodes = ":".join(machine.address for machine in lab.machines)
    parallel = f'node_string = "{nodes}"\nnodes_per_group = 1\nnpus_per_node = 0\nretry_delay = 0.2\n'
    configure(workplace, sick="group1", parallel=parallel)
    code, _, err = workplace.run("--json", "--evaluations", "15")
    assert code == 0, err
    done = rows(
        workplace.study, "SELECT DISTINCT service_group FROM swarmtune_attempts WHERE state = 'done' ORDER BY 1"
    )
    assert done == [("group0",), ("group2",)]
    assert rows(workplace.study, "SELECT count(*) FROM trials WHERE state = 'COMPLETE'") == [(15,)]
    assert not [line for line in err.splitlines() if "cannot run" in line and MISSING in line]


def test_if_no_group_can_start_it_the_run_ends_after_a_few_and_says_why(workplace: Workplace) -> None:
    configure(workplace, sick="group0 group1")
    code, _, err = workplace.run()
    assert code == 1
    assert "No service has become ready on any group" in err
    assert MISSING in err
    attempts = rows(workplace.study, "SELECT state FROM swarmtune_attempts")
    assert 0 < len(attempts) <= 6
    assert ("done",) not in attempts
    (workplace.folder / "sick").write_text("")
    assert workplace.tune("-lb")["evaluations"] == 12, "nothing is lost by it"


def test_if_no_group_can_be_reached_the_run_ends_within_a_minute(workplace: Workplace) -> None:
    """An SSH server that is not there; the executor is chosen, so that this machine is not taken as local."""
    configure(workplace, sick="", parallel='executor = "ssh"\nnode_string = "localhost"\nnpus_per_node = 0\n')
    began = time.monotonic()
    code, _, err = workplace.run("--nodes-per-group", "1")
    if "host key" in err.lower():
        pytest.skip("an SSH server runs on this machine")
    assert code == 1
    assert "group0" in err
    assert time.monotonic() - began < 90  # 45 s on the clock, and the process itself


def test_nodes_that_are_this_machine_need_no_ssh(workplace: Workplace) -> None:
    configure(workplace, sick="", parallel='node_string = "localhost"\nnpus_per_node = 0\n')
    assert workplace.tune("--nodes-per-group", "1", "--evaluations", "3")["evaluations"] == 3
