"""An engine and a load generator of known times and costs, and the optimizer's own loop run on them.

The benchmarks of many groups use it: what is looked at is the loop, with its study, executors, blame and proof, not the
measurement. The service is work_service.py; the load generator asks it for /work once.

    python work.py URL SEED     the load generator: writes result.json
"""

from __future__ import annotations

import json
import random
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

BEST = {"a": 37, "b": 81, "c": 64}
NOISE = 0.02  # standard deviation of a cost
HERE = Path(__file__).resolve().parent
SERVICE = HERE / "work_service.py"
PROJECT = HERE.parent

if TYPE_CHECKING:
    from swarmtune.execution.config import ParallelConfig
    from swarmtune.records import Event, Trial


def true_cost(values: Mapping[str, Any]) -> float:
    """At least 1, where the best setting is."""
    return 1.0 + sum(((float(values[name]) - best) / 50.0) ** 2 for name, best in BEST.items() if name in values)


def load(url: str, seed: int) -> None:
    """Ask for the work once; the result is one over a noisy cost, so that more is better."""
    with urllib.request.urlopen(f"{url}/work", timeout=300) as answer:
        setting = json.load(answer)
    cost = true_cost(setting) + random.Random(seed).gauss(0.0, NOISE)
    Path("result.json").write_text(json.dumps({"value": 1.0 / max(cost, 0.1)}))


def register() -> None:
    """Make both parts known, for this process."""
    from pydantic import BaseModel, ConfigDict

    from swarmtune import registry
    from swarmtune.engines.base import Engine, Probe
    from swarmtune.engines.diagnosis import diagnose
    from swarmtune.engines.target_field import TargetField
    from swarmtune.errors import BenchmarkParseError, SwarmTuneError
    from swarmtune.loadgen.base import Benchmark
    from swarmtune.records import Command, Group, Measurement, Setting
    from swarmtune.space import Field
    from swarmtune.workload import Load, Workload

    class EngineConfig(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        target_field: tuple[TargetField, ...] = ()

    class WorkEngine(Engine):
        name = "work"
        Config = EngineConfig
        spans_nodes = True
        model = "work"

        def fields(self) -> tuple[Field, ...]:
            return tuple(entry.to_field() for entry in self.config.target_field)

        def command(self, setting: Setting, group: Group) -> Command:
            del group
            values = json.dumps(dict(setting.values))
            return Command((sys.executable, "-S", str(SERVICE)), env={"WORK_SETTING": values})

        async def ready(self, probe: Probe) -> bool:
            return (await probe.get("/")).status == 200

        def diagnose(self, exit_code: int | None, log: str) -> SwarmTuneError:
            return diagnose("work", exit_code, log)

    class BenchmarkConfig(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

    class WorkBenchmark(Benchmark):
        name = "work_load"
        Config = BenchmarkConfig

        def workload(self, model: str, seed: int, request_slos: Mapping[str, float]) -> Workload:
            return Workload(model=model, load=Load(1), seed=seed, requests=1, request_slos=dict(request_slos))

        def command(self, workload: Workload, url: str) -> Command:
            return Command((sys.executable, "-S", str(HERE / "work.py"), url, str(workload.seed)))

        def read(self, directory: Path) -> Measurement:
            try:
                value = float(json.loads((directory / "result.json").read_text())["value"])
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise BenchmarkParseError(f"no result in {directory}: {error}") from error
            metrics = {"output_throughput": value, "success_rate": 1.0, "completed": 1.0}
            return Measurement(metrics, {"concurrency": 1.0})

    registry.load_plugins()
    registry.register_engine("work", WorkEngine, "a service of known times and costs")
    registry.register_benchmarks("work_load", WorkBenchmark, "asks for the work once")


async def optimized(
    folder: Path,
    parallel: ParallelConfig,
    fields: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    listen: Callable[[Event], None],
    evaluation_s: float = 600.0,
) -> list[Trial]:
    """The trials of a study that the optimizer's loop measures on these groups, without a proof. ``folder`` is the study's.

    ``fields``: entries of target_field; ``options``: of [optimizer], at least ``evaluations``.
    """
    from swarmtune.clock import RealClock
    from swarmtune.settings import read_settings
    from swarmtune.study.place import new_place
    from swarmtune.tuner.planning.plan import make_plan
    from swarmtune.tuner.run import session

    optimizer = {"engine": "work", "benchmark": "work_load", "confirm": 0, "warm_start": False, **options}
    settings: dict[str, Any] = {
        "optimizer": optimizer,
        "work": {"target_field": [dict(field) for field in fields]},
        "work_load": {},
        "objective": {"name": "throughput", "slo": {}},
        "load_search": {"enabled": False},
        "parallel": parallel.model_dump(exclude_unset=True),
        "particles_time_out": evaluation_s,
        "output": str(folder),
    }
    plan = make_plan(read_settings(None, settings))
    clock = RealClock()
    async with session(plan, new_place(folder, "work", None, clock.wall()), {}, clock, listen) as study:
        return await study.coordinator.search()


if __name__ == "__main__":
    load(sys.argv[1], int(sys.argv[2]))
