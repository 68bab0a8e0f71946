"""How many measurements does `optimizer --simulate` save?

    SWARMTUNE_DATA=DIR python benchmarks/simulate_first.py [--seeds 3]

In virtual time. The service is vLLM's scheduler with step times that were measured: those of LLM-Pilot, of four pairs of
model and GPU (TGIS), as a model trained on all of them. The tuner knows less: data sheets of model and device alone (nothing
measured), or a model trained at 8 users or fewer. A "measurement" is a load search on the service, with requests of its own.
Seven fields are searched, goodput under SLOs is maximised.

The plain search measures 20 settings. With --simulate 6 are measured, the baseline among them: it anchors the model, 120
settings are predicted, and the others are chosen by predictions; where those were off, the model learns from what was
measured and predicts anew. Beside them: 6 of the plain search, 6 at random. Shown is
the best goodput found, relative to that of the plain search with 20; "best known" is the best setting that any of them has
measured, and of 40 at random.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import step_times

from swarmtune.errors import PSOConvergenceError
from swarmtune.records import Measurement, Score, Setting
from swarmtune.search.base import Search
from swarmtune.search.history import History, unseen
from swarmtune.search.predicted import Predicted, PredictedSearch
from swarmtune.settings import read_settings
from swarmtune.simulator.latency.analytical import Shape, analytical, device_of, shape_of
from swarmtune.simulator.latency.model import Identity, LatencyModel
from swarmtune.simulator.latency.rows import Rows
from swarmtune.simulator.latency.training import train
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.planning.simulation import Simulation
from swarmtune.tuner.simulation.anchor import Known
from swarmtune.tuner.simulation.foresee import foreseen
from swarmtune.tuner.simulation.predict import Predictor, Service, best

FEW, MANY, KNOWN, PREDICTED = 6, 20, 40, 120
FEW_USERS = 8
CONFIG = """
[optimizer]
engine = "vllm"
evaluations = 20
[vllm.command]
model = "m"
others = "--no-enable-prefix-caching --max-model-len 4096"
[objective]
slo = {{ p95_ttft_ms = {ttft}, p95_tpot_ms = {tpot} }}
[load_search]
high = 256
start = 32
points = 4
[loadgen]
isl = 700
isl_stddev = 300
osl = 150
osl_stddev = 60
request_count = 200
"""
FIELDS = """
[[vllm.target_field]]
name = "max_num_seqs"
config_position = "--max-num-seqs"
min = 8
max = 512
dtype = "int"
log = true
value = 16
[[vllm.target_field]]
name = "max_num_batched_tokens"
config_position = "--max-num-batched-tokens"
min = 1024
max = 16384
dtype = "int"
log = true
value = 1024
[[vllm.target_field]]
name = "block_size"
config_position = "--block-size"
dtype = "enum"
dtype_param = [16, 32]
value = 16
[[vllm.target_field]]
name = "long_prefill_token_threshold"
config_position = "--long-prefill-token-threshold"
dtype = "enum"
dtype_param = [0, 256, 512, 1024]
value = 0
[[vllm.target_field]]
name = "async_scheduling"
config_position = "--async-scheduling"
dtype = "bool"
value = false
[[vllm.target_field]]
name = "scheduler_reserve_full_isl"
config_position = "--scheduler-reserve-full-isl"
dtype = "bool"
value = true
"""
# Of the models' config.json files.
SHAPES = {
    "gpt-neox-20b": (44, 6144, 64, 24576, 50432),
    "llama-13b": (40, 5120, 40, 13824, 32000),
    "llama-7b": (32, 4096, 32, 11008, 32000),
}
NAMES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
BLOCKS = 8000
TPOT_MS = {"gpt-neox-20b H100x1": 45, "llama-13b A100x1": 60, "llama-13b H100x2": 60, "llama-7b A100x1": 60}
Measure = Callable[[Setting], tuple[Score, list[Measurement]]]


def sheets(pair: str) -> LatencyModel:
    """What the data sheets say of this pair."""
    model, device = pair.split()
    gpu, _, ranks = device.partition("x")
    config = dict(zip(NAMES, SHAPES[model], strict=True))
    shape: Shape = shape_of(config)
    kv_bytes = 2.0 * 2 * config["num_hidden_layers"] * config["hidden_size"]
    return analytical(shape, device_of(gpu), kv_bytes, Identity("vllm", tp=int(ranks)))


def few_users(rows: Rows) -> LatencyModel:
    """A model of the steps at few users."""
    users = np.array([float(run) for run in rows.runs])[rows.run]
    kept = np.random.default_rng(0).permutation(np.flatnonzero(users <= FEW_USERS))[: step_times.PER_PAIR]
    return train(rows.take(np.sort(kept)), Identity("vllm"))


def planned(pair: str, folder: Path, seed: int) -> Plan:
    """The plan of the tuner; SLOs that a service of this size can just keep."""
    path = folder / "config.toml"
    path.write_text(CONFIG.format(ttft=4000, tpot=TPOT_MS[pair]) + FIELDS)
    return make_plan(read_settings(path, {"optimizer": {"seed": seed}}))


def measuring(plan: Plan, service: Service) -> Measure:
    """The service itself, with requests that no prediction has seen."""
    other = replace(plan, seed=plan.seed + 1000)
    predictor = Predictor(other, service)

    def measure(setting: Setting) -> tuple[Score, list[Measurement]]:
        loads = predictor.loads(setting)
        counts = best(loads)
        return counts.score, [replace(one.measurement, source="measured") for one in (*loads, counts)]

    return measure


def searched(plan: Plan, measure: Measure, search: Search, count: int) -> list[tuple[Setting, Score]]:
    """The baseline, and what the search asks for."""
    told = [(plan.baseline(), measure(plan.baseline())[0])]
    search.tell(*told[0])
    while len(told) < count:
        try:
            setting = search.ask([])
        except PSOConvergenceError:
            break
        told.append((setting, measure(setting)[0]))
        search.tell(*told[-1])
    return told


def drawn(plan: Plan, measure: Measure, count: int) -> list[tuple[Setting, Score]]:
    """The baseline, and settings at random."""
    rng, history, told = np.random.default_rng(plan.seed), History(), [(plan.baseline(), measure(plan.baseline())[0])]
    while len(told) < count:
        setting = unseen(plan.space, history, [], rng)
        told.append((setting, measure(setting)[0]))
        history.tell(*told[-1])
    return told


def by_predictions(plan: Plan, measure: Measure, model: LatencyModel) -> tuple[list[tuple[Setting, Score]], float]:
    """As `optimizer --simulate` does it; and the seconds that its predictions took."""
    simulation, taken_s = Simulation(model, "", PREDICTED, BLOCKS, 0.0), 0.0
    told, known, search = list[tuple[Setting, Score]](), list[Known](), None
    while len(told) < FEW:
        try:
            setting = plan.baseline() if search is None else search.ask([])
        except PSOConvergenceError:
            break
        score, loads = measure(setting)
        known.append(Known(len(known), setting, loads))
        told.append((setting, score))
        if search is not None:
            search.tell(setting, score)
        if search is None or (search.outdated and len(told) < FEW):
            began = time.monotonic()
            made = foreseen(plan, simulation, known)
            taken_s += time.monotonic() - began
            said = [Predicted(one.setting, one.score) for one in made.predictions]
            keys = [one.setting.key for one in known]
            search = PredictedSearch(plan.space, plan.seed, FEW, said, made.facts["spread"], keys)
            for one in told:
                search.tell(*one)
    return told, taken_s


def value(told: Iterable[tuple[Setting, Score]]) -> float:
    """The best goodput that keeps the SLOs; 0: none does."""
    return max((s.value for _, s in told if s.value is not None and s.feasible), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    if not (step_times.DATA / step_times.ITERATIONS).is_file():
        raise SystemExit(f"{step_times.DATA / step_times.ITERATIONS} is not there; SWARMTUNE_DATA names its folder")
    for name in [n for n in os.environ if n.startswith("SWARMTUNE_") and n != "SWARMTUNE_DATA"]:
        del os.environ[name]
    print(
        "| service | plain, 20 (goodput) | baseline | random, 6 | plain, 6 | data sheets, 6 | few users, 6 | best known |"
    )
    print("|---|---|---|---|---|---|---|---|")
    columns: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for pair, rows in step_times.pairs():
            truth = Service(train(rows, Identity("vllm")).tables(), blocks=BLOCKS)
            for seed in range(arguments.seeds):
                plan = planned(pair, Path(folder), seed)
                measure = measuring(plan, truth)
                many = searched(plan, measure, plan.new_search(), MANY)
                random = drawn(plan, measure, KNOWN)
                sheet, taken_s = by_predictions(plan, measure, sheets(pair))
                few, _ = by_predictions(plan, measure, few_users(rows))
                found = [value(told) for told in (many[:1], random[:FEW], many[:FEW], sheet, few)]
                known = max(value(many), value(random), *found)
                row = [one / value(many) for one in (*found, known)]
                columns.append(row)
                shares = " | ".join(f"{100 * one:.0f} %" for one in row)
                print(f"| {pair}, seed {seed} | {value(many):.3g} | {shares} |   {taken_s:.0f} s", flush=True)
    means = " | ".join(f"{100 * one:.1f} %" for one in np.mean(columns, axis=0))
    worst = " | ".join(f"{100 * one:.0f} %" for one in np.min(columns, axis=0))
    print(f"| mean | | {means} |\n| worst | | {worst} |")


if __name__ == "__main__":
    main()
