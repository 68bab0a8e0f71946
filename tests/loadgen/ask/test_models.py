"""/v1/models before a run: is the model listed?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.ask import models
from swarmtune.loadgen.options import LoadgenOptions

Answer = tuple[int, bytes]


class Service(ThreadingHTTPServer):
    """Answers GET by path; others get 404."""

    daemon_threads = True
    answers: dict[str, Answer]
    seen: list[tuple[str, str]]


class Handler(BaseHTTPRequestHandler):
    """One question."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Service)
        server.seen.append((self.path, self.headers.get("Authorization", "")))
        status, body = server.answers.get(self.path, (404, b""))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service(("127.0.0.1", 0), Handler)
    made.answers, made.seen = {}, []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def trouble(service: Service, path: str = "", **options: Any) -> str:
    url = f"http://127.0.0.1:{service.server_address[1]}{path}"
    return models.missing(url, "m", LoadgenOptions(**options), {"Authorization": "Bearer k"}, 5.0)


def listing(*names: Any) -> bytes:
    return json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode()


def test_a_model_that_is_listed(service: Service) -> None:
    service.answers = {"/v1/models": (200, listing("other", "m")), "/base/v1/models?api-version=1": (200, listing("m"))}
    assert trouble(service) == trouble(service, "/v1") == trouble(service, "/base/v1?api-version=1") == ""
    assert service.seen[0] == ("/v1/models", "Bearer k")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, listing()), "/v1/models does not list m"),
        ((200, listing("a", 5, None, "b\x1b[31m")), "does not list m, but a, b"),
        ((200, b"loading"), "does not list m"),
        ((200, b"[]"), "does not list m"),
        ((200, b'{"data":5}'), "does not list m"),
        ((200, b"[" * 100_000), "does not list m"),
        ((503, b""), "HTTP 503 at /v1/models"),
        ((302, b""), "HTTP 302 at /v1/models"),
    ],
)
def test_a_model_that_is_not(service: Service, answer: Answer, words: str) -> None:
    service.answers = {"/v1/models": answer, "/elsewhere": (200, listing("m"))}
    found = trouble(service)
    assert words in found
    assert "\x1b" not in found
    assert len(service.seen) == 1


def test_a_service_without_a_list_has_to_answer_at_its_address(service: Service) -> None:
    assert "say --wait-for-model-mode inference" in trouble(service)
    service.answers = {"/": (200, b"hello")}
    assert trouble(service) == ""


def test_an_answer_without_end_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LIMIT_BYTES", 1000)
    service.answers = {"/v1/models": (200, b"x" * 5000)}
    assert "no whole answer" in trouble(service)


def test_nobody_there(unused_tcp_port: int) -> None:
    found = models.missing(f"http://127.0.0.1:{unused_tcp_port}", "m", LoadgenOptions(), {}, 1.0)
    assert found == "/v1/models cannot be read: Connection refused"


def test_a_proxy_is_asked(service: Service) -> None:
    service.answers = {"http://service.test:80/v1/models": (200, listing("m"))}
    options = LoadgenOptions(proxy=f"http://127.0.0.1:{service.server_address[1]}")
    assert models.missing("http://service.test", "m", options, {}, 5.0) == ""
    with pytest.raises(ConfigValidationError, match="--proxy"):
        models.missing("http://service.test", "m", options.model_copy(update={"proxy": "http://[::"}), {}, 5.0)
