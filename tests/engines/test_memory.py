"""Bytes of KV cache per token, and what fits."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from test_engine_contract import MINDIE_FILE, make

from swarmtune.engines.batch_memory import BatchMemory
from swarmtune.engines.document import MAX_BYTES
from swarmtune.engines.memory import KvMemory, MemoryConfig, kv_bound, kv_bytes_per_token
from swarmtune.engines.simulated import SimulatedConfig, SimulatedEngine
from swarmtune.engines.weights import weight_bytes
from swarmtune.errors import ConfigurationError
from swarmtune.space import Field

LLAMA3_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V2 = {"num_hidden_layers": 60, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "torch_dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("model", "kv_dtype", "expected"),
    [
        (LLAMA3_8B, None, 131_072),  # 128 KiB per token, as published for Llama 3 8B
        (LLAMA3_8B, "fp8", 65_536),
        ({**LLAMA3_8B, "num_key_value_heads": None}, None, 524_288),  # every head its own
        ({**LLAMA3_8B, "head_dim": 64}, None, 65_536),
        ({**LLAMA3_8B, "torch_dtype": "torch.float32"}, None, 262_144),
        ({"text_config": LLAMA3_8B, "vision_config": {}}, None, 131_072),
        (DEEPSEEK_V2, None, 60 * 576 * 2),
    ],
)
def test_bytes_per_token(model: dict[str, Any], kv_dtype: str | None, expected: int) -> None:
    assert kv_bytes_per_token(model, kv_dtype) == expected


def test_bound() -> None:
    assert kv_bound(LLAMA3_8B, 16 * 2**30, 4096) == 32
    assert kv_bound(LLAMA3_8B, 16 * 2**30 - 1, 4096) == 31
    assert kv_bound(LLAMA3_8B, 2**20, 4096) == 0


@pytest.mark.parametrize("broken", [{}, {**LLAMA3_8B, "num_hidden_layers": "32"}, {**LLAMA3_8B, "torch_dtype": "q4"}])
def test_models_that_are_not_described(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"num_hidden_layers|dtype"):
        kv_bytes_per_token(broken)


def table(folder: Path, kv_bytes: int = 2**30, text: str | None = None) -> MemoryConfig:
    path = folder / "model.json"
    path.write_text(json.dumps(LLAMA3_8B) if text is None else text)
    return MemoryConfig(model_config_path=path, kv_bytes=kv_bytes, tokens_per_sequence=1024)


def test_rules(tmp_path: Path) -> None:
    memory = KvMemory(table(tmp_path))
    assert (memory.sequences, memory.mistakes()) == (8, [])
    assert memory.rules("a") == ("a <= 8",)
    assert memory.rules(None) == ()
    assert KvMemory(None).rules("a") == ()


@pytest.mark.parametrize(
    ("baselines", "given", "expected"),
    [((), 16, 16), ((), 4, 8), (("a",), 4, 8), (("a",), 16, 64)],
    ids=["kept", "fits", "chosen by the user", "chosen by the user and too large"],
)
def test_the_batch_ends_at_the_bound_or_its_baseline(
    tmp_path: Path, baselines: tuple[str, ...], given: int, expected: int
) -> None:
    fields = (Field("a", "--a", 1, 64, value=given), Field("b", "--b", 1, 64, value=16))
    bounded = BatchMemory(KvMemory(table(tmp_path), baselines), "x", baselines).bounded(fields, "a")
    assert bounded == (Field("a", "--a", 1, expected, value=given), fields[1])


def test_the_models_file_is_read_once(tmp_path: Path) -> None:
    memory = table(tmp_path)
    engine = SimulatedEngine(SimulatedConfig(memory=memory))
    before = (engine.mistakes(), engine.fields(), engine.constraints())
    memory.model_config_path.unlink()
    assert (engine.mistakes(), engine.fields(), engine.constraints()) == before
    assert "max_num_seqs <= 8 or max_num_seqs == 16" in before[2]


def test_a_file_that_comes_too_late_does_not_change_an_engine(tmp_path: Path) -> None:
    config = MemoryConfig(model_config_path=tmp_path / "model.json", kv_bytes=2**30, tokens_per_sequence=1024)
    memory = KvMemory(config)
    mistakes = memory.mistakes()
    table(tmp_path)
    assert memory.mistakes() == mistakes
    assert memory.sequences is None
    with pytest.raises(ConfigurationError, match="cannot be read"):
        memory.rules("a")


def test_what_cannot_fit_is_a_mistake(tmp_path: Path) -> None:
    (sentence,) = KvMemory(table(tmp_path, kv_bytes=2**20)).mistakes()
    assert sentence == (
        "memory.kv_bytes: 1048576 bytes do not hold one sequence of 1024 tokens, which needs 134217728 bytes; "
        "give more memory or shorter sequences"
    )


STRANGE = [
    *("{", "[]", "{}", "null", "[" * 100_000, '{"num_hidden_layers": ' + "9" * 5000 + "}", "\ud800", "\0"),
    *(json.dumps({**LLAMA3_8B, "num_hidden_layers": x}) for x in (10**4000, 0, -1, 1.5, True, "32", [1], {"a": 1})),
    json.dumps({**LLAMA3_8B, "num_attention_heads": 8192}),  # a head size of 0
    json.dumps({**LLAMA3_8B, "torch_dtype": ["bfloat16"]}),
    json.dumps({**LLAMA3_8B, "num_key_value_heads": "x" * 10**6}),
    json.dumps({"text_config": ["num_hidden_layers"]}),
    json.dumps({"text_config": {"num_hidden_layers": None}}),
    json.dumps({"kv_lora_rank": {}, "num_hidden_layers": 3, "qk_rope_head_dim": 1}).replace("{}", "NaN"),
]


@pytest.mark.parametrize("text", STRANGE, ids=lambda text: text[:30])
def test_files_that_describe_no_model(tmp_path: Path, text: str) -> None:
    config = table(tmp_path)
    config.model_config_path.write_bytes(text.encode("utf-8", "surrogatepass"))
    (sentence,) = KvMemory(config).mistakes()
    assert "does not describe a model" in sentence
    assert len(sentence) < 500


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge.json").write_bytes(b" " * (MAX_BYTES + 1))
    for place in (tmp_path / "no.json", tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / ("x" * 300)):
        config = MemoryConfig(model_config_path=place, kv_bytes=1, tokens_per_sequence=1)
        assert "cannot be read" in KvMemory(config).mistakes()[0]
    huge = MemoryConfig(model_config_path=tmp_path / "huge.json", kv_bytes=1, tokens_per_sequence=1)
    assert "larger than 16 MiB" in KvMemory(huge).mistakes()[0]


# --- how a model is divided ----------------------------------------------------------------------------------------

DEEPSEEK_V3 = {"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "n_routed_experts": 256}
RANKS = {"name": "tp", "config_position": "--tensor-parallel-size", "min": 1, "max": 16, "value": 1}
BATCH = {"name": "batch", "config_position": "--max-num-seqs", "min": 1, "max": 1024}


def section(folder: Path, model: dict[str, Any], **more: Any) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(model))
    return {"model_config_path": str(folder), "tokens_per_sequence": 8192, **more}


@pytest.mark.parametrize(
    ("engine", "others", "sequences", "limit"),
    [
        ("vllm", "--tensor-parallel-size 8", 7, 7),
        ("vllm", "-tp=8", 7, 7),
        ("vllm", "", 59, 59),
        ("vllm", "--data-parallel-size 8", 59, 7),  # --max-num-seqs holds for each data parallel rank
        ("sglang", "--tp 8", 7, 7),
        ("sglang", "--tp 8 --dp 8 --enable-dp-attention", 59, 59),  # --max-running-requests holds for all of them
    ],
)
def test_a_latent_cache_on_many_ranks(tmp_path: Path, engine: str, others: str, sequences: int, limit: int) -> None:
    memory = section(tmp_path, DEEPSEEK_V3, kv_bytes=32 * 2**30)
    tuned = make(engine, command={"model": "/m", "others": others}, memory=memory)
    (rule,) = [text for text in tuned.constraints() if f" <= {limit} or " in text]
    assert rule.startswith("max_")
    assert tuned.memory.sequences == sequences
    assert tuned.mistakes() == []
    assert f"{sequences} fit on" in tuned.notes()[0]


def test_the_loosest_of_the_searched_ranks_bounds(tmp_path: Path) -> None:
    memory = section(tmp_path, DEEPSEEK_V3, kv_bytes=32 * 2**30)
    tuned = make("vllm", command={"model": "/m"}, memory=memory, target_field=[RANKS, BATCH])
    assert "batch <= 59 or batch == 256" in tuned.constraints()
    by_token = make(
        "vllm", command={"model": "/m", "others": "-tp $TP"}, memory=memory, target_field=[{**RANKS, "min": 8}, BATCH]
    )
    assert "batch <= 7 or batch == 256" in by_token.constraints()
    fixed = {**RANKS, "constant": 4}
    fixed_ranks = make("vllm", command={"model": "/m"}, memory=memory, target_field=[fixed, BATCH])
    assert "batch <= 14 or batch == 256" in fixed_ranks.constraints()


@pytest.mark.parametrize(
    ("others", "dtype", "sequences"),
    [
        ("", None, 8),
        ("--kv-cache-dtype fp8_e5m2", None, 16),
        ("--kv-cache-dtype=auto", None, 8),
        ("--kv-cache-dtype fp8", "auto", 16),
        ("--kv-cache-dtype fp8", "bfloat16", 8),
        ("", "fp8_e4m3", 16),
        ("", "AUTO", 8),
    ],
)
def test_the_format_of_the_cache(tmp_path: Path, others: str, dtype: str | None, sequences: int) -> None:
    memory = section(tmp_path, LLAMA3_8B, kv_bytes=8 * 2**30, kv_dtype=dtype)
    assert make("vllm", command={"model": "/m", "others": others}, memory=memory).memory.sequences == sequences


@pytest.mark.parametrize(
    ("engine", "others", "model", "sequences"),
    [
        ("vllm", "", "float32", 8),  # the engines turn it into 16 bits
        ("sglang", "--dtype auto", "float32", 8),
        ("vllm", "--dtype bfloat16", "float32", 8),
        ("vllm", "--dtype float32", "bfloat16", 4),
        ("sglang", "--dtype=float", "bfloat16", 4),
        ("vllm", "--dtype float32 --kv-cache-dtype fp8", "bfloat16", 16),
        ("vllm", "--kv-cache-dtype nvfp4", "bfloat16", 28),
    ],
)
def test_the_format_of_the_model_is_that_of_its_cache(
    tmp_path: Path, engine: str, others: str, model: str, sequences: int
) -> None:
    memory = section(tmp_path, {**LLAMA3_8B, "torch_dtype": model}, kv_bytes=8 * 2**30)
    tuned = make(engine, command={"model": "/m", "others": others}, memory=memory, check_flags=False)
    assert tuned.memory.sequences == sequences


@pytest.mark.parametrize(
    ("beside", "config", "sequences"),
    [
        ({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}, {}, 16),
        ({"quantization": {"kv_cache_quant_algo": "NVFP4"}}, {}, 28),
        ({"quantization": {"kv_cache_quant_algo": None}}, {}, 8),
        ({"quantization": {"kv_cache_quant_algo": "FP8"}}, {"quantization_config": {"kv_cache_quant_algo": "none"}}, 8),
        ({"quantization": {"kv_cache_quant_algo": "FP8"}}, {"quantization_config": {"quant_algo": "FP8"}}, 16),
        ({"quantization": ["FP8"]}, {}, 8),
        ({}, {}, 8),
    ],
)
def test_the_quantisation_beside_the_model(
    tmp_path: Path, beside: dict[str, Any], config: dict[str, Any], sequences: int
) -> None:
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    memory = section(tmp_path, {**LLAMA3_8B, **config}, kv_bytes=8 * 2**30)
    assert make("vllm", command={"model": "/m"}, memory=memory).memory.sequences == sequences


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 99999, '{"quantization": {"kv_cache_quant_algo": "INT3"}}'])
def test_a_quantisation_that_is_not_understood_sets_no_bound(tmp_path: Path, text: str) -> None:
    (tmp_path / "hf_quant_config.json").write_text(text)
    tuned = make("vllm", command={"model": "/m"}, memory=section(tmp_path, LLAMA3_8B, kv_bytes=8 * 2**30))
    assert (tuned.mistakes(), tuned.memory.sequences) == ([], None)
    assert "no batch size is excluded" in tuned.notes()[0]


GIB = 2**30
WINDOWED = {**LLAMA3_8B, "sliding_window": 1024, "layer_types": ["full_attention", "sliding_attention"] * 16}


@pytest.mark.parametrize(
    ("engine", "others", "table", "sequences", "note"),
    [
        ("vllm", "--gpu-memory-utilization 0.5", {"device_bytes": 32 * GIB}, 8, "--gpu-memory-utilization 0.5 counts"),
        ("vllm", "--gpu_memory_utilization=0.5", {"device_bytes": 32 * GIB}, 8, "--gpu-memory-utilization 0.5 counts"),
        ("sglang", "--mem-fraction-static 0.5", {"device_bytes": 32 * GIB}, 8, "--mem-fraction-static 0.5 counts"),
        ("vllm", "--gpu-memory-utilization 0.5", {"kv_bytes": 32 * GIB}, 32, ""),  # the table says what is left
        ("vllm", "--kv-cache-memory-bytes 8G -tp 2", {"kv_bytes": 32 * GIB}, 16, "--kv-cache-memory-bytes 8G counts"),
        ("vllm", "--kv-cache-memory-bytes 8G", {}, 8, "--kv-cache-memory-bytes 8G counts"),
        ("vllm", "--max-model-len 4096", {"kv_bytes": 32 * GIB}, 64, "--max-model-len 4096 counts"),
        ("vllm", "--max-model-len 4k", {"kv_bytes": 32 * GIB}, 65, "--max-model-len 4k counts"),
        ("sglang", "--context-length 4096", {"kv_bytes": 32 * GIB}, 64, "--context-length 4096 counts"),
        ("vllm", "--max-model-len 16384", {"kv_bytes": 32 * GIB}, 32, ""),
        ("vllm", "--kv-cache-dtype fp8", {"kv_bytes": 32 * GIB, "kv_dtype": "bf16"}, 32, "kv_dtype bf16 counts"),
        ("vllm", "--hf-overrides '{}'", {"kv_bytes": 32 * GIB}, 32, "what --hf-overrides changes of the model"),
        ("vllm", "--speculative-config '{}'", {"kv_bytes": 32 * GIB}, 32, "the cache of layers that draft tokens"),
        ("vllm", "--speculative-config.method mtp", {"kv_bytes": 32 * GIB}, 32, "the cache of layers that draft"),
        ("vllm", "-tp 3", {"kv_bytes": 32 * GIB}, 28, "8 KV heads cannot be divided evenly by 3 tensor ranks"),
        ("vllm", "-tp 16", {"kv_bytes": 32 * GIB}, 16, ""),  # each head on two ranks
        ("sglang", "--speculative-algorithm EAGLE", {"kv_bytes": 32 * GIB}, 32, "the cache of layers that draft"),
    ],
)
def test_arguments_beside_the_table(
    tmp_path: Path, engine: str, others: str, table: dict[str, Any], sequences: int, note: str
) -> None:
    memory = section(tmp_path, LLAMA3_8B, weight_bytes=8 * GIB, **table)
    tuned = make(engine, command={"model": "/m", "others": others}, memory=memory, check_flags=False)
    assert tuned.memory.sequences == sequences
    said = [text for text in tuned.notes() if text.startswith("memory: ")][1:]
    assert [note in text for text in said] == ([True] if note else [])


@pytest.mark.parametrize(
    ("engine", "others", "model", "sequences"),
    [
        ("vllm", "", WINDOWED, 56),
        ("vllm", "--disable-hybrid-kv-cache-manager", WINDOWED, 32),
        ("vllm", "--disable-hybrid-kv-cache-manager --no-disable-hybrid-kv-cache-manager", WINDOWED, 56),
        ("sglang", "--disable-hybrid-swa-memory", WINDOWED, 32),
        ("vllm", "--disable-hybrid-kv-cache-manager", {**LLAMA3_8B, "sliding_window": 1024}, 256),  # nothing is hybrid
    ],
)
def test_windows_without_a_cache_of_their_own(
    tmp_path: Path, engine: str, others: str, model: dict[str, Any], sequences: int
) -> None:
    memory = section(tmp_path, model, kv_bytes=32 * GIB)
    tuned = make(engine, command={"model": "/m", "others": others}, memory=memory, check_flags=False)
    assert tuned.memory.sequences == sequences


@pytest.mark.parametrize(
    ("name", "position", "low", "high", "others", "limit"),
    [
        ("util", "--gpu-memory-utilization", 0.5, 0.75, "", 16),
        ("util", "env", 0.5, 0.75, "--gpu-memory-utilization $UTIL", 16),
        ("util", "env", 0.5, 0.75, "--gpu-memory-utilization=${UTIL}", 16),
        ("longest", "--max-model-len", 4096, 16384, "--gpu-memory-utilization 0.75", 32),
    ],
)
def test_the_loosest_of_the_searched_amounts_bounds(
    tmp_path: Path, name: str, position: str, low: float, high: float, others: str, limit: int
) -> None:
    memory = section(tmp_path, LLAMA3_8B, device_bytes=32 * GIB, weight_bytes=8 * GIB)
    dtype = "int" if low > 1 else "float"
    field = {"name": name, "config_position": position, "min": low, "max": high, "dtype": dtype, "value": high}
    tuned = make("vllm", command={"model": "/m", "others": others}, memory=memory, target_field=[field, BATCH])
    assert f"batch <= {limit} or batch == 256" in tuned.constraints()


def test_a_field_with_one_value_counts_as_an_argument(tmp_path: Path) -> None:
    memory = section(tmp_path, LLAMA3_8B, device_bytes=32 * GIB, weight_bytes=8 * GIB)
    field = {"name": "util", "config_position": "--gpu-memory-utilization", "dtype": "float", "constant": 0.5}
    tuned = make("vllm", command={"model": "/m"}, memory=memory, target_field=[field, BATCH])
    assert "batch <= 8 or batch == 256" in tuned.constraints()
    assert any("--gpu-memory-utilization 0.5 counts" in note for note in tuned.notes())


@pytest.mark.parametrize("engine", ["command", "vllm"])
def test_a_bound_that_leaves_nothing_to_search_is_named(tmp_path: Path, engine: str) -> None:
    memory = section(tmp_path, LLAMA3_8B, kv_bytes=GIB)
    field = {"name": "max_num_seqs", "config_position": "--max-num-seqs", "min": 1, "max": 256, "value": 1}
    given: dict[str, Any] = {"command": {"model": "/m"}} if engine == "vllm" else {"argv": ["./s"], "model": "m"}
    tuned = make(engine, memory=memory, target_field=[field], **given)
    (mistake,) = tuned.mistakes()
    assert f"the table [{engine}.memory] leaves no value but 1" in mistake
    more = make(
        engine, memory=memory, target_field=[field, {**field, "name": "other", "config_position": "--x"}], **given
    )
    assert not any("leaves no value" in text for text in more.mistakes())


def test_a_format_that_nobody_knows_is_named_where_it_was_written(tmp_path: Path) -> None:
    memory = section(tmp_path, LLAMA3_8B, kv_bytes=8 * 2**30)
    (mistake,) = make("vllm", command={"model": "/m"}, memory={**memory, "kv_dtype": "q9"}).mistakes()
    assert mistake.startswith("memory.kv_dtype: dtype 'q9' is not one of auto, fp8")
    tuned = make("vllm", command={"model": "/m", "others": "--kv-cache-dtype q9"}, memory=memory, check_flags=False)
    assert (tuned.mistakes(), tuned.memory.sequences) == ([], None)
    assert "unknown format" in tuned.notes()[0]


def test_what_is_not_understood_sets_no_bound_and_is_named(tmp_path: Path) -> None:
    memory = section(tmp_path, {**LLAMA3_8B, "layer_types": ["quantum"] * 32}, kv_bytes=2**30)
    tuned = make("vllm", command={"model": "/m"}, memory=memory)
    assert tuned.mistakes() == []
    assert not any("<= 8" in rule or rule.startswith("max_num_seqs <=") for rule in tuned.constraints())
    note, *_ = tuned.notes()
    assert "no batch size is excluded" in note
    assert "layer_types has 'quantum'" in note


def test_bytes_of_devices_and_weights(tmp_path: Path) -> None:
    gib = 2**30
    memory = section(tmp_path, LLAMA3_8B, device_bytes=24 * gib, utilisation=1.0)
    (mistake,) = make("vllm", command={"model": "/m"}, memory=memory).mistakes()
    assert mistake.startswith("memory.weight_bytes: there are no weights beside")
    assert make("vllm", command={"model": "/m"}, memory={**memory, "weight_bytes": 16 * gib}).memory.sequences == 8
    for i in range(4):
        with (tmp_path / f"model-{i}.safetensors").open("wb") as file:
            file.truncate(4 * gib)  # sparse
    assert make("vllm", command={"model": "/m"}, memory=memory).memory.sequences == 8
    two = make("vllm", command={"model": "/m", "others": "-tp 2"}, memory=memory)
    assert two.memory.sequences == 32
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 20 * gib}}))
    assert make("vllm", command={"model": "/m"}, memory=memory).memory.sequences == 4
    assert make("vllm", command={"model": "/m", "others": "-dp 2"}, memory=memory).memory.sequences == 8
    small = {**memory, "device_bytes": 8 * gib}
    (mistake,) = make("vllm", command={"model": "/m"}, memory=small).mistakes()
    assert mistake.startswith("memory.device_bytes: 1 x ")
    searched = make("vllm", command={"model": "/m"}, memory=small, target_field=[RANKS, BATCH])
    assert searched.mistakes() == []  # with more ranks it fits


@pytest.mark.parametrize("given", [{}, {"kv_bytes": 1, "device_bytes": 1}])
def test_one_kind_of_bytes_is_needed(tmp_path: Path, given: dict[str, int]) -> None:
    (mistake,) = make("vllm", command={"model": "/m"}, memory=section(tmp_path, LLAMA3_8B, **given)).mistakes()
    assert mistake == "memory.kv_bytes: give either kv_bytes or device_bytes"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"metadata": 3}',
        '{"metadata": {"total_size": true}}',
        '{"metadata": {"total_size": -1}}',
        "[" * 99999,
    ],
)
def test_an_index_that_says_nothing_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert weight_bytes(tmp_path) is None
    (tmp_path / "a.safetensors").write_bytes(b"abc")
    (tmp_path / "b.safetensors").mkdir()
    assert weight_bytes(tmp_path) == 3


def test_mindie_says_in_its_file_what_memory_and_lengths_there_are(tmp_path: Path) -> None:
    memory = section(tmp_path, LLAMA3_8B, kv_bytes=2000 * GIB)
    file = json.loads(json.dumps(MINDIE_FILE))
    deployed = file["BackendConfig"]["ModelDeployConfig"]
    deployed["ModelConfig"][0].update({"worldSize": 8, "npuMemSize": 8})
    deployed["maxSeqLen"] = 4096
    for more, sequences, notes in (({}, 128, 2), ({"npuMemSize": -1}, 4000, 1)):
        deployed["ModelConfig"][0].update(more)
        (tmp_path / "service.json").write_text(json.dumps(file))
        tuned = make("mindie", config_path=str(tmp_path / "service.json"), memory=memory)
        assert (tuned.memory.sequences, tuned.mistakes()) == (sequences, [])
        assert len([note for note in tuned.notes() if " counts" in note]) == notes


@pytest.mark.parametrize("value", ["8", 1.5, True, [8]])
def test_mindie_refuses_sizes_that_are_no_whole_numbers(tmp_path: Path, value: Any) -> None:
    file = json.loads(json.dumps(MINDIE_FILE))
    file["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]["worldSize"] = value
    (tmp_path / "service.json").write_text(json.dumps(file))
    (mistake,) = make("mindie", config_path=str(tmp_path / "service.json")).mistakes()
    assert f"ModelConfig.0.worldSize is {value!r}, not a whole number" in mistake


@pytest.mark.parametrize("name", ["command", "simulated", "mindie"])
def test_every_engine_with_a_table_bounds_its_batch(tmp_path: Path, name: str) -> None:
    memory = section(tmp_path, LLAMA3_8B, kv_bytes=50 * 2**30)
    more: dict[str, Any] = {}
    if name == "command":
        more = {
            "argv": ["./start.sh", "$PORT", "-tp", "2"],
            "model": "m",
            "target_field": [{**BATCH, "config_position": "env"}],
        }
    if name == "mindie":
        (tmp_path / "service.json").write_text(json.dumps(MINDIE_FILE))
        more = {"config_path": str(tmp_path / "service.json")}
    tuned = make(name, memory=memory, **more)
    assert tuned.mistakes() == []
    assert any(" <= 50" in rule for rule in tuned.constraints())
    assert any("50 fit" in note for note in tuned.notes())


def test_mindie_says_in_its_file_how_the_model_is_divided(tmp_path: Path) -> None:
    memory = section(tmp_path, DEEPSEEK_V3, kv_bytes=2000 * 2**30)
    for division, sequences in (({"worldSize": 8}, 466), ({"worldSize": 8, "dp": 8}, 3730), ({"worldSize": "x"}, 3730)):
        file = json.loads(json.dumps(MINDIE_FILE))
        file["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0].update(division)
        (tmp_path / "service.json").write_text(json.dumps(file))
        tuned = make("mindie", config_path=str(tmp_path / "service.json"), memory=memory)
        assert tuned.memory.sequences == sequences


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0, not a whole number from 1"),
        ({"num_key_value_heads": 64}, "the number of attention heads, 32, cannot be divided evenly among 64 KV heads"),
        ({"num_key_value_heads": 5}, "the number of attention heads, 32, cannot be divided evenly among 5 KV heads"),
        (
            {"hidden_size": 4000, "num_attention_heads": 30},
            "hidden_size, 4000, cannot be divided evenly among 30 attention heads",
        ),
        ({"torch_dtype": "auto"}, None),
        ({"num_key_value_heads": None}, None),
        ({"num_key_value_heads": 1}, None),
        ({"hidden_size": 4000, "head_dim": 128}, None),
    ],
)
def test_heads_that_do_not_fit_each_other_are_no_model(changes: dict[str, Any], told: str | None) -> None:
    if told is None:
        assert kv_bytes_per_token({**LLAMA3_8B, **changes}) > 0
        return
    with pytest.raises(ValueError, match=re.escape(told)):
        kv_bytes_per_token({**LLAMA3_8B, **changes})


@pytest.mark.parametrize(
    ("model", "kv_dtype", "bits"),
    [
        (LLAMA3_8B, "q8_0,q4_0", 6.5),  # as many values as keys
        (LLAMA3_8B, "f16,q4_0", 10.25),
        (LLAMA3_8B, "q4_0", 4.5),
        ({**DEEPSEEK_V2, "model_type": "deepseek_v2"}, "q8_0,q4_0", 8.5),  # keys alone are kept
    ],
)
def test_keys_and_values_may_have_formats_of_their_own(model: dict[str, Any], kv_dtype: str, bits: float) -> None:
    assert kv_bytes_per_token(model, kv_dtype) == kv_bytes_per_token(model, "f16") / 16 * bits
