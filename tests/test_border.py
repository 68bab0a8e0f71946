"""The border to plugins: what a part does against its contract is one error that names it; what works goes through."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmtune import registry
from swarmtune.clock import RealClock
from swarmtune.engines.base import Engine
from swarmtune.engines.simulated import SimulatedConfig
from swarmtune.errors import (
    BenchmarkParseError,
    ConfigurationError,
    ConfigValidationError,
    PluginError,
    SimulatorStartError,
)
from swarmtune.execution.executors.base import Executor
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
from swarmtune.loadgen.endpoints.base import understood
from swarmtune.loadgen.endpoints.completions import Completions
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.records import Command, Group, Setting
from swarmtune.search.random import RandomSearch
from swarmtune.settings import read_settings
from swarmtune.space import Field
from swarmtune.tuner.planning.make import make_plan
from swarmtune.workload.session import Turn

GROUP, NOTHING = Group("local", port=8000), Setting({})
FIELD = Field("max_batch", "--max-batch", min=1, max=64, value=8)


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_broken", [])
    for known in (registry.engines, registry.benchmarks, registry.searches, registry.endpoints, registry.executors):
        monkeypatch.setattr(known, "_entries", dict(known._entries))


class Acme(Engine):
    """An engine that keeps its contract in the ways that duck typing allows."""

    name = "acme"
    Config = SimulatedConfig

    @property
    def model(self) -> str:
        return "m"

    def fields(self) -> Any:
        return [FIELD]

    def mistakes(self) -> Any:
        yield "told by a generator"

    def command(self, setting: Setting, group: Group) -> Any:
        return Command(("sleep", "100"))

    def ready(self, probe: Any) -> Any:  # no coroutine function, but it returns what can be awaited
        async def looks() -> Any:
            return "truthy"

        return looks()

    def diagnose(self, exit_code: int | None, log: str) -> Any:
        return SimulatorStartError("x")


def made(**members: Any) -> Any:
    """An engine as ``-e acme`` makes it, with these members."""
    registry.register_engine("acme", type("Acme", (Acme,), members))
    return registry.engines.load("acme")(SimulatedConfig())


def raises(error: BaseException) -> Callable[..., Any]:
    def member(self: Any, *_: Any) -> Any:
        raise error

    return member


def gives(value: Any) -> Callable[..., Any]:
    return lambda self, *_: value


def test_what_works_goes_through() -> None:
    engine = made()
    assert isinstance(engine, Acme)
    assert engine.model == "m"
    assert list(engine.fields()) == [FIELD]
    assert list(engine.mistakes()) == ["told by a generator"]
    assert engine.command(NOTHING, GROUP).argv == ("sleep", "100")
    assert engine.commands(NOTHING, GROUP)
    assert asyncio.run(engine.ready(None))
    assert engine.diagnose(1, "").message == "x"


def test_errors_of_ours_and_errors_that_the_part_handles_itself_stay() -> None:
    with pytest.raises(ConfigurationError, match=r"^wrong$"):
        made(mistakes=raises(ConfigurationError("wrong"))).mistakes()

    def falls_back(self: Any) -> Any:
        try:
            return self.ranks()
        except KeyError:
            return ["none"]

    assert made(ranks=raises(KeyError("x")), mistakes=falls_back).mistakes() == ["none"]


def late() -> Iterator[str]:
    yield "one"
    raise KeyError("late")


@pytest.mark.parametrize(
    ("member", "function", "told"),
    [
        (
            "command",
            raises(KeyError("max_batch")),
            r"command\(\) raised KeyError: 'max_batch' \(.*test_border.py:\d+\)",
        ),
        ("command", raises(SystemExit(3)), r"command\(\) raised SystemExit: 3"),
        ("command", gives(["a"]), r"command\(\) returned a list, not Command \(.*test_border.py:\d+\)"),
        ("command", gives(None), r"command\(\) returned None, not Command"),
        (
            "command",
            gives(Command(("a", 5))),
            r"command\(\) returned a Command whose argv is a tuple with an int, not str",
        ),  # type: ignore[arg-type]
        ("command", lambda self: None, r"command\(\) raised TypeError: .*positional argument.*test_border.py"),
        ("fields", gives({"max_batch": 1}), r"fields\(\) returned a dict, not tuple\[Field, \.\.\.\]"),
        ("fields", gives(("max_batch",)), r"fields\(\) returned a tuple with a str, not Field"),
        ("mistakes", gives("wrong"), r"mistakes\(\) returned a str, not list\[str\]"),
        ("mistakes", lambda self: late(), r"mistakes\(\) raised KeyError: 'late'"),
        ("diagnose", gives(RuntimeError("x")), r"diagnose\(\) returned a RuntimeError, not SwarmTuneError"),
        ("ranks", gives({"tp": 2}), r"ranks\(\) returned a mapping with an int, not str"),
    ],
)
def test_what_a_method_does_wrong_names_part_method_and_place(member: str, function: Any, told: str) -> None:
    call = getattr(made(**{member: function}), member)
    arguments = {"command": (NOTHING, GROUP), "diagnose": (1, "")}.get(member, ())
    with pytest.raises(PluginError, match=rf"The engine 'acme': {told}"):
        call(*arguments)


def test_a_property_is_looked_at_too() -> None:
    with pytest.raises(PluginError, match="model returned None, not str"):
        _ = made(model=property(lambda self: None)).model


def coming(value: Any) -> Callable[..., Awaitable[Any]]:
    async def member(self: Any, *_: Any) -> Any:
        if isinstance(value, BaseException):
            raise value
        return value

    return member


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (gives(True), r"ready\(\) is not `async def` \(.*test_border.py:\d+\)"),
        (coming(ConnectionError("refused")), r"ready\(\) raised ConnectionError: refused"),
    ],
)
def test_readiness(function: Any, told: str) -> None:
    with pytest.raises(PluginError, match=told):
        asyncio.run(made(ready=function).ready(None))
    assert asyncio.run(made(ready=coming(None)).ready(None)) is None, "not ready yet"


def test_a_method_that_should_not_be_async() -> None:
    with pytest.raises(PluginError, match=r"command\(\) returned a coroutine, not Command"):
        made(command=coming(None)).command(NOTHING, GROUP)


def test_a_benchmark_that_cannot_read_its_result_has_none(tmp_path: Path) -> None:
    class Tool(SwarmtuneBenchmark):
        name = "tool"
        read = raises(KeyError("ttft"))  # type: ignore[assignment]

    registry.register_benchmarks("tool", Tool)
    kind = registry.benchmarks.load("tool")
    with pytest.raises(BenchmarkParseError, match=r"The benchmark 'tool': read\(\) raised KeyError: 'ttft'"):
        kind(Tool.Config()).read(tmp_path)
    Tool.read = gives({})  # type: ignore[method-assign]
    with pytest.raises(PluginError, match=r"read\(\) returned a dict, not Measurement"):
        kind(Tool.Config()).read(tmp_path)


def test_a_search_that_asks_for_nothing() -> None:
    class Lazy(RandomSearch):
        ask = gives(None)

    registry.register_search("lazy", Lazy)
    with pytest.raises(PluginError, match=r"The search algorithm 'lazy': ask\(\) returned None, not Setting"):
        registry.searches.load("lazy")(None, 0, 1).ask(())


@dataclasses.dataclass
class Plain:
    model: str = "m"


def test_a_config_that_is_no_pydantic_model_is_a_mistake_of_who_asks_for_it() -> None:
    registry.register_engine("acme", type("Acme", (Acme,), {"Config": Plain}))
    with pytest.raises(
        ConfigValidationError, match="engine 'acme' is broken and was skipped: its Config must be a pyd"
    ):
        make_plan(read_settings(None, {"optimizer": {"engine": "acme"}}))
    assert make_plan(read_settings(None, {"optimizer": {"engine": "simulated"}})).engine.name == "simulated"


class Shout(Completions):
    """An endpoint that cannot write some requests, and cannot read any answer."""

    def body(self, turn: Turn, history: Any = ()) -> bytes:
        return b"{}" if turn.output_tokens else {}["tokens"]  # type: ignore[typeddict-item]

    def read(self, pieces: Any, *, keep_text: bool = False) -> Any:
        return dict(pieces) if keep_text else pieces[7]


def test_an_endpoint_that_cannot_read_an_answer_loses_one_request() -> None:
    registry.register_endpoints("shout", Shout)
    endpoint = registry.endpoints.load("shout")("m", LoadgenOptions())
    assert endpoint.body(Turn(("x",), 1, output_tokens=3)) == b"{}"
    with pytest.raises(
        PluginError, match=r"The endpoint 'shout': body\(\) raised KeyError: 'tokens' \(.*test_border.py"
    ):
        endpoint.body(Turn(("x",), 1))
    told = understood(endpoint, [(0, b"{}")]).error or ""
    assert "an answer that cannot be read: The endpoint 'shout': read() raised IndexError" in told
    told = understood(endpoint, [(0, b"{}")], keep_text=True).error or ""
    assert "read() returned a dict, not Answer" in told


class Carrier(LocalExecutor):
    """An executor that starts nothing."""

    async def start(self, command: Command) -> Any:
        if command.argv == ("loud",):
            raise LookupError("no such place")


async def test_an_executor_names_what_it_does_wrong(tmp_path: Path) -> None:
    registry.register_executor("carrier", Carrier)
    executor = registry.executors.load("carrier")(tmp_path, RealClock())
    with pytest.raises(PluginError, match=r"The executor 'carrier': start\(\) raised LookupError: no such place"):
        await executor.start(Command(("loud",)))
    with pytest.raises(PluginError, match=r"start\(\) returned None, not Handle"):
        await executor.start(Command(("quiet",)))
    await executor.close()


def test_an_executor_without_what_its_contract_needs_is_not_used() -> None:
    registry.register_executor("carrier", type("Half", (Executor,), {}))
    with pytest.raises(ConfigurationError, match=r"it has no close\(\), no get\(\), no put\(\), no start\(\)"):
        registry.executors.load("carrier")


def test_a_part_without_what_its_contract_needs_is_not_made() -> None:
    registry.register_engine("none", type("Bare", (Engine,), {"name": "none", "Config": SimulatedConfig}))
    with pytest.raises(ConfigurationError, match=r"it has no command\(\), no diagnose\(\), no fields\(\), no model"):
        registry.engines.load("none")
