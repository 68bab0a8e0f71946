"""A model from data sheets: more work takes longer, more devices less, and nobody takes it for a measured one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.simulator.latency.analytical import DEVICES, FACTOR, analytical, device_of, shape_of
from swarmtune.simulator.latency.file import load, save
from swarmtune.simulator.latency.model import Identity

LLAMA_8B: dict[str, Any] = {
    "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip
MIXTRAL: dict[str, Any] = {
    **LLAMA_8B, "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
DECODE = np.array([[32.0, 32.0, 32 * 1000.0, 0.0, 0.0]])
PREFILL = np.array([[2048.0, 0.0, 0.0, 2048 * 1024.0, 1.0]])


def seconds(config: dict[str, Any], device: str, rows: Any, tp: int = 1, weight_bytes: float = 2.0) -> float:
    model = analytical(shape_of(config), device_of(device), 131072.0, Identity("", tp=tp), weight_bytes)
    return float(model.tables().seconds_of(rows)[0])


def test_the_parameters_of_known_models() -> None:
    assert shape_of(LLAMA_8B).met == pytest.approx(7.5e9, rel=0.02)  # 8.03e9, less the embedding that is only looked up
    mixtral = shape_of(MIXTRAL)
    assert mixtral.met == pytest.approx(12.8e9, rel=0.03)
    assert mixtral.read == pytest.approx(46.6e9, rel=0.03)


def test_a_step_is_not_quicker_than_reading_the_weights() -> None:
    for name, device in DEVICES.items():
        floor = shape_of(LLAMA_8B).read * 2 / device.bandwidth
        assert floor < seconds(LLAMA_8B, name, DECODE) < 3 * floor + 5e-3, name


def test_what_moves_a_step() -> None:
    assert seconds(LLAMA_8B, "H200", DECODE) < seconds(LLAMA_8B, "H100", DECODE) < seconds(LLAMA_8B, "A100", DECODE)
    assert seconds(LLAMA_8B, "H100", PREFILL) < seconds(LLAMA_8B, "A100", PREFILL)
    assert seconds(LLAMA_8B, "H100", PREFILL, tp=4) < seconds(LLAMA_8B, "H100", PREFILL)
    assert seconds(LLAMA_8B, "H100", DECODE, weight_bytes=1.0) < seconds(LLAMA_8B, "H100", DECODE)
    more = DECODE + np.array([0.0, 0.0, 32 * 4000.0, 0.0, 0.0])
    assert seconds(LLAMA_8B, "H100", more) > seconds(LLAMA_8B, "H100", DECODE)
    assert seconds(MIXTRAL, "H100", DECODE) > seconds(LLAMA_8B, "H100", DECODE)


def test_it_is_kept_as_what_it_is(tmp_path: Path) -> None:
    model = analytical(shape_of(LLAMA_8B), device_of("h100"), 131072.0, Identity("", device="h100"))
    save(model, tmp_path / "model.json")
    again = load(tmp_path / "model.json")
    assert again.is_rough
    _, _, low, high = again.predict(DECODE)
    assert high[0] / low[0] == pytest.approx(FACTOR**2)
    assert any("nothing was measured" in note for note in again.report.notes)


@pytest.mark.parametrize(
    "config",
    [{}, {**LLAMA_8B, "hidden_size": 0}, {**LLAMA_8B, "vocab_size": "many"}, {**LLAMA_8B, "num_hidden_layers": True}],
)
def test_what_describes_no_model_is_named(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigValidationError, match="is no size"):
        shape_of(config)


def test_a_device_without_a_sheet_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no sheet of the device 'H800'; there are A100"):
        device_of("H800")


MODELS = Path(os.environ.get("SWARMTUNE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "aiconfigurator"


@pytest.mark.skipif(not MODELS.is_dir(), reason="the models' config.json are not here (SWARMTUNE_DATA)")
@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("rtx-4090", "RTX-4090"),
    ],
)
def test_devices_as_their_tools_print_them(name: str, known: str) -> None:
    assert device_of(name) is DEVICES[known]


@pytest.mark.parametrize(
    "name",
    [
        *("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA A100-SXM4-40GB", "NVIDIA GeForce RTX 4090 Laptop GPU"),
        *("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "NVIDIA L40", "RTX", "", "-"),
    ],
)
def test_a_device_of_another_sheet_is_not_taken_for_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no sheet of the device"):
        device_of(name)


def test_models_of_every_kind() -> None:
    for path in sorted((MODELS / "model_configs").glob("*.json")):
        shape = shape_of(json.loads(path.read_text()))
        assert 1e9 < shape.met <= shape.read < 2e12, path.name
