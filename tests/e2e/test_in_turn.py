"""Two services on one machine: while one is measured, the other starts; never are two measured at once."""

from __future__ import annotations

import itertools
import json

import pytest

from tests.e2e.conftest import TINY, Workplace

pytestmark = pytest.mark.e2e

CONFIG = f"""{TINY}
[parallel]
executor = "local"
node_string = "127.0.0.1"
nodes_per_group = 1
npus_per_node = 2
services_per_group = 2
in_turn = true
work_dir = "nodes"
"""


def test_two_services_ask_one_agent(workplace: Workplace) -> None:
    """Through a shared folder: its agent serves one tuner, and that has one line to it for all groups."""
    workplace.config(
        CONFIG.replace('executor = "local"', 'executor = "shared_dir"').replace("evaluations = 6", "evaluations = 4")
    )
    (workplace.folder / "nodes").mkdir()
    agent = workplace.start("--shared", "nodes", "--name", "127.0.0.1", "--work-dir", "run", command="node")
    try:
        result = workplace.tune("--parallel")
    finally:
        agent.terminate()
        agent.communicate()
    assert result["evaluations"] == 4
    assert set(result["verdict"]["group_effects_percent"]) == {"group0.0", "group0.1"}
    assert workplace.leftovers() == []


def test_measurements_do_not_overlap_and_both_services_measure(workplace: Workplace) -> None:
    workplace.config(CONFIG)
    result = workplace.tune("--parallel")
    assert result["evaluations"] == 6
    assert result["verdict"]["groups"] == 2
    runs = [json.loads(file.read_text()) for file in workplace.study.glob("attempts/*/load-0/run.json")]
    spans = sorted((run["started_ns"], run["ended_ns"]) for run in runs)
    assert len(spans) >= 6
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
    assert list((workplace.folder / "nodes").iterdir()) == []
    assert workplace.leftovers() == []
