"""The server over real sockets, in the test's own event loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swarmtune.clock import RealClock
from swarmtune.scheduling import Rules
from swarmtune.simulator.config import Faults, SimulatorConfig
from swarmtune.simulator.server import SimulatedServer
from swarmtune.simulator.step_time import StepCost

FAST = StepCost(base_s=0.0005, per_decode_seq_s=0.0)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.fixture
async def record(tmp_path: Path) -> Path:
    return tmp_path / "record.jsonl"


@pytest.fixture
async def url(record: Path) -> AsyncIterator[str]:
    server = SimulatedServer(SimulatorConfig(cost=FAST, record=str(record)), RealClock())
    yield f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
    await server.stop()


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    lines = (await response.text()).split("\n\n")
    return [line if line == "data: [DONE]" else json.loads(line.removeprefix("data: ")) for line in lines if line]


async def test_streamed_completion(session: aiohttp.ClientSession, url: str, record: Path) -> None:
    body = {"prompt": "one two three", "max_tokens": 4, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    async with session.post(f"{url}/v1/completions", json=body, headers={"X-Request-Id": "mine"}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        *tokens, usage, done = await events(response)
    assert len(tokens) == 4
    assert all(token["choices"][0]["text"] for token in tokens)
    assert [token["choices"][0]["finish_reason"] for token in tokens] == [None, None, None, "length"]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert done == "data: [DONE]"
    row = json.loads(record.read_text())
    assert (row["request_id"], row["prompt_tokens"], row["output_tokens"]) == ("mine", 3, 4)
    assert [row["received_ns"], *row["chunks_ns"]] == sorted([row["received_ns"], *row["chunks_ns"]])
    assert len(row["chunks_ns"]) == 4


async def test_streamed_chat_begins_with_a_role_and_sends_no_usage_unasked(
    session: aiohttp.ClientSession, url: str
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "one two"}]}]
    body = {"messages": messages, "max_completion_tokens": 2, "ignore_eos": True, "stream": True}
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        first, *tokens, done = await events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(tokens) == 2
    assert done == "data: [DONE]"


@pytest.mark.parametrize(("prompt", "expected"), [("a b  c\nd", 4), ([5, 6, 7], 3), (["a b"], 2), ([[1, 2]], 2)])
async def test_whole_answers_and_prompt_lengths(
    session: aiohttp.ClientSession, url: str, prompt: object, expected: int
) -> None:
    body = {"prompt": prompt, "max_tokens": 5, "ignore_eos": True}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        answer = await response.json()
    assert answer["usage"] == {"prompt_tokens": expected, "completion_tokens": 5, "total_tokens": expected + 5}
    assert len(answer["choices"][0]["text"].split()) == 5


async def test_without_ignore_eos_the_answer_may_end_early_and_always_the_same(
    session: aiohttp.ClientSession, url: str
) -> None:
    seen = set()
    for prompt in ("a", "b", "c", "d", "e", "f", "g", "h"):
        counts = set()
        for _ in range(2):
            async with session.post(f"{url}/v1/completions", json={"prompt": prompt, "max_tokens": 20}) as response:
                answer = await response.json()
            counts.add((answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]))
        assert len(counts) == 1
        seen |= counts
    assert {reason for _, reason in seen} == {"stop", "length"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"not json", 400, "not JSON"),
        (b"[]", 400, "not a JSON object"),
        (b'{"max_tokens": 3}', 400, "prompt"),
        (b'{"prompt": "a", "max_tokens": -1}', 400, "max_tokens"),
        (b'{"prompt": "a", "model": "other"}', 404, "does not exist"),
        (b'{"prompt": "a", "max_tokens": 99999}', 400, "maximum context length"),
    ],
)
async def test_bad_requests(session: aiohttp.ClientSession, url: str, body: bytes, status: int, words: str) -> None:
    async with session.post(f"{url}/v1/completions", data=body) as response:
        assert response.status == status
        assert words in (await response.json())["error"]["message"]


async def test_health_models_and_metrics(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(f"{url}/health") as response:
        assert response.status == 200
    async with session.get(f"{url}/v1/models") as response:
        assert (await response.json())["data"][0]["id"] == "simulated"
    async with session.post(f"{url}/v1/completions", json={"prompt": "a b", "max_tokens": 3, "ignore_eos": True}):
        pass
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    assert 'vllm:prompt_tokens_total{model_name="simulated"} 2\n' in text
    assert 'vllm:generation_tokens_total{model_name="simulated"} 3\n' in text
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f"vllm:{name}{{" in text


async def test_a_client_that_goes_away_frees_its_place(session: aiohttp.ClientSession) -> None:
    rules = Rules(max_num_seqs=1)
    server = SimulatedServer(SimulatorConfig(rules=rules, cost=FAST), RealClock())
    url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}/v1/completions"
    try:
        body = {"prompt": "a", "max_tokens": 10_000, "ignore_eos": True, "stream": True}
        response = await session.post(url, json=body)
        await response.content.readany()
        response.close()
        async with session.post(url, json={"prompt": "b", "max_tokens": 1}) as answer:
            assert answer.status == 200
        assert server.stepper.generation_tokens_total < 10_000
        assert server.stepper.scheduler.kv_usage == 0
    finally:
        await server.stop()


async def test_hang_is_never_ready(session: aiohttp.ClientSession) -> None:
    server = SimulatedServer(SimulatorConfig(faults=Faults(fail_start="hang")), RealClock())
    url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
    try:
        async with session.get(f"{url}/health") as response:
            assert response.status == 503
        async with session.post(f"{url}/v1/completions", json={"prompt": "a"}) as response:
            assert response.status == 503
    finally:
        await server.stop()


async def test_new_settings_while_it_runs(session: aiohttp.ClientSession) -> None:
    server = SimulatedServer(SimulatorConfig(cost=FAST), RealClock())
    url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
    try:
        async with session.post(f"{url}/settings", json={"max_num_seqs": 3}) as response:
            assert (response.status, await response.json()) == (200, {"max_num_seqs": 3})
        assert server.stepper.scheduler.rules == Rules(max_num_seqs=3)
    finally:
        await server.stop()


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"{}", b"null", b"[" * 4000, b"\xff", b" " * 5000),
        *(
            b'{"max_num_seqs": %b}' % x
            for x in (b"0", b"-1", b"513", b"1.0", b"true", b'"8"', b"null", b"1e3", b"9" * 50)
        ),
        b'{"max_num_seqs": 8, "block_size": 8}',
        b'{"block_size": 8}',
    ],
)
async def test_settings_that_are_refused(session: aiohttp.ClientSession, body: bytes) -> None:
    server = SimulatedServer(SimulatorConfig(cost=FAST), RealClock())
    url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
    try:
        async with session.post(f"{url}/settings", data=body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["message"]
        assert server.stepper.scheduler.rules == Rules()
    finally:
        await server.stop()
