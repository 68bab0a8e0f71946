"""The simulated engine behind HTTP, measured by the load generator, and the same load in virtual time: one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.judge.summary import results
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.run import LoadRun, RunPart
from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.tables import linear
from swarmtune.simulator.step_time import StepCost
from swarmtune.simulator.virtual.fleet import Fleet
from swarmtune.simulator.virtual.replicas import make_replica
from swarmtune.tuner.simulation.contents import Contents
from swarmtune.tuner.simulation.virtual_load import FrontEnd, VirtualLoad

# Slow steps, so that what this machine adds to each is far below a hundredth of it.
BASE_S = 0.03
RULES = Rules(6, 256, 400, 16)
FLAGS = (
    "--base-s",
    str(BASE_S),
    "--max-num-seqs",
    "6",
    "--max-num-batched-tokens",
    "256",
    "--kv-cache-tokens",
    str(399 * 16),
)
CLIENT_S = 0.002  # from the end of an answer to the next request at the engine: it misses the step that begins at once
TOLERANCE = 0.02


@pytest.mark.parametrize(
    "load",
    [
        {"concurrency": 4, "request_count": 32},
        {"concurrency": 10, "request_count": 50},  # four of them wait
        {"request_rate": 6.0, "request_count": 40, "arrival_pattern": "constant"},
    ],
)
async def test_http_and_virtual_time_agree(
    simulated: Callable[..., Awaitable[Any]], tmp_path: Path, load: dict[str, Any]
) -> None:
    options = LoadgenOptions(isl=40, osl=24, osl_stddev=6, **load)
    server = await simulated(*FLAGS)
    spec = Spec(url=(server.url,), model="simulated", seed=3, options=options)
    run = LoadRun(RunPart(spec, tmp_path / "run"))
    run.prepare()
    await asyncio.to_thread(run.execute)
    usual = StepCost(base_s=BASE_S)
    cost = linear(**{name: getattr(usual, name) for name in usual.__dataclass_fields__})
    fleet = Fleet([make_replica(RULES, cost)])
    virtual = VirtualLoad(options, run.dataset, 3, fleet, RULES, Contents(options, RULES), FrontEnd(request_s=CLIENT_S))
    closed = "concurrency" in load
    measured, predicted = (results(records, closed=closed).flat() for records in (run.collected(), virtual.run()))
    assert measured["completed"] == predicted["completed"] == load["request_count"]
    assert predicted["request_throughput"] == pytest.approx(measured["request_throughput"], rel=TOLERANCE)
    assert predicted["mean_tpot_ms"] == pytest.approx(measured["mean_tpot_ms"], rel=TOLERANCE)
    # Arrivals at times of their own meet steps at any place; where the machine was late, at another one.
    nearness = TOLERANCE * measured["p50_ttft_ms"] if closed else BASE_S * 1000 / 2
    assert predicted["p50_ttft_ms"] == pytest.approx(measured["p50_ttft_ms"], abs=nearness)
