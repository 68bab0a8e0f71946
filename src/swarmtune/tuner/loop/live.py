"""Parameters of a running service, set by HTTP (C7)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import aiohttp

from swarmtune.clock import Clock, within
from swarmtune.engines.placement import LiveRequest
from swarmtune.errors import SimulatorHealthCheckError, one_line
from swarmtune.fleet.asking import http_session
from swarmtune.records import Value

ANSWER_S = 20.0
MAX_ANSWER_BYTES = 64 * 1024
SHOWN = 300  # characters of an answer


async def apply(requests: Sequence[LiveRequest], url: str, clock: Clock) -> None:
    """Send each request to the service at ``url``, in order, and see that it was taken.

    SimulatorHealthCheckError, which is the setting's fault, if one is not answered within ANSWER_S seconds, is answered
    with another status than 2xx, or with an object that names another value for a parameter. After an error or a
    cancelled call it is not known which values the service has: it must not be measured.
    """
    if not requests:
        return
    async with http_session() as session:
        for request in requests:
            where = f"{request.method} {request.path} with {json.dumps(dict(request.body))[:SHOWN]}"
            try:
                status, answer = await within(clock, ANSWER_S, _send(request, url, session))
            except TimeoutError as error:
                raise _refused(f"The service did not answer {where} within {ANSWER_S:g} s.") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _refused(f"{where} failed: {type(error).__name__}: {str(error)[:SHOWN]}") from error
            if not 200 <= status < 300:
                raise _refused(f"The service answered {where} with status {status}: {_start(answer)}")
            if kept := _kept(request, answer):
                raise _refused(f"The service took {where}, but its answer says {kept}: {_start(answer)}")


async def _send(request: LiveRequest, url: str, session: aiohttp.ClientSession) -> tuple[int, bytes]:
    """The status and the start of the answer, at most MAX_ANSWER_BYTES; a redirection is not followed."""
    body = dict(request.body)
    async with session.request(request.method, url + request.path, json=body, allow_redirects=False) as answer:
        pieces, size = [], 0
        while size < MAX_ANSWER_BYTES and (piece := await answer.content.read(MAX_ANSWER_BYTES - size)):
            pieces.append(piece)
            size += len(piece)
        return answer.status, b"".join(pieces)


def _kept(request: LiveRequest, answer: bytes) -> str:
    """Where the answer is an object with the names that were sent: the first that has another value, as "name = value"."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    others = (name for name, value in request.body.items() if name in found and not _same(found[name], value))
    return next((f"{name} = {json.dumps(found[name])[:SHOWN]}" for name in others), "")


def _same(found: object, sent: Value) -> bool:
    return isinstance(found, bool) == isinstance(sent, bool) and found == sent


def _start(answer: bytes) -> str:
    """The start of an answer for people, on one line."""
    text = answer[: 4 * SHOWN].decode("utf-8", "replace").strip()
    return one_line(text)[:SHOWN] or "(an empty answer)"


def _refused(message: str) -> SimulatorHealthCheckError:
    text = f"{message} Correct the parameter's config_position or range if no setting is taken."
    return SimulatorHealthCheckError(text, details={"cause": "live_parameters"})
