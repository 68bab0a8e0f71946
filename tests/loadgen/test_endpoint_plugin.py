"""An endpoint from a package of its own: one class, one entry point, and every process of a run knows it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from loadgen_servers import Peer, RawServer, Script
from pydantic import ValidationError

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.options import LoadgenOptions

Start = Callable[[Script], Awaitable[RawServer]]
CODE = """
import json

from swarmtune import Endpoint, register_endpoints
from swarmtune.loadgen.endpoints.base import Answer


class Echo(Endpoint):
    default_path = "/echo"

    @property
    def streams(self):
        return False

    def body(self, turn, history=()):
        return json.dumps({"say": turn.texts[0], "words": turn.output_tokens}).encode()

    def read(self, pieces, *, keep_text=False):
        said = json.loads(b"".join(data for _, data in pieces))["said"]
        return Answer(chunks=[pieces[-1][0]], completion_tokens=len(said.split()), text=said, finished=True)


def register():
    register_endpoints("echo", Echo, "says it again")
"""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of processes in which the package is installed."""
    folder = tmp_path / "site"
    info = folder / "swarmtune_echo-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "swarmtune_echo.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: swarmtune-echo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[swarmtune.plugins]\necho = swarmtune_echo:register\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


async def echo(peer: Peer) -> None:
    while True:
        asked = json.loads(await peer.request())
        said = " ".join(["again"] * asked["words"]).encode()
        body = b'{"said":"%b"}' % said
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_load_generator_calls_an_endpoint_of_a_plugin(
    raw_server: Start, installed: dict[str, str], tmp_path: Path, workers: int
) -> None:
    server = await raw_server(echo)
    options = {"endpoint_type": "echo", "request_count": 6, "concurrency": 2, "osl": 3, "workers_max": workers}
    spec = {"url": server.url, "model": "m", "options": options}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "swarmtune.loadgen", "spec.json"), cwd=tmp_path, env=installed
    )
    assert await process.wait() == 0
    metrics = json.loads((tmp_path / "measurement.json").read_text())["metrics"]
    assert (metrics["completed"], metrics["total_output_tokens"]) == (6, 18)
    assert all(r.startswith(b"POST /echo ") for peer in server.peers for r in peer.requests)


async def test_the_command_line_offers_it(installed: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "swarmtune", "bench", "--help"), env=installed, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert "chat, completions, echo, embeddings" in " ".join(told.decode().split())


def test_a_name_that_nobody_registered_is_told_with_the_near_one() -> None:
    with pytest.raises(ValidationError, match=r"no endpoint named 'chatt'\. Did you mean 'chat'\? Registered: chat"):
        LoadgenOptions(endpoint_type="chatt")
    with pytest.raises(ValidationError, match="Did you mean 'tgi'"):
        Spec.model_validate({"url": "http://x", "model": "m", "options": {"endpoint_type": "tgii"}})
