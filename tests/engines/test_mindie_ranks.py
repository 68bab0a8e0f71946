"""The rules between parallel ranks and devices in the file of MindIE's daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_engine_contract import MINDIE_FILE, make

from swarmtune.engines.base import Engine
from swarmtune.engines.mindie_ranks import rank_rules, size_rules
from swarmtune.engines.rules import broken_rules
from swarmtune.space import Constraint
from swarmtune.tuner.planning.ranks import RankRules

MODEL = "BackendConfig.ModelDeployConfig.ModelConfig.0"


def file_of(devices: Any = None, **sizes: Any) -> dict[str, Any]:
    """The daemon's file with these sizes of the model; ``devices``: npuDeviceIds."""
    file: dict[str, Any] = json.loads(json.dumps(MINDIE_FILE))
    file["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0].update(sizes)
    if devices is not None:
        file["BackendConfig"]["npuDeviceIds"] = devices
    return file


def of(folder: Path, file: dict[str, Any], *fields: dict[str, Any]) -> Engine:
    (folder / "service.json").write_text(json.dumps(file))
    return make("mindie", config_path=str(folder / "service.json"), target_field=list(fields))


def refusals(engine: Engine, nodes: int = 1) -> list[str]:
    """All mistakes, with those that depend on the nodes of a service."""
    found = RankRules()
    found.add(engine.node_rules(nodes), "mindie: {1}")
    return [*engine.mistakes(), *found.mistakes]


def searched(engine: Engine, nodes: int = 1) -> set[str]:
    """The rules over ranks that are searched."""
    found = RankRules()
    found.add(engine.node_rules(nodes), "")
    return set(found.reasons)


def field(key: str, choices: list[int], **more: Any) -> dict[str, Any]:
    given = {"dtype": "enum", "dtype_param": choices, **more}
    return {"name": key.lower(), "config_position": f"{MODEL}.{key}", **given}


BATCH = {"name": "batch", "config_position": "BackendConfig.ScheduleConfig.maxBatchSize", "min": 1, "max": 300}


@pytest.mark.parametrize(
    "sizes",
    [
        {"worldSize": 8},
        {"worldSize": 8, "tp": 8},
        {"worldSize": 8, "tp": 8, "dp": -1, "cp": 1, "sp": 1},
        {"worldSize": 8, "tp": 1, "dp": 8},  # the example of MindIE's page on data parallelism
        {"worldSize": 8, "tp": 4, "dp": 2},
        {"worldSize": 8, "dp": 2},
        {"worldSize": 8, "moe_ep": 8},  # the example of its page on expert parallelism
        {"worldSize": 16, "dp": 1, "cp": 2, "sp": 8, "tp": 8, "moe_ep": 16, "moe_tp": 1},  # of that on long contexts
        {"worldSize": 8, "tp": 4, "pp": 2},
        {"worldSize": 8, "tp": -1, "dp": -1, "moe_ep": -1, "moe_tp": -1},
        {"worldSize": 1},
    ],
)
def test_files_that_the_daemon_takes(tmp_path: Path, sizes: dict[str, Any]) -> None:
    devices = [list(range(sizes["worldSize"]))]
    assert refusals(of(tmp_path, file_of(devices, **sizes), BATCH)) == []


@pytest.mark.parametrize(
    ("devices", "sizes", "said"),
    [
        ([[0, 1, 2, 3]], {"worldSize": 8}, "worldSize 8 is not the number of devices in npuDeviceIds.0, 4"),
        ([[0, 1, 2, 3], [4, 5]], {"worldSize": 4}, "not the number of devices in npuDeviceIds.1, 2"),
        ([[0, 1, 1, 2]], {"worldSize": 4}, "npuDeviceIds.0 names a device twice"),
    ],
)
def test_files_that_the_daemon_refuses(tmp_path: Path, devices: Any, sizes: dict[str, Any], said: str) -> None:
    (sentence,) = refusals(of(tmp_path, file_of(devices, **sizes), BATCH))
    assert sentence.startswith(f"mindie: {tmp_path / 'service.json'}: ")
    assert said in sentence


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"worldSize": 4, "tp": 2}, "tp 2 is not worldSize 4"),
        ({"worldSize": 4, "tp": 4, "dp": 2}, "tp 4 x dp 2 is not worldSize 4"),
        ({"worldSize": 4, "dp": 3}, "worldSize 4 cannot be divided by dp 3"),
        ({"worldSize": 4, "tp": 1, "dp": 2, "cp": 2}, "takes no dp 2 beside cp 2"),
        ({"worldSize": 4, "tp": 1, "dp": 2, "pp": 2}, "takes no dp 2 beside pp 2"),
        ({"worldSize": 4, "tp": 2, "pp": 4}, "tp 2 x pp 4 is not worldSize 4"),
        ({"worldSize": 4, "tp": 4, "sp": 2}, "sp 2 is not tp 4"),
        ({"worldSize": 4, "moe_tp": 4, "moe_ep": 4}, "moe_tp 4 x moe_ep 4 is not worldSize 4"),
    ],
)
def test_sizes_that_contradict_each_other_are_a_note(tmp_path: Path, sizes: dict[str, Any], said: str) -> None:
    """The user's daemon runs with this file, or it does not: the note says what to look at."""
    engine = of(tmp_path, file_of([[0, 1, 2, 3]], **sizes), BATCH)
    assert refusals(engine) == []
    (note,) = (note for note in engine.notes() if "no setting is excluded" in note)
    assert said in note


