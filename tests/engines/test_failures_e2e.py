"""Real processes: each way to fail is provoked, and its diagnosis is right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from test_engine_contract import MINDIE_FILE, make

from swarmtune.clock import RealClock
from swarmtune.engines.base import Engine
from swarmtune.errors import Culprit, SwarmTuneError
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.executors.supervised import SupervisedHandle
from swarmtune.records import Group, Setting
from swarmtune.space import Space
from swarmtune.tuner.loop.probe import HttpProbe

pytestmark = pytest.mark.e2e
LINES = 400
LIMIT_S = 90.0


@pytest.fixture
async def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalExecutor]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    executor = LocalExecutor(tmp_path / "root", RealClock())
    yield executor
    await executor.close()


@pytest.fixture
def group() -> Group:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Group(port=free.getsockname()[1])


@pytest.fixture
def busy() -> Iterator[Group]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield Group(port=holder.getsockname()[1])


def baseline(engine: Engine, **values: Any) -> Setting:
    setting = Space(engine.fields(), engine.constraints()).default()
    return Setting({**setting.values, **values})


async def becomes_ready(engine: Engine, handle: SupervisedHandle, group: Group, limit_s: float = LIMIT_S) -> bool:
    """Poll as the tuner does: until it is ready, has ended, or the time is over."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(LIMIT_S):
        deadline = asyncio.get_running_loop().time() + limit_s
        while await handle.poll() is None and asyncio.get_running_loop().time() < deadline:
            if await engine.ready(HttpProbe(group.url, handle, session)):
                return True
            await asyncio.sleep(0.1)
    return False


async def ended(handle: SupervisedHandle) -> int:
    async with asyncio.timeout(LIMIT_S):
        while (code := await handle.poll()) is None:  # noqa: ASYNC110 - the contract has poll
            await asyncio.sleep(0.05)
    return code


async def failure(engine: Engine, executor: LocalExecutor, group: Group, setting: Setting) -> SwarmTuneError:
    handle = await executor.start(engine.command(setting, group))
    error = engine.diagnose(await ended(handle), await handle.logs(LINES))
    await handle.stop()  # its files are back from here on
    return error


async def test_llamacpp_serves(executor: LocalExecutor, group: Group) -> None:
    engine = make("llamacpp", max_threads=1)
    handle = await executor.start(engine.command(baseline(engine), group))
    assert await becomes_ready(engine, handle, group), await handle.logs(LINES)
    await handle.stop()
    assert await handle.poll() == 0


async def test_llamacpp_out_of_memory(executor: LocalExecutor, group: Group) -> None:
    engine = make("llamacpp", max_threads=1, memory_limit_bytes=1_500_000_000, context_per_slot=8192)
    error = await failure(engine, executor, group, baseline(engine, n_parallel=16))
    assert (error.details["cause"], error.culprit) == ("out_of_memory", Culprit.SETTING)
    assert "insufficient memory" in error.message


async def test_llamacpp_port_taken(executor: LocalExecutor, busy: Group) -> None:
    engine = make("llamacpp", max_threads=1)
    error = await failure(engine, executor, busy, baseline(engine))
    assert (error.details["cause"], error.culprit) == ("port_taken", Culprit.INFRASTRUCTURE)


async def test_llamacpp_bad_arguments(executor: LocalExecutor, group: Group) -> None:
    engine = make("llamacpp", max_threads=1, others="--cache-type-v q4_0 --flash-attn off --threads-of-old 4")
    error = await failure(engine, executor, group, baseline(engine))
    assert (error.details["cause"], error.details["exit_code"]) == ("bad_argument", 2)
    assert "--threads-of-old" in error.message


