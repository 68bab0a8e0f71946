"""What load search and early stopping save: seconds of measurement and the quality of the winner, with and without.

    python benchmarks/search.py --part saving --instances 1000 --runs 20

Each setting of a made-up service has to be measured at the load that suits it. Without: a sweep, doubling the users from 8
until a promise breaks, every measurement to its end, as vllm's auto_tune and bench sweep do. With: the product's load search
from the best load so far (search/load.py) and its early stopping (loadgen/judge/early.py), which looks at the answers once
a second. Requests are drawn one by one (log-normal latencies whose p95 is the service's), at most 600 of each measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from search_tasks import WORST

from swarmtune.loadgen.judge.early import early_stop
from swarmtune.loadgen.records import CHUNK, REQUEST, Outcome, Phase, Records
from swarmtune.records import Score, Setting
from swarmtune.search.assisted import AssistedSwarm
from swarmtune.search.incumbent import deployable
from swarmtune.search.load import LoadPoint, LoadSearch
from swarmtune.space import Space
from swarmtune.testing.services import SyntheticService
from swarmtune.workload import StopRules

MEASURED_S = 60.0
MOST_REQUESTS = 600
LOADS = (8.0, 2048.0)
TOKENS = 11  # of a simulated answer
P95 = 1.645  # standard deviations
NS = 1e9


@dataclass(frozen=True)
class Saved:
    """One study: the gap of the deployed setting at its load, and the seconds that its measurements took."""

    gap: float
    seconds: float
    measurements: int


def study(seed: int, budget: int, *, saving: bool) -> Saved:
    """Tune one service whose load is not a parameter of the search."""
    service = SyntheticService(seed)
    fields = [f for f in service.space.fields if f.name != "concurrency"]
    rules = [c.text for c in service.space.constraints if "concurrency" not in c.names]
    space = Space(fields, rules)
    search = AssistedSwarm(space, seed, budget)
    rng = np.random.default_rng([seed, 3])
    at_load: dict[str, float] = {}
    best: tuple[Score, float] | None = None
    rows: list[tuple[Setting, Score]] = []
    seconds, measurements = 0.0, 0
    baseline = Setting({n: v for n, v in service.baseline.values.items() if n != "concurrency"}, "baseline")
    for number in range(budget):
        setting = baseline if number == 0 else search.ask(())
        measured, points, spent = _measured(service, setting, rng, best, saving=saving)
        seconds, measurements = seconds + spent, measurements + points
        score, load = measured
        search.tell(setting, score)
        rows.append((setting, score))
        at_load[setting.key] = load
        if score.feasible and (best is None or score.rank < best[0].rank):
            best = (score, load)
    chosen = deployable(space, rows, 1)
    if not chosen:
        return Saved(WORST, seconds, measurements)
    deployed = _at(chosen[0], at_load[chosen[0].key])
    return Saved(min(service.gap(deployed), WORST), seconds, measurements)


def _measured(
    service: SyntheticService,
    setting: Setting,
    rng: np.random.Generator,
    best: tuple[Score, float] | None,
    *,
    saving: bool,
) -> tuple[tuple[Score, float], int, float]:
    """The best load's score and load, how many were measured, and for how long."""
    search = LoadSearch(*LOADS, start=64.0).starting_at(best[1] if best else None, thorough=best is None)
    found: list[tuple[Score, float]] = []
    tried: list[LoadPoint] = []
    spent = 0.0
    while True:
        if saving:
            load = search.next(tried)
        else:
            broken = bool(tried) and not tried[-1].kept
            load = None if broken or len(tried) == 9 else LOADS[0] * 2 ** len(tried)
        if load is None:
            return min(found, key=lambda row: row[0].rank), len(tried), spent
        last = len(tried) + 1 == search.points
        to_beat = best[0].value if best and last else None
        score, took, stopped = _measure(service, _at(setting, load), rng, to_beat, saving=saving)
        if score.value is None:
            return (score, load), len(tried), spent
        spent += took
        found.append((score, load))
        tried.append(LoadPoint(load, score.violations, score.value, stopped))


