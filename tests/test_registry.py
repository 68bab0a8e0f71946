"""Names of parts: lazily loaded, near names told, replaced by plugins; broken plugins skipped."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from swarmtune import registry
from swarmtune.engines.simulated import SimulatedEngine
from swarmtune.errors import ConfigurationError, ConfigValidationError
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.registry import GROUP, Registry
from swarmtune.search.random import RandomSearch
from swarmtune.settings import read_settings
from swarmtune.tuner.planning.make import make_plan


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone afterwards."""
    monkeypatch.setattr(registry, "_broken", [])
    for known in (registry.engines, registry.benchmarks, registry.endpoints, registry.searches, registry.executors):
        monkeypatch.setattr(known, "_entries", dict(known._entries))
    monkeypatch.setattr(registry, "settings_sections", dict(registry.settings_sections))


class AnEngine(SimulatedEngine):
    """A plugin's engine."""


def register_one() -> None:
    registry.register_simulator("from_plugin", AnEngine, "an engine")
    registry.register_benchmarks("from_plugin", "swarmtune.loadgen.benchmark:SwarmtuneBenchmark")
    registry.register_endpoints("from_plugin", "swarmtune.loadgen.endpoints.chat:Chat")
    registry.register_search("from_plugin", RandomSearch)
    registry.register_executor("from_plugin", LocalExecutor)
    registry.register_settings("from_plugin", dict)


class OwnError(BaseException):
    """No Exception, so that a plain handler misses it."""


def raises_its_own() -> None:
    raise OwnError("hard luck")


def interrupted() -> None:
    raise KeyboardInterrupt


def numbered() -> None:
    registry.register_engine(5, object, "five")  # type: ignore[arg-type]


def nameless() -> None:
    registry.register_engine("two words", object)


def no_class() -> None:
    registry.register_engine("thing", "no-colon")


def fails() -> None:
    raise ValueError("no luck")


def leaves() -> None:
    sys.exit(3)


