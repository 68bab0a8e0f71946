"""Parameters of a running service: sent, bounded, and believed only as far as the answer goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from swarmtune.clock import RealClock, VirtualClock
from swarmtune.engines.placement import LiveRequest
from swarmtune.errors import Culprit, SimulatorHealthCheckError
from swarmtune.tuner.loop.live import MAX_ANSWER_BYTES, apply

SEQS = LiveRequest("POST", "/settings", {"seqs": 8, "fast": True})
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def service(answer: Answer) -> AsyncIterator[str]:
    """A service that gives this answer to every request; yields its address."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def refusal(answer: Answer) -> SimulatorHealthCheckError:
    async with service(answer) as url:
        with pytest.raises(SimulatorHealthCheckError) as caught:
            await apply([SEQS], url, RealClock())
    assert caught.value.culprit is Culprit.SETTING
    return caught.value


async def test_each_request_is_sent_in_order() -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.path_qs, await request.json()))
        return web.Response(status=204)

    async with service(answer) as url:
        await apply([SEQS, LiveRequest("PUT", "/b?x=1", {"c": 0.5})], url, RealClock())
        await apply([], "http://nobody.invalid", RealClock())
    assert seen == [("POST", "/settings", {"seqs": 8, "fast": True}), ("PUT", "/b?x=1", {"c": 0.5})]


@pytest.mark.parametrize(
    "text",
    ["", "ok", "[]", "null", "{", "[" * 60_000, '{"status": "ok"}', '{"seqs": 8}', '{"seqs": 8.0, "fast": true}'],
)
async def test_answers_that_do_not_contradict_are_believed(text: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    async with service(answer) as url:
        await apply([SEQS], url, RealClock())


@pytest.mark.parametrize("status", [302, 400, 404, 500])
async def test_a_refusal_names_status_path_and_the_start_of_the_answer(status: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.path == "/settings", "a redirection is not followed"
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, text="not\n\x1b[31m" + "so " * 10_000, headers=headers)

    error = await refusal(answer)
    assert f'POST /settings with {{"seqs": 8, "fast": true}} with status {status}: not \\x1b[31mso so' in error.message
    assert len(error.message) < 1000
    assert error.message.isprintable()


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"seqs": 4}', "seqs = 4"), ('{"fast": 1}', "fast = 1"), ('{"fast": true, "seqs": "8"}', 'seqs = "8"')],
)
async def test_an_answer_with_another_value_is_not_believed(text: str, words: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    assert f"its answer says {words}" in (await refusal(answer)).message


async def test_an_answer_without_end_is_read_only_so_far() -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)
            sent += 65536

    assert "with status 500: xxx" in (await refusal(answer)).message
    assert sent + 65536 >= MAX_ANSWER_BYTES


async def test_an_answer_that_breaks_off() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return response

    assert "POST /settings with" in (await refusal(answer)).message


async def test_a_service_that_is_gone() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async with service(answer) as url:
        pass
    with pytest.raises(SimulatorHealthCheckError, match="ClientConnectorError"):
        await apply([SEQS], url, RealClock())


async def test_a_service_that_never_answers_is_waited_for_so_long() -> None:
    over = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    clock = VirtualClock()
    began = clock.monotonic()
    async with service(answer) as url:
        try:
            with pytest.raises(SimulatorHealthCheckError, match=r"did not answer POST /settings .* within 20 s"):
                await apply([SEQS], url, clock)
        finally:
            over.set()
    assert clock.monotonic() - began == 20.0
