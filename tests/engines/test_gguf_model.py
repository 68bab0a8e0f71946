"""What GGUF files say of a model's memory; the files are made here, by ggml's own writer."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_engine_contract import make

from swarmtune.engines.gguf_model import LONG_LIST, _header, gguf_bytes, gguf_config
from swarmtune.engines.kv_layers import UnknownLayerError
from swarmtune.engines.kv_model import kv_model
from swarmtune.engines.llamacpp import model_file
from swarmtune.engines.memory import kv_bound
from swarmtune.engines.parallel import Ranks

gguf = pytest.importorskip("gguf")
LLAMA3_8B = {
    "block_count": 32,
    "embedding_length": 4096,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}
GEMMA3_27B = {
    "block_count": 62,
    "embedding_length": 5376,
    "attention.head_count": 32,
    "attention.head_count_kv": 16,
    "attention.key_length": 128,
    "attention.value_length": 128,
    "attention.sliding_window": 1024,
}
WINDOWS = {**LLAMA3_8B, "attention.sliding_window": 512}
HYBRID = {**LLAMA3_8B, "block_count": 4, "attention.head_count_kv": [0, 8, 0, 8]}


def write(
    path: Path, architecture: str, keys: Mapping[str, Any], words: int = 100, order: Any = gguf.GGUFEndian.LITTLE
) -> Path:
    """A GGUF file with one small tensor and a vocabulary."""
    writer = gguf.GGUFWriter(path, architecture, endianess=order)
    for key, value in keys.items():
        name = f"{architecture}.{key}"
        writer.add_array(name, value) if isinstance(value, list) else writer.add_uint32(name, value)
    writer.add_token_list([f"t{i}" for i in range(words)])
    writer.add_token_scores([0.5] * words)
    writer.add_uint32(f"{architecture}.context_length", 77)  # behind the vocabulary
    writer.add_tensor("output.weight", np.zeros((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        ("llama", LLAMA3_8B, 8192 * 131_072),
        ("llama", {**LLAMA3_8B, "attention.head_count_kv": [8] * 32}, 8192 * 131_072),
        ("gemma3", GEMMA3_27B, (10 * 8192 + 52 * 1024) * 16 * 256 * 2),
        ("gpt-oss", {**LLAMA3_8B, "attention.sliding_window": 128}, 16 * (8192 + 128) * 8 * 256 * 2),
        ("new", {**WINDOWS, "attention.sliding_window_pattern": [True, True, True, False] * 8},
         (8 * 8192 + 24 * 512) * 8 * 256 * 2),
        ("granitehybrid", {**HYBRID, "ssm.state_size": 128}, 2 * 8192 * 8 * 256 * 2),
        ("deci", HYBRID, 2 * 8192 * 8 * 256 * 2),
        ("lfm2", {**HYBRID, "shortconv.l_cache": 3}, 2 * 8192 * 8 * 256 * 2),
        ("deepseek2", {**LLAMA3_8B, "block_count": 60, "attention.head_count_kv": 1, "attention.kv_lora_rank": 512,
                       "rope.dimension_count": 64}, 8192 * 60 * 576 * 2),
    ],
)  # fmt: skip
def test_bytes_of_a_sequence(tmp_path: Path, architecture: str, keys: Mapping[str, Any], expected: int) -> None:
    config = gguf_config(write(tmp_path / "m.gguf", architecture, keys))
    assert kv_bound(config, 10 * expected, 8192) == 10
    assert kv_bound(config, 10 * expected - 1, 8192) == 9


def test_the_state_of_a_hybrid_is_that_of_llama_cpp(tmp_path: Path) -> None:
    sizes = {"inner_size": 8192, "state_size": 128, "conv_kernel": 4, "group_count": 1, "time_step_rank": 128}
    keys = {**HYBRID, **{f"ssm.{name}": value for name, value in sizes.items()}}
    made = kv_model(gguf_config(write(tmp_path / "m.gguf", "granitehybrid", keys)))
    state = 4 * (8192 * 128 + (8192 + 2 * 128) * 3)  # of 32 bits
    assert made.notes == ()
    assert made.sequence_bytes(8192, Ranks()) == 2 * 8192 * 8 * 256 * 2 + 2 * state


@pytest.mark.parametrize(
    ("architecture", "keys"),
    [
        ("mamba2", {**LLAMA3_8B, "ssm.state_size": 128}),
        ("newer", {**LLAMA3_8B, "ssm.state_size": 128}),
        ("rwkv7", {**LLAMA3_8B, "wkv.head_size": 64}),
        ("newer", WINDOWS),
    ],
)
def test_layers_that_nobody_tells_apart_set_no_bound(
    tmp_path: Path, architecture: str, keys: Mapping[str, Any]
) -> None:
    file = write(tmp_path / "m.gguf", architecture, keys)
    with pytest.raises(UnknownLayerError, match=architecture):
        gguf_config(file)
    tuned = make("llamacpp", model_path=str(file), memory={"kv_bytes": 2**30})
    assert tuned.mistakes() == []
    assert any("no batch size is excluded" in note for note in tuned.notes())


def test_the_model_of_the_demo_bounds_its_slots(tmp_path: Path) -> None:
    # llama.cpp states 23,040 bytes a token for SmolLM2-135M: 90 MiB of keys and as much of values for 8,192 tokens
    assert kv_bound(gguf_config(Path(model_file(""))), 180 * 2**20, 8192) == 1
    tuned = make("llamacpp", memory={"kv_bytes": 8 * 2048 * 23_040})
    assert tuned.mistakes() == []
    assert tuned.memory.sequences == 8
    assert "n_parallel <= 8" in tuned.constraints()
    assert next(field.max for field in tuned.fields() if field.name == "n_parallel") == 8
    longer = make("llamacpp", context_per_slot=4096, memory={"kv_bytes": 8 * 2048 * 23_040})
    assert longer.memory.sequences == 4
    own = make("llamacpp", memory={"kv_bytes": 8 * 2048 * 23_040, "tokens_per_sequence": 1024})
    assert own.memory.sequences == 16
    smaller = make("llamacpp", others="--cache-type-k q8_0 --cache-type-v q8_0", memory={"kv_bytes": 8 * 2048 * 23_040})
    assert smaller.memory.sequences == 15  # 8.5 bits a number
    keys = make("llamacpp", others="-ctk q4_0", memory={"kv_bytes": 8 * 2048 * 23_040})
    assert keys.memory.sequences == 12  # keys of 4.5 bits, values of 16
    unequal = make("llamacpp", others="-ctk q8_0 -ctv q4_0 -fa on", memory={"kv_bytes": 8 * 2048 * 23_040})
    assert unequal.memory.sequences == 19
    fixed = make("llamacpp", others="--n-ctx 4096", memory={"kv_bytes": 1})
    assert fixed.mistakes() == []
    assert fixed.memory.sequences is None
    assert any("--n-ctx in llamacpp.others" in note for note in fixed.notes())


def test_weights_are_the_file_with_all_its_parts(tmp_path: Path) -> None:
    for name, size in (("m-00001-of-00002", 5), ("m-00002-of-00002", 7), ("n-00001-of-00002", 11), ("m", 13)):
        (tmp_path / f"{name}.gguf").write_bytes(bytes(size))
    assert gguf_bytes(tmp_path / "m-00001-of-00002.gguf") == 12
    assert gguf_bytes(tmp_path / "m.gguf") == 13
    file = write(tmp_path / "small.gguf", "llama", LLAMA3_8B)
    memory = {"device_bytes": 10 * 2048 * 131_072 + file.stat().st_size, "utilisation": 1.0}
    assert make("llamacpp", model_path=str(file), memory=memory).memory.sequences == 10


@pytest.mark.parametrize("order", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_a_long_vocabulary_is_stepped_over(tmp_path: Path, order: Any) -> None:
    files = [write(tmp_path / f"{words}.gguf", "llama", LLAMA3_8B, words, order) for words in (100, LONG_LIST + 1)]
    headers = [_header(file) for file in files]
    assert headers[0] == headers[1]
    assert headers[1]["llama.context_length"] == 77
    assert gguf_config(files[1])["num_hidden_layers"] == LLAMA3_8B["block_count"]


def test_a_vocabulary_that_is_cut_off_is_no_file(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf", "llama", LLAMA3_8B, LONG_LIST + 1).read_bytes()
    words = whole.index(struct.pack("<IQ", 8, LONG_LIST + 1))
    file = tmp_path / "broken.gguf"
    for kind, count in ((8, 2**63), (8, len(whole) + 1), (8, LONG_LIST + 2), (6, 2**62), (9, 2**20), (99, 2**20)):
        file.write_bytes(whole[:words] + struct.pack("<IQ", kind, count) + whole[words + 12 :])
        with pytest.raises(ValueError, match="no GGUF file that can be read"):
            gguf_config(file)
    for end in range(words + 12, len(whole), len(whole) // 50):
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="no GGUF file that can be read"):
            gguf_config(file)


def test_broken_files_are_named_and_nothing_else_happens(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf", "llama", LLAMA3_8B).read_bytes()
    rng = random.Random(7)
    cases = [b"", b"GGUF", b"GGUF" + b"\xff" * 64, whole[:40], whole[:-400], b"{}" * 100]
    for _ in range(20):
        broken = bytearray(whole)
        for _ in range(rng.randrange(1, 30)):
            broken[rng.randrange(400)] = rng.randrange(256)
        cases.append(bytes(broken))
    file = tmp_path / "broken.gguf"
    for case in cases:
        file.write_bytes(case)
        tuned = make("llamacpp", model_path=str(file), memory={"kv_bytes": 2**40})
        mistakes, notes = tuned.mistakes(), [] if tuned.mistakes() else tuned.notes()
        assert all(str(file) in mistake or "tokens" in mistake for mistake in mistakes)
        assert mistakes or notes
