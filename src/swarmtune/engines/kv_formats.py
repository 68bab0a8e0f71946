"""The formats of a model's numbers: of its cache, of its fixed states, and of itself. Pure."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swarmtune.engines.kv_layers import UnknownLayerError

DEFAULT_DTYPE = "bfloat16"
DTYPE_BITS: Mapping[str, float] = {
    **dict.fromkeys(("float32", "fp32", "float", "f32"), 32),
    **dict.fromkeys(("float16", "fp16", "half", "f16", "bfloat16", "bf16"), 16),
    **dict.fromkeys(("int8", "uint8", "c8"), 8),
    "int4": 4,
    **dict.fromkeys(("fp4", "nvfp4", "fp4_e2m1", "float4_e2m1fn_x2"), 4.5),  # 16 numbers of 4 bits with a scale of 8
    **dict.fromkeys(("q4_0", "iq4_nl"), 4.5),  # of ggml, as all that follow: blocks with their scales
    **dict(zip(("q4_1", "q5_0", "q5_1", "q8_0"), (5, 5.5, 6, 8.5), strict=True)),
}
FP8 = ("fp8", "float8")  # any of its forms: fp8_e4m3, float8_e5m2, ...
MOST_OWN = 16  # bits of a number in engines that choose the format: they turn float32 into 16 bits
SCHEMES = ("kv_cache_scheme", "kv_cache_group")
KV_KEY = re.compile(r"kv_(cache|quant)")  # kv_cache_quant_algo, kv_cache_dtype, kv_quant_type (of MindIE), ...
CONVOLUTION_KEY = "mamba_cache_dtype"
STATE_KEYS = ("mamba_ssm_cache_dtype", "mamba_ssm_dtype")


@dataclass(frozen=True)
class Formats:
    """Names of formats as a command gives them; None: what the model says. ``model`` "auto": an engine's choice by it."""

    cache: str | None = None
    model: str | None = None
    state: str | None = None  # of the state of linear and state-space layers
    convolution: str | None = None  # of what their convolution keeps


def dtype_bits(name: str) -> float:
    """Bits of a number of this format, as engines and models spell it; ValueError if it is not known.

    ``f16,q8_0``: of keys, and of as many values.
    """
    if "," in name:
        key, value = name.split(",", 1)
        return (dtype_bits(key) + dtype_bits(value)) / 2
    plain = name.lower().removeprefix("torch.")
    if plain.startswith(FP8):
        return 8
    if plain not in DTYPE_BITS:
        raise ValueError(f"dtype {reprlib.repr(name)} is not one of auto, fp8, {', '.join(DTYPE_BITS)}")
    return DTYPE_BITS[plain]


def model_bits(chain: Sequence[Mapping[str, Any]], given: str | None) -> float:
    """Bits of a number of the model. ``chain``: its configurations from the inside; ``given``: see ``Formats``."""
    if given and given.lower() != "auto":
        return known_bits(given, "numbers")
    names = (config.get(key) for config in chain for key in ("torch_dtype", "dtype"))
    own = dtype_bits(str(next((name for name in names if name and name != "auto"), DEFAULT_DTYPE)))
    return min(own, MOST_OWN) if given else own


def cache_bits(chain: Sequence[Mapping[str, Any]]) -> float | None:
    """Bits of a number of the cache by what the checkpoint's quantisation says of it; None: it says nothing."""
    for config in chain:
        quantised = config.get("quantization_config")
        if not isinstance(quantised, Mapping):
            continue
        inner = quantised.get("quantization")  # where ModelOpt writes it, as in a file of its own
        quantised = {**inner, **quantised} if isinstance(inner, Mapping) else quantised
        scheme = quantised.get("kv_cache_scheme")
        if isinstance(scheme, Mapping) and scheme.get("num_bits") in (4, 8, 16):
            return int(scheme["num_bits"])
        for holder in (quantised, quantised.get("export")):
            if isinstance(holder, Mapping) and holder.get("kv_cache_group"):
                return _quark_bits(quantised, holder["kv_cache_group"])
        named = [
            (key, value) for key, value in quantised.items() if value and key not in SCHEMES and KV_KEY.search(key)
        ]
        for key, value in named:
            if not isinstance(value, str):
                raise UnknownLayerError(f"quantization_config with {key[:60]}, which is not known to be a format")
            if value.lower() not in ("none", "auto"):
                return known_bits(value, "a KV cache")
    return None


def state_bits(model: Mapping[str, Any], formats: Formats, own: float) -> tuple[float, float]:
    """Bits of a number of a linear or state-space layer's state, and of what its convolution keeps."""
    given = formats.convolution or model.get(CONVOLUTION_KEY)
    convolution = known_bits(str(given), "a state") if given else own
    named = formats.state or formats.convolution or next((model[key] for key in STATE_KEYS if model.get(key)), None)
    if named is None or named == "auto":
        return convolution, convolution
    return known_bits(str(named), "a state"), convolution


def known_bits(name: str, what: str) -> float:
    """As ``dtype_bits``; UnknownLayerError, which says ``what`` has this format."""
    try:
        return dtype_bits(name)
    except ValueError as error:
        raise UnknownLayerError(f"{what} of an unknown format: {error}") from error


def _quark_bits(quantised: Mapping[str, Any], group: Any) -> float:
    """Quark names the layers whose outputs are cached, and the formats of outputs by layer."""
    layers = quantised.get("layer_quant_config")
    names = [name for name in group if isinstance(name, str)] if isinstance(group, list) else []
    first = layers.get(names[0]) if isinstance(layers, Mapping) and names else None
    outputs = first.get("output_tensors") if isinstance(first, Mapping) else None
    name = outputs.get("dtype") if isinstance(outputs, Mapping) else None
    if not isinstance(name, str):
        raise UnknownLayerError("a kv_cache_group whose format is not given")
    return known_bits(name, "a KV cache")