def test_the_number_of_instances(tmp_path: Path) -> None:
    file = file_of([[0]], worldSize=1)
    file["BackendConfig"]["modelInstanceNumber"] = 2
    (sentence,) = refusals(of(tmp_path, file, BATCH))
    assert "modelInstanceNumber 2 is not the number of lists in npuDeviceIds, 1" in sentence


@pytest.mark.parametrize("devices", [None, "all", {}, []])
def test_devices_that_are_no_lists_set_no_rule(tmp_path: Path, devices: Any) -> None:
    assert refusals(of(tmp_path, file_of(devices, worldSize=8), BATCH)) == []


def test_a_table_of_ranks_counts_for_several_machines(tmp_path: Path) -> None:
    """DeepSeek-R1 on two machines of eight devices, as it is published: worldSize is without effect there."""
    file = file_of([list(range(8))], worldSize=8, tp=8, dp=2, moe_tp=4, moe_ep=4)
    assert len([note for note in of(tmp_path, file, BATCH).notes() if "is not worldSize 8" in note]) == 2
    tuned = of(tmp_path, file, field("tp", [4, 8]), field("dp", [2, 4]))
    assert [refusals(tuned, nodes=2), searched(tuned, nodes=2)] == [[], set()]
    file["BackendConfig"]["multiNodesInferEnabled"] = True
    assert of(tmp_path, file, BATCH).ranks() == {"tp": "8", "pp": "1", "dp": "2", "cp": "1"}
    assert refusals(of(tmp_path, file, BATCH)) == []


def test_searched_ranks_make_up_the_world(tmp_path: Path) -> None:
    file = file_of([list(range(8))], worldSize=8, tp=8, dp=1)
    tuned = of(tmp_path, file, field("tp", [1, 2, 4, 8]), field("dp", [1, 2, 4, 8]))
    assert refusals(tuned) == []
    legal = {
        (tp, dp)
        for tp in (1, 2, 4, 8)
        for dp in (1, 2, 4, 8)
        if all(Constraint.parse(rule).holds({"tp": tp, "dp": dp}) for rule in searched(tuned))
    }
    assert legal == {(1, 8), (2, 4), (4, 2), (8, 1)}
    assert searched(tuned) == {"tp * dp == 8"}
    assert not any("no setting is excluded" in note for note in tuned.notes())


def test_a_searched_world_has_the_devices_of_the_file(tmp_path: Path) -> None:
    tuned = of(tmp_path, file_of([[0, 1, 2, 3]], worldSize=4), field("worldSize", [2, 4, 8]))
    assert "worldsize == 4" in searched(tuned)


def test_a_file_that_contradicts_itself_sets_no_rule_on_what_replaces_it(tmp_path: Path) -> None:
    """The older tuner's file: tp and dp are searched with a product of their own."""
    dp = field("dp", [], dtype="factories", dtype_param={"target_name": "tp", "product": 16, "dtype": "int"})
    for sizes in ({"tp": 1, "dp": 16}, {"tp": 4, "dp": 1}):
        tuned = of(tmp_path, file_of([[0, 1, 2, 3]], worldSize=4, **sizes), field("tp", [1, 2, 4, 8, 16], value=1), dp)
        assert refusals(tuned) == []
        assert searched(tuned) == set()
        (note,) = [note for note in tuned.notes() if note.endswith("no setting is excluded for it")]
        assert "worldSize 4" in note
    fits = of(tmp_path, file_of([list(range(16))], worldSize=16, tp=16), field("tp", [1, 2, 4, 8, 16], value=1), dp)
    assert searched(fits) == {"tp * dp == 16"}


def test_ranks_are_those_of_the_file(tmp_path: Path) -> None:
    assert of(tmp_path, file_of(worldSize=8), BATCH).ranks() == {"worldSize": "8"}
    told = of(tmp_path, file_of(worldSize=8, tp=4, dp=2), BATCH).ranks()
    assert told == {"tp": "4", "pp": "1", "dp": "2", "cp": "1"}
    assert of(tmp_path, file_of(worldSize=8, tp=8), field("tp", [4, 8])).ranks()["tp"] == "tp"


SOME = {"dp": st.integers(1, 8), "cp": st.integers(1, 4), "pp": st.integers(1, 4)}
KEYS = st.sampled_from(["BackendConfig", "npuDeviceIds", "ModelDeployConfig", "ModelConfig", "worldSize", "tp"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
)


@given(st.fixed_dictionaries({"worldSize": st.integers(1, 64), "tp": st.integers(1, 64)}, optional=SOME))
def test_any_sizes(sizes: dict[str, int]) -> None:
    dp, cp, pp = (sizes.get(key, 1) for key in ("dp", "cp", "pp"))
    legal = sizes["tp"] * dp * cp * pp == sizes["worldSize"] and (dp == 1 or cp == pp == 1)
    assert (broken_rules(size_rules({key: str(n) for key, n in sizes.items()}), "x") == []) == legal


@given(JSON)
def test_any_file(file: Any) -> None:
    rules, doubts = rank_rules({"BackendConfig": file}, MODEL, (), {})
    assert all(isinstance(text, str) for text in [*broken_rules(rules, "x"), *doubts])


@pytest.mark.parametrize(
    ("batch", "prefill", "rules"),
    [(200, 50, {"50 <= batch"}), (200, 200, {"200 <= batch"}), (50, 200, set()), (200, 0, set()), (200, "50", set())],
)
def test_a_searched_batch_holds_the_prefill_batch_of_the_file(
    tmp_path: Path, batch: int, prefill: Any, rules: set[str]
) -> None:
    file = file_of()
    file["BackendConfig"]["ScheduleConfig"] |= {"maxBatchSize": batch, "maxPrefillBatchSize": prefill}
    assert set(of(tmp_path, file, BATCH).constraints()) == rules


def test_a_service_that_asks_for_https_is_a_mistake(tmp_path: Path) -> None:
    file = file_of()
    file["ServerConfig"]["httpsEnabled"] = True
    (sentence,) = refusals(of(tmp_path, file, BATCH))
    assert "ServerConfig.httpsEnabled is true" in sentence


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("maxBatchSize", 0, "maxBatchSize is 0, but MindIE takes maxBatchSize from 1 to 819200, not 0"),
        ("maxBatchSize", -1, "maxBatchSize is -1, but MindIE takes maxBatchSize from 1 to 819200, not -1"),
        ("maxBatchSize", 819_201, "not 819201"),
        ("maxBatchSize", 1, ""),
        ("maxBatchSize", 819_200, ""),
        ("maxPreemptCount", 0, ""),
        ("maxPreemptCount", -1, "MindIE takes maxPreemptCount of 0 or more, not -1"),
        ("maxPrefillBatchSize", 0, ""),
        ("maxPrefillBatchSize", -5, "MindIE takes maxPrefillBatchSize of 0 or more"),
        ("maxPrefillTokens", 0, "MindIE takes maxPrefillTokens from 1 to 4194304"),
        ("maxQueueDelayMicroseconds", 0, "MindIE takes maxQueueDelayMicroseconds from 500 to 1000000"),
        ("prefillTimeMsPerReq", 1001, "MindIE takes prefillTimeMsPerReq from 0 to 1000, not 1001"),
        ("decodeTimeMsPerReq", 0, ""),
        ("maxIterTimes", 0, "MindIE takes maxIterTimes of 1 or more, not 0"),
    ],
)
def test_a_number_that_the_daemon_refuses_is_a_mistake(tmp_path: Path, key: str, value: int, said: str) -> None:
    file = file_of()
    schedule = file["BackendConfig"]["ScheduleConfig"]
    schedule |= {"maxPrefillBatchSize": 1, key: value}
    other = {"name": "x", "config_position": "BackendConfig.ScheduleConfig.prefillPolicyType", "min": 0, "max": 1}
    found = of(tmp_path, file, other).mistakes()
    assert [said in sentence for sentence in found] == ([True] if said else []), found
    position = f"BackendConfig.ScheduleConfig.{key}"
    searched = {"name": "n", "config_position": position, "min": 600, "max": 1000}
    found = of(tmp_path, file, searched).mistakes()  # without `value` the file's number is the baseline
    assert [said in sentence for sentence in found] == ([True] if said else []), found
    assert of(tmp_path, file, {**searched, "value": 700}).mistakes() == []
    assert of(tmp_path, file, {"name": "n", "config_position": position, "constant": 700}).mistakes() == []
    if said:
        (sentence,) = of(tmp_path, file, {"name": "n", "config_position": position, "constant": value}).mistakes()
        assert sentence.startswith("mindie.target_field n: MindIE takes ")
        (sentence,) = of(
            tmp_path, file, {**searched, "min": min(600, value), "max": max(1000, value), "value": 700}
        ).mistakes()
        assert sentence.startswith("mindie.target_field n: MindIE takes ")


