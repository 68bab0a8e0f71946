"""The cost of a particle: a function of values and URL, or, as in the older extension, of what a load generator measured."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from swarmtune.errors import BenchmarkExecutionError, ConfigurationError, Culprit, SwarmTuneError
from swarmtune.fleet.job import Service
from swarmtune.fleet.performance import Meter
from swarmtune.records import Value

Fitness = Callable[..., Any]
"""``f(values, url)`` measures the service at a URL, which runs with these values; ``f(performance)`` only weighs what was
measured. Either returns the cost, which is minimised, or an awaitable of it.
"""


class Measure(Protocol):
    """Finds the cost of a running service."""

    async def __call__(self, values: Mapping[str, Value], service: Service, folder: Path) -> float:
        """``folder``: for result files, on this machine. Errors of the user's function are blamed on the particle."""
        ...


class ByUrl:
    """The user's function measures."""

    def __init__(self, function: Fitness) -> None:
        self._function = function

    async def __call__(self, values: Mapping[str, Value], service: Service, folder: Path) -> float:
        """See Measure."""
        del folder
        return await _cost_of(self._function, values, service.url)


class ByPerformance:
    """A load generator measures, and the user's function weighs the result."""

    def __init__(self, function: Fitness, meter: Meter) -> None:
        self._function, self._meter = function, meter

    async def __call__(self, values: Mapping[str, Value], service: Service, folder: Path) -> float:
        """See Measure."""
        del values
        return await _cost_of(self._function, await self._meter(service, folder))


class ByBenchmark:
    """The older extension's ``benchmark_func()`` measures, and ``fitness_func`` weighs what it returns."""

    def __init__(self, function: Fitness, benchmark: Callable[[], Any]) -> None:
        self._function, self._benchmark = function, benchmark

    async def __call__(self, values: Mapping[str, Value], service: Service, folder: Path) -> float:
        """See Measure."""
        del values, service, folder
        return await _cost_of(self._function, await _result_of("benchmark_func", self._benchmark))


def weighs_performance(function: Any) -> bool:
    """Does the function take one argument, as in the older extension? ConfigurationError if it takes neither one nor two."""
    what = f"fitness_func must be a function of values and url, or of the measured performance alone, not {function!r}"
    if not callable(function):
        raise ConfigurationError(what)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, such as max
        return False
    for arguments in (2, 1):
        with contextlib.suppress(TypeError):
            signature.bind(*[None] * arguments)
            return arguments == 1
    raise ConfigurationError(what)


async def _cost_of(function: Fitness, *arguments: Any) -> float:
    result = await _result_of("fitness_func", function, *arguments)
    try:
        cost = float(result)
    except (TypeError, ValueError):
        cost = math.nan
    if math.isnan(cost):
        text = f"fitness_func returned {str(result)[:100]!r}, which is not a number"
        raise BenchmarkExecutionError(text, culprit=Culprit.SETTING)
    return cost


async def _result_of(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of the user returns; a coroutine function is awaited, any other runs in a thread."""
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        result = await _in_thread(name, function, *arguments)
        return await result if inspect.isawaitable(result) else result
    except SwarmTuneError:
        raise
    except Exception as error:
        text = f"{name} raised {type(error).__name__}: {error}"
        raise BenchmarkExecutionError(text, culprit=Culprit.SETTING) from error


async def _in_thread(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a daemon thread of its own, so that a hung function delays neither others nor the exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def deliver(result: Any, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def run() -> None:
        try:
            outcome: tuple[Any, Exception | None] = (function(*arguments), None)
        except BaseException as error:  # noqa: BLE001 - also SystemExit must not end the dispatcher
            outcome = (None, RuntimeError(f"{type(error).__name__}: {error}"))
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
