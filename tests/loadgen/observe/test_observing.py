"""Which addresses are read beside a run, and that nothing of the reader is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from loadgen_servers import Simulated
from pydantic import ValidationError

from swarmtune.devices.parties import ServiceMark
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.observe.observing import discard, observed, observing, server_urls, service_mark
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Observed

OWN = "http://127.0.0.1:8000/own"


@pytest.mark.parametrize(
    ("given", "own", "urls"),
    [
        ((), "", ()),
        ((), OWN, (OWN,)),
        (("off",), OWN, ()),
        (("auto",), OWN, (OWN,)),
        (("auto", "http://h/m"), "", ("http://127.0.0.1:8000/metrics", "http://h/m")),
    ],
)
def test_addresses_of_server_metrics(given: tuple[str, ...], own: str, urls: tuple[str, ...]) -> None:
    options = LoadgenOptions(server_metrics=given)
    spec = Spec(url=("http://127.0.0.1:8000/v1",), model="m", options=options, metrics_url=own)
    assert server_urls(spec) == urls
    asked = spec.model_copy(update={"url": tuple(f"{url}/?key=x" for url in spec.url)})
    assert server_urls(asked) == urls  # without the query, which may hold a key


@pytest.mark.parametrize(
    ("urls", "proxy", "ports"),
    [
        (("http://127.0.0.1:8000/v1", "http://localhost:8001"), "", (8000, 8001)),
        (("http://[::1]",), "", (80,)),
        (("http://127.0.0.1:8000", "http://192.0.2.1:8000"), "", None),
        (("http://127.0.0.1:8000",), "http://proxy:3128", None),
    ],
)
def test_only_a_service_of_this_machine_has_neighbours(
    urls: tuple[str, ...], proxy: str, ports: tuple[int, ...] | None
) -> None:
    spec = Spec(url=urls, model="m", options=LoadgenOptions(proxy=proxy), service_token="mark")
    assert service_mark(spec) == (None if ports is None else ServiceMark(ports, "mark"))


@pytest.mark.parametrize(
    "given",
    [
        {"server_metrics": "h:9400"},
        {"gpu_telemetry": "auto"},
        {"gpu_telemetry": "http://u:p@h/"},
        {"server_metrics": "http://"},
    ],
)
def test_addresses_that_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="gpu_telemetry"):
        LoadgenOptions.model_validate(given)


async def test_the_simulated_engine_and_a_source_that_fails(
    simulated: Callable[..., Awaitable[Simulated]], tmp_path: Path
) -> None:
    server = await simulated()
    good, missing = f"{server.url}/metrics", f"{server.url}/nothing"
    options = LoadgenOptions(server_metrics=(good, missing), gpu_telemetry=(missing,))
    spec = Spec(url=(server.url,), model="m", options=options)
    with observing(spec, tmp_path):
        pass
    made = observed(spec, tmp_path)
    assert {key[0] for key in made.servers.series} == {good}
    assert "host" in {key[0] for key in made.devices.series}
    assert made.notes == [f"{missing}: not read: HTTP 404 Not Found"]
    discard(tmp_path)
    assert observed(spec, tmp_path) == Observed()


def readers() -> set[int]:
    """The children of this process: readers, and servers of other tests."""
    return {process.pid for process in psutil.Process().children()}


def test_a_run_that_fails_leaves_no_reader(tmp_path: Path) -> None:
    others = readers()

    def run() -> None:
        with observing(Spec(url=("http://127.0.0.1:1",), model="m"), tmp_path):
            assert readers() > others
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run()
    assert readers() == others
    assert list(tmp_path.iterdir()) == []