@pytest.mark.parametrize(
    "more",
    [
        {"dtype": "float"},
        {"dtype": "float", "value": 700},
        {"dtype": "range", "dtype_param": 0.5},
        {"dtype": "enum", "dtype_param": [600, 700.5]},
        {"value": 700.5},
    ],
)
def test_what_mindie_takes_in_whole_numbers_is_searched_in_them(tmp_path: Path, more: dict[str, Any]) -> None:
    position = "BackendConfig.ScheduleConfig.maxPreemptCount"
    searched = {"name": "n", "config_position": position, "min": 600, "max": 1000, **more}
    assert any(
        "MindIE takes maxPreemptCount in whole numbers" in one for one in of(tmp_path, file_of(), searched).mistakes()
    )
    even = {**searched, "min": 600.0, "max": 1000.0, "dtype": "int", "value": 700.0}
    assert not [one for one in of(tmp_path, file_of(), even).mistakes() if "whole" in one]


@pytest.mark.parametrize(
    ("devices", "wrong"),
    [([0, 1], True), ([0], True), ([[0], 1], True), ([[0, 1]], False), ([[0], [1]], False), ([], False)],
)
def test_devices_are_a_list_of_lists(tmp_path: Path, devices: list[Any], wrong: bool) -> None:
    found = of(tmp_path, file_of(devices), BATCH).mistakes()
    assert [("BackendConfig.npuDeviceIds" in one and "[[0, 1]]" in one) for one in found] == [True] * wrong


@pytest.mark.parametrize(
    "more", [{"min": 1000, "max": 4000}, {"constant": 1026}, {"dtype": "enum", "dtype_param": [1, 2]}]
)
def test_the_port_is_written_by_swarmtune(tmp_path: Path, more: dict[str, Any]) -> None:
    file = file_of()
    file["ServerConfig"]["port"] = 1025
    entry = {"name": "p", "config_position": "ServerConfig.port", **more}
    (sentence,) = of(tmp_path, file, entry).mistakes()
    assert (
        sentence
        == "mindie.target_field p: ServerConfig.port is written by SwarmTune; leave it out; mindie.port sets it"
    )


