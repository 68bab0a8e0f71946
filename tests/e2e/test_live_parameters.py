"""A parameter that the running service takes is no reason to start it anew (C7)."""

from __future__ import annotations

import shlex
import sys
from collections import Counter

import pytest

from swarmtune.database.connection import read_only
from swarmtune.study.reader import AttemptRow, StudyReader
from tests.e2e.conftest import QUICK, Workplace

pytestmark = pytest.mark.e2e

FIELD = """
[[{engine}.target_field]]
name = "max_num_seqs"
config_position = "POST {path}"
min = 1
max = 64
value = 8
"""
COMMAND = f"""
[command]
argv = ["{sys.executable}", "-P", "-m", "swarmtune.simulator", "--port", "$PORT", "--model", "simulated"]
model = "simulated"
"""


def attempts(workplace: Workplace) -> list[AttemptRow]:
    with read_only(str(workplace.study / "study.db")) as database:
        reader = StudyReader(database)
        return reader.attempts(reader.heads()[0].name)


def started(rows: list[AttemptRow]) -> Counter[str]:
    """How many services the search started on each group; the proof starts one for each measurement."""
    begun = [row for row in rows if row.result and row.result.facts["start_seconds"] > 0]
    proof = [row for row in rows if row.kind != "trial"]
    assert all(row in begun for row in proof), "no proof with a service that may know its prompts"
    return Counter(row.group for row in begun if row.kind == "trial")


def test_a_service_is_started_once_per_group(workplace: Workplace) -> None:
    workplace.config(
        QUICK.replace("confirm = 1", "confirm = 1\ngroups = 2") + FIELD.format(engine="simulated", path="/settings")
    )
    result = workplace.tune("--evaluations", "6")
    assert result["evaluations"] == 6
    rows = attempts(workplace)
    assert started(rows) == {"local-0": 1, "local-1": 1}
    assert len({row.trial_number for row in rows}) == 6
    best = result["best"]
    assert "max-num-seqs" not in best["command"]
    (line,) = map(shlex.split, best["commands_while_it_runs"])
    assert (line[0], line[-1]) == ("curl", f'{{"max_num_seqs": {best["setting"]["max_num_seqs"]}}}')
    assert any(word.endswith("/settings") for word in line)
    assert workplace.leftovers() == []


def test_any_service_can_have_such_parameters(workplace: Workplace) -> None:
    quick = QUICK.replace('"simulated"', '"command"').replace("confirm = 1", "confirm = 0")
    workplace.config(quick + COMMAND + FIELD.format(engine="command", path="/settings"))
    assert workplace.tune("--evaluations", "3")["evaluations"] == 3
    assert started(attempts(workplace)) == {"local": 1}


def test_a_service_that_does_not_take_them_is_not_measured(workplace: Workplace) -> None:
    quick = QUICK.replace('"simulated"', '"command"').replace("confirm = 1", "confirm = 0")
    workplace.config(quick + COMMAND + FIELD.format(engine="command", path="/nowhere"))
    code, out, err = workplace.run("--evaluations", "2")
    assert code != 0, out
    assert 'POST /nowhere with {"max_num_seqs": 8} with status 404: 404: Not Found' in " ".join((out + err).split())
    assert "Traceback" not in out + err
    assert workplace.leftovers() == []
