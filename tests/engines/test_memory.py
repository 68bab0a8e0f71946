"""Bytes of KV cache per token, and what fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarmtune.engines.memory import MemoryConfig, kv_bound, kv_bytes_per_token, memory_constraints, memory_mistakes
from swarmtune.errors import ConfigurationError

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
    assert memory_constraints(table(tmp_path), ["a", "b"]) == ("a <= 8", "b <= 8")
    assert memory_constraints(None, ["a"]) == ()
    assert memory_mistakes(table(tmp_path)) == []


def test_what_cannot_fit_is_a_mistake(tmp_path: Path) -> None:
    (sentence,) = memory_mistakes(table(tmp_path, kv_bytes=2**20))
    assert sentence == (
        "memory.kv_bytes: 1048576 bytes do not hold one sequence of 1024 tokens, which needs 134217728 bytes; "
        "give more memory or shorter sequences"
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_files_that_describe_no_model(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="does not describe a model"):
        memory_constraints(table(tmp_path, text=text), ["a"])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = MemoryConfig(model_config_path=tmp_path / "no.json", kv_bytes=1, tokens_per_sequence=1)
    assert "cannot be read" in memory_mistakes(config)[0]
