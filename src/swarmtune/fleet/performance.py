"""What our own load generator measures on a running service, in the form of the older tool's fitness functions."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from swarmtune.clock import Clock
from swarmtune.errors import BenchmarkExecutionError, BenchmarkParseError, Culprit
from swarmtune.fleet.job import LOG_LINES, Service
from swarmtune.fleet.load_place import LoadPlace
from swarmtune.loadgen.base import LoadedService
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.judge.certify import refused
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.records import Measurement
from swarmtune.workload import Workload

POLL_S = 0.05
REPEATS = 2  # of a measurement that the load generator itself rejects
ASK_S = 30.0  # for the list of models
MOST_MODELS_BYTES = 1 << 20


@dataclass(frozen=True)
class Performance:
    """What the older tool measures: output tokens per second, seconds to the first token and per further token (means),
    the share of requests that succeeded, and requests per second. None: not measured, as when no request succeeded.
    """

    generate_speed: float | None = None
    time_to_first_token: float | None = None
    time_per_output_token: float | None = None
    success_rate: float | None = None
    throughput: float | None = None

    @classmethod
    def of(cls, measurement: Measurement) -> Performance:
        """The same in the units of the older tool."""
        metrics = measurement.metrics
        ttft, tpot = metrics.get("mean_ttft_ms"), metrics.get("mean_tpot_ms")
        return cls(
            generate_speed=metrics.get("output_throughput"),
            time_to_first_token=None if ttft is None else ttft / 1000,
            time_per_output_token=None if tpot is None else tpot / 1000,
            success_rate=metrics.get("success_rate"),
            throughput=metrics.get("request_throughput"),
        )


class Meter:
    """Puts a load on a service."""

    def __init__(self, options: LoadgenOptions, place: LoadPlace, http: aiohttp.ClientSession, clock: Clock) -> None:
        """``place``: where the load generator runs."""
        self._benchmark = SwarmtuneBenchmark(options)
        self._place, self._http, self._clock = place, http, clock

    async def __call__(self, service: Service, folder: Path) -> Performance:
        """One valid measurement, with its files below ``folder``; one that the load generator rejects is repeated.

        BenchmarkExecutionError and BenchmarkParseError; a cancelled call has ended the load.
        """
        model = await self._model(service.url)
        workload = self._benchmark.workload(model, 0, {})
        reasons: tuple[str, ...] = ()
        for repeat in range(1 + REPEATS):
            again = replace(workload, seed=workload.seed + repeat)  # the service may remember the prompts
            measurement = await self._measure(again, service, folder / (f"load-{repeat}" if repeat else "load"))
            if measurement.valid or refused(measurement):
                return Performance.of(measurement)
            reasons = measurement.reasons
        text = f"the load generator rejected its own measurement {1 + REPEATS} times: {'; '.join(reasons)}"
        raise BenchmarkExecutionError(text, details={"reasons": list(reasons)})

    async def _measure(self, workload: Workload, service: Service, folder: Path) -> Measurement:
        folder, loaded = folder.absolute(), LoadedService(service.url, service.group.nodes, token=service.token)
        command = self._benchmark.command_for(workload, loaded)
        handle = await self._place.start(command, service, folder, self._benchmark.reads)
        try:
            while (code := await handle.poll()) is None:
                await self._clock.sleep(POLL_S)
            if code != 0:
                raise self._place.failed(service, "the load generator", code, await handle.logs(LOG_LINES))
        finally:
            await handle.stop(grace_s=2.0)
        await self._place.fetch(service, folder)
        try:
            return self._benchmark.read(folder)
        except OSError as error:
            raise BenchmarkParseError(f"{folder}: the result cannot be read: {error}") from error

    async def _model(self, url: str) -> str:
        """The first model that the service lists."""
        where = f"{url}/v1/models"
        try:
            async with asyncio.timeout(ASK_S), self._http.get(where) as answer:
                data = b""
                async for part in answer.content.iter_any():
                    data += part
                    if len(data) > MOST_MODELS_BYTES:
                        raise _no_model(where, "its answer is too long")
                found: Any = json.loads(data)["data"][0]["id"]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise BenchmarkExecutionError(f"{where} does not answer: {error!r}") from error
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise _no_model(where, repr(error)) from error
        if not isinstance(found, str) or not found:
            raise _no_model(where, repr(found))
        return found


def _no_model(where: str, reason: str) -> BenchmarkExecutionError:
    return BenchmarkExecutionError(
        f"{where} lists no model ({reason[:200]}), so our load generator does not know what to ask for; measure it "
        "yourself: fitness_func(values, url)",
        culprit=Culprit.USER,
    )
