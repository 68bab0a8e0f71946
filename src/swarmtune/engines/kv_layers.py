"""The kind of each layer of a model, by the many ways in which config.json files say it. Pure."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from swarmtune.engines.kv_families import WINDOW_HEADS, WINDOW_KV_HEADS

FULL: Final = "full"  # keeps all tokens
WINDOW: Final = "window"  # keeps the last tokens
STATE: Final = "state"  # keeps a state of fixed size
BOTH: Final = "both"  # keeps all tokens, and a state of fixed size
NOTHING: Final = "nothing"
KINDS = {
    **dict.fromkeys(("full_attention", "attention", "full", "global", "global_attention"), FULL),
    "hybrid": BOTH,
    **dict.fromkeys(("sliding_attention", "sliding", "sliding_window", "sliding_window_attention"), WINDOW),
    **dict.fromkeys(("local", "local_attention", "chunked_attention"), WINDOW),
    **dict.fromkeys(("mamba", "mamba2", "mamba1", "ssm", "linear_attention", "linear", "lightning"), STATE),
    **dict.fromkeys(("recurrent", "conv", "short_conv", "gated_deltanet", "kda", "rwkv"), STATE),
    **dict.fromkeys(("mlp", "moe", "ffn", "feed_forward", "no_op", "noop"), NOTHING),
}
LISTS = ("layer_types", "layers_block_type", "layer_block_types", "block_types", "attention_layers")
PATTERN = {"*": FULL, "M": STATE, "-": NOTHING, "E": NOTHING}
NUMBERED = {"attn_type_list": (STATE, FULL), "hybrid_layer_pattern": (FULL, WINDOW)}  # the kind of 0, and of 1
WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "window_size", "attention_chunk_size")
LAYER_WORDS = re.compile(  # in names of keys that tell which layers keep what
    r"(^|_)(mamba\d?|ssm|swa|sliding|hybrid|recurrent|linear|rwkv|retention|lightning|kda|lru|rnn)(_|$)"
    r"|(^|_)(full|global|local|window)_(attn|attention)(_|$)|attn_window|attn_layer(?!_?norm)|layer_group|short_conv"
    r"|^(state_size|mb_per_layer|block_configs|compress_ratios)"
)
LIST_WORDS = re.compile(
    r"(^|_)(layers?|attn|attention|blocks?)_(types?|pattern)$"
)  # the same, where the value is a list
HARMLESS_WORDS = re.compile(r"(^|_)(bias|rope|scaling|proj|mlp|ffn|moe|lora|norm)(_|$)")
READ = frozenset({*WINDOWS, "use_sliding_window", "sliding_window_pattern", "_sliding_window_pattern"})
OTHER_HEADS = re.compile(r"(^|_)(swa|sliding|local|global)_.*(head|kv)|(head|kv).*_(swa|sliding|local|global)(_|$)")
READ_HEADS = frozenset(
    {*WINDOW_KV_HEADS, *WINDOW_HEADS, "swa_head_dim", "swa_v_head_dim", "global_head_dim", "num_global_key_value_heads"}
)
STRANGE_FAMILIES = re.compile(r"mamba|rwkv|retnet|xlstm|delta_?net|hgrn|hyena|linear_attn|^(gla|gsa|based|hymba)(_|$)")


class UnknownLayerError(ValueError):
    """The file describes layers of a kind that is not known here, so that nothing can be said of their memory."""


class Kinds(list[str]):
    """The kind of each layer, and how many tokens those with a window keep."""

    def __init__(self, given: Sequence[str], windows: Sequence[int | None]) -> None:
        super().__init__(given)
        self._windows = windows

    def window(self, i: int) -> int | None:
        """Tokens that this layer keeps at most; None: all."""
        return self._windows[i % len(self._windows)] if self[i] == WINDOW else None


def kinds(model: Mapping[str, Any], count: int, family: str) -> Kinds:
    """Of the ``count`` layers of a model. UnknownLayerError if they cannot be told."""
    listed = _listed(model, count) or _hybrid(model, count, family) or _blocks(model, count)
    if listed is None and STRANGE_FAMILIES.search(family):
        raise UnknownLayerError(f"layers of model_type {reprlib.repr(family)}, and nothing says which of them attend")
    unread = next((key for key, value in model.items() if value and _unread(key, value, listed is not None)), None)
    if unread is not None:
        raise UnknownLayerError(f"{unread[:60]}, by which layers of model_type {reprlib.repr(family)} may differ")
    windows = _windows(model)
    return Kinds(listed or _sliding(model, count, family, windows), windows)


def _unread(key: str, value: Any, listed: bool) -> bool:
    """May this key say something of the kinds of layers that is not understood here? ``listed``: their kinds are known."""
    if listed:
        return key not in READ_HEADS and OTHER_HEADS.search(key) is not None
    if key in READ or HARMLESS_WORDS.search(key):
        return False
    return LAYER_WORDS.search(key) is not None or (isinstance(value, list) and LIST_WORDS.search(key) is not None)


def _windows(model: Mapping[str, Any]) -> list[int | None]:
    """Tokens that layers with a window keep: of all of them, or a pattern that repeats."""
    value = next((model[name] for name in WINDOWS if model.get(name)), None)
    several = value if isinstance(value, list) else [value]
    if any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in several if w is not None):
        raise UnknownLayerError(f"a sliding window of {reprlib.repr(value)} tokens")
    return several


def _listed(model: Mapping[str, Any], count: int) -> list[str] | None:
    """Where a key names the kind of each layer."""
    name = next((n for n in LISTS if isinstance(model.get(n), list) and model[n]), None)
    if name is not None:
        given = model[name]
        if len(given) < count and name != "block_types":  # which repeats
            raise UnknownLayerError(f"{name} with {len(given)} entries for {count} layers")
        used = [given[i % len(given)] for i in range(count)]
        strange = [kind for kind in used if not isinstance(kind, str) or kind not in KINDS]
        if strange:
            raise UnknownLayerError(f"{name} has {reprlib.repr(strange[0])}")
        local = name == "block_types" and "attention_window_size" in model
        return [WINDOW if local and kind == "attention" else KINDS[kind] for kind in used]
    for name, meanings in NUMBERED.items():
        given = model.get(name)
        if isinstance(given, list) and given:
            if len(given) < count or any(isinstance(x, bool) or x not in (0, 1) for x in given[:count]):
                raise UnknownLayerError(f"{name} is {reprlib.repr(given)} for {count} layers")
            return [meanings[x] for x in given[:count]]
    return None


def _hybrid(model: Mapping[str, Any], count: int, family: str) -> list[str] | None:
    """Where keys say which layers attend, or attend to all tokens."""
    if family == "falcon_h1":
        return [BOTH] * count
    pattern = model.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        found = [PATTERN.get(c, c) for c in pattern.replace("|", "")]
        strange = [kind for kind in found if kind not in PATTERN.values()]
        if strange or len(found) < count:
            raise UnknownLayerError(f"hybrid_override_pattern is {reprlib.repr(pattern)} for {count} layers")
        return found[:count]
    kimi = model.get("linear_attn_config")
    if isinstance(kimi, Mapping):
        given = kimi.get("full_attn_layers")
        attending = {i - 1 for i in _indices("full_attn_layers", given)}  # which counts from 1
        return [FULL if i in attending else STATE for i in range(count)]
    for name in ("attn_layer_indices", "full_attn_idxs"):
        if model.get(name) is not None:
            attending = set(_indices(name, model[name]))
            return [FULL if i in attending else STATE for i in range(count)]
    if model.get("attn_layer_period") is not None:
        period, offset = _whole(model, "attn_layer_period", 1), _whole(model, "attn_layer_offset", 0)
        if family == "zamba":
            rest = [BOTH if i % period == offset else STATE for i in range(count)]
            return [STATE, STATE, BOTH, *rest][:count]
        return [FULL if i % period == offset % period else STATE for i in range(count)]
    if model.get("full_attention_interval") is not None:
        interval = _whole(model, "full_attention_interval", 1)
        return [STATE if (i + 1) % interval else FULL for i in range(count)]
    if model.get("layer_group_size") and family.startswith("bailing"):  # the last of each group attends
        group = _whole(model, "layer_group_size", 1)
        return [FULL if (i + 1) % group == 0 or i >= count // group * group else STATE for i in range(count)]
    if model.get("sliding_window_layers"):
        windowed = set(_indices("sliding_window_layers", model["sliding_window_layers"]))
        return [WINDOW if i in windowed else FULL for i in range(count)]
    if model.get("global_attn_every_n_layers") and family == "afmoe":
        each = _whole(model, "global_attn_every_n_layers", 1)
        return [WINDOW if (i + 1) % each else FULL for i in range(count)]
    return None


def _blocks(model: Mapping[str, Any], count: int) -> list[str] | None:
    """Where block_configs describes the attention of each layer, as DeciLM and Nemotron-NAS do."""
    blocks = model.get("block_configs")
    if not isinstance(blocks, list) or not blocks:
        return None
    inner = [block.get("attention") if isinstance(block, Mapping) else None for block in blocks[:count]]
    found = [attention for attention in inner if isinstance(attention, Mapping)]
    if len(found) < count:
        raise UnknownLayerError(f"block_configs that do not describe the attention of {count} layers")
    strange = ("replace_with_linear", "window_length", "num_sink_tokens")
    for attention in found:
        if (key := next((key for key in strange if attention.get(key)), None)) and attention.get("no_op") is not True:
            raise UnknownLayerError(f"block_configs with {key} {reprlib.repr(attention[key])}")
    return [NOTHING if attention.get("no_op") is True else FULL for attention in found]


def _sliding(model: Mapping[str, Any], count: int, family: str, windows: Sequence[int | None]) -> list[str]:
    """Where all layers attend, and some or all of them over a window."""
    if not any(windows) or model.get("use_sliding_window", not family.startswith("qwen")) is False:
        return [FULL] * count
    no_rope = model.get("no_rope_layers") or None
    if no_rope is not None or "no_rope_layer_interval" in model:  # Llama 4: layers without rotary positions see all
        if isinstance(no_rope, list) and len(no_rope) >= count:
            return [WINDOW if rotary else FULL for rotary in no_rope[:count]]
        interval = _whole(model, "no_rope_layer_interval", 1)
        return [WINDOW if (i + 1) % interval else FULL for i in range(count)]
    if model.get("use_sliding_window") is True and model.get("max_window_layers") is not None:
        first = _whole(model, "max_window_layers", 0)
        return [WINDOW if i >= first else FULL for i in range(count)]
    pattern = model.get("sliding_window_pattern", model.get("_sliding_window_pattern"))
    if isinstance(pattern, str) and pattern and set(pattern) <= set("LG"):
        return [WINDOW if pattern[i % len(pattern)] == "L" else FULL for i in range(count)]
    if pattern is not None:
        each = _whole({"sliding_window_pattern": pattern}, "sliding_window_pattern", 1)
        return [WINDOW if (i + 1) % each else FULL for i in range(count)]
    return [FULL if window is None else WINDOW for window in (windows[i % len(windows)] for i in range(count))]


def _indices(name: str, given: Any) -> list[int]:
    if not isinstance(given, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in given):
        raise UnknownLayerError(f"{name} is {reprlib.repr(given)}")
    return given


def _whole(model: Mapping[str, Any], name: str, least: int) -> int:
    value = model.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UnknownLayerError(f"{name} is {reprlib.repr(value)}")
    return value