def entry(name: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{name}", GROUP)


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    known = Registry("thing")
    known.register("lazy", "no_such_module_anywhere:Class", "a summary")
    assert list(known) == ["lazy"]
    assert "lazy" in known
    assert known.summary("lazy") == "a summary"
    with pytest.raises(
        ConfigurationError, match="The thing 'lazy' cannot be loaded from no_such_module_anywhere:Class"
    ):
        known.load("lazy")


def test_classes_and_their_names() -> None:
    known = Registry("thing")
    known.register("b", dict)
    known.register("a", "collections:OrderedDict")
    assert list(known) == ["a", "b"]
    assert known.load("b") is dict
    assert known.load("a").__name__ == "OrderedDict"
    known.register("c", "collections:Nothing")
    with pytest.raises(ConfigurationError, match="Nothing"):
        known.load("c")


def test_near_names_and_all_names() -> None:
    known = Registry("thing")
    known.register("swarm", dict)
    known.register("random", dict)
    with pytest.raises(ConfigurationError) as caught:
        known.load("swarn")
    assert str(caught.value) == "There is no thing named 'swarn'. Did you mean 'swarm'? Registered: random, swarm."
    with pytest.raises(ConfigurationError, match=r"named 'zzz'\. Registered"):
        known.load("zzz")


def test_upper_and_lower_case_make_no_other_part() -> None:
    settings = read_settings(None, {"optimizer": {"engine": "SimulateD", "benchmark": "SwarmTune", "algorithm": "TPE"}})
    chosen = settings.optimizer
    assert (chosen.engine, chosen.benchmark, chosen.algorithm) == ("simulated", "swarmtune", "tpe")
    known = Registry("thing")
    known.register("X", dict)
    known.register("x", list)
    known.register("Y", list)
    assert [known.spelled(name) for name in ("X", "x", "y", "Z")] == ["X", "x", "Y", "Z"]


def test_engines_that_only_a_script_starts() -> None:
    with pytest.raises(ConfigurationError, match=r"named 'TensorRT-LLM'\. Start it by a script of yours: -e command"):
        registry.engines.load("TensorRT-LLM")
    with pytest.raises(ConfigurationError, match="Did you mean 'vllm'"):
        registry.engines.load("vlm")


def test_a_name_is_replaced_by_who_comes_later() -> None:
    known = Registry("thing")
    known.register("x", dict, "first")
    known.register("x", list, "second")
    assert known.load("x") is list
    assert known.summary("x") == "second"


def test_a_plugin_registers_all_kinds() -> None:
    assert registry.load_plugins(lambda: [EntryPoint("one", f"{__name__}:register_one", GROUP)]) == []
    assert issubclass(registry.engines.load("from_plugin"), AnEngine)
    assert registry.engines.load("from_plugin") is registry.engines.load("from_plugin")
    assert registry.benchmarks.load("from_plugin").__name__ == "SwarmtuneBenchmark"
    assert registry.endpoints.load("from_plugin").__name__ == "Chat"
    assert registry.searches.load("from_plugin") is RandomSearch
    assert registry.executors.load("from_plugin") is LocalExecutor
    assert registry.settings_sections["from_plugin"] is dict


def test_broken_plugins_are_reported_and_skipped() -> None:
    absent = EntryPoint("absent", "no_such_module_anywhere:register", GROUP)
    good = EntryPoint("one", f"{__name__}:register_one", GROUP)
    lines = registry.load_plugins(lambda: [entry("fails"), absent, entry("leaves"), entry("nothing"), good])
    assert len(lines) == 4
    assert "plugin 'fails'" in lines[0]
    assert "ValueError('no luck')" in lines[0]
    assert "no_such_module_anywhere" in lines[1]
    assert "SystemExit(3)" in lines[2]
    assert "from_plugin" in registry.engines
    assert registry.load_plugins() == lines


def test_who_asks_for_a_part_of_a_plugin_that_was_not_loaded_is_told_why() -> None:
    absent = EntryPoint("acme", "no_such_module_anywhere:register", GROUP)
    registry.load_plugins(lambda: [absent])
    told = r"no engine named 'acme'\..*Not loaded, and one may have it: plugin 'acme' .*No module named 'no_such_module"
    with pytest.raises(ConfigurationError, match=told):
        registry.engines.load("acme")
    with pytest.raises(ConfigValidationError, match=r"acme: unknown key.*plugin 'acme' .*No module named"):
        read_settings(None, {"acme": {"model": "m"}})
    with pytest.raises(ConfigValidationError, match=r"optimizer\.enginee: unknown key; did you mean engine\?$"):
        read_settings(None, {"optimizer": {"enginee": "x"}})


def test_what_cannot_be_a_part_is_refused_at_the_door_and_names_its_plugin() -> None:
    lines = registry.load_plugins(lambda: [entry(n) for n in ("numbered", "nameless", "no_class", "raises_its_own")])
    assert [line.partition(" is broken")[0].split("'")[1] for line in lines] == [
        "numbered", "nameless", "no_class", "raises_its_own"
    ]  # fmt: skip
    assert "5 cannot be the name of a part" in lines[0]
    assert "must be a class or 'package.module:Class', not 'no-colon'" in lines[2]
    assert list(registry.engines) == sorted(registry.engines), "no name that cannot be sorted"
    with pytest.raises(KeyboardInterrupt):
        registry.load_plugins(lambda: [entry("interrupted")])


def test_a_part_of_a_wrong_type_is_told_when_it_is_chosen() -> None:
    registry.register_engine("wrong", int)
    lacks = r"engine 'wrong' .* it has no base class swarmtune.engines.base.Engine, no name, no Config"
    with pytest.raises(ConfigurationError, match=lacks):
        registry.engines.load("wrong")
    registry.register_executor("x7", str, "z")
    groups = {"enabled": True, "node_string": "a", "nodes_per_group": 1, "executor": "x7"}
    settings = read_settings(None, {"optimizer": {"engine": "simulated"}, "parallel": groups})
    with pytest.raises(ConfigValidationError, match=r"parallel\.executor: The executor 'x7'"):
        make_plan(settings)


def test_built_in_parts_come_through_the_same_door() -> None:
    code = (
        "from swarmtune import registry; assert not list(registry.engines); assert registry.load_plugins() == []; "
        "print(*registry.engines, *registry.benchmarks, *registry.searches); import sys; "
        "print(sorted(m for m in sys.modules if m in ('numpy', 'optuna', 'aiohttp', 'pydantic')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    names, heavy = done.stdout.splitlines()
    for name in (
        "llamacpp",
        "vllm",
        "mindie",
        "sglang",
        "simulated",
        "command",
        "swarmtune",
        "vllm_benchmark",
        "swarm",
        "tpe",
    ):
        assert name in names.split()
    assert heavy == "[]"
