"""What is done with a service that is ready, in virtual time: loads, repeats, time limits, and who is to blame."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.tuner.loop.test_coordinator import plan

from swarmtune.clock import VirtualClock
from swarmtune.engines.surroundings import Deploy, HealthCheck
from swarmtune.errors import (
    BenchmarkExecutionError,
    BenchmarkParseError,
    Culprit,
    SimulatorHealthCheckError,
    SimulatorStartError,
)
from swarmtune.execution.executors.base import Handle
from swarmtune.execution.service_group import ServiceGroup
from swarmtune.fleet.job import Service
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.judge.certify import DISTURBED
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.records import Attempt, Command, Group, Measurement
from swarmtune.report.sentences import telling
from swarmtune.search.load import LoadSearch
from swarmtune.testing.virtual import Life, VirtualExecutor, VirtualHandle
from swarmtune.tuner.loop.evaluation import ANY_LOAD, REFUSES_S, Bench, Evaluation, Loads, Measured

GOOD = Measurement({"request_goodput": 5.0, "p95_ttft_ms": 100.0, "success_rate": 1.0, "completed": 10.0})


class Results(SwarmtuneBenchmark):
    """Our load generator, whose files are made up: one measurement after the other."""

    results: Iterator[Measurement]

    def read(self, directory: Path) -> Measurement:
        return next(self.results)


class Bed:
    """An evaluation, and a service that it may use."""

    def __init__(
        self,
        *results: Measurement,
        life: Life | None = None,
        ready: bool = True,
        python: str | None = None,
        **changes: Any,
    ) -> None:
        self.clock = VirtualClock()
        benchmark = Results(LoadgenOptions())
        benchmark.results = iter(results)
        changes = {"load_search": None, "evaluation_timeout_s": 60.0, **changes}
        self.plan = plan(benchmark=benchmark, **changes)
        self.executor = VirtualExecutor(self.clock, lambda _: life or Life(10.0))
        self.kept: list[Measurement] = []
        self.phases: list[str] = []
        attempt = Attempt(7, 3, self.plan.baseline(), "g", "mark")
        bench = Bench(self.executor, self.clock, Path("study/attempts"), python)
        self.job = Evaluation(self.plan, attempt, bench, lambda kind, _: self.phases.append(kind), self.kept.append)
        self.job.started_at = self.clock.monotonic()
        service: Handle = VirtualHandle(Command(("serve",)), Life(), self.clock, 0.0)
        self.service = Service(Group("g", port=8000), service)

        async def answers(_: Service) -> bool:
            return ready

        self.job.ready = answers  # type: ignore[method-assign]

    async def use(self, loads: Loads = ANY_LOAD) -> Measured:
        self.job.loads = loads
        return await self.job.use(self.service)


@contextlib.asynccontextmanager
async def serving(status: int, text: str, health: int = 200) -> AsyncIterator[str]:
    """A real service: its health answers, and to a completion it says this."""
    app = web.Application()

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(status=health)

    async def completion(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app.router.add_get("/health", healthy)
    app.router.add_post("/v1/completions", completion)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Checked(Bed):
    """An evaluation that checks a real service."""

    def __init__(self, url: str) -> None:
        super().__init__()
        del self.job.ready
        port = int(url.rpartition(":")[2])
        self.service = replace(self.service, group=Group("g", port=port))


@pytest.mark.parametrize(("status", "text", "told"), [
    (500, '{"error": "no\\tway\x1b"}', 'POST /v1/completions answered 500: {"error": "no\\tway\\x1b"}'),
    (200, "data: [DONE]", "POST /v1/completions answered 200: data: [DONE]"),
    (200, "", "POST /v1/completions answered 200"),
    (200, "x" * 2_000_000, "POST /v1/completions answered more than can be an answer to that"),
    (404, "", "POST /v1/completions answered 404"),
])  # fmt: skip
async def test_a_service_that_does_not_become_ready_is_quoted(status: int, text: str, told: str) -> None:
    async with serving(status, text) as url:
        bed = Checked(url)
        assert not await bed.job.ready(bed.service)
    error = bed.job.diagnose(None, "")
    assert error.message.startswith(
        f"not ready after 60 s (wait_start_time). It answers, but not as a service that is ready: GET /health answered "
        f"200, {told}. Correct the path, the name of the model, or the service."
    )


async def test_a_service_that_answers_nothing_is_not_said_to_answer() -> None:
    async with serving(200, "") as url:
        pass
    bed = Checked(url)
    assert not await bed.job.ready(bed.service)
    assert "It answers" not in bed.job.diagnose(None, "").message


@pytest.mark.parametrize(
    ("status", "health", "gives_up"), [(404, 200, True), (429, 200, False), (503, 200, False), (404, 503, False)]
)
async def test_a_service_that_keeps_refusing_its_check_is_not_waited_for(
    status: int, health: int, gives_up: bool
) -> None:
    async with serving(status, "no such model", health) as url:
        bed = Checked(url)
        assert not await bed.job.ready(bed.service)
        await bed.clock.sleep(REFUSES_S - 1)
        assert not await bed.job.ready(bed.service)
        await bed.clock.sleep(1)
        if not gives_up:
            assert not await bed.job.ready(bed.service)
            return
        with pytest.raises(
            SimulatorStartError, match=r"refuses the request that must succeed: .* answered 404: no such"
        ):
            await bed.job.ready(bed.service)


async def test_one_load_is_measured_marked_and_kept() -> None:
    bed = Bed(GOOD)
    done = await bed.use()
    assert (done.score.value, done.load_points) == (5.0, 1)
    assert bed.kept == [done.measurement]
    assert bed.phases == ["load"]
    (handle,) = bed.executor.started
    assert handle.command.directory == "study/attempts/0003-7/load-0"
    assert handle.command.env["SWARMTUNE_TOKEN"] == "mark-load"


async def test_an_invalid_measurement_is_repeated_and_never_used() -> None:
    invalid = replace(GOOD, valid=False, reasons=("the loop lagged",))
    bed = Bed(invalid, GOOD)
    assert (await bed.use()).measurement.valid
    first, second = (json.loads(h.command.files[0].content)["seed"] for h in bed.executor.started)
    assert second == first + 1, "the service may know the first prompts from its prefix cache"
    assert [Path(h.command.directory).name for h in bed.executor.started] == ["load-0", "load-0-again-1"]
    hopeless = Bed(invalid, invalid, invalid)
    with pytest.raises(
        BenchmarkExecutionError, match="rejected its own measurement 3 times: the loop lagged"
    ) as caught:
        await hopeless.use()
    assert caught.value.culprit is Culprit.INFRASTRUCTURE
    assert hopeless.kept == []


STARVED = replace(GOOD, valid=False, reasons=(f"{DISTURBED}41% of the service's CPUs, most of it burn (pid 9, 41%)",))


async def test_a_disturbed_measurement_is_repeated_and_in_the_end_the_neighbours_are_blamed() -> None:
    assert (await Bed(STARVED, STARVED, GOOD).use()).measurement.valid
    with pytest.raises(BenchmarkExecutionError, match=r"disturbed in each of 3 measurements: .*burn \(pid 9") as caught:
        await Bed(STARVED, STARVED, STARVED).use()
    assert caught.value.culprit is Culprit.INFRASTRUCTURE
    assert caught.value.details["cause"] == "disturbed"
    assert not any(words in caught.value.message for words in ("load generator", "more CPU"))


async def test_a_service_that_is_starved_until_it_completes_nothing_is_no_result_and_no_fault_of_the_setting() -> None:
    starved = replace(STARVED, metrics=REFUSED.metrics)
    with pytest.raises(BenchmarkExecutionError, match="disturbed"):
        await Bed(starved, starved, starved, ready=False).use()


async def test_the_load_generator_knows_the_mark_of_the_service_that_runs() -> None:
    bed = Bed(GOOD)
    bed.service = replace(bed.service, token="of-an-earlier-attempt")
    await bed.use()
    (handle,) = bed.executor.started
    assert '"service_token": "of-an-earlier-attempt"' in handle.command.files[0].content


REFUSED = Measurement(
    {"request_goodput": 0.0, "success_rate": 0.0, "completed": 0.0, "answered": 10.0},
    valid=False,
    reasons=("not a single request was completed; 10 of 10 failed with: HTTP 422: extra fields",),
)


async def test_a_service_that_refuses_every_request_has_a_result_at_once() -> None:
    """It is not the load generator's fault: there is nothing to repeat, and nothing to give more CPU to."""
    bed = Bed(REFUSED)
    done = await bed.use()
    assert (done.score.value, done.score.feasible) == (0.0, False)
    assert done.score.violations["success_rate"] == 1.0
    assert len(bed.executor.started) == 1
    assert "HTTP 422" in done.measurement.reasons[0]


