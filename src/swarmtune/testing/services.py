"""A family of made-up LLM services, each drawn from a seed: for comparing searches in virtual time.

Nothing here is measured. The shapes are those of continuous batching: decode steps that cost a fixed part (weights) and a
part per sequence (cache), prefill that shares steps with decode or stalls it, a cache that bounds the batch, collectives
that eat into tensor parallelism, speculation that pays at small batches. Every constant is drawn, so is the tightness of
the SLOs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from swarmtune.records import Score, Setting
from swarmtune.space import Field, Space
from swarmtune.space.batch import snapped

DEVICES = 8
CALIBRATION = 1500  # random settings that set the SLOs and the memory
OPTIMUM_SAMPLES = 4000
OPTIMUM_STARTS = 8


@dataclass(frozen=True)
class Truth:
    """What a setting does without noise: tokens per second, p95 latencies in ms; None where it cannot start."""

    throughput: float
    ttft_ms: float
    tpot_ms: float


class SyntheticService:
    """One service of the family. ``measure`` is what a tuner sees, ``truth`` what only the judge may ask for."""

    def __init__(self, seed: int) -> None:
        """The same seed gives the same service in every process."""
        self.seed = seed
        rng = np.random.default_rng([seed, 20261122])
        self._c = _constants(rng)
        self.noise = float(self._c["noise"])
        self.space = _space(rng)
        self.limits = (math.inf, math.inf)
        self._memory = 1.0
        settings = [self.space.decode(p) for p in legal_points(self.space, CALIBRATION, rng)]
        self._memory = self._calibrated_memory(settings, float(rng.uniform(0.05, 0.20)))
        self.limits = self._calibrated_limits(settings, float(rng.uniform(0.50, 0.70)), float(rng.uniform(-0.4, 0.4)))
        running = [s for s in settings if self.truth(s) is not None]
        kept = [s for s in running if self.feasible(s)]
        usual = sorted(kept if rng.uniform() < 0.7 else running, key=self._speed)
        self.baseline = Setting(usual[int(len(usual) * 0.4)].values, "baseline")

    # --- what the judge knows --------------------------------------------------------------------------------------

    def truth(self, setting: Setting) -> Truth | None:
        """Throughput and latencies without noise; None if it cannot start."""
        if not self._starts(setting.values):
            return None
        return _performance(self._c, setting.values, self._memory)

    def violation(self, setting: Setting) -> float:
        """By how much the worst SLO is truly broken, relative to its limit; <= 0 is kept."""
        truth = self.truth(setting)
        if truth is None:
            return math.inf
        return max(truth.ttft_ms / self.limits[0], truth.tpot_ms / self.limits[1]) - 1.0

    def feasible(self, setting: Setting) -> bool:
        """Does it truly keep its SLOs?"""
        return self.violation(setting) <= 0

    @cached_property
    def best(self) -> Setting:
        """The setting of the highest throughput that keeps its SLOs, by random sampling and coordinate ascent."""
        rng = np.random.default_rng([self.seed, 1])
        ranked = sorted(legal_points(self.space, OPTIMUM_SAMPLES, rng), key=self._cost)
        climbed = [self._climb(p, rng) for p in ranked[:OPTIMUM_STARTS]]
        return self.space.decode(min(climbed, key=self._cost), "optimum")

    @cached_property
    def optimum(self) -> float:
        """Its throughput, in tokens per second."""
        return self._speed(self.best)

    def gap(self, setting: Setting) -> float:
        """How much slower than the optimum, as a difference of logarithms (0.10 = 10 %); inf if an SLO is broken."""
        truth = self.truth(setting)
        if truth is None or not self.feasible(setting):
            return math.inf
        return math.log(self.optimum / truth.throughput)

    # --- what a tuner sees -----------------------------------------------------------------------------------------

    def measure(self, setting: Setting, rng: np.random.Generator) -> Score:
        """One noisy measurement: throughput and the violations of both SLOs, or a start failure."""
        truth = self.truth(setting)
        if truth is None:
            return Score.failed()
        shared, own = rng.normal(0, self.noise * 0.7), rng.normal(0, self.noise * 0.7, 3)
        value = truth.throughput * math.exp(shared + own[0])
        ttft = truth.ttft_ms * math.exp(-shared + own[1])
        tpot = truth.tpot_ms * math.exp(-shared + own[2])
        limits = {"p95_ttft_ms": ttft / self.limits[0] - 1.0, "p95_tpot_ms": tpot / self.limits[1] - 1.0}
        return Score(value=value, loss=-value, violations=limits)

    def seconds(self, setting: Setting) -> float:
        """How long an evaluation takes: 40 s when it cannot start, else up to five times as long."""
        truth = self.truth(setting)
        if truth is None:
            return 40.0
        slowness = math.log(self._c["fastest"] / truth.throughput)
        return float(70.0 + 130.0 * min(1.0, max(0.0, slowness / 3.0)))

    # --- construction ----------------------------------------------------------------------------------------------

    def _speed(self, setting: Setting) -> float:
        truth = self.truth(setting)
        return 0.0 if truth is None else truth.throughput

    def _starts(self, v: Mapping[str, Any]) -> bool:
        c = self._c
        if _memory_needed(c, v) > v["gpu_memory_utilization"] * self._memory:
            return False
        spare = (1.0 - v["gpu_memory_utilization"]) * self._memory  # graphs and collectives live outside of the pool
        if spare < c["outside"] * (0.5 + math.log2(v["max_num_seqs"]) / 10) * self._memory:
            return False
        return not (v["kv_cache_dtype"] == c["bad_dtype"] and v["block_size"] in c["bad_blocks"])

    def _calibrated_memory(self, settings: list[Setting], wanted: float) -> float:
        """Device memory with which the wanted share of settings cannot start (bisection; more memory, fewer failures)."""
        low, high = math.log(0.05), math.log(400.0)
        for _ in range(40):
            middle = (low + high) / 2
            self._memory = math.exp(middle)
            failing = sum(not self._starts(s.values) for s in settings) / len(settings)
            low, high = (middle, high) if failing > wanted else (low, middle)
        return math.exp(high)

    def _calibrated_limits(self, settings: list[Setting], wanted: float, tilt: float) -> tuple[float, float]:
        """Limits that the wanted share of all settings breaks (bisection); ``tilt`` makes one tighter than the other."""
        known = [t for t in map(self.truth, settings) if t is not None]
        self._c["fastest"] = max(t.throughput for t in known)
        middle = (float(np.median([t.ttft_ms for t in known])), float(np.median([t.tpot_ms for t in known])))
        low, high = -8.0, 12.0
        limits = middle
        for _ in range(40):
            scale = (low + high) / 2
            limits = (middle[0] * math.exp(2 * scale * (1 + tilt)), middle[1] * math.exp(scale * (1 - tilt)))
            broken = sum(t.ttft_ms > limits[0] or t.tpot_ms > limits[1] for t in known) / len(settings)
            low, high = (scale, high) if broken > wanted else (low, scale)
        return limits

    def _cost(self, point: Any) -> float:
        setting = self.space.decode(point)
        if not self.space.legal(setting):
            return math.inf
        truth = self.truth(setting)
        if truth is None:
            return 1e9
        broken = self.violation(setting)
        return -truth.throughput if broken <= 0 else broken

    def _climb(self, point: Any, rng: np.random.Generator) -> Any:
        """Coordinate ascent, with steps in pairs of coordinates against ridges."""
        best, cost = np.array(point), self._cost(point)
        improved = True
        while improved:
            improved = False
            for i in rng.permutation(len(best)):
                levels = min(16, self.space.dimensions[i].count or 16)
                for unit in (np.arange(levels) + 0.5) / levels:
                    trial = best.copy()
                    trial[i] = unit
                    if (found := self._cost(trial)) < cost:
                        best, cost, improved = trial, found, True
            for _ in range(200):
                trial = best.copy()
                chosen = rng.choice(len(best), size=2, replace=False)
                trial[chosen] = np.clip(trial[chosen] + rng.normal(0, 0.12, 2), 0, 1)
                if (found := self._cost(trial)) < cost - 1e-9 * abs(cost):
                    best, cost, improved = trial, found, True
        return best


def legal_points(space: Space, count: int, rng: np.random.Generator) -> list[Any]:
    """Uniformly random points of legal settings."""
    found: list[Any] = []
    while len(found) < count:
        points, legal = snapped(space, rng.uniform(size=(2 * count, len(space.dimensions))))
        found += list(points[legal])
    return found[:count]


def _constants(rng: np.random.Generator) -> dict[str, Any]:
    """Everything about hardware, model and users that the tuner does not know. Times in ms, memory in devices."""

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(math.log(low), math.log(high))))

    kinds = ("auto", "fp8", "int8")
    return {
        "prompt": log_uniform(128, 4096),
        "output": log_uniform(64, 1024),
        "weights": log_uniform(0.2, 1.6),
        "token_memory": log_uniform(2e-6, 2e-5),
        "activation": log_uniform(4e-6, 3e-5),
        "outside": float(rng.uniform(0.01, 0.04)),
        "step": log_uniform(3, 12),
        "weights_ms": log_uniform(8, 40),
        "sequence_ms": log_uniform(0.01, 0.12),
        "context_ms": log_uniform(4e-6, 6e-5),
        "prefill_ms": log_uniform(0.01, 0.12),
        "collective": float(rng.uniform(0.03, 0.45)),
        "delay_gain": float(rng.uniform(0.0, 0.12)),
        "dtype_memory": {"auto": 1.0, "fp8": 0.5, "int8": 0.5},
        "dtype_speed": dict(zip(kinds, [1.0, *np.exp(rng.normal(0, 0.12, 2)).tolist()], strict=True)),
        "block_best": float(rng.uniform(3, 7)),
        "block_cost": float(rng.uniform(0.005, 0.03)),
        "policy": {
            "fcfs": (1.0, 1.0),
            "priority": (float(np.exp(rng.normal(-0.1, 0.1))), float(np.exp(rng.normal(-0.02, 0.04)))),
            "shortest": (float(np.exp(rng.normal(-0.2, 0.2))), float(np.exp(rng.normal(-0.03, 0.05)))),
        },
        "acceptance": {"ngram": float(rng.uniform(0.2, 0.7)), "draft": float(rng.uniform(0.5, 0.85))},
        "draft_cost": {"ngram": float(rng.uniform(0.01, 0.04)), "draft": float(rng.uniform(0.08, 0.2))},
        "verify": float(rng.uniform(0.3, 1.0)),
        "overlap": float(rng.uniform(0.02, 0.15)),
        "bad_dtype": str(rng.choice(kinds[1:])),
        "bad_blocks": [8] if rng.uniform() < 0.6 else [],
        "noise": float(rng.uniform(0.02, 0.08)),
        "fastest": 1.0,
    }


def _space(rng: np.random.Generator) -> Space:
    """9 to 12 searched parameters, with a derived one, a ratio, rules, and ones in use only under a condition."""
    tp = Field("tensor_parallel_size", "--tensor-parallel-size", dtype="enum", dtype_param=[1, 2, 4, 8])
    dp = Field("data_parallel_size", "--data-parallel-size", dtype="factories",
               dtype_param={"target_name": tp.name, "product": DEVICES})  # fmt: skip
    always = [
        Field("max_num_seqs", "--max-num-seqs", 8, 1024, log=True),
        Field("max_num_batched_tokens", "--max-num-batched-tokens", 512, 32768, log=True),
        Field("gpu_memory_utilization", "--gpu-memory-utilization", 0.6, 0.97, "float"),
        tp,
        dp,
        Field("concurrency", min=8, max=2048, log=True),
        Field("enable_chunked_prefill", "--enable-chunked-prefill", dtype="bool"),
        Field("kv_cache_dtype", "--kv-cache-dtype", dtype="enum", dtype_param=["auto", "fp8", "int8"]),
        Field("block_size", "--block-size", dtype="enum", dtype_param=[8, 16, 32, 64, 128]),
    ]
    optional = [
        [Field("long_prefill_token_threshold", "--long-prefill-token-threshold", 0.05, 1.0, "ratio",
               dtype_param="max_num_batched_tokens", when="enable_chunked_prefill")],
        [Field("scheduling_policy", "--scheduling-policy", dtype="enum", dtype_param=["fcfs", "priority", "shortest"])],
        [Field("speculation", dtype="enum", dtype_param=["off", "ngram", "draft"]),
         Field("num_speculative_tokens", min=1, max=8, when="speculation != 'off'")],
        [Field("queue_delay_ms", min=0.1, max=50, dtype="float", log=True)],
        [Field("async_scheduling", "--async-scheduling", dtype="bool")],
    ]  # fmt: skip
    more = int(rng.integers(1, 5))
    chosen: list[list[Field]] = []
    for i in rng.permutation(len(optional)):
        if sum(map(len, chosen)) + len(optional[i]) <= more:
            chosen.append(optional[i])
    rules = ["max_num_batched_tokens >= max_num_seqs"]
    if rng.uniform() < 0.5:
        rules.append("concurrency <= 4 * max_num_seqs * data_parallel_size")
    return Space([*always, *(field for group in chosen for field in group)], rules)


def _memory_needed(c: Mapping[str, Any], v: Mapping[str, Any]) -> float:
    """Per device: its share of the weights, activations of one step, and a cache for at least one long request."""
    tp = v["tensor_parallel_size"]
    draft = 0.15 if v.get("speculation") == "draft" else 0.0
    cache = c["token_memory"] * c["dtype_memory"][v["kv_cache_dtype"]] * (c["prompt"] + c["output"]) * 2 / tp
    return float(c["weights"] * (1 + draft) / tp + c["activation"] * v["max_num_batched_tokens"] + cache)


def _performance(c: Mapping[str, Any], v: Mapping[str, Any], memory: float) -> Truth:
    """Steady state of a closed loop of ``concurrency`` users over the replicas."""
    tp, replicas = v["tensor_parallel_size"], v["data_parallel_size"]
    speedup = tp / (1 + c["collective"] * math.log2(tp) ** 1.5)
    prompt, output = c["prompt"], c["output"]
    token_memory = c["token_memory"] * c["dtype_memory"][v["kv_cache_dtype"]] / tp
    used = _memory_needed(c, v)
    room = max(1.0, (v["gpu_memory_utilization"] * memory - used) / (token_memory * (prompt + output / 2)) + 2)
    users = v["concurrency"] / replicas
    batch = min(users, float(v["max_num_seqs"]), room)
    crowded = min(users, float(v["max_num_seqs"])) / room  # beyond 1: preemption
    waste = 1 + 0.25 * max(0.0, math.log(crowded)) if crowded > 1 else 1.0
    block = 1 + c["block_cost"] * (math.log2(v["block_size"]) - c["block_best"]) ** 2
    speed = c["dtype_speed"][v["kv_cache_dtype"]]
    overhead = c["step"] * (1 - c["overlap"] * 4 if v.get("async_scheduling") and batch > 32 else 1.0)
    overhead *= 1 + (c["overlap"] if v.get("async_scheduling") and batch <= 32 else 0.0)
    decode = max(1.0, overhead) + c["weights_ms"] / speedup
    decode += batch * (c["sequence_ms"] + c["context_ms"] * (prompt + output / 2) * block * speed) / speedup
    tokens, decode = _speculated(c, v, batch, decode)
    delay = v.get("queue_delay_ms", 1.0)
    merged = 1 - c["delay_gain"] * (1 - math.exp(-delay / 10))
    prefill = c["prefill_ms"] * merged / speedup
    policy_wait, policy_speed = c["policy"][v.get("scheduling_policy", "fcfs")]
    share = batch * prompt * tokens / output  # prefill tokens that each decode step must carry
    budget = max(16.0, v["max_num_batched_tokens"] - batch)
    if v["enable_chunked_prefill"]:
        chunk = min(budget, float(v.get("long_prefill_token_threshold", budget)) * 2, max(budget * 0.02, prompt))
        chunk = max(16.0, chunk)
        carried = min(share, budget)
        step = decode + prefill * carried * 1.04 + 0.4 * math.sqrt(carried / chunk)
        starved = share / carried if carried > 0 else 1.0
        slow_step = decode + prefill * min(budget, max(chunk, carried)) * 1.04
        first = math.ceil(prompt / chunk) * slow_step
    else:
        together = max(1.0, min(budget / prompt, batch / 4))
        step = decode + prefill * share
        starved = 1.0
        slow_step = decode + prefill * prompt * together * 0.5
        first = prefill * prompt * together + decode
    per_token = step * starved * waste * policy_speed / tokens
    request_ms = per_token * output + first + delay
    rate = replicas * batch / request_ms  # requests per ms, Little's law over the running batch
    waiting = max(0.0, users - batch) * request_ms / batch
    return Truth(
        throughput=1000.0 * rate * output,
        ttft_ms=(waiting * policy_wait + first) * 1.3 + delay * 1.5 + 2.0,
        tpot_ms=(0.6 * step * starved + 0.4 * slow_step) * waste * policy_speed / tokens,
    )


def _speculated(c: Mapping[str, Any], v: Mapping[str, Any], batch: float, decode: float) -> tuple[float, float]:
    """Tokens per step, and the step's time, with speculation (expected accepted tokens: Leviathan et al. 2023)."""
    kind = v.get("speculation", "off")
    if kind == "off":
        return 1.0, decode
    count, accepted = v["num_speculative_tokens"], c["acceptance"][kind]
    tokens = (1 - accepted ** (count + 1)) / (1 - accepted)
    busy = min(1.0, batch / 128) * c["verify"]
    return tokens, decode * (1 + count * (c["draft_cost"][kind] + 0.3 * busy))
