"""Rules that follow from the model and from other flags: what the engine refuses at its start, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_engine_contract import make

from swarmtune.engines.base import Engine
from swarmtune.engines.rules import broken_rules, context_rules, head_rules, open_rules
from swarmtune.space import Constraint


def sizes(family: str, heads: int, kv_heads: int | None = None, **more: Any) -> dict[str, Any]:
    """A config.json, with KV heads under their usual name where ``kv_heads`` is given."""
    kv = {} if kv_heads is None else {"num_key_value_heads": kv_heads}
    described = {
        "model_type": family,
        "num_attention_heads": heads,
        "num_hidden_layers": 32,
        "hidden_size": 128 * heads,
    }
    return {**described, **kv, **more}


MODELS: dict[str, tuple[dict[str, Any], int, int]] = {  # the file, attention heads, KV heads; 0: a latent
    "Qwen2.5-0.5B": (sizes("qwen2", 14, 2), 14, 2),
    "Qwen2.5-7B": (sizes("qwen2", 28, 4), 28, 4),
    "Qwen2.5-72B": (sizes("qwen2", 64, 8), 64, 8),
    "Llama-2-13B": (sizes("llama", 40), 40, 40),
    "Llama-3-70B": (sizes("llama", 64, 8), 64, 8),
    "Phi-3-medium": (sizes("phi3", 40, 10), 40, 10),
    "Falcon-7B": (sizes("falcon", 71, multi_query=True), 71, 1),
    "Falcon-40B": (sizes("falcon", 128, num_kv_heads=8, new_decoder_architecture=True), 128, 8),
    "Gemma-2-9B": (sizes("gemma2", 16, 8, head_dim=256), 16, 8),
    "Gemma-3-27B": ({"model_type": "gemma3", "text_config": sizes("gemma3_text", 32, 16, head_dim=128)}, 32, 16),
    "GLM-4-9B": (sizes("chatglm", 32, multi_query_attention=True, multi_query_group_num=2), 32, 2),
    "GLM-4-32B": (sizes("glm4", 48, 2), 48, 2),
    "Qwen3-30B-A3B": (sizes("qwen3_moe", 32, 4, num_experts=128), 32, 4),
    "Mixtral-8x7B": (sizes("mixtral", 32, 8, num_local_experts=8), 32, 8),
    "DeepSeek-V3": (
        sizes("deepseek_v3", 128, 128, kv_lora_rank=512, qk_rope_head_dim=64, n_routed_experts=256), 128, 0,
    ),
}  # fmt: skip
TP = {"vllm": "--tensor-parallel-size", "sglang": "--tp-size"}


def even(heads: int, kv_heads: int, ranks: int) -> bool:
    """Do these ranks take whole heads, and KV heads that are shared or repeated evenly?"""
    return heads % ranks == 0 and (kv_heads == 0 or kv_heads % ranks == 0 or ranks % kv_heads == 0)


def of(name: str, folder: Path, config: dict[str, Any], others: str = "", **fields: str) -> Engine:
    """The engine with this model, further arguments, and searched fields at these flags."""
    (folder / "config.json").write_text(json.dumps(config))
    searched = [{"name": key, "config_position": flag, "min": 1, "max": 64, "value": 1} for key, flag in fields.items()]
    return make(name, command={"model": str(folder), "others": others}, target_field=searched)


def holds(engine: Engine, **values: int) -> bool:
    return all(Constraint.parse(rule).holds(values) for rule in engine.constraints())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_heads_and_kv_heads_of_real_families(name: str, model: str, tmp_path: Path) -> None:
    config, heads, kv_heads = MODELS[model]
    searched = of(name, tmp_path, config, tp=TP[name])
    assert searched.mistakes() == []
    for ranks in (*range(1, 17), 20, 32, 40, 64):
        legal = even(heads, kv_heads, ranks)
        assert holds(searched, tp=ranks) == legal, (ranks, searched.constraints())
        said = of(name, tmp_path, config, f"{TP[name]} {ranks}").mistakes()
        assert (said == []) == legal, (ranks, said)
        assert all("heads" in sentence for sentence in said)


@given(st.integers(1, 130), st.integers(1, 16), st.integers(1, 130))
def test_any_heads(kv_heads: int, each: int, ranks: int) -> None:
    legal = even(kv_heads * each, kv_heads, ranks)
    assert (broken_rules(head_rules(kv_heads * each, [kv_heads], str(ranks)), "x") == []) == legal
    rules = open_rules(head_rules(kv_heads * each, [kv_heads], "tp"))
    assert all(Constraint.parse(rule).holds({"tp": ranks}) for rule in rules) == legal


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 64), st.integers(1, 16))
def test_any_context_ranks(kv_heads: int, each: int, tp: int, dcp: int) -> None:
    heads = kv_heads * each
    rules = [*head_rules(heads, [kv_heads], str(tp)), *context_rules(heads, [kv_heads], str(tp), str(dcp))]
    assert (broken_rules(rules, "x") == [] and tp % dcp == 0) == context_legal(heads, kv_heads, tp, dcp)


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"model_type": ["llama"]}', '{"model_type": {}}', '{"num_attention_heads": true}'),
        *('{"text_config": 3}', "[" * 100_000, '{"num_experts": [8]}'),
    ],
)
@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_file_that_is_not_understood_sets_no_rule(name: str, content: str, tmp_path: Path) -> None:
    engine = of(name, tmp_path, {}, f"{TP[name]} 7")
    (tmp_path / "config.json").write_text(content)
    assert engine.mistakes() == []


def test_a_changed_model_has_no_known_length(tmp_path: Path) -> None:
    others = "--no-enable-chunked-prefill --max-num-batched-tokens 8192"
    assert of("vllm", tmp_path, {"max_position_embeddings": 131072}, others).longest_request == 131072
    changed = of("vllm", tmp_path, {"max_position_embeddings": 131072}, others + " --hf-overrides '{\"x\": 1}'")
    assert "131072" not in str(changed.constraints()) + str(changed.mistakes())
    assert changed.longest_request is None


def test_a_changed_model_sets_no_rule(tmp_path: Path) -> None:
    config = MODELS["Llama-3-70B"][0]
    assert of("vllm", tmp_path, config, "-tp 3 --hf-overrides '{\"num_attention_heads\": 63}'").mistakes() == []
    override = "--tp 3 --json-model-override-args '{\"num_attention_heads\": 63}'"
    assert of("sglang", tmp_path, config, override).mistakes() == []


def test_layers_with_other_numbers_of_kv_heads_all_count(tmp_path: Path) -> None:
    config = sizes("nemotron-nas", 64, num_key_value_heads=[8] * 16 + [4] * 16)
    engine = of("vllm", tmp_path, config, tp="-tp")
    assert [ranks for ranks in range(1, 17) if holds(engine, tp=ranks)] == [1, 2, 4, 8, 16]


def test_the_folder_of_the_memory_table_tells_the_heads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODELS["Phi-3-medium"][0]))
    memory = {"model_config_path": str(tmp_path), "tokens_per_sequence": 100, "kv_bytes": 2**40}
    engine = make("vllm", command={"model": "microsoft/Phi-3-medium", "others": "-tp 4"}, memory=memory)
    assert "10 KV heads can neither be divided among 4 tensor ranks" in engine.mistakes()[0]


# --- data parallel attention of SGLang -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "right"),
    [
        ("--tp 8", False),
        ("--tp 8 --dp 4 --enable-dp-attention", True),  # attention has 2 ranks
        ("--tp 8 --dp 8 --enable-dp-attention", True),
        ("--tp 8 --attn-dp-size 4", True),
        ("--tp 8 --attn-dp-size 2", False),  # 4 ranks for 14 heads
        ("--tp 8 --dp 3 --enable-dp-attention", False),
        ("--tp 8 --attn-dp-size 3", False),
        ("--tp 2 --dp 4", True),  # 4 replicas of 2 ranks
    ],
)
def test_data_parallel_attention_divides_the_ranks_of_heads(others: str, right: bool, tmp_path: Path) -> None:
    said = of("sglang", tmp_path, MODELS["Qwen2.5-0.5B"][0], others).mistakes()
    assert (said == []) == right, said


def test_searched_ranks_with_data_parallel_attention(tmp_path: Path) -> None:
    config = MODELS["Qwen2.5-0.5B"][0]
    engine = of("sglang", tmp_path, config, "--enable-dp-attention", tp="--tp-size", dp="--dp-size")
    legal = {(tp, dp) for tp in range(1, 17) for dp in range(1, 17) if holds(engine, tp=tp, dp=dp)}
    assert legal == {(tp, dp) for tp in range(1, 17) for dp in range(1, 17) if tp % dp == 0 and tp // dp in (1, 2, 14)}


# --- decode context parallelism of vLLM ----------------------------------------------------------------------------------


def context_legal(heads: int, kv_heads: int, tp: int, dcp: int) -> bool:
    """As ``ModelConfig.verify_with_parallel_config`` and ``ParallelConfig`` of vLLM 0.32 check it."""
    if not even(heads, kv_heads, tp) or tp % dcp:
        return False
    if dcp == 1 or kv_heads == 0:
        return True
    return tp > kv_heads and dcp <= tp // kv_heads and (heads // kv_heads) % dcp == 0


@pytest.mark.parametrize("model", ["Qwen2.5-7B", "Qwen2.5-72B", "GLM-4-9B", "DeepSeek-V3", "Falcon-7B"])
def test_decode_context_parallelism(model: str, tmp_path: Path) -> None:
    config, heads, kv_heads = MODELS[model]
    searched = of("vllm", tmp_path, config, tp="-tp", dcp="-dcp")
    for tp in (1, 2, 4, 7, 8, 16, 28):
        for dcp in (1, 2, 3, 4, 8):
            legal = context_legal(heads, kv_heads, tp, dcp)
            assert holds(searched, tp=tp, dcp=dcp) == legal, (tp, dcp)
            said = of("vllm", tmp_path, config, f"-tp {tp} -dcp {dcp}").mistakes()
            assert (said == []) == legal, (tp, dcp, said)


def test_a_searched_flag_that_rests_at_one_starts_there() -> None:
    field = {"name": "dcp", "config_position": "-dcp", "min": 1, "max": 8}
    (made,) = make("vllm", command={"model": "m", "others": "-tp 8"}, target_field=[field]).fields()
    assert made.value == 1


def test_context_ranks_of_a_model_that_is_not_known() -> None:
    assert context_rules(None, (), "8", "3") == ()


# --- experts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "others", "right"),
    [
        ("vllm", "Qwen3-30B-A3B", "-tp 4 --enable-expert-parallel", True),
        ("vllm", "Mixtral-8x7B", "-tp 2 -dp 3 --enable-expert-parallel", True),  # vLLM copes with uneven experts
        ("vllm", "Mixtral-8x7B", "-tp 2 -dp 3 --enable-expert-parallel --enable-eplb", False),
        ("vllm", "Mixtral-8x7B", "-tp 2 -dp 2 --enable-expert-parallel --enable-eplb", True),
        ("vllm", "Mixtral-8x7B", "-tp 2 -dp 3 -ep --enable-eplb --eplb-config.num_redundant_experts 4", True),
        ("vllm", "Llama-3-70B", "-tp 8 --enable-expert-parallel", False),
        ("vllm", "Llama-3-70B", "-tp 8 --no-enable-expert-parallel", True),
        ("vllm", "Gemma-3-27B", "-tp 8 -ep", False),
        ("vllm", "DeepSeek-V3", "-tp 8 -ep", True),
        ("sglang", "Qwen3-30B-A3B", "--tp 4 --ep-size 4", True),
        ("sglang", "Qwen3-30B-A3B", "--tp 4 --ep-size 3", False),  # 3 does not divide 4
        ("sglang", "Mixtral-8x7B", "--tp 16 --ep-size 16", False),
        ("sglang", "Mixtral-8x7B", "--tp 16 --ep-size 16 --ep-num-redundant-experts 8", True),
        ("sglang", "Mixtral-8x7B", "--tp 16 --moe-a2a-backend deepep", False),
        ("sglang", "DeepSeek-V3", "--tp 16 --moe-a2a-backend deepep", True),
        ("sglang", "DeepSeek-V3", "--tp 16 --ep-size 3 --moe-a2a-backend deepep", True),  # which makes it 16
        ("sglang", "Llama-3-70B", "--tp 8", True),
    ],
)
def test_experts(name: str, model: str, others: str, right: bool, tmp_path: Path) -> None:
    said = of(name, tmp_path, MODELS[model][0], others).mistakes()
    assert (said == []) == right, said


def test_a_searched_switch_of_expert_parallelism(tmp_path: Path) -> None:
    for model, values in (("Llama-3-70B", {False}), ("Mixtral-8x7B", {False, True}), ("Qwen3-30B-A3B", {False, True})):
        (tmp_path / "config.json").write_text(json.dumps(MODELS[model][0]))
        field = {"name": "ep", "config_position": "--enable-expert-parallel", "dtype": "bool"}
        engine = make("vllm", command={"model": str(tmp_path), "others": "-tp 2"}, target_field=[field])
        assert {value for value in (False, True) if holds(engine, ep=value)} == values


# --- flags among themselves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "others", "right"),
    [
        ("vllm", "-tp 8 -dcp 3", False),
        ("vllm", "-dcp 2", False),
        ("vllm", "-tp 4 -pcp 2 -dcp 8", True),
        ("vllm", "-tp 4 -pcp 2 -dcp 4", False),
        ("vllm", "--enable-eplb -tp 2", False),
        ("vllm", "--enable-eplb --enable-expert-parallel", False),
        ("vllm", "--enable-eplb --enable-expert-parallel -dp 2", True),
        ("vllm", "--enable-elastic-ep -dp 2", False),
        ("vllm", "--enable-elastic-ep --enable-eplb -ep -dp 2 -pp 2", False),
        ("vllm", "--enable-dbo -dp 2", False),
        ("vllm", "--enable-dbo -dp 2 --all2all-backend deepep_low_latency", True),
        ("vllm", "--enable-dbo -dp 2 --all2all-backend deepep_low_latency --dbo-decode-token-threshold 1", False),
        ("vllm", "--enable-batch-sharded-sampling", False),
        ("vllm", "--enable-batch-sharded-sampling -tp 2", True),
        ("vllm", "--enable-batch-sharded-sampling -tp 4 --max-num-seqs 2", False),
        ("vllm", "--distributed-executor-backend external_launcher", False),
        ("vllm", "--distributed-executor-backend ray -tp 8", True),
        ("vllm", "-tp 2 -pp 3 -dp 5", True),
        ("sglang", "--tp 8 --dp 3 --enable-dp-attention", False),
        ("sglang", "--tp 8 --dp 3", True),
        ("sglang", "--tp 8 --attn-cp-size 3", False),
        ("sglang", "--tp 8 --attn-cp-size 2 --dp 2 --enable-dp-attention", True),
        ("sglang", "--tp 8 --dcp-size 3", False),
        ("sglang", "--tp 8 --ep-size 16", False),
        ("sglang", "--tp 8 --moe-dp-size 2 --ep-size 4 --attn-cp-size 2", True),
        ("sglang", "--tp 8 --moe-dp-size 2 --ep-size 2 --attn-cp-size 2", False),
        ("sglang", "--tp 8 --moe-dp-size 2 --attn-cp-size 2 --pp-size 2", False),
        ("sglang", "--tp 8 --moe-dense-tp-size 4", False),
        ("sglang", "--tp 8 --moe-dense-tp-size 1", True),
        ("sglang", "--pp-size 2 --speculative-algorithm EAGLE", False),
        ("sglang", "--pp-size 2 --tp 2", True),
        ("sglang", "--enable-dp-lm-head --tp 8 --dp 2", False),
        ("sglang", "--enable-dp-lm-head --tp 8 --dp 2 --enable-dp-attention", True),
        ("sglang", "--enable-two-batch-overlap --tp 8", False),
        ("sglang", "--enable-two-batch-overlap --tp 8 --moe-a2a-backend deepep", True),
    ],
)
def test_flags_that_exclude_each_other(name: str, others: str, right: bool) -> None:
    engine = make(name, command={"model": "m", "others": others})
    assert (engine.mistakes() == []) == right, engine.mistakes()
    assert all(
        sentence.startswith(f"{name}.command.others: breaks the engine's rule") for sentence in engine.mistakes()
    )


def test_a_rank_whose_value_is_a_fields_keeps_the_rules(tmp_path: Path) -> None:
    """$NAME in ``others`` stands for a field: that is the number of ranks, and not the default."""
    (tmp_path / "config.json").write_text(json.dumps(MODELS["Qwen2.5-72B"][0]))
    field = {"name": "ranks", "config_position": "env", "min": 1, "max": 16, "value": 4}
    command = {"model": str(tmp_path), "others": "-tp $RANKS -dcp 2"}
    engine = make("vllm", command=command, target_field=[field])
    assert engine.mistakes() == []
    assert engine.ranks()["tensor_parallel_size"] == "ranks"
    assert [ranks for ranks in range(1, 33) if holds(engine, ranks=ranks)] == [16, 32]  # two or more for each KV head


# --- flags that SwarmTune's own start rules out --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("vllm", "--headless"),
        ("vllm", "-dp 4 --data-parallel-rank 0"),
        ("vllm", "-dp 4 -dpn 1"),
        ("vllm", "-dp 4 --data-parallel-start-rank 2 --data-parallel-size-local 2"),
        ("vllm", "-dp 4 --data-parallel-address 10.0.0.1"),
        ("vllm", "-dp 4 -dpa=n1"),
        ("vllm", "-dp 4 --data-parallel-external-lb"),
        ("vllm", "-dp 4 --data-parallel-hybrid-lb"),
        ("vllm", "-dp 4 -dpm --data-parallel-size-local 4"),
        ("vllm", "--uds /tmp/s"),
        ("vllm", "--grpc"),
        ("vllm", "--ssl-certfile c.pem"),
        ("vllm", "--nnodes 2"),
        ("vllm", "-r 1"),
        ("vllm", "--master-addr n1"),
        ("vllm", "--kv-transfer-config.kv_role kv_producer"),
        ("vllm", '--kv-transfer-config \'{"kv_connector":"NixlConnector","kv_role":"kv_consumer"}\''),
        ("vllm", "--runner pooling"),
        ("vllm", "--convert embed"),
        ("sglang", "--is-embedding"),
        ("sglang", "--node-rank 1"),
        ("sglang", "--nccl-init-addr n1:5000"),
        ("sglang", "--nnodes=2"),
        ("sglang", "--grpc-mode"),
        ("sglang", "--disaggregation-mode prefill"),
        ("sglang", "--encoder-only"),
        ("sglang", "--gated-launch-port 5000"),
        ("sglang", "--ssl-keyfile k.pem"),
        ("sglang", "--elastic-ep-join-mode scale"),
    ],
)
def test_flags_with_which_the_service_would_not_answer(name: str, others: str) -> None:
    (sentence,) = make(name, command={"model": "m", "others": others}).mistakes()
    assert sentence.startswith(f"{name}.command.others: -")
    assert "leave it out" in sentence


@pytest.mark.parametrize(
    "others",
    [
        "--runner generate",
        "--runner auto",
        "--convert none",
        '--kv-transfer-config \'{"kv_connector":"X","kv_role":"kv_both"}\'',
    ],
)
def test_values_of_these_with_which_it_answers(others: str) -> None:
    assert make("vllm", command={"model": "m", "others": others}).mistakes() == []


def test_no_server_is_no_service() -> None:
    (sentence,) = make("vllm", command={"model": "m", "others": "--api-server-count 0"}).mistakes()
    assert sentence.startswith("vllm.command.others: --api-server-count ")


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("vllm", "-dp 4 --data-parallel-rpc-port 13345"),
        ("vllm", "-dp 4 --data-parallel-address 127.0.0.1"),
        ("vllm", "-dp 4 --data-parallel-address $HOST"),
        ("vllm", "-dp 4 --data-parallel-start-rank 0"),
        ("vllm", "-dp 4 --no-data-parallel-hybrid-lb"),
        ("vllm", "-dp 4 --data-parallel-size-local 4"),
        ("vllm", "-dp 4 --data-parallel-backend ray"),
        ("vllm", "--api-server-count 2"),
        ("vllm", "--host 0.0.0.0 --master-port 29555"),
        ("sglang", "--disaggregation-mode null"),
        ("sglang", "--tp 4 --dist-timeout 600 --nccl-port 28000"),
        ("sglang", "--host 0.0.0.0"),
    ],
)
def test_flags_that_change_nothing_are_taken(name: str, others: str) -> None:
    assert make(name, command={"model": "m", "others": others}).mistakes() == []


@pytest.mark.parametrize(("name", "flag"), [("vllm", "--data-parallel-rank"), ("sglang", "--gated-launch-port")])
def test_such_flags_are_no_fields_either(name: str, flag: str) -> None:
    field = {"name": "f", "config_position": flag, "min": 1, "max": 4}
    (sentence,) = make(name, command={"model": "m"}, target_field=[field]).mistakes()
    assert sentence.startswith(f"{name}.target_field f: {flag} ")
    assert "leave it out" in sentence


@pytest.mark.parametrize(
    ("name", "position", "constant", "harmless"),
    [
        ("sglang", "--disaggregation-mode", "null", True),
        ("sglang", "--disaggregation-mode", "prefill", False),
        ("vllm", "--data-parallel-start-rank", 0, True),
        ("vllm", "--data-parallel-rank", 0, False),
        ("vllm", "--headless", False, True),
        ("vllm", "--headless", True, False),
    ],
)
def test_fields_that_are_at_rest_do_no_harm(name: str, position: str, constant: object, harmless: bool) -> None:
    kinds = {bool: "bool", int: "int", str: "str"}
    field = {"name": "x", "config_position": position, "constant": constant, "dtype": kinds[type(constant)]}
    seqs = {"name": "max_num_seqs" if name == "vllm" else "max_running_requests", "config_position": "env", "max": 64}
    found = make(name, command={"model": "m"}, target_field=[field, {**seqs, "min": 1}]).mistakes()
    assert (found == []) == harmless, found


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("sglang", "--enable-hierarchical-cache --disable-radix-cache"),
        ("sglang", "--enable-lmcache --disable-radix-cache"),
        ("sglang", "--enable-priority-scheduling --schedule-policy lpm"),
        ("sglang", "--retraction-policy priority"),
        ("sglang", "--disable-cuda-graph-padding --enable-torch-compile"),
        ("sglang", "--gpu-id-step 0"),
        ("sglang", "--base-gpu-id=-1"),
        ("sglang", "--tokenizer-worker-num 0"),
        ("vllm", "--enable-lora --max-loras 4 --max-cpu-loras 2"),
    ],
)
def test_rules_that_the_engines_check_themselves(name: str, others: str) -> None:
    (sentence,) = make(name, command={"model": "m", "others": others}).mistakes()
    assert sentence.startswith(f"{name}.command.others: ")


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("sglang", "--enable-hierarchical-cache"),
        ("sglang", "--enable-priority-scheduling --schedule-policy lof --retraction-policy priority"),
        ("sglang", "--enable-priority-scheduling"),
        ("sglang", "--chunked-prefill-size -1 --page-size 16"),
        ("sglang", "--gpu-id-step 2 --base-gpu-id 4"),
        ("vllm", "--enable-lora --max-loras 4"),
        ("vllm", "--enable-lora --max-loras 4 --max-cpu-loras 4"),
        ("vllm", "--max-loras 4 --max-cpu-loras 2"),
    ],
)
def test_what_these_rules_let_through(name: str, others: str) -> None:
    assert make(name, command={"model": "m", "others": others}).mistakes() == []


def test_policies_that_priorities_exclude_are_not_searched() -> None:
    field = {"name": "policy", "config_position": "--schedule-policy", "dtype": "enum", "dtype_param": ["lpm", "fcfs"]}
    command = {"model": "m", "others": "--enable-priority-scheduling"}
    engine = make("sglang", command=command, target_field=[{**field, "value": "fcfs"}])
    assert engine.mistakes() == []
    assert holds(engine, policy="fcfs")
    assert not holds(engine, policy="lpm")


def test_a_served_name_with_a_colon() -> None:
    command = {"model": "m", "served_model_name": "qwen3:8b"}
    (sentence,) = make("sglang", command=command).mistakes()
    assert "has a colon" in sentence
    assert make("vllm", command=command).mistakes() == []


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ("""--compilation-config '{"cudagraph_mode":"SOMETIMES"}'""", "one of NONE, PIECEWISE"),
        ("""-cc '{"cudagraph_mod":"NONE"}'""", "near: cudagraph_mode"),
        ("--compilation-config.cudagraph_mod NONE", "near: cudagraph_mode"),
        ("""--speculative-config '{"method":"ngram","num_spec_tokens":3}'""", "near: num_speculative_tokens"),
        ("""--structured-outputs-config '{"backend":"xgramar"}'""", "one of auto, xgrammar"),
        ("""--kv-transfer-config '{"kv_connector":"X","kv_role":"kv_bth"}'""", "one of kv_producer"),
        ("""--eplb-config '{"windw_size":10}'""", "near: window_size"),
    ],
)
def test_parts_of_json_options(others: str, words: str) -> None:
    (sentence,) = make("vllm", command={"model": "m", "others": others}).mistakes()
    assert words in sentence


@pytest.mark.parametrize(
    "others",
    [
        """--compilation-config '{"cudagraph_mode":"full_decode_only","pass_config":{"fuse_norm_quant":true}}'""",
        """-cc '{"brand_new_option":1,"cudagraph_mode":1}'""",
        "-cc.cudagraph_capture_sizes '[1,2,4]' -cc.pass_config.brand_new true",
        """--speculative-config '{"method":"brand-new","num_speculative_tokens":3}'""",
        "--kv-transfer-config.kv_role kv_both",
        """--eplb-config '{"window-size":10}'""",
    ],
)
def test_parts_that_may_be_right(others: str) -> None:
    assert make("vllm", command={"model": "m", "others": others}).mistakes() == []


@pytest.mark.parametrize("value", ["1 2 4", "[1,2,4]", "1,2"])
def test_several_arguments_in_one_value(value: str) -> None:
    field = {
        "name": "sizes",
        "config_position": "--cudagraph-capture-sizes",
        "dtype": "enum",
        "dtype_param": [value, "1"],
    }
    (sentence,) = make("vllm", command={"model": "m"}, target_field=[{**field, "value": value}]).mistakes()
    assert "takes several arguments" in sentence
    whole = {"name": "SIZES", "config_position": "env", "dtype": "enum"}
    options = ["--cudagraph-capture-sizes 1 2 4", "--cudagraph-capture-sizes 1"]
    command = {"model": "m", "others": "$SIZES"}
    fine = {**whole, "dtype_param": options, "value": options[0]}
    assert make("vllm", command=command, target_field=[fine]).mistakes() == []
    assert make("vllm", command={"model": "m", "others": "--cudagraph-capture-sizes 1 2 4"}).mistakes() == []


# --- the length of the context -----------------------------------------------------------------------------------------

LENGTH = {"vllm": "--max-model-len", "sglang": "--context-length"}
LONGER = {"vllm": "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "sglang": "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"}
LONG: dict[str, Any] = {"max_position_embeddings": 8192}


def context(name: str, folder: Path, config: dict[str, Any], tokens: str, others: str = "", **more: Any) -> list[str]:
    (folder / "config.json").write_text(json.dumps(config))
    command = {"model": str(folder), "others": f"{LENGTH[name]} {tokens} {others}"}
    return [text for text in make(name, command=command, **more).mistakes() if "is more than the" in text]


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (LONG, 8192),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 2048}, 2048),
        ({"seq_length": 32768}, 32768),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({"text_config": LONG, "max_position_embeddings": 1}, 8192),
        ({**LONG, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, 8192),
        ({**LONG, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, 8192),
        ({**LONG, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 8192),
        ({**LONG, "rope_scaling": {"type": "linear", "factor": 4}}, 32768),
        ({**LONG, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 16384),
        ({**LONG, "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 4096}}, 16384),
        ({**LONG, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8}, "other": {}}}, 65536),
    ],
)
def test_a_context_is_at_most_as_long_as_the_models(config: dict[str, Any], most: int, tmp_path: Path) -> None:
    assert context("vllm", tmp_path, config, str(most)) == []
    (mistake,) = context("vllm", tmp_path, config, str(most + 1))
    assert mistake.startswith(f"vllm.command.others: --max-model-len {most + 1} is more than the {most} tokens")
    assert context("vllm", tmp_path, config, str(most + 1), env={LONGER["vllm"]: "1"}) == []


def test_lengths_with_units(tmp_path: Path) -> None:
    model = {"max_position_embeddings": 32000}
    assert context("vllm", tmp_path, model, "32k") == []
    assert context("vllm", tmp_path, model, "-1") == context("vllm", tmp_path, model, "auto") == []
    assert "32768 is more than the 32000" in context("vllm", tmp_path, model, "32K")[0]


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_longer_context_that_is_meant(name: str, tmp_path: Path) -> None:
    assert len(context(name, tmp_path, LONG, "8193")) == 1
    assert len(context(name, tmp_path, LONG, "8193", env={LONGER[name]: "0"})) == 1
    assert context(name, tmp_path, LONG, "8193", env={LONGER[name]: "1"}) == []
    assert context(name, tmp_path, LONG, "8193", env={LONGER[name]: "true"}) == []
    switch = {"name": LONGER[name], "config_position": "env", "dtype": "enum", "dtype_param": ["0", "1"]}
    assert context(name, tmp_path, LONG, "8193", target_field=[switch]) == []
    (tmp_path / "params.json").write_text("{}")  # another description of the model
    assert context(name, tmp_path, LONG, "8193") == []


@pytest.mark.parametrize(
    ("name", "config", "others"),
    [
        ("vllm", LONG, "--hf-overrides '{\"max_position_embeddings\": 16384}'"),
        ("vllm", LONG, "--hf-config-path /other"),
        ("vllm", LONG, "--config-format mistral"),
        ("sglang", LONG, "--json-model-override-args '{\"rope_scaling\": {}}'"),
        *((name, config, "") for name in LENGTH for config in (
            {}, {"model_type": "mamba", "state_size": 16}, {"max_position_embeddings": None},
            {"max_position_embeddings": "8192"}, {**LONG, "rope_scaling": {"type": "longrope", "long_factor": [1.0]}},
            {**LONG, "rope_scaling": "yarn"}, {**LONG, "rope_scaling": {"type": "new"}}, {"n_ctx": 1},
            {**LONG, "rope_scaling": {"type": "yarn", "factor": "4"}},
        )),
    ],
)  # fmt: skip
def test_a_context_of_which_nothing_is_known(name: str, config: dict[str, Any], others: str, tmp_path: Path) -> None:
    assert context(name, tmp_path, config, "100000", others) == []


def test_sglang_takes_the_first_key(tmp_path: Path) -> None:
    assert context("sglang", tmp_path, {"seq_length": 16384, "max_position_embeddings": 8192}, "16384") == []
    assert len(context("sglang", tmp_path, {"model_max_length": 8192, "max_position_embeddings": 16384}, "9000")) == 1


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_field_is_bounded_by_the_models_length(name: str, tmp_path: Path) -> None:
    engine = of(name, tmp_path, sizes("llama", 8, **LONG), length=LENGTH[name])
    assert engine.mistakes() == []
    assert holds(engine, length=8192)
    assert not holds(engine, length=8193)
    (rule,) = [text for text, why in engine.reasons().items() if "is more than the 8192 tokens" in why]
    assert rule == "length <= 8192"


def test_texts_of_a_length_field(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LONG))
    length = {"name": "length", "config_position": "--max-model-len", "dtype": "enum"}
    engine = make(
        "vllm", command={"model": str(tmp_path)}, target_field=[length | {"dtype_param": ["auto", "8k", "32K"]}]
    )
    (rule,) = [Constraint.parse(text) for text, why in engine.reasons().items() if "is more than the" in why]
    assert [rule.holds({"length": text}) for text in ("auto", "8k", "32K")] == [True, True, False]


# --- how the weights are quantized -------------------------------------------------------------------------------------


def quantized(folder: Path, method: Any, given: str, **more: Any) -> list[str]:
    config = sizes("qwen2", 14, 2, quantization_config={"quant_method": method, **more})
    return [text for text in of("vllm", folder, config, given).mistakes() if "is quantized by" in text]


@pytest.mark.parametrize(
    ("method", "given"),
    [
        *(("fp8", "awq"), ("fp8", "gptq_marlin"), ("awq", "fp8"), ("awq", "gptq"), ("gptq", "awq_marlin")),
        *(
            ("compressed-tensors", "fp8"),
            ("compressed_tensors", "awq"),
            ("FP8", "bitsandbytes"),
            ("bitsandbytes", "awq"),
        ),
    ],
)
def test_another_method_than_that_of_the_checkpoint(method: str, given: str, tmp_path: Path) -> None:
    for written in (f"--quantization {given}", f"-q {given}"):
        (mistake,) = quantized(tmp_path, method, written)
        assert mistake.startswith("vllm.command.others: the model is quantized by ")
    assert quantized(tmp_path, method, f"-q {given} --hf-overrides '{{}}'") == []


@pytest.mark.parametrize(
    ("method", "given"),
    [
        *(("awq", "awq"), ("awq", "awq_marlin"), ("awq", "moe_wna16"), ("awq", "marlin"), ("gptq", "gptq_marlin")),
        *(
            ("gptq", "auto_gptq"),
            ("gptq", "gptq"),
            ("fp8", "fp8"),
            ("fp8", "humming"),
            ("bitsandbytes", "bitsandbytes"),
        ),
        *(("compressed-tensors", "compressed-tensors"), ("modelopt", "awq"), ("mxfp4", "fp8"), ("auto-round", "awq")),
        *(("quark", "fp8"), ("new", "awq"), (3, "awq"), (None, "awq"), ("fp8", "fp8_per_block"), ("fp8", "mine")),
    ],
)
def test_a_method_that_fits_or_of_which_nothing_is_known(method: Any, given: str, tmp_path: Path) -> None:
    assert quantized(tmp_path, method, f"--quantization {given}") == []
    assert quantized(tmp_path, method, "") == []
    assert quantized(tmp_path, "fp8", "--quantization awq", producer={"name": "modelopt"}) == []


def test_a_searched_method_leaves_the_others_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    choices = ["gptq", "gptq_marlin", "awq"]
    made = {"name": "method", "config_position": "--quantization", "dtype": "enum", "dtype_param": choices}
    engine = make("vllm", command={"model": str(tmp_path)}, target_field=[made])
    (rule,) = [Constraint.parse(text) for text in engine.reasons()]
    assert [rule.holds({"method": text}) for text in choices] == [True, True, False]
    assert make("vllm", command={"model": str(tmp_path), "others": "-q awq"}, check_flags=False).mistakes() == []


LLAMA = sizes("llama", 32, 8, max_position_embeddings=8192)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ("--no-enable-chunked-prefill --max-num-batched-tokens 2048", "wants --max-num-batched-tokens of 8192 or more"),
        ("--no-enable-chunked-prefill --max-num-batched-tokens 8192", ""),
        ("--no-enable-chunked-prefill --max-num-batched-tokens 2048 --max-model-len 2048", ""),
        ("--max-num-batched-tokens 2048", ""),
        ("--no-enable-chunked-prefill", ""),
        ("--quantization awq", "--quantization awq reads weights that are quantized already"),
        ("-q gptq_marlin", "reads weights that are quantized already"),
        ("--quantization fp8", ""),
        ("--quantization bitsandbytes", ""),
    ],
)
def test_flags_that_a_plain_model_does_not_take(tmp_path: Path, others: str, told: str) -> None:
    found = of("vllm", tmp_path, LLAMA, others).mistakes()
    assert (len(found) == 1 and told in found[0]) if told else found == []


def test_a_model_that_says_elsewhere_how_it_is_quantized(tmp_path: Path) -> None:
    (tmp_path / "quant_config.json").write_text("{}")
    assert of("vllm", tmp_path, LLAMA, "--quantization awq").mistakes() == []
    (tmp_path / "quant_config.json").unlink()
    named = {**LLAMA, "quantization_config": {"quant_method": "awq"}}
    assert of("vllm", tmp_path, named, "--quantization awq").mistakes() == []
