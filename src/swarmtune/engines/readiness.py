"""Readiness of a service: its health endpoint answers, and so does one real completion."""

from __future__ import annotations

import json

from swarmtune.engines.base import Probe

OK = 200


async def healthy(probe: Probe, path: str = "/health") -> bool:
    """GET answers 200."""
    return (await probe.get(path)).status == OK


async def completes(probe: Probe, model: str, path: str = "/v1/completions") -> bool:
    """One completion of one token answers 200 with a choice. Paths that end in /chat/completions get a chat."""
    body: dict[str, object] = {"model": model, "max_tokens": 1, "temperature": 0}
    if path.endswith("/chat/completions"):
        body["messages"] = [{"role": "user", "content": "Hello"}]
    else:
        body["prompt"] = "Hello"
    reply = await probe.post(path, body)
    if reply.status != OK:
        return False
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and isinstance(answer.get("choices"), list) and bool(answer["choices"])


async def serves(probe: Probe, model: str, health: str = "/health", completion: str = "/v1/completions") -> bool:
    """Healthy, and completes."""
    return await healthy(probe, health) and await completes(probe, model, completion)
