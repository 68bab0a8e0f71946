"""The HTTP server of the simulated engine: OpenAI completions and chat, /health, /v1/models, /metrics, /settings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from swarmtune.clock import Clock
from swarmtune.simulator import openai
from swarmtune.simulator.config import SimulatorConfig
from swarmtune.simulator.ranks import RankLostError, Ranks
from swarmtune.simulator.record import Record
from swarmtune.simulator.scheduling.scheduler import Scheduler
from swarmtune.simulator.step_time import StepTimer
from swarmtune.simulator.stepper import Stepper

STOP_GRACE_S = 0.5
SETTINGS_BYTES = 4096


class SimulatedServer:
    """One simulated engine behind HTTP. ``start`` gives the port; ``stop`` ends streams that still run."""

    def __init__(self, config: SimulatorConfig, clock: Clock) -> None:
        self.config = config
        self.ranks = Ranks(config.nodes)
        timer = StepTimer(config.cost, config.noise, config.seed)
        self.stepper = Stepper(Scheduler(config.rules), timer, clock, self.ranks)
        self._ready = config.faults.fail_start != "hang"
        self._received = 0
        self._record: Record | None = None
        self._runner: web.AppRunner | None = None
        self.loop: asyncio.Task[None] | None = None
        """Runs until ``stop``; ends by itself only with a RankLostError."""

    async def start(self, host: str, port: int) -> int:
        """Listen; port 0 takes a free one. OSError if the port is taken."""
        if self.config.record:
            self._record = Record(Path(self.config.record))
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=STOP_GRACE_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
            await self.ranks.listen(host, port + 1)
        except OSError:
            await self.stop()
            raise
        self.loop = asyncio.create_task(self.stepper.run())
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the listener, the streams, the engine's loop and the record."""
        if self.loop:
            self.loop.cancel()
            with contextlib.suppress(asyncio.CancelledError, RankLostError):
                await self.loop
        await self.ranks.close()
        if self._runner:
            await self._runner.cleanup()
        if self._record:
            self._record.close()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_get("/health", self._health)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_post("/settings", self._settings)
        application.router.add_post("/v1/completions", self._completions)
        application.router.add_post("/v1/chat/completions", self._chat)
        return application

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._ready and self.ranks.complete else 503)

    async def _models(self, _: web.Request) -> web.Response:
        card = {"id": self.config.model, "object": "model", "created": 0, "owned_by": "swarmtune"}
        return web.json_response({"object": "list", "data": [card]})

    async def _metrics(self, _: web.Request) -> web.Response:
        scheduler = self.stepper.scheduler
        rows = (
            ("num_requests_running", "gauge", len(scheduler.running)),
            ("num_requests_waiting", "gauge", len(scheduler.waiting)),
            ("kv_cache_usage_perc", "gauge", scheduler.kv_usage),
            ("num_preemptions_total", "counter", scheduler.preemptions),
            ("prompt_tokens_total", "counter", self.stepper.prompt_tokens_total),
            ("generation_tokens_total", "counter", self.stepper.generation_tokens_total),
        )
        label = f'{{model_name="{self.config.model}"}}'
        text = "".join(f"# TYPE vllm:{name} {kind}\nvllm:{name}{label} {value}\n" for name, kind, value in rows)
        return web.Response(text=text, content_type="text/plain")

    async def _settings(self, request: web.Request) -> web.Response:
        """``{"max_num_seqs": 8}`` changes the running engine; the answer holds what is in use now."""
        scheduler = self.stepper.scheduler
        try:
            scheduler.set_max_num_seqs(_wanted(await request.content.read(SETTINGS_BYTES + 1)))
        except ValueError as error:
            return _error(str(error), 400)
        return web.json_response({"max_num_seqs": scheduler.rules.max_num_seqs})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, "completions")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, "chat")

    async def _generate(self, request: web.Request, endpoint: str) -> web.StreamResponse:
        received_ns = time.monotonic_ns()
        if not (self._ready and self.ranks.complete):
            return _error("the engine is still starting", 503)
        self._received += 1
        crash_after = self.config.faults.crash_after_requests
        if crash_after is not None and self._received > crash_after:
            _crash()
        config = self.config
        body = await request.read()
        try:
            generation = openai.parse(body, endpoint, config.model, self._received, config.seed)
            queued = self.stepper.submit(generation.prompt_tokens, generation.output_tokens)
        except openai.BadRequestError as error:
            return _error(str(error), error.status)
        except ValueError as error:
            return _error(str(error), 400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        stamps: list[int] = []
        texts: list[str] = []
        async with contextlib.aclosing(self.stepper.tokens(queued)) as tokens:
            if generation.stream:
                try:
                    await self._stream(request, response, generation, tokens, stamps)
                except ConnectionError:
                    return response
            else:
                async for _, text in tokens:
                    stamps.append(time.monotonic_ns())
                    texts.append(text)
        if self._record:
            request_id = request.headers.get("X-Request-Id", generation.id)
            self._record.write(request_id, received_ns, stamps, generation.prompt_tokens, generation.output_tokens)
        if generation.stream:
            return response
        return web.Response(body=openai.answer(generation, "".join(texts)), content_type="application/json")

    async def _stream(
        self,
        request: web.Request,
        response: web.StreamResponse,
        generation: openai.Generation,
        tokens: AsyncIterator[tuple[int, str]],
        stamps: list[int],
    ) -> None:
        await response.prepare(request)
        if generation.endpoint == "chat":
            await response.write(openai.role_event(generation))
        async for index, text in tokens:
            event = openai.token_event(generation, index, text)
            stamps.append(time.monotonic_ns())
            await response.write(event)
        await response.write(openai.closing_events(generation))


def _wanted(body: bytes) -> int:
    """The value in the body of a request for new settings; ValueError says what is wrong with it."""
    if len(body) > SETTINGS_BYTES:
        raise ValueError(f"more than {SETTINGS_BYTES} bytes are not settings")
    try:
        settings = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    if not isinstance(settings, dict) or settings.keys() != {"max_num_seqs"}:
        raise ValueError("the body must be an object with max_num_seqs and nothing else")
    wanted = settings["max_num_seqs"]
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        raise ValueError("max_num_seqs must be a whole number")  # noqa: TRY004 - of a body, not of an argument
    return wanted


def _error(message: str, status: int) -> web.Response:
    return web.Response(body=openai.error(message, status), status=status, content_type="application/json")


def _crash() -> None:
    """Die as an engine does whose device fails: SIGABRT while serving."""
    sys.stderr.write("RuntimeError: simulated crash: the engine core died unexpectedly (EngineDeadError)\n")
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()