async def test_a_service_that_answers_nothing_at_all_is_asked_whether_it_still_lives() -> None:
    silent = replace(REFUSED, metrics={**REFUSED.metrics, "answered": 0.0})
    with pytest.raises(SimulatorHealthCheckError, match="no longer answers"):
        await Bed(silent, silent, silent, ready=False).use()
    with pytest.raises(BenchmarkExecutionError) as caught:
        await Bed(silent, silent, silent).use()
    assert "more CPU" not in caught.value.message


async def test_several_loads_on_one_service_and_the_best_of_them() -> None:
    better = replace(GOOD, metrics={**GOOD.metrics, "request_goodput": 9.0})
    late = replace(GOOD, metrics={**GOOD.metrics, "p95_ttft_ms": 900.0})
    bed = Bed(GOOD, better, late, late, late, load_search=LoadSearch(1, 64, 4, points=3))
    done = await bed.use(Loads(start=4.0))
    assert done.score.value == 9.0
    assert done.load_points == len(bed.kept) == 3
    assert {measurement.load["concurrency"] for measurement in bed.kept} > {4.0}


async def test_a_load_that_does_not_end_is_the_settings_fault_and_is_stopped() -> None:
    bed = Bed(GOOD, life=Life())
    with pytest.raises(SimulatorHealthCheckError, match="particles_time_out = 60 s") as caught:
        await bed.use()
    assert caught.value.culprit is Culprit.SETTING
    assert bed.executor.running == []
    assert 60.0 <= bed.clock.monotonic() - bed.job.started_at <= 61.0


