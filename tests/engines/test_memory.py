"""Bytes of KV cache per token, and what fits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from swarmtune.engines.batch_memory import BatchMemory
from swarmtune.engines.document import MAX_BYTES
from swarmtune.engines.memory import KvMemory, MemoryConfig, kv_bound, kv_bytes_per_token
from swarmtune.engines.simulated import SimulatedConfig, SimulatedEngine
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
