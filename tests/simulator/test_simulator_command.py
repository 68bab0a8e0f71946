"""``python -m swarmtune.simulator`` as a process: its flags, its failures, its end."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from swarmtune.simulator.__main__ import build_parser, read_config

SIMULATOR = (sys.executable, "-m", "swarmtune.simulator")


@asynccontextmanager
async def process(*flags: str, before: Callable[[], None] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *SIMULATOR, "--port", "0", *flags, stdout=pipe, stderr=pipe, preexec_fn=before
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def ended(*flags: str, before: Callable[[], None] | None = None) -> tuple[int | None, str]:
    async with process(*flags, before=before) as child:
        _, stderr = await child.communicate()
        return child.returncode, stderr.decode()


async def url_of(child: asyncio.subprocess.Process) -> str:
    assert child.stdout
    line = (await child.stdout.readline()).decode()
    assert " serves " in line
    return line.split()[-1]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--no-such-flag"], 2, "unrecognized arguments: --no-such-flag"),
        (["--max-num-seqs", "0"], 2, "below 1"),
        (["--fail-start", "bad-argument"], 2, "unrecognized arguments"),
        (["--fail-start", "missing-model", "--model", "nobody/nothing"], 1, "nobody/nothing is not a local folder"),
        (["--fail-start", "oom"], 1, "torch.OutOfMemoryError"),
        (["--kv-cache-tokens", "1000000"], 1, "CUDA out of memory"),
        (["--memory-gib", "12"], 1, "CUDA out of memory"),
        (["--kv-cache-tokens", "8"], 1, "No available memory for the cache blocks"),
        (["--max-num-batched-tokens", "8", "--max-num-seqs", "9"], 1, "greater than or equal to max_num_seqs (9)"),
    ],
)
async def test_failures_at_start(flags: list[str], code: int, words: str) -> None:
    returned, stderr = await ended(*flags)
    assert returned == code
    assert words in stderr


async def test_oom_under_a_memory_limit_really_runs_out() -> None:
    limit = 1 << 30
    code, stderr = await ended(
        "--fail-start", "oom", before=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    )
    assert code not in (0, None)
    assert "MemoryError" in stderr


async def test_serves_until_sigterm() -> None:
    async with process("--startup-delay", "0.1") as child:
        url = await url_of(child)
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as response:
            assert response.status == 200
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0


async def test_sigterm_ends_the_startup_delay() -> None:
    async with process("--startup-delay", "1000") as child:
        await asyncio.sleep(0.5)
        child.send_signal(signal.SIGTERM)
        assert await child.wait() in (0, -signal.SIGTERM)


async def test_a_taken_port_is_told() -> None:
    async with process() as child:
        port = (await url_of(child)).rsplit(":", 1)[1]
        code, stderr = await ended("--port", port)
    assert code == 1
    assert "address already in use" in stderr


async def test_crash_while_serving() -> None:
    async with process("--crash-after-requests", "2") as child:
        url = await url_of(child)
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                async with session.post(f"{url}/v1/completions", json={"prompt": "a"}) as response:
                    assert response.status == 200
            with pytest.raises(aiohttp.ClientError):
                await session.post(f"{url}/v1/completions", json={"prompt": "a"})
        assert await child.wait() == -signal.SIGABRT


def test_flags_reach_the_model() -> None:
    flags = "--max-num-seqs 3 --block-size 8 --no-enable-chunked-prefill --base-s 0.5 --knee-tokens 9 --noise 0.1"
    config = read_config(build_parser().parse_args([*flags.split(), "--crash-after-requests", "4", "--seed", "5"]))
    assert (config.rules.max_num_seqs, config.rules.block_size, config.rules.chunked_prefill) == (3, 8, False)
    assert (config.cost.base_s, config.cost.knee_tokens, config.noise, config.seed) == (0.5, 9, 0.1, 5)
    assert config.faults.crash_after_requests == 4