@pytest.mark.parametrize("content", [None, "no model"])
async def test_llamacpp_missing_model(
    executor: LocalExecutor, group: Group, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "model.gguf"
    if content:
        path.write_text(content)
    engine = make("llamacpp", max_threads=1, model_path=str(path))
    error = await failure(engine, executor, group, baseline(engine))
    assert (error.details["cause"], error.culprit) == ("missing_model", Culprit.USER)


@pytest.mark.parametrize(
    ("others", "cause"),
    [
        ("--fail-start oom", "out_of_memory"),
        ("--fail-start bad-argument", "bad_argument"),
        ("--fail-start missing-model", "missing_model"),
        ("--kv-cache-tokens 60000", "out_of_memory"),
    ],
)
async def test_simulated_failures(executor: LocalExecutor, group: Group, others: str, cause: str) -> None:
    engine = make("simulated", others=others)
    error = await failure(engine, executor, group, baseline(engine))
    assert error.details["cause"] == cause


async def test_simulated_port_taken(executor: LocalExecutor, busy: Group) -> None:
    engine = make("simulated")
    error = await failure(engine, executor, busy, baseline(engine))
    assert error.details["cause"] == "port_taken"


async def test_hang_at_start(executor: LocalExecutor, group: Group) -> None:
    engine = make("simulated", startup_delay_s=600)
    handle = await executor.start(engine.command(baseline(engine), group))
    assert not await becomes_ready(engine, handle, group, limit_s=0.5)
    error = engine.diagnose(await handle.poll(), await handle.logs(LINES))
    assert (error.details["cause"], error.culprit) == ("hang", Culprit.SETTING)


async def test_crash_while_serving(executor: LocalExecutor, group: Group) -> None:
    engine = make("simulated", others="--crash-after-requests 1")
    handle = await executor.start(engine.command(baseline(engine), group))
    assert await becomes_ready(engine, handle, group)  # the one completion of the readiness check
    async with aiohttp.ClientSession() as session:
        assert not await engine.ready(HttpProbe(group.url, handle, session))
    error = engine.diagnose(await ended(handle), await handle.logs(LINES))
    assert (error.details["cause"], error.culprit) == ("crashed", Culprit.SETTING)
    assert "simulated crash" in error.message


async def test_killed_from_outside_is_not_the_settings_fault(executor: LocalExecutor, group: Group) -> None:
    engine = make("simulated")
    handle = await executor.start(engine.command(baseline(engine), group))
    assert await becomes_ready(engine, handle, group)
    assert handle.pid is not None
    os.kill(handle.pid, signal.SIGKILL)
    error = engine.diagnose(await ended(handle), await handle.logs(LINES))
    assert (error.details["cause"], error.culprit) == ("killed", Culprit.INFRASTRUCTURE)


async def test_the_mindie_stand_in_reads_the_tuned_file_and_gets_its_own_back(
    executor: LocalExecutor, group: Group, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINDIE_FILE))
    daemon = Path(__file__).with_name("mindie_daemon.py")
    engine = make("mindie", config_path=str(path), command=[sys.executable, str(daemon), str(path)])
    handle = await executor.start(engine.command(baseline(engine, max_batch_size=333), group))
    assert await becomes_ready(engine, handle, group), await handle.logs(LINES)
    assert json.loads(path.read_text())["BackendConfig"]["ScheduleConfig"]["maxBatchSize"] == 333
    async with aiohttp.ClientSession() as session:
        reply = await HttpProbe(group.url, handle, session).post("/v1/completions", {"model": "llama"})
    assert "maxBatchSize=333" in reply.body
    await handle.stop()
    assert json.loads(path.read_text()) == MINDIE_FILE


async def test_the_mindie_stand_in_refuses_a_setting(executor: LocalExecutor, group: Group, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINDIE_FILE))
    daemon = Path(__file__).with_name("mindie_daemon.py")
    engine = make("mindie", config_path=str(path), command=[sys.executable, str(daemon), str(path)])
    error = await failure(engine, executor, group, baseline(engine, max_prefill_batch_size=500))
    assert error.details["cause"] == "bad_argument"
    assert json.loads(path.read_text()) == MINDIE_FILE


async def test_a_start_script_gets_values_in_arguments_environment_and_file(
    executor: LocalExecutor, group: Group, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINDIE_FILE))
    script = tmp_path / "start.sh"
    daemon = Path(__file__).with_name("mindie_daemon.py")
    script.write_text(f'#!/bin/sh\necho "args $*, depth $DEPTH"\nexec {sys.executable} {daemon} {path}\n')
    script.chmod(0o700)
    batch = "BackendConfig.ScheduleConfig.maxBatchSize"
    engine = make(
        "command",
        argv=[str(script), "$PORT", "$DEPTH"],
        model="llama",
        config_path=str(path),
        target_field=[
            {"name": "depth", "min": 1, "max": 9, "value": 4},
            {"name": "batch", "config_position": batch, "min": 60, "max": 500, "value": 77},
            {"name": "port", "config_position": "ServerConfig.port", "constant": group.port},
        ],
    )
    assert engine.mistakes() == []
    handle = await executor.start(engine.command(baseline(engine), group))
    assert await becomes_ready(engine, handle, group), await handle.logs(LINES)
    assert f"args {group.port} 4, depth 4" in await handle.logs(LINES)