async def test_a_load_generator_that_fails_is_blamed_only_while_the_service_answers() -> None:
    failed = Life(3.0, 2, "no such file")
    with pytest.raises(BenchmarkExecutionError, match="ended with code 2: no such file"):
        await Bed(GOOD, life=failed).use()
    with pytest.raises(BenchmarkExecutionError, match="was ended by SIGINT") as ended:
        await Bed(GOOD, life=Life(3.0, -2, "Traceback (most recent call last):\nKeyboardInterrupt")).use()
    assert telling(ended.value.message).endswith("was ended by SIGINT [KeyboardInterrupt]")
    with pytest.raises(SimulatorHealthCheckError, match="no longer answers") as caught:
        await Bed(GOOD, life=failed, ready=False).use()
    assert caught.value.details == {"cause": "hang"}


async def test_a_result_that_cannot_be_read_is_an_error_of_ours() -> None:
    bed = Bed()

    def unreadable(directory: Path) -> Measurement:
        raise PermissionError(13, "denied")

    bed.plan.benchmark.read = unreadable  # type: ignore[method-assign]
    with pytest.raises(BenchmarkParseError, match="the result cannot be read"):
        await bed.use()


async def test_the_load_of_a_service_may_come_from_its_master() -> None:
    bed = Bed(GOOD, python="/opt/python")
    node = VirtualExecutor(bed.clock, lambda _: Life(10.0))
    bed.service = replace(bed.service, nodes=ServiceGroup(bed.service.group, [node]))
    assert (await bed.use()).measurement.metrics["request_goodput"] == 5.0
    (handle,) = node.started
    assert handle.command.argv == ("/opt/python", "-P", "-m", "swarmtune.loadgen", "spec.json")
    assert handle.command.directory == "loads/attempts/0003-7/load-0"
    assert bed.executor.started == []


async def test_texts_of_the_user_in_a_log_give_the_cause_and_the_path_its_beginning() -> None:
    texts = {
        "fatal_patterns": {"out_of_memory": ["HBM exhausted"]},
        "retryable_patterns": {"io_error": ["disk asleep"]},
    }
    health = HealthCheck.model_validate({"service_errors": texts, "benchmark_errors": texts})
    bed = Bed(life=Life(1.0, 4, "disk asleep\n"), health_check=health, deploy=Deploy(path_prefix="/opt/stack"))
    log = "HBM exhausted"
    for error in (bed.job.diagnose(1, log), bed.job.diagnose(None, log), bed.job.died(-9, log)):
        assert (error.details["cause"], error.culprit) == ("out_of_memory", Culprit.SETTING)
    assert bed.job.died(1, "disk asleep").culprit is Culprit.INFRASTRUCTURE
    with pytest.raises(BenchmarkExecutionError, match="io error, by a text of") as caught:
        await bed.use()
    assert (caught.value.details, caught.value.culprit) == (
        {"exit_code": 4, "cause": "io_error"},
        Culprit.INFRASTRUCTURE,
    )
    (command,) = bed.job.commands(Group("g", port=8000))
    assert command.env["PATH"] == "/opt/stack:/opt/stack/bin:$PATH"