@pytest.mark.parametrize(
    ("address", "env", "said"),
    [
        ("127.0.0.1", {}, ""),
        ("0.0.0.0", {}, "'0.0.0.0': the daemon listens there only if ServerConfig.allowAllZeroIpListening is true"),
        ("::1", {}, ""),
        ("10.1.2.3", {}, "ServerConfig.ipAddress is '10.1.2.3': SwarmTune asks at 127.0.0.1"),
        ("fe80::7", {}, "ServerConfig.ipAddress is 'fe80::7': SwarmTune asks at"),
        ("10.1.2.3", {"MIES_CONTAINER_IP": "127.0.0.1"}, ""),
        (
            "127.0.0.1",
            {"MIES_CONTAINER_IP": "10.9.9.9"},
            "mindie.env: MIES_CONTAINER_IP is '10.9.9.9': SwarmTune asks at",
        ),
        (7, {}, ""),
    ],
)
def test_an_address_where_swarmtune_may_not_ask_is_noted(
    tmp_path: Path, address: Any, env: dict[str, str], said: str
) -> None:
    file = file_of()
    file["ServerConfig"]["ipAddress"] = address
    (tmp_path / "service.json").write_text(json.dumps(file))
    notes = make("mindie", config_path=str(tmp_path / "service.json"), target_field=[BATCH], env=env).notes()
    assert [said in note for note in notes if "asks at" in note or "listens" in note] == ([True] if said else [])


@pytest.mark.parametrize("joined", [True, False])
def test_a_daemon_that_waits_for_other_machines_is_noted(tmp_path: Path, joined: bool) -> None:
    file = file_of()
    file["BackendConfig"]["multiNodesInferEnabled"] = joined
    notes = of(tmp_path, file, BATCH).notes()
    assert any("multiNodesInferEnabled is true: the daemon waits" in note for note in notes) is joined


@pytest.mark.parametrize(("mode", "waits"), [("dmi", True), ("standard", False), (None, False)])
def test_a_daemon_that_waits_for_a_role(tmp_path: Path, mode: str | None, waits: bool) -> None:
    file = file_of()
    file["ServerConfig"].pop("inferMode", None)
    if mode:
        file["ServerConfig"]["inferMode"] = mode
    assert any("ServerConfig.inferMode is 'dmi'" in note for note in of(tmp_path, file, BATCH).notes()) is waits


def test_the_lengths_that_every_setting_takes(tmp_path: Path) -> None:
    file = file_of()
    deploy, schedule = file["BackendConfig"]["ModelDeployConfig"], file["BackendConfig"]["ScheduleConfig"]
    deploy |= {"maxSeqLen": 2560, "maxInputTokenLen": 2048}
    schedule["maxIterTimes"] = 512
    engine = of(tmp_path, file, BATCH)
    assert (engine.longest_request, engine.longest_prompt, engine.longest_answer) == (2560, 2048, 512)
    cut = {"name": "cut", "config_position": "BackendConfig.ScheduleConfig.maxIterTimes"}
    assert of(tmp_path, file, BATCH, {**cut, "min": 64, "max": 512}).longest_answer is None
    assert of(tmp_path, file, BATCH, {**cut, "constant": 64}).longest_answer == 64
    deploy |= {"maxSeqLen": "many", "maxInputTokenLen": -1}
    assert (of(tmp_path, file, BATCH).longest_request, of(tmp_path, file, BATCH).longest_prompt) == (None, None)


SCHEDULE, DEPLOY = "BackendConfig.ScheduleConfig", "BackendConfig.ModelDeployConfig"


