"""Parallel ranks against devices and nodes, without being asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.errors import ConfigValidationError
from swarmtune.records import Group, Node
from swarmtune.settings import read_settings
from swarmtune.space import Constraint
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.planning.ranks import rank_rules


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def groups(*sizes: int) -> list[Group]:
    """One group with a node of so many devices each."""
    return [Group("g", tuple(Node(f"n{i}", tuple(range(size))) for i, size in enumerate(sizes)))]


def plan(fields: list[dict[str, Any]], others: str = "", hosts: str = "", engine: str = "vllm") -> Plan:
    given: dict[str, Any] = {"optimizer": {"engine": engine}}
    given[engine] = {"command": {"model": "some/model", "others": others}, "target_field": fields}
    if hosts:
        Path("hosts").write_text(hosts)
        given["parallel"] = {
            "enabled": True,
            "hostfile": "hosts",
            "mode": "multi_node",
            "nodes_per_group": hosts.count("\n"),
        }
    return make_plan(read_settings(None, given))


def refused(*arguments: Any, **more: Any) -> str:
    with pytest.raises(ConfigValidationError) as caught:
        plan(*arguments, **more)
    return "\n".join(caught.value.mistakes)


TP = {"name": "tp", "config_position": "--tensor-parallel-size", "min": 1, "max": 32}
SEQS = {"name": "seqs", "config_position": "--max-num-seqs", "min": 1, "max": 64}
TWO_OF_FOUR = "n1 slots=4\nn2 slots=4\n"
SEQS_AT = {"vllm": "--max-num-seqs", "sglang": "--max-running-requests"}


def test_one_rank_on_two_nodes_is_a_mistake_that_names_devices_and_nodes() -> None:
    said = refused([TP], hosts=TWO_OF_FOUR)
    assert "'tp % 2 == 0': the baseline breaks it (a service runs on 2 nodes" in said


@pytest.mark.parametrize("position", ["--tensor-parallel-size", "-tp", "--tensor_parallel_size", "env"])
def test_searched_ranks_keep_to_the_devices_and_nodes(position: str) -> None:
    name = "TENSOR_PARALLEL_SIZE" if position == "env" else "tp"
    made = plan([{**TP, "name": name, "config_position": position, "value": 8}], hosts=TWO_OF_FOUR)
    assert [c.text for c in made.space.constraints] == [f"{name} <= 8", f"{name} % 2 == 0"]


@pytest.mark.parametrize(
    ("others", "rules"),
    [
        ("-pp 2", ["tp * 2 <= 8", "(tp * 2) % 2 == 0"]),
        ("--pipeline-parallel-size=2 -dp 2", ["tp * 2 * 2 <= 8", "(tp * 2 * 2) % 2 == 0"]),
        ("--pipeline-parallel-size 1", ["tp <= 8", "tp % 2 == 0"]),
    ],
)
def test_ranks_in_others_count(others: str, rules: list[str]) -> None:
    made = plan([{**TP, "value": 2}], others, TWO_OF_FOUR)
    assert [c.text for c in made.space.constraints] == rules


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ("-tp 16", "break the rule '16 <= 8': a group has 8 devices"),
        ("-tp 3", "break the rule '3 % 2 == 0'"),
        ("", "(tensor_parallel_size 1 x pipeline_parallel_size 1 x data_parallel_size 1) break the rule '1 % 2 == 0'"),
        ("-tp 4 -pp 4", "break the rule '4 * 4 <= 8'"),
    ],
)
def test_fixed_ranks_that_cannot_be_are_mistakes(others: str, said: str) -> None:
    assert said in refused([SEQS], others, TWO_OF_FOUR)


def test_sglang_has_the_same_rules() -> None:
    tp = {**TP, "config_position": "--tp-size", "value": 2}
    made = plan([tp], "--pp-size 2", TWO_OF_FOUR, engine="sglang")
    assert [c.text for c in made.space.constraints] == ["tp * 2 <= 8", "(tp * 2) % 2 == 0"]
    made = plan([tp], "--dp-size 2 --enable-dp-attention", TWO_OF_FOUR, engine="sglang")
    assert {c.text for c in made.space.constraints} == {"tp <= 8", "tp % 2 == 0"}


def test_unknown_devices_are_said() -> None:
    (note,) = [n for n in plan([TP]).notices if "devices" in n]
    assert note.startswith("the devices of the groups are not known, so nothing bounds the parallel ranks (tp)")
    assert not any("devices" in n for n in plan([SEQS]).notices)


def test_the_smallest_group_decides() -> None:
    rules = rank_rules({"t": "tp"}, [*groups(8), *groups(4)], "x")
    assert rules.reasons == {"tp <= 4": "a group has 4 devices"}
    assert rank_rules({}, groups(4), "x") == rank_rules({"t": "tp"}, (), "x")


UNEVEN = "n1 slots=4\nn2 slots=8\n"


def test_the_node_with_the_fewest_devices_decides() -> None:
    """Ranks are spread evenly over the nodes: 12 devices, and no service has more than 8 ranks."""
    made = plan([{**TP, "value": 8}], hosts=UNEVEN)
    assert [c.text for c in made.space.constraints] == ["tp <= 8", "tp % 2 == 0"]
    assert plan([SEQS], "-tp 8", UNEVEN).groups
    why = "group group0 has 2 nodes with the same number of ranks on each, and its node n1 has only 4 devices"
    assert why in refused([SEQS], "-tp 12", UNEVEN)
    assert why in refused([{**TP, "value": 12}], hosts=UNEVEN)
    assert why in refused([SEQS], "--tp 4 --pp-size 3", UNEVEN, engine="sglang")
    none = refused([SEQS], "-tp 2", "n1 slots=0\nn2 slots=8\n")
    assert "its node n1 has only 0 devices" in none


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 40))
def test_even_ranks_fit_on_every_node(sizes: list[int], ranks: int) -> None:
    mistakes = rank_rules({"tp": str(ranks)}, groups(*sizes), "x").mistakes
    each, left = divmod(ranks, len(sizes))
    assert (mistakes == []) == (left == 0 and (each <= min(sizes) or not any(sizes)))
    reasons = rank_rules({"tp": "tp"}, groups(*sizes), "x").reasons
    assert all(Constraint.parse(rule).holds({"tp": ranks}) for rule in reasons) == (mistakes == [])


@pytest.mark.parametrize(
    ("engine", "others", "said"),
    [
        ("sglang", "--tp 4 --dp 2", "spreads data parallel ranks over nodes only with --enable-dp-attention"),
        ("sglang", "--tp 4 --dp 2 --enable-dp-attention", ""),
        ("sglang", "--tp 2 --pp-size 3", "each has whole pipeline stages"),
        ("sglang", "--tp 2 --pp-size 2", ""),
        ("vllm", "-tp 2 -dp 3", "each has whole data parallel ranks"),
        ("vllm", "-tp 2 -dp 2", ""),
        ("vllm", "-tp 8 --distributed-executor-backend ray", "--distributed-executor-backend must be mp, not ray"),
        ("vllm", "-dp 8 --data-parallel-backend ray", "--data-parallel-backend must be mp"),
        ("vllm", "-dp 8 --data-parallel-size-local 4", ""),
        ("vllm", "-dp 8 --data-parallel-size-local 8", "all of the 8 data parallel ranks, 4 on each node"),
        ("vllm", "-tp 4 -pcp 2", ""),
        ("vllm", "-tp 4 -pcp 4", "break the rule '4 * 4 <= 8'"),
    ],
)
def test_what_a_service_on_several_nodes_cannot_have(engine: str, others: str, said: str) -> None:
    if not said:
        assert plan([{**SEQS, "config_position": SEQS_AT[engine]}], others, TWO_OF_FOUR, engine).groups
    else:
        assert said in refused([{**SEQS, "config_position": SEQS_AT[engine]}], others, TWO_OF_FOUR, engine=engine)


def test_searched_data_parallel_ranks_on_several_nodes() -> None:
    dp = {**TP, "name": "dp", "config_position": "--dp-size", "value": 1}
    made = plan([dp], "--tp 2", TWO_OF_FOUR, engine="sglang")
    assert [c.text for c in made.space.constraints] == ["2 * dp <= 8", "(2 * dp) % 2 == 0", "dp == 1"]


@pytest.mark.parametrize(
    ("others", "right"), [("-dp 4 --data-parallel-size-local 4", True), ("-dp 4 --data-parallel-size-local 2", False)]
)
def test_all_data_parallel_ranks_of_one_node_are_local(others: str, right: bool) -> None:
    if right:
        assert plan([SEQS], others).groups
    else:
        assert "with --data-parallel-size-local 2 vLLM waits for others" in refused([SEQS], others)


@given(
    st.lists(st.sampled_from(["1", "2", "3", "a", "b"]), max_size=4),
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
def test_every_rule_is_about_fields_and_every_mistake_about_numbers(ranks: list[str], sizes: list[int]) -> None:
    rules = rank_rules({f"r{i}": rank for i, rank in enumerate(ranks)}, groups(*sizes), "x")
    searched = {"a", "b"} & set(ranks)
    assert bool(rules.reasons) <= bool(searched)
    assert bool(rules.mistakes) <= (not searched)


@pytest.mark.parametrize(
    ("variables", "rule"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "tp * 2 <= 2"),
        ({"ASCEND_RT_VISIBLE_DEVICES": "5"}, "tp * 2 <= 1"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b,GPU-c"}, "tp * 2 <= 3"),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,2"}, "tp * 2 <= 1"),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "$DEVICES"}, None),
        ({}, None),
    ],
)
def test_devices_that_the_environment_of_a_service_names(variables: dict[str, str], rule: str | None) -> None:
    ranks = {"tensor": "tp", "pipeline": "2"}
    found = rank_rules(ranks, groups(0), "vllm", variables=variables)
    assert list(found.reasons) == ([rule] if rule else [])
    assert bool(found.notices) is (rule is None)
    known = rank_rules(ranks, groups(4), "vllm", variables=variables)
    assert list(known.reasons) == ["tp * 2 <= 4"], "SwarmTune sets the variable to the devices of the group"
    (mistake,) = rank_rules({"tensor": "8"}, groups(0), "vllm", variables={"CUDA_VISIBLE_DEVICES": "0,1"}).mistakes
    assert "CUDA_VISIBLE_DEVICES of its environment names 2 devices" in mistake
