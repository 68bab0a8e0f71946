"""Bytes of KV cache by kind of layer and by rank."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from swarmtune.engines.kv_formats import Formats, dtype_bits
from swarmtune.engines.kv_layers import UnknownLayerError
from swarmtune.engines.kv_model import kv_model
from swarmtune.engines.memory import kv_bound, kv_bytes_per_token
from swarmtune.engines.parallel import Ranks, ranks

DATA = Path(__file__).parent / "data"
MODELS = [json.loads(line) for line in (DATA / "kv_models.jsonl").read_text().splitlines() if line]
GIB = 2**30
LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
LAYER = 2 * 8 * 128 * 2  # bytes of a token in one layer of it
GEMMA3 = {
    "model_type": "gemma3",
    "torch_dtype": "bfloat16",
    "text_config": {
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "hidden_size": 5376,
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
    },
}
DEEPSEEK = {"model_type": "deepseek_v3", "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64}


def of(**more: Any) -> dict[str, Any]:
    return {**LLAMA, **more}


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case["what"])
def test_models_that_were_misread(case: dict[str, Any]) -> None:
    found = kv_bytes_per_token(case["config"], case["kv_dtype"], Ranks(case["tensor_parallel"]))
    assert found == case["bytes_per_token"]


@pytest.mark.parametrize(
    ("model", "tokens", "sequences"),
    [
        (GEMMA3, 8192, 31),
        (of(model_type="mistral", sliding_window=4096), 32768, 64),
        (of(model_type="mistral", sliding_window=None), 32768, 8),
        (of(model_type="qwen2", sliding_window=4096, use_sliding_window=False, max_window_layers=28), 32768, 8),
        (of(model_type="qwen2", sliding_window=4096), 32768, 8),  # which does not use it unless told to
        (of(sliding_window=4096, layer_types=["sliding_attention"] * 32), 32768, 64),
        (of(model_type="gemma2", head_dim=128, sliding_window=4096), 4096, 64),
    ],
)
def test_windows_bound_what_layers_keep(model: dict[str, Any], tokens: int, sequences: int) -> None:
    assert kv_bound(model, 32 * GIB, tokens) == sequences


@pytest.mark.parametrize(
    ("model", "full", "windowed"),  # numbers of layers
    [
        (of(use_sliding_window=True, model_type="qwen2", sliding_window=100, max_window_layers=28), 28, 4),
        (of(model_type="gpt_oss", head_dim=128), 16, 16),
        (of(model_type="cohere2"), 8, 24),
        (of(model_type="exaone4", sliding_window=100, sliding_window_pattern="LLLG"), 8, 24),
        (of(model_type="llama4_text", no_rope_layers=[]), 8, 24),
        (of(attention_chunk_size=100, no_rope_layers=[1, 1, 1, 0] * 8), 8, 24),
        (of(sliding_window=100, layer_types=["sliding_attention", "full_attention"] * 16), 16, 16),
        (of(window_size=100, attention_layers=["global", "local"] * 16), 16, 16),
        (of(sliding_window=100, hybrid_layer_pattern=[0, 1, 1, 1] * 8), 8, 24),
        (of(sliding_window=[None, 100]), 16, 16),
        (of(num_kv_shared_layers=12), 20, 0),
        (
            of(num_kv_shared_layers=12, sliding_window=9, layer_types=["sliding_attention", "full_attention"] * 16),
            10,
            10,
        ),
        (of(use_cla=True, cla_share_factor=2), 16, 0),
        (of(cross_attention_layers=[3, 8]), 30, 0),
        (of(attn_type_list=[0, 0, 0, 1] * 8), 8, 0),
        (of(full_attention_interval=4, model_type="qwen3_next", head_dim=128), 8, 0),
        (of(full_attn_idxs=[2, 5]), 2, 0),
        (of(linear_attn_config={"full_attn_layers": [4, 8, 32]}), 3, 0),
        (of(layers_block_type=["mamba", "hybrid"] * 16), 16, 0),
        (of(attention_window_size=100, block_types=["recurrent", "recurrent", "attention"]), 0, 10),
        (of(layer_types=["mamba", "attention", "moe", "mlp"] * 8), 8, 0),
        (of(model_type="falcon_h1"), 32, 0),
        (of(model_type="falcon_h1", ssm_in_multiplier=1.25, mamba_d_ssm=1024), 32, 0),
        (of(model_type="zamba", attn_layer_period=6, attn_layer_offset=4), 6, 0),
        (of(model_type="bailing_moe_linear", layer_group_size=5), 8, 0),  # the last two are no whole group
        (of(model_type="bailing_moe_v2_5", layer_group_size=8), 4, 0),
        (of(model_type="afmoe", sliding_window=100), 8, 24),
        (of(model_type="afmoe", sliding_window=100, global_attn_every_n_layers=8), 4, 28),
        (of(sliding_window=100, sliding_window_layers=[1, 3, 5]), 29, 3),
        (of(add_bias_linear=True, attn_layernorm_eps=1e-5, rope_linear=8, mlp_layer_types=["dense"] * 32), 32, 0),
        (of(mamba_d_state=None, linear_attention=False, swa_layers=[], hybrid=0), 32, 0),
    ],
)
def test_which_layers_keep_what(model: dict[str, Any], full: int, windowed: int) -> None:
    layers = [layer for layer in kv_model(model).layers if layer.heads]
    assert [len([x for x in layers if (x.window is None) == whole]) for whole in (True, False)] == [full, windowed]
    assert kv_bytes_per_token(model) == (full + windowed) * LAYER


@pytest.mark.parametrize(
    "model",
    [
        of(layer_types=["full_attention"] * 31 + ["quantum_attention"]),
        of(layer_types=["full_attention"] * 3),
        of(layer_types=[None] * 32),
        of(layer_types=[["full_attention"]] * 32),
        of(hybrid_override_pattern="M-M*X" * 8),
        of(hybrid_override_pattern="M*"),
        of(attn_layer_period=0),
        of(attn_layer_period="8"),
        of(attn_layer_indices=3),
        of(full_attention_interval=True),
        of(sliding_window="4096"),
        of(sliding_window=100, sliding_window_pattern="??"),
        of(mamba_d_state=16),
        of(block_configs=[{}]),
        of(block_configs=[{"attention": {"n_heads_in_group": 4}}] * 31),
        of(block_configs=[{"block_type": "mamba"}] * 32),
        of(block_configs={"attention": {"no_op": True}}),
        of(block_configs=[{"attention": {"no_op": False, "replace_with_linear": True}}] * 32),
        of(block_configs=[{"attention": {"n_heads_in_group": 4, "window_length": 100}}] * 32),
        of(is_encoder_decoder=True),
        of(attn_type_list=[2] * 32),
        of(linear_attention_every=4),
        of(mamba2_heads=64),
        of(num_ssm_layers=12),
        of(swa_layers=[1, 2]),
        of(sliding_layers=[1, 2]),
        of(sliding_window=100, global_attn_idx=[0, 15]),
        of(full_attention_layers=[3, 7]),
        of(attn_layer_types_2=[0, 1]),
        of(layer_group_size=5),  # of a family whose groups are not known
        of(hybrid_ratio=0.25),
        of(recurrent_layers=8),
        of(use_short_conv=True),
        of(model_type="gated_deltanet"),
        of(model_type="codestral_mamba"),
        of(model_type="gla"),
        of(layer_type=["h"] * 32),
        of(attention_pattern=["g", "l"]),
        of(layer_types=["full_attention"] * 16 + ["sliding_attention"] * 16, sliding_num_kv_heads=4),
        of(model_type="minicpm3", kv_lora_rank=256, qk_rope_head_dim=32),
        of(num_key_value_heads=None, num_key_value_groups=4),
        of(num_key_value_heads=None, attention_groups=4),
        {"model_type": "new_family", "num_hidden_layers": 32},
        {"model_type": "new_family", "vocab_size": 32000},
        {"architectures": ["NewForCausalLM"], "num_hidden_layers": 4, "num_attention_heads": 4},
        {"model_type": "new_vl", "text_config": {"vocab_size": 32000}},
        {"model_type": "rwkv", "num_hidden_layers": 24, "hidden_size": 2048},
    ],
)
def test_kinds_of_layers_that_are_not_known_are_named(model: dict[str, Any]) -> None:
    with pytest.raises(UnknownLayerError) as told:
        kv_model(model)
    assert 10 < len(str(told.value)) < 300


def nas(*groups: int | None, **more: Any) -> dict[str, Any]:
    """Nemotron-NAS: layers with these numbers of heads in a group; None: without attention."""
    attention = [{"no_op": g is None, "n_heads_in_group": g, "window_length": None, "sparsify": None} for g in groups]
    blocks = [{"attention": a, "ffn": {"no_op": False, "ffn_mult": 2.0}} for a in attention]
    sizes = {"num_hidden_layers": len(groups), "num_attention_heads": 64, "hidden_size": 8192}
    return {"model_type": "nemotron-nas", "num_key_value_heads": None, "block_configs": blocks, **sizes, **more}


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        (nas(8, 8, None, 16), [8, 8, 0, 4]),
        (nas(64, 1, 32), [1, 64, 2]),
        (nas(None, 8), [0, 8]),
        (nas(8, None, window=0), [8, 0]),
        ({**nas(8), "block_configs": None, "num_key_value_heads_per_layer": [4], "model_type": "deci"}, [4]),
        (of(num_key_value_heads_per_layer=[8, 0, None, 4] * 8, num_key_value_heads=None), [8, 0, 0, 4] * 8),
        (of(num_key_value_heads=[0] * 16 + [8] * 16), [0] * 16 + [8] * 16),
        (of(num_kv_heads=[None, 8] * 16, num_key_value_heads=None), [0, 8] * 16),
    ],
)
def test_each_layer_has_its_own_number_of_kv_heads(model: dict[str, Any], heads: list[int]) -> None:
    found = kv_model(model)
    assert [layer.heads for layer in found.layers] == heads
    assert {layer.values for layer in found.layers if layer.heads} == {256}


@pytest.mark.parametrize(
    "model",
    [nas(3), nas(0), nas(True), nas(8, "x"), of(num_key_value_heads_per_layer=[-1] * 32), of(num_kv_heads=[8] * 3)],
)
def test_heads_that_cannot_be(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"n_heads_in_group|num_k"):
        kv_model({**model, "num_key_value_heads": None})


def test_no_layer_attends() -> None:
    with pytest.raises(UnknownLayerError, match="no layer that keeps a cache"):
        kv_bound(nas(None, None), 2**30, 100)


MINICPM3 = {
    "model_type": "minicpm3",
    "num_hidden_layers": 62,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "hidden_size": 2560,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
}


def test_a_latent_that_the_engine_keeps_as_whole_heads() -> None:
    (layer, *rest) = kv_model(MINICPM3, whole=("minicpm3",)).layers
    assert (layer.heads, layer.values, layer.latent, len(rest)) == (40, 192, False, 61)
    with pytest.raises(UnknownLayerError, match="a latent or whole heads"):
        kv_model(MINICPM3)
    missing = {key: value for key, value in MINICPM3.items() if key != "qk_nope_head_dim"}
    with pytest.raises(UnknownLayerError, match="qk_nope_head_dim"):
        kv_model(missing, whole=("minicpm3",))


@pytest.mark.parametrize(
    "key",
    [
        *("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "kv_n_heads", "multi_query_group_num"),
        *("num_query_groups", "n_query_groups", "num_attention_groups", "kvheads"),
    ],
)
def test_names_of_the_number_of_kv_heads(key: str) -> None:
    assert kv_bytes_per_token(of(**{"num_key_value_heads": None, key: 4})) == 16 * LAYER


@pytest.mark.parametrize(
    ("model", "layers", "heads", "values"),
    [
        ({"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}, 32, 32, 256),
        ({"model_type": "llava", "text_config": {"vocab_size": 32064}}, 32, 32, 256),
        ({"model_type": "llava_next", "text_config": {"model_type": "mistral", "num_key_value_heads": 8}}, 32, 8, 256),
        ({"model_type": "paligemma", "text_config": {"model_type": "gemma", "num_hidden_layers": 18}}, 18, 16, 512),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 2560, "num_hidden_layers": 34}}, 34, 4, 512),
        ({"model_type": "bloom", "n_layer": 30, "num_attention_heads": 32, "n_embed": 4096}, 30, 32, 256),
        ({"model_type": "mistral", "n_layers": 4, "n_heads": 16, "dim": 1024}, 4, 8, 128),
        ({"model_type": "step3_text", "num_layers": 3, "n_heads": 64, "head_dim": 256}, 3, 1, 512),
        ({"model_type": "mpt", "attn_config": {"attn_type": "multiquery_attention"}, **LLAMA}, 32, 1, 256),
        ({"model_type": "longcat_flash", "num_layers": 28, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 28, 2, 576),
        ({"model_type": "deepseek_v2", "num_hidden_layers": 27}, 27, 1, 576),
        (of(model_type="deepseek_v2", use_mla=False, kv_lora_rank=None, qk_nope_head_dim=0, v_head_dim=0), 32, 8, 256),
        (of(model_type="deepseek_v2", use_mla=False, kv_lora_rank=512, qk_rope_head_dim=0), 32, 8, 256),
    ],
)
def test_sizes_that_the_family_fills_in(model: dict[str, Any], layers: int, heads: int, values: int) -> None:
    found = kv_model(model).layers
    assert (len(found), found[0].heads, found[0].values) == (layers, heads, values)


def test_layers_with_a_window_may_have_other_heads() -> None:
    windows = {"sliding_window": 100, "sliding_window_layers": [1]}
    baichuan = kv_model(of(**windows, num_swa_attention_heads=16, num_swa_key_value_heads=2)).layers
    assert [(layer.heads, layer.values) for layer in baichuan[:2]] == [(8, 256), (2, 512)]
    other = {"attention_type": "sliding_attention", "num_attention_groups": 4, "head_dim": 64}
    step = {"num_key_value_heads": None, "num_attention_groups": 8, "attention_other_setting": other}
    layers = kv_model(of(**step, sliding_window=100, layer_types=["full_attention", "sliding_attention"] * 16)).layers
    assert [(layer.heads, layer.values) for layer in layers[:2]] == [(8, 256), (4, 128)]


def test_several_heads_per_rank_and_the_names_of_their_number() -> None:
    assert kv_bytes_per_token(of(num_key_value_heads=None, num_kv_heads=4)) == 16 * LAYER
    assert kv_bytes_per_token(of(num_key_value_heads=None, attn_config={"kv_n_heads": 2})) == 8 * LAYER
    assert kv_bytes_per_token(of(num_key_value_heads=[4] * 16 + [8] * 16)) == 24 * LAYER
    assert kv_bytes_per_token(of(num_key_value_heads=None, n_head_kv=8, model_type="RefinedWeb")) == 32 * LAYER
    assert kv_bytes_per_token(of(v_head_dim=64)) == 24 * LAYER
    with pytest.raises(ValueError, match="fewer than layers"):
        kv_model(of(num_key_value_heads=[8] * 3))


@pytest.mark.parametrize(
    ("argv", "bytes_per_token"),
    [
        ("", 32 * LAYER),
        ("--tensor-parallel-size 8", 32 * LAYER),
        ("--tensor-parallel-size 16", 64 * LAYER),  # each head on two ranks
        ("-tp 16 -dcp 2", 32 * LAYER),  # which keep half of the tokens each
        ("-tp 2 -pp 4", 32 * LAYER),
        ("-pp 5", 35 * LAYER),  # one rank holds 7 layers
        ("-tp 8 -dp 4", 32 * LAYER),
    ],
)
def test_ranks_divide_heads_and_layers(argv: str, bytes_per_token: int) -> None:
    assert kv_bytes_per_token(LLAMA, None, ranks(argv.split())) == bytes_per_token


def test_a_latent_is_on_every_tensor_rank_unless_sequences_are_divided() -> None:
    whole = 61 * 576 * 2
    assert kv_bytes_per_token(DEEPSEEK, None, ranks(["-tp", "8"])) == 8 * whole == 562_176
    assert kv_bytes_per_token(DEEPSEEK, None, ranks(["--tp", "8", "--dp", "8", "--enable-dp-attention"])) == whole
    assert kv_bytes_per_token(DEEPSEEK, None, ranks(["-dp", "8"])) == whole == 70_272
    assert kv_bytes_per_token({**DEEPSEEK, "kv_lora_rank": None, **LLAMA}) == 32 * LAYER


def test_states_of_fixed_size_are_counted_where_their_sizes_are_given() -> None:
    sizes = {"mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_d_conv": 4, "mamba_n_groups": 1}
    hybrid = of(layer_types=["mamba"] * 28 + ["attention"] * 4)
    plain, sized = kv_model(hybrid), kv_model({**hybrid, **sizes})
    state = 48 * 64 * 128 + (48 * 64 + 2 * 128) * 3
    assert sized.sequence_bytes(10, Ranks()) - plain.sequence_bytes(10, Ranks()) == 28 * state * 2
    assert ("not counted" in plain.notes[0], sized.notes) == (True, ())
    jamba = of(attn_layer_period=8, attn_layer_offset=4, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2)
    assert kv_model(jamba).layers[0].state_bits == 16 * 8192 * (16 + 3)
    names = ("linear_num_key_heads", "linear_key_head_dim", "linear_num_value_heads", "linear_value_head_dim")
    qwen = of(full_attention_interval=4, linear_conv_kernel_dim=4, **dict(zip(names, (16, 128, 32, 128), strict=True)))
    assert kv_model(qwen).layers[0].state_bits == 16 * (32 * 128 * 128 + (2 * 16 * 128 + 32 * 128) * 3)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        *(("fp8", 8), ("fp8_e4m3", 8), ("FP8_E5M2", 8), ("float8_e4m3fn", 8), ("int8", 8), ("bf16", 16)),
        *(("bfloat16", 16), ("half", 16), ("torch.float16", 16), ("float32", 32), ("nvfp4", 4.5), ("fp8_ds_mla", 8)),
    ],
)
def test_formats_as_engines_spell_them(name: str, bits: float) -> None:
    assert dtype_bits(name) == bits
    assert kv_bytes_per_token(LLAMA, name) == 32 * LAYER * bits // 16


def test_the_checkpoint_says_its_own_format() -> None:
    assert kv_model(of(quantization_config={"kv_cache_scheme": {"num_bits": 8, "type": "float"}})).bits == 8
    assert kv_model(of(quantization_config={"kv_cache_quant_algo": "FP8"})).bits == 8
    assert kv_model(of(quantization_config={"kv_cache_scheme": None}, dtype="float32")).bits == 32
    assert kv_model(of(dtype="float32"), None, Formats(model="auto")).bits == 16  # as engines cast it
    assert kv_model(of(dtype="bfloat16"), None, Formats(model="float32")).bits == 32
    assert kv_model(of(quantization_config={"kv_cache_quant_algo": "NVFP4"})).bits == 4.5
    assert kv_model(of(quantization_config={"quantization": {"kv_cache_quant_algo": "FP8"}})).bits == 8
    assert kv_model(of(quantization_config={"kv_quant_type": "C8"})).bits == 8
    assert kv_model(of(quantization_config={"kv_cache_dtype": "fp8_e4m3"})).bits == 8
    quark = {"layer_quant_config": {"*k_proj": {"output_tensors": {"dtype": "fp8_e4m3"}}}}
    for group in ({"kv_cache_group": ["*k_proj"]}, {"export": {"kv_cache_group": ["*k_proj", "*v_proj"]}}):
        assert kv_model(of(quantization_config={**quark, **group})).bits == 8
    assert kv_model({"dtype": "float32", "text_config": LLAMA}).bits == 32
    assert kv_model(of(quantization_config={"kv_cache_scheme": {"num_bits": 8}}), "bf16").bits == 16
    for strange in (7, "8", [8], None, True):
        assert kv_model(of(quantization_config={"kv_cache_scheme": {"num_bits": strange}})).bits == 16


@pytest.mark.parametrize(
    "quantised",
    [
        {"kv_cache_quant_algo": "INT3"},
        {"kv_cache_group": ["*k_proj"]},
        {"kv_cache_bits": 3, "note": "of an unknown format"},
        {"kv_cache_group": [[]], "layer_quant_config": {}},
        {"kv_cache_group": ["a"], "layer_quant_config": {"a": {"output_tensors": {"dtype": "q"}}}},
    ],
)
def test_formats_of_the_cache_that_are_not_known(quantised: dict[str, Any]) -> None:
    with pytest.raises(UnknownLayerError, match="format"):
        kv_model(of(quantization_config=quantised))


def test_the_state_has_formats_of_its_own() -> None:
    sizes = {"mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_d_conv": 4}
    model = of(layer_types=["mamba"] * 28 + ["attention"] * 4, **sizes)
    kept, passing = 48 * 64 * 128, (48 * 64 + 2 * 128) * 3
    for more, formats, bits in (
        ({}, Formats(), (16, 16)),
        ({"mamba_ssm_cache_dtype": "float32"}, Formats(), (32, 16)),
        ({"mamba_ssm_dtype": "float32"}, Formats(model="auto"), (32, 16)),
        ({}, Formats(state="float32"), (32, 16)),
        ({}, Formats(convolution="float32"), (32, 32)),
        ({"mamba_ssm_dtype": "auto"}, Formats(model="float32"), (32, 32)),
    ):
        found = kv_model({**model, **more}, "fp8", formats)  # which is the format of the cache alone
        assert (found.bits, found.layers[0].state_bits) == (8, kept * bits[0] + passing * bits[1])


def test_the_language_model_inside() -> None:
    for key in ("text_config", "llm_config", "language_config"):
        assert kv_bytes_per_token({"model_type": "x_vl", key: LLAMA, "vision_config": {"depth": 3}}) == 32 * LAYER
    assert kv_bytes_per_token({"thinker_config": {"text_config": LLAMA}}) == 32 * LAYER
    deep: dict[str, Any] = LLAMA
    for _ in range(1000):
        deep = {"text_config": deep}
    with pytest.raises(ValueError, match="num_hidden_layers"):
        kv_model(deep)


KEYS = [
    *sorted({*LLAMA, *DEEPSEEK, "head_dim", "layer_types", "sliding_window", "sliding_window_pattern", "model_type"}),
    *("attn_layer_period", "attn_layer_indices", "hybrid_override_pattern", "text_config", "quantization_config"),
    *("torch_dtype", "multi_query", "num_kv_shared_layers", "cla_share_factor", "no_rope_layers", "block_types"),
    *("use_mla", "attention_other_setting", "sliding_window_layers", "layer_group_size", "swa_num_key_value_heads"),
    *("linear_attn_config", "mamba_d_state", "attn_config", "global_head_dim", "cross_attention_layers"),
]


@pytest.mark.parametrize("key", KEYS)
def test_values_of_any_type_give_a_number_or_a_value_error(key: str) -> None:
    strange = [
        "x",
        "",
        -1,
        0,
        1,
        2**40,
        10**400,
        1.5,
        float("nan"),
        True,
        [],
        {},
        [[]],
        [None] * 32,
        {"a": [1]},
        ["x"] * 32,
    ]
    for value in strange:
        for base in (LLAMA, DEEPSEEK, GEMMA3, of(use_cla=True)):
            with contextlib.suppress(ValueError):
                assert 0 <= kv_model({**base, key: value}).sequence_bytes(4096, Ranks(3, 2, 2)) < 2**100


SPARSE = {
    "model_type": "deepseek_v32",
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "hidden_size": 7168,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "index_head_dim": 128,
    "index_topk": 2048,
    "dtype": "bfloat16",
}
DENSE = {key: value for key, value in SPARSE.items() if not key.startswith("index")} | {"model_type": "deepseek_v3"}


@pytest.mark.parametrize(
    ("model", "name", "each"),
    [
        (SPARSE, "fp8_ds_mla", 656),  # 512 of 8 bits, 4 scales of 32, 64 of 16
        (SPARSE, "fp8", 656),
        (SPARSE, "fp8_e4m3", 656),
        (SPARSE, None, 1152),
        (SPARSE, "int8", 576),
        (DENSE, "fp8_ds_mla", 656),
        (DENSE, "fp8", 576),
        (DENSE, None, 1152),
    ],
)
def test_the_packed_format_of_sparse_attention(model: dict[str, Any], name: str | None, each: int) -> None:
    assert kv_model(model, name).sequence_bytes(1000, Ranks()) == 1000 * 61 * each
    asked = {**model, "quantization_config": {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}}
    if name is None:
        assert kv_model(asked).sequence_bytes(1, Ranks()) == 61 * (656 if model is SPARSE else 576)


def test_states_of_lightning_and_of_delta_attention() -> None:
    lightning = {
        "model_type": "minimax_text_01",
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "hidden_size": 6144,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
    }
    made = kv_model({**lightning, "torch_dtype": "bfloat16"})
    assert made.notes == ()
    assert made.sequence_bytes(1000, Ranks()) == 10 * 1000 * 8 * 256 * 2 + 70 * 64 * 128 * 128 * 2
    layers: dict[str, Any] = {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "head_dim": 128, "num_heads": 32}
    layers["short_conv_kernel_size"] = 4
    kimi = {
        "model_type": "kimi_linear",
        "num_hidden_layers": 27,
        "num_attention_heads": 32,
        "hidden_size": 2304,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "linear_attn_config": layers,
        "dtype": "bfloat16",
    }
    made = kv_model(kimi)
    state = 32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2
    assert made.notes == ()
    assert made.sequence_bytes(1000, Ranks()) == 7 * 1000 * 576 * 2 + 20 * state
    del layers["num_heads"]
    assert "not counted" in kv_model(kimi).notes[0]