def _measure(
    service: SyntheticService, setting: Setting, rng: np.random.Generator, to_beat: float | None, *, saving: bool
) -> tuple[Score, float, bool]:
    """One measurement, request by request: the score, its seconds, and whether it was stopped early."""
    truth = service.truth(setting)
    if truth is None:
        return Score.failed(), 0.0, False
    noise = np.exp(rng.normal(0, service.noise, 3))
    rate = truth.throughput * noise[0] / TOKENS  # requests per second of TOKENS tokens each
    count = int(min(MOST_REQUESTS, max(60, rate * MEASURED_S)))
    ttft_s = truth.ttft_ms / 1e3 * noise[1] * np.exp(0.4 * (rng.normal(size=count) - P95))
    tpot_s = truth.tpot_ms / 1e3 * noise[2] * np.exp(0.15 * (rng.normal(size=count) - P95))
    ends = np.sort(rng.uniform(0, MEASURED_S, count))
    records = _records(ends, ttft_s, tpot_s)
    limits = {"p95_ttft_ms": service.limits[0], "p95_tpot_ms": service.limits[1]}
    took, stop = MEASURED_S, None
    if saving:
        beat = None if to_beat is None else to_beat * count / MEASURED_S / (truth.throughput * noise[0]) * TOKENS
        rules = StopRules(act=True, limits=limits, metric="output_throughput", to_beat=beat)
        for now in np.arange(5.0, MEASURED_S, 1.0):
            part = int(np.searchsorted(ends, now))
            if part and (stop := early_stop(_part(records, part), rules, {}, [count // 20], None)):
                took, count = float(now), part
                break
    violations = {
        "p95_ttft_ms": float(np.quantile(ttft_s[:count], 0.95)) * 1e3 / service.limits[0] - 1,
        "p95_tpot_ms": float(np.quantile(tpot_s[:count], 0.95)) * 1e3 / service.limits[1] - 1,
    }
    if stop is not None:
        name = "cannot_win" if stop.rule == "cannot_win" else stop.of
        behind = 1 - (stop.most or 0.0) / stop.to_beat if stop.to_beat else 0.0
        violations[name] = max(violations.get(name, 0.0), behind, 0.01)
    value = truth.throughput * noise[0]
    return Score(value, -value, violations), took, stop is not None


def _at(setting: Setting, load: float) -> Setting:
    return Setting({**setting.values, "concurrency": round(load)}, setting.origin)


def _records(ends_s: NDArray[np.float64], ttft_s: NDArray[np.float64], tpot_s: NDArray[np.float64]) -> Records:
    count = len(ends_s)
    start = 10**12 + int((ttft_s + tpot_s * TOKENS).max() * NS)
    rows, chunks = np.zeros(count, REQUEST), np.zeros(2 * count, CHUNK)
    rows["phase"], rows["outcome"], rows["error"] = Phase.MEASURED, Outcome.COMPLETED, -1
    rows["end_ns"] = start + (ends_s * NS).astype(np.int64)
    first = rows["end_ns"] - (tpot_s * (TOKENS - 1) * NS).astype(np.int64)
    rows["sent_ns"] = rows["scheduled_ns"] = first - (ttft_s * NS).astype(np.int64)
    rows["chunks"], rows["first_chunk"], rows["output_tokens"] = 2, np.arange(count) * 2, TOKENS
    chunks["ns"][::2], chunks["ns"][1::2] = first, rows["end_ns"]
    return Records(rows, chunks, [], [], 0, 0, 0)


def _part(whole: Records, count: int) -> Records:
    return Records(whole.requests[:count], whole.chunks[: 2 * count], [], [], 0, 0, 0)


def median_ratio(with_saving: list[Saved], without: list[Saved]) -> float:
    """Seconds with, as a share of those without: the median over services."""
    return float(np.median([a.seconds / b.seconds for a, b in zip(with_saving, without, strict=True)]))


def gap_difference(with_saving: list[Saved], without: list[Saved]) -> float:
    """The median difference of the gaps; above 0, saving costs quality."""
    return float(np.median([a.gap - b.gap for a, b in zip(with_saving, without, strict=True) if math.isfinite(a.gap)]))
