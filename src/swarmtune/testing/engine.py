"""What every engine must do. Inherit ``EngineContract`` in a test class and supply ``make_engine``."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from swarmtune.engines.base import Engine, Reply
from swarmtune.engines.placement import load_field
from swarmtune.errors import Culprit, SimulatorStartError
from swarmtune.records import Command, Group, Setting
from swarmtune.space import Space

GROUP = Group(port=8123)
COMPLETION = Reply(200, json.dumps({"choices": [{"index": 0, "text": " there", "finish_reason": "length"}]}))
# exit code, last lines of the log, cause, who must act
ENDS: tuple[tuple[int | None, str, str, Culprit], ...] = (
    (1, "OSError: [Errno 98] Address already in use", "port_taken", Culprit.INFRASTRUCTURE),
    (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory", Culprit.SETTING),
    (-6, "terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory", Culprit.SETTING),
    (-9, "kernel: oom-kill:constraint=CONSTRAINT_MEMCG", "out_of_memory", Culprit.SETTING),
    (137, "serving", "killed", Culprit.INFRASTRUCTURE),
    (-9, "serving", "killed", Culprit.INFRASTRUCTURE),
    (2, "server: error: unrecognized arguments: --no-such-flag", "bad_argument", Culprit.SETTING),
    (1, "OSError: /m is not a local folder and is not a valid model identifier", "missing_model", Culprit.USER),
    (1, "RuntimeError: CUDA error: uncorrectable ECC error encountered", "device_error", Culprit.INFRASTRUCTURE),
    (-11, "Segmentation fault", "crashed", Culprit.SETTING),
    (0, "bye", "crashed", Culprit.SETTING),
    (3, "", "crashed", Culprit.SETTING),
    (None, "loading weights", "hang", Culprit.SETTING),
)


@dataclass
class FakeProbe:
    """A service with these answers. ``requests``: method, path and body of each request so far."""

    health: Reply = field(default_factory=lambda: Reply(200))
    completion: Reply = COMPLETION
    log: str = "Daemon start success!"
    requests: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)

    async def get(self, path: str) -> Reply:
        """The answer of the health endpoint."""
        self.requests.append(("GET", path, {}))
        return self.health

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """The answer of the completion endpoint."""
        self.requests.append(("POST", path, body))
        return self.completion

    async def logs(self) -> str:
        """The lines of ``log``."""
        return self.log


class EngineContract:
    """Tests of the contract in ``engines/base.py``."""

    @abstractmethod
    def make_engine(self, folder: Path) -> Engine:
        """A usable engine; ``folder`` is empty and may be used for files that it needs."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Engine:
        """The engine under test."""
        return self.make_engine(tmp_path)

    @pytest.fixture
    def setting(self, engine: Engine) -> Setting:
        """Its baseline."""
        return Space(engine.fields(), engine.constraints()).default()

    def test_config_is_a_frozen_model_without_unknown_keys(self, engine: Engine) -> None:
        assert isinstance(engine.config, BaseModel)
        assert isinstance(engine.config, engine.Config)
        with pytest.raises(ValidationError):
            type(engine.config).model_validate({"no_such_key_at_all": 1})

    def test_a_usable_engine_has_no_mistakes(self, engine: Engine) -> None:
        assert engine.mistakes() == []
        assert engine.name
        assert engine.model

    def test_fields_are_valid_and_something_is_searched(self, engine: Engine) -> None:
        fields = engine.fields()
        names = {f.name for f in fields}
        assert [m for f in fields for m in f.mistakes(names)] == []
        assert any(f.searched for f in fields)
        assert engine.fields() == fields

    def test_the_baseline_is_legal(self, engine: Engine, setting: Setting) -> None:
        assert Space(engine.fields(), engine.constraints()).broken(setting) == []

    def test_command_is_argv_of_text_without_a_shell(self, engine: Engine, setting: Setting) -> None:
        command = engine.command(setting, GROUP)
        assert command.argv
        assert all(type(word) is str and word for word in command.argv)
        assert all(type(k) is str and type(v) is str for k, v in command.env.items())
        assert not {"sh", "bash", "-c"} & {Path(word).name for word in command.argv[:2]}

    def test_command_is_a_function_of_its_arguments(self, engine: Engine, setting: Setting, tmp_path: Path) -> None:
        again = self.make_engine(tmp_path).command(setting, GROUP)
        assert engine.command(setting, GROUP) == again
        assert engine.command(setting, GROUP).same_process(again)

    def test_command_contains_the_port(self, engine: Engine, setting: Setting) -> None:
        assert "8123" in _everything_said(engine.command(setting, GROUP))
        moved = engine.command(setting, replace(GROUP, port=8124))
        assert "8124" in _everything_said(moved)
        assert not moved.same_process(engine.command(setting, GROUP))

    def test_every_searched_field_reaches_the_service(self, engine: Engine, setting: Setting) -> None:
        """Another value gives another command, or another live request; where a rule hides it, at least one value does."""
        space = Space(engine.fields(), engine.constraints())
        command = engine.command(setting, GROUP)
        live = {name for request in engine.live_requests(setting) for name in request.body}
        for dimension in space.dimensions:
            if load_field(dimension.name):
                continue
            others = [dimension.decode(u) for u in (0.0, 0.5, 0.999)]
            changed = [
                replace(setting, values={**setting.values, dimension.name: other})
                for other in others
                if other != setting.values[dimension.name]
            ]
            assert changed, dimension.name
            same = [engine.command(c, GROUP).same_process(command) for c in changed]
            if dimension.name in live:
                assert all(same), f"{dimension.name} is set while the service runs, and changes its command"
                assert not any(engine.live_requests(c) == engine.live_requests(setting) for c in changed), (
                    dimension.name
                )
            else:
                assert not all(same), dimension.name

    def test_load_is_not_the_services_business(self, engine: Engine, setting: Setting) -> None:
        loaded = Setting({**setting.values, "CONCURRENCY": 8, "REQUESTRATE": 2.5})
        assert engine.command(loaded, GROUP).same_process(engine.command(setting, GROUP))

    def test_ready_after_health_and_one_completion(self, engine: Engine) -> None:
        probe = FakeProbe()
        assert asyncio.run(engine.ready(probe))
        method, path, body = probe.requests[-1]
        assert (method, body["model"], body["max_tokens"]) == ("POST", engine.model, 1)
        assert path.startswith("/")

    @pytest.mark.parametrize(
        "probe",
        [
            FakeProbe(health=Reply(0), log=""),
            FakeProbe(health=Reply(503), log="loading"),
            FakeProbe(completion=Reply(0)),
            FakeProbe(completion=Reply(404, COMPLETION.body)),
            FakeProbe(completion=Reply(200, "<html>")),
            FakeProbe(completion=Reply(200, "[]")),
            FakeProbe(completion=Reply(200, '{"choices": []}')),
            FakeProbe(completion=Reply(200, '{"error": "loading"}')),
        ],
        ids=["silent", "loading", "no answer", "wrong status", "no JSON", "no object", "no choice", "an error"],
    )
    def test_not_ready_before(self, engine: Engine, probe: FakeProbe) -> None:
        assert not asyncio.run(engine.ready(probe))

    @pytest.mark.parametrize(("exit_code", "log", "cause", "culprit"), ENDS)
    def test_diagnosis(self, engine: Engine, exit_code: int | None, log: str, cause: str, culprit: Culprit) -> None:
        earlier = "\n".join(f"line {i}" for i in range(100))
        error = engine.diagnose(exit_code, f"{earlier}\n{log}\n")
        assert isinstance(error, SimulatorStartError)
        assert error.details["cause"] == cause
        assert error.culprit is culprit
        assert error.details["exit_code"] == exit_code
        assert log in error.details["log_tail"]
        assert log in error.message
        assert "line 0\n" not in error.message

    def test_diagnosis_without_a_log(self, engine: Engine) -> None:
        error = engine.diagnose(1, "")
        assert error.details["log_tail"] == ""
        assert "empty" in error.message


def _everything_said(command: Command) -> str:
    return " ".join([*command.argv, *(f.content for f in command.files), *command.env.values()])
