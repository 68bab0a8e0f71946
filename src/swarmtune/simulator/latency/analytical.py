"""A model of step times from the sheets of a device and a model, where nothing was measured yet: physics, with wide bars.

Each term is a roofline (Williams et al., Communications of the ACM 52(4), 2009): bytes by bandwidth, operations by rate,
times what kernels usually reach of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.simulator.latency.features import CONTEXT, DECODES, FEATURES, PREFILL_WORK, PREFILLS, TOKENS
from swarmtune.simulator.latency.model import Bars, Errors, Identity, LatencyModel, Report
from swarmtune.simulator.latency.rows import rows_of
from swarmtune.simulator.latency.tables import CostTables


@dataclass(frozen=True)
class Device:
    """``bandwidth``: bytes per second of its memory; ``flops``: dense operations per second in 16 bits; ``link``: bytes per
    second to its neighbours, one way.
    """

    bandwidth: float
    flops: float
    link: float


# Of the makers' data sheets: memory bandwidth, dense 16-bit tensor operations (without sparsity), NVLink or PCIe one way.
DEVICES: Mapping[str, Device] = {
    "A100": Device(2.039e12, 312e12, 300e9),  # NVIDIA A100 80GB SXM
    "A30": Device(0.933e12, 165e12, 32e9),
    "B200": Device(7.7e12, 2250e12, 900e9),
    "H100": Device(3.35e12, 989e12, 450e9),  # NVIDIA H100 SXM
    "H200": Device(4.8e12, 989e12, 450e9),
    "L4": Device(0.3e12, 121e12, 32e9),
    "L40S": Device(0.864e12, 362e12, 32e9),
    "RTX-PRO-6000": Device(1.792e12, 468e12, 64e9),  # Blackwell Server Edition
    "RTX-4090": Device(1.008e12, 165e12, 32e9),
    "Ascend-910B": Device(1.6e12, 376e12, 196e9),  # Huawei Atlas 800T A2
}
OTHER_SHEETS = frozenset({"pcie", "nvl", "40gb", "laptop", "workstation", "max", "mig", "1g", "2g", "3g", "4g", "7g"})
REACHED_BANDWIDTH, REACHED_FLOPS, REACHED_ATTENTION = 0.8, 0.65, 0.4  # shares, of large kernels
HOST_S, REQUEST_S, PREFILL_S = 1e-3, 8e-6, 50e-6  # of a step, of each of its requests, and of each piece of a prompt
HOP_S = 10e-6  # of a small all-reduce
FACTOR = 2.0  # how far such a model may be off, either way
EXAMPLE = 64  # tokens whose experts are read in a step
LARGEST = 1e9  # of a size in config.json
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
EXPERTS, CHOSEN = ("num_local_experts", "num_experts", "n_routed_experts"), "num_experts_per_tok"


@dataclass(frozen=True)
class Shape:
    """Of a model: parameters that each token meets, those that a step reads, and what attention computes for each token and
    each token that it attends to, in operations.
    """

    met: float
    read: float
    attention: float
    layers: int
    hidden: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """From config.json. ConfigValidationError with every size that is missing or impossible."""
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) else config
    wrong = [name for name in SIZES if not _is_size(config.get(name))]
    if wrong:
        raise ConfigValidationError(
            [f"the model's config.json: {name} is no size: {config.get(name)!r}" for name in wrong]
        )
    layers, hidden, heads, width, words = (int(config[name]) for name in SIZES)
    pairs = _size(config, "num_key_value_heads", heads)
    size = _size(config, "head_dim", hidden // heads)
    attention = 2 * hidden * heads * size + 2 * hidden * pairs * size
    experts = next((count for name in EXPERTS if (count := _size(config, name, 0))), 1)
    chosen = _size(config, CHOSEN, 1) if experts > 1 else 1
    width = _size(config, "moe_intermediate_size", width) if experts > 1 else width
    part = 3 * hidden * width
    active = experts * (1 - (1 - chosen / experts) ** EXAMPLE) if experts > 1 else 1.0
    met = layers * (attention + chosen * part) + hidden * words
    read = layers * (attention + active * part) + hidden * words
    return Shape(met, read, 4.0 * layers * heads * size, layers, hidden)


def device_of(name: str) -> Device:
    """By name, in any case, also as nvidia-smi prints it. ConfigurationError lists the known ones: those of another memory,
    link or power (PCIe, NVL, 40 GB, Max-Q, laptops) have other sheets.
    """
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    found = [key for key in DEVICES if set(key.lower().split("-")) <= words]
    if not found or words & OTHER_SHEETS:
        raise ConfigurationError(f"There is no sheet of the device {name!r}; there are {', '.join(DEVICES)}.")
    return DEVICES[found[0]]


def analytical(
    shape: Shape, device: Device, kv_bytes: float, identity: Identity, weight_bytes: float = 2.0
) -> LatencyModel:
    """``kv_bytes``: of one token, on all tensor ranks together; ``weight_bytes``: of one parameter; ``identity.tp``: tensor
    ranks. ConfigurationError if numbers are impossible.
    """
    ranks = max(1, identity.tp)
    bandwidth, flops = device.bandwidth * REACHED_BANDWIDTH * ranks, device.flops * REACHED_FLOPS * ranks
    reading, computing = shape.read * weight_bytes / bandwidth, 2 * shape.met / flops
    hops = 0.0 if ranks == 1 else 2 * shape.layers * HOP_S
    exchanged = 0.0 if ranks == 1 else 4 * shape.layers * shape.hidden * 2 * (ranks - 1) / ranks / device.link
    knee = max(1.0, reading / computing)  # tokens from which on computing takes longer than reading
    weights = np.zeros(len(FEATURES) + 2)
    weights[0] = HOST_S + reading + hops
    weights[1 + TOKENS] = exchanged
    weights[1 + DECODES] = REQUEST_S
    weights[1 + CONTEXT] = kv_bytes / bandwidth
    weights[1 + PREFILL_WORK] = shape.attention / (device.flops * REACHED_ATTENTION * ranks)
    weights[1 + PREFILLS] = PREFILL_S
    weights[-1] = computing
    tables = CostTables(weights, np.array([knee]), tuple(np.empty(0) for _ in FEATURES))
    factors = np.array([[1 / FACTOR, FACTOR]])
    bars = Bars((np.empty(0), np.empty(0)), (factors, factors), (1 / FACTOR, FACTOR))
    nothing = Errors(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    note = f"analytical: nothing was measured; a step may take half or twice as long (factor {FACTOR:g})"
    report = Report("none: from data sheets", nothing, nothing, {}, notes=(note,))
    domain = np.array([np.zeros(len(FEATURES)), np.full(len(FEATURES), 1e15)])
    empty = rows_of(np.empty((0, len(FEATURES))), np.empty(0))
    return LatencyModel(tables, tables, domain, bars, identity, report, empty)


def _size(config: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = config.get(name)
    return int(value) if value is not None and _is_size(value) else otherwise


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST
