"""Tuning on a Slurm cluster: a job for the group, services of two nodes, nothing left when it is done."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import QUICK, Workplace
from tests.lab import Lab, NoLab
from tests.lab.slurm import Slurm

pytestmark = pytest.mark.e2e


@pytest.fixture
def slurm(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Of two machines that share the workplace."""
    with contextlib.ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab(2, [workplace.folder]))
            made = stack.enter_context(Slurm(lab))
        except NoLab as reason:
            pytest.skip(str(reason))
        monkeypatch.setenv("PATH", f"{made.path}:{os.environ['PATH']}")
        yield made


def test_a_study_on_slurm(workplace: Workplace, slurm: Slurm) -> None:
    work = workplace.folder / "shared"
    workplace.config(f'{QUICK}[parallel]\nwork_dir = "{work}"\nslurm = {{ partition = "all", time = 30 }}\n')
    nodes = ",".join(machine.address for machine in slurm.lab.machines)
    options = ("--parallel", "--executor", "slurm", "--nodes", nodes, "--nodes-per-group", "2", "--npus-per-node", "0")
    result = workplace.tune("--evaluations", "3", *options)
    assert result["evaluations"] == 3
    assert "--node-rank 1" in result["best"]["commands_of_other_ranks"][0]
    attempt = workplace.study / "attempts" / "0000-1"
    assert json.loads((attempt / "load-0" / "measurement.json").read_text())["valid"]
    assert (attempt / "service" / "output.log").is_file()
    assert (attempt / "service-rank-1" / "output.log").is_file()
    assert slurm.run("squeue", "-h") == ""
    assert [slurm.left_on(machine) for machine in slurm.lab.machines] == [[], []]
    assert [*work.glob("*")] == []
    assert workplace.leftovers() == []