def scheduled(memory: int | None = 5, longest: int | None = 2048, **numbers: Any) -> dict[str, Any]:
    """The daemon's file with these numbers of the scheduler; ``memory``: cpuMemSize; ``longest``: maxInputTokenLen."""
    file = file_of(**({} if memory is None else {"cpuMemSize": memory}))
    file["BackendConfig"]["ScheduleConfig"] |= numbers
    if longest is not None:
        file["BackendConfig"]["ModelDeployConfig"]["maxInputTokenLen"] = longest
    return file


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (scheduled(maxBatchSize=200, maxPreemptCount=200), ""),
        (scheduled(maxBatchSize=200, maxPreemptCount=201), "no maxPreemptCount above maxBatchSize (201 and 200)"),
        (scheduled(maxBatchSize=200, maxBeamWidth=201), "no maxBeamWidth above maxBatchSize (201 and 200)"),
        (scheduled(memory=0, maxPreemptCount=0), ""),
        (scheduled(memory=0, maxPreemptCount=3), "no maxPreemptCount but 0 (3) while cpuMemSize is 0"),
        (scheduled(memory=None, maxPreemptCount=3), ""),
        (scheduled(maxPrefillTokens=2047), "no maxPrefillTokens (2047) below maxInputTokenLen (2048)"),
        (scheduled(maxPrefillTokens=2047, templateType="Mix"), ""),
        (scheduled(maxPrefillTokens=2047, longest=None), ""),
        (scheduled(maxPrefillTokens=2048), ""),
        (scheduled(maxPrefillTokens="2047"), ""),
    ],
)
def test_numbers_of_the_file_that_contradict_each_other(tmp_path: Path, file: dict[str, Any], said: str) -> None:
    other = {"name": "x", "config_position": f"{SCHEDULE}.maxQueueDelayMicroseconds", "min": 500, "max": 900}
    found = of(tmp_path, file, other).mistakes()
    assert [said in sentence for sentence in found] == ([True] if said else []), found


def test_without_memory_for_them_no_preempted_request_is_searched_for_and_none_is_forgotten(tmp_path: Path) -> None:
    idle = of(tmp_path, scheduled(memory=0, maxPreemptCount=0))
    assert next(f.constant for f in idle.fields() if f.name == "max_preempt_count") == 0
    given = of(tmp_path, scheduled(memory=0, maxPreemptCount=5))
    kept = next(f for f in given.fields() if f.name == "max_preempt_count")
    assert kept.constant is None
    assert "max_preempt_count == 0" in given.constraints(), "so that the baseline is refused"


def test_requests_must_name_a_model(tmp_path: Path) -> None:
    (said,) = of(tmp_path, file_of(modelName=""), BATCH).mistakes()
    assert "modelName is empty, and requests must name a model" in said
    assert of(tmp_path, file_of(modelName="qwen"), BATCH).mistakes() == []


def test_searched_numbers_keep_to_what_the_daemon_checks(tmp_path: Path) -> None:
    tokens = {"name": "tokens", "config_position": f"{SCHEDULE}.maxPrefillTokens", "min": 1024, "max": 9000}
    longest = {"name": "longest", "config_position": f"{DEPLOY}.maxInputTokenLen", "min": 64, "max": 4096}
    given = {"name": "given", "config_position": f"{SCHEDULE}.maxPreemptCount", "min": 0, "max": 400}
    file = scheduled(maxBatchSize=200, maxPreemptCount=0, maxPrefillTokens=8192)
    assert set(of(tmp_path, file, tokens).constraints()) == {"tokens >= 2048"}
    engine = of(tmp_path, file, tokens, longest, BATCH, given)
    assert {"tokens >= longest", "given <= batch"} <= set(engine.constraints())
    assert set(engine.reasons()) <= set(engine.constraints())
    shares = {**given, "dtype": "ratio", "dtype_param": "batch", "max": 1.5}
    assert "given <= batch" in of(tmp_path, file, shares, BATCH).constraints()


def test_requests_give_way_only_where_their_cache_is_kept(tmp_path: Path) -> None:
    (tmp_path / "service.json").write_text(json.dumps(scheduled(memory=0, maxPreemptCount=0)))
    engine = make("mindie", config_path=str(tmp_path / "service.json"))
    (made,) = [field for field in engine.fields() if field.name == "max_preempt_count"]
    assert made.constant == 0
    assert not made.searched
    assert engine.mistakes() == []
