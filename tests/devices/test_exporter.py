"""A Prometheus address as a source: real servers, also those that misbehave."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from swarmtune.devices import exporter
from swarmtune.devices.exporter import ExporterSource
from swarmtune.devices.readings import ReadError

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says(body: bytes, status: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_samples_and_lines_that_are_none() -> None:
    with serving(says(b'power{gpu="0"} 7\nnonsense\n\xff\xfe 3\n')) as url:
        source = ExporterSource(url)
        (reading,) = source.read()
        assert (reading.name, reading.value, reading.labels, source.bad_lines) == ("power", 7.0, (("gpu", "0"),), 2)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (says(b"no", 404), "HTTP 404"),
        (says(b"<html></html>"), "not Prometheus text"),
        (lambda handler: handler.wfile.write(b"garbage\r\n\r\n"), "garbage"),
        (lambda handler: None, "closed"),
        (says(b"a 1\n" * 100_000), "longer than"),
    ],
)
def test_what_a_server_may_do(answer: Answer, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "LIMIT_BYTES", 100_000)
    with serving(answer) as url, pytest.raises(ReadError, match=word):
        ExporterSource(url).read()


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "TIMEOUT_S", 0.2)
    gone = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not gone.wait(0.01):
            handler.wfile.write(b"a 1\n")

    with serving(drip) as url:
        with pytest.raises(ReadError, match=r"no whole answer|timed out"):
            ExporterSource(url).read()
        gone.set()


@pytest.mark.parametrize("url", ["file:///etc/hostname", "http://", "ftp://h/x", "nothing"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ReadError, match="not an http"):
        ExporterSource(url)


def test_nobody_there() -> None:
    with pytest.raises(ReadError, match="refused"):
        ExporterSource("http://127.0.0.1:1/metrics").read()


def test_a_redirect_is_followed_to_the_same_server_alone() -> None:
    """As of /metrics to /metrics/; another server, or a file, is not what was asked for."""

    def moves(to: str) -> Answer:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            if handler.path == "/metrics/":
                return says(b"a 1\n")(handler)
            handler.send_response(307)
            handler.send_header("Location", to)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return None

        return answer

    with serving(moves("/metrics/")) as url:
        assert [reading.value for reading in ExporterSource(url).read()] == [1.0]
    with serving(says(b"a 1\n")) as elsewhere:
        for target in (elsewhere, "file:///etc/passwd", "ftp://127.0.0.1/metrics"):
            with serving(moves(target)) as url, pytest.raises(ReadError, match="HTTP 307"):
                ExporterSource(url).read()
