"""A plan asks parts what they can do; it knows none by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import swarmtune
from swarmtune import registry
from swarmtune.apps.cli.check import facts
from swarmtune.apps.cli.init import found_engine
from swarmtune.engines.simulated import SimulatedEngine
from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.objective import OBJECTIVES
from swarmtune.search.random import RandomSearch
from swarmtune.settings import read_settings
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan

SOURCE = Path(swarmtune.__file__).parent


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a test registers is gone afterwards."""
    registry.load_plugins()
    for known in (registry.engines, registry.benchmarks, registry.searches):
        monkeypatch.setattr(known, "_entries", dict(known._entries))
    monkeypatch.chdir(tmp_path)


def plan(**given: Any) -> Plan:
    optimizer = {"engine": "simulated", **given.pop("optimizer", {})}
    return make_plan(read_settings(None, {"optimizer": optimizer, **given}))


def compared_texts(module: Path) -> Iterator[str]:
    """The texts that a module compares something with."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield from (n.value for n in ast.walk(side) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def test_no_part_is_compared_by_name() -> None:
    """But for llama.cpp, which is the default and brings a configuration of its own. "auto" has other meanings, too."""
    names = {*registry.engines, *registry.benchmarks, *registry.searches, *OBJECTIVES} - {"auto"}
    files = [*SOURCE.glob("tuner/**/*.py"), *SOURCE.glob("apps/**/*.py"), SOURCE / "settings.py"]
    found = {(f.name, text) for f in files for text in compared_texts(f) if text in names}
    assert found == {("options.py", "llamacpp")}


class OtherBenchmark(SwarmtuneBenchmark):
    """The same under another name, and without the means to stop early."""

    name = "other"

    @property
    def early_stop_obstacle(self) -> str:
        return "other never stops"


def test_a_benchmark_says_whether_it_can_stop_early() -> None:
    on = {"early_stop": {"mode": "on"}}
    assert plan(**on).early_stop is not None
    assert plan(**on, loadgen={"workers_max": 2}).early_stop is not None
    registry.register_benchmarks("other", OtherBenchmark)
    other = plan(**on, optimizer={"benchmark": "other"})
    assert other.early_stop is None
    assert "early_stop has no effect: other never stops" in other.notices
    assert other.early_stop_text == "never: other never stops"
    assert plan(optimizer={"benchmark": "other"}).early_stop is None


WARM = {"warmup_request_count": 8}


@pytest.mark.parametrize("workers", [1, 4])
def test_early_stop_acts_by_itself_where_a_load_stays_the_same(workers: int) -> None:
    made = plan(loadgen={**WARM, "workers_max": workers}, objective={"slo": {"p95_ttft_ms": 9, "mean_tpot_ms": 9}})
    assert made.early_stop is not None
    assert made.early_stop.act
    assert made.early_stop_text == (
        "ends a measurement when p95_ttft_ms, success_rate surely cannot be kept, or request_goodput is 10% below "
        "the best so far"
    )
    assert ("early stop", made.early_stop_text) in facts(made)


@pytest.mark.parametrize(
    ("loadgen", "reason"),
    [
        ({"warmup_request_count": 0}, "not warmed up"),
        ({**WARM, "concurrency_ramp_duration": 5}, "ramp"),
        ({**WARM, "request_rate": 4, "request_rate_ramp_duration": 5}, "ramp"),
        ({**WARM, "conversation_turn_mean": 3}, "later turns"),
        ({**WARM, "prompt_prefix_pool_size": 9, "prompt_prefix_length": 9}, "prefixes"),
        ({**WARM, "public_dataset": "sharegpt"}, "first requests of a file"),
        ({**WARM, "public_dataset": "sharegpt", "fixed_schedule": True}, "quiet and busy times"),
        ({**WARM, "user_centric_rate": 2, "num_users": 3, "conversation_turn_mean": 3}, "later turns"),
    ],
)
def test_elsewhere_it_reports_unless_it_is_told_to_act(loadgen: dict[str, Any], reason: str) -> None:
    made = plan(loadgen=loadgen)
    assert made.early_stop is not None
    assert not made.early_stop.act
    assert made.early_stop_text.startswith("only reported: ")
    assert reason in made.early_stop_text
    told = plan(loadgen=loadgen, early_stop={"mode": "on"}).early_stop
    assert told is not None
    assert told.act


def test_early_stop_is_no_part_of_a_study() -> None:
    made = [plan(loadgen=WARM, early_stop={"mode": mode}) for mode in ("off", "report", "auto", "on")]
    assert [m.early_stop_text for m in made[:2]] == ["off", "only reported"]
    assert all(m.fingerprint() == made[0].fingerprint() for m in made)


class OtherSearch(RandomSearch):
    """A search of a plugin that moves particles."""

    uses_particles = True


def test_a_search_says_whether_it_moves_particles() -> None:
    assert plan(n_particles=1, optimizer={"algorithm": "random"}).swarm.n_particles is None
    registry.register_search("other", OtherSearch)
    for algorithm in ("swarm", "pso", "auto", "other"):
        with pytest.raises(ConfigValidationError, match="n_particles: a swarm needs at least 2 particles"):
            plan(n_particles=1, optimizer={"algorithm": algorithm})


def test_an_objective_says_whether_it_needs_slos() -> None:
    weighted = plan(objective={"name": "weighted"})
    assert (weighted.load_search, weighted.objective.limits) == (None, {})
    assert plan(objective={"name": "throughput"}).load_search is not None


def test_the_cap_on_concurrency_is_the_users_own() -> None:
    rates = {"load_search": {"variable": "request_rate"}}
    assert plan(**rates).at(4.0).concurrency is None
    assert plan(**rates, loadgen={"concurrency": 9}).at(4.0).concurrency == 9


class InstalledEngine(SimulatedEngine):
    """An engine of a plugin whose service is here."""

    @classmethod
    def found(cls) -> bool:
        return True


def test_the_first_engine_that_is_installed_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.engines, "_entries", {})
    registry.register_engine("broken", "no_such_module_anywhere:Engine")
    registry.register_engine("absent", SimulatedEngine)
    assert found_engine() == "simulated"
    registry.register_engine("present", InstalledEngine)
    assert found_engine() == "present"
