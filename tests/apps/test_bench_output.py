"""What ``swarmtune bench`` says, and where: JSON alone, lines in a pipe, runs beside each other, reasons of an exit."""

from __future__ import annotations

import csv
import json
import os
import pty
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from swarmtune.loadgen.selftest.ladder import served

SWARMTUNE = str(Path(sys.executable).with_name("swarmtune"))
HOSTILE = "\x1b]0;PWNED\x07\x1b[2J\x1b[31mEVIL\x1b[0m\u202egnp\u202c<b>[bold]x[/bold]\x9b31m\r\x00 sk-secret-key"
STEERING = ("\x1b", "\x07", "\x9b", "\u202e", "\u202c", "\x00")
ANSWER = b'data: {"choices":[{"text":"a","finish_reason":"length"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server that answers after 50 ms, and then every 10 ms."""
    with served(tmp_path / "truth.bin") as address:
        yield address


class Peer(BaseHTTPRequestHandler):
    """Answers as its server's ``script`` says, which gets the number of the request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        assert isinstance(server, Scripted)
        server.asked += 1
        status, reason, body = server.script(server.asked)
        self.send_response(status, reason)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/event-stream" if status == 200 else "text/plain")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Scripted)
        server.listed += 1
        if not server.models:
            self.send_error(404)
            return
        body = json.dumps({"data": [{"id": name} for name in server.models[: server.listed]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Scripted(ThreadingHTTPServer):
    """A server of scripted answers."""

    daemon_threads = True
    asked = listed = 0
    models: tuple[str, ...] = ()  # one more with each question

    def script(self, _: int) -> tuple[int, str, bytes]:
        return 200, "OK", ANSWER

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def peer() -> Iterator[Scripted]:
    server = Scripted(("127.0.0.1", 0), Peer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [SWARMTUNE, "bench", "-m", "m", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def on_a_terminal(*arguments: str, cwd: Path) -> bytes:
    """What the command shows on a terminal, without the sequences of the progress bar's own library."""
    near, far = pty.openpty()
    command = [SWARMTUNE, "bench", "-m", "m", *arguments]
    environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1"}
    process = subprocess.Popen(command, cwd=cwd, stdin=far, stdout=far, stderr=far, env=environment)
    os.close(far)
    seen = b""
    while True:
        try:
            block = os.read(near, 65536)
        except OSError:  # the other side is closed
            break
        if not block:
            break
        seen += block
    os.close(near)
    process.wait(60)
    return seen


def test_json_is_one_object_and_nothing_else(url: str, tmp_path: Path) -> None:
    done = bench("-u", url, "--concurrency", "1,2", "--request-count", "4", "--osl", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["exit_code"], found["error"]) == (0, "")
    assert [one["name"] for one in found["runs"]] == ["concurrency1", "concurrency2"]
    first = found["runs"][0]
    assert first["metrics"]["completed"] == 4
    assert first["statistics"]["ttft_ms"]["percentiles"]["p95"] > 0
    written = json.loads((tmp_path / first["directory"] / "results.json").read_text())
    assert first["metrics"] == written["metrics"]
    assert "time to first token" in done.stderr


def test_a_mistake_is_a_json_object_too(tmp_path: Path, unused_tcp_port: int) -> None:
    wrong = bench("--json", "--concurrency", "0", cwd=tmp_path)
    assert wrong.returncode == json.loads(wrong.stdout)["exit_code"] == 2
    refused = bench("--json", "--image-width-mean", "3", cwd=tmp_path)
    assert refused.returncode == json.loads(refused.stdout)["exit_code"] == 2
    nobody = bench("--json", "-u", f"127.0.0.1:{unused_tcp_port}", "--request-count", "1", cwd=tmp_path)
    found = json.loads(nobody.stdout)
    assert nobody.returncode == found["exit_code"] == 3
    assert "cannot be reached" in found["error"]
    assert found["runs"] == []


def test_a_sweep_ends_with_one_table_and_a_figure(url: str, tmp_path: Path) -> None:
    options = ["--concurrency", "1,4", "--request-count", "8", "--osl", "3", "--num-profile-runs", "2"]
    done = bench("-u", url, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compared = done.stdout[done.stdout.index("\nruns") :]
    for words in ("1  concurrency1-run1", "4  concurrency4-run2", "TTFT p95", "requests/s", "over output tokens/s"):
        assert words in compared
    assert "concurrency4: requests/s: mean of 2 runs " in compared
    assert (tmp_path / "swarmtune-bench" / "throughput_latency.png").read_bytes().startswith(b"\x89PNG")
    assert "runs" not in bench("-u", url, *options, "--no-sweep-table", cwd=tmp_path).stdout


def test_a_pipe_gets_lines_of_progress(url: str, tmp_path: Path) -> None:
    options = ["--concurrency", "2", "--benchmark-duration", "3", "--osl", "4", "--stats-interval", "0.5"]
    done = bench("-u", url, *options, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("measuring: ")]
    assert lines
    assert " done, " in lines[-1]
    assert "ETA " in lines[-1]
    quiet = bench("-u", url, *options, "--quiet", cwd=tmp_path)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    assert "measuring" not in bench("-u", url, *options, "--ui", "none", cwd=tmp_path).stderr


def test_the_log_says_what_happens(url: str, tmp_path: Path) -> None:
    done = bench("-u", url, "--request-count", "2", "--osl", "2", "-v", cwd=tmp_path)
    assert "DEBUG swarmtune " in done.stderr
    assert "DEBUG" not in bench("-u", url, "--request-count", "2", "--osl", "2", cwd=tmp_path).stderr
    wrong = bench("--concurrency", "0", "--log-level", "debug", cwd=tmp_path)
    assert wrong.returncode == 2


def test_defaults_that_aiperf_has_not_are_told(url: str, tmp_path: Path) -> None:
    done = bench("-u", url, "--request-count", "2", cwd=tmp_path)
    said = " ".join(done.stdout.split())
    assert "sent: completions, streamed, prompts of 64 tokens, answers of 32; our defaults, where AIPerf's" in said
    all_given = ["--endpoint-type", "completions", "--streaming", "--isl", "8", "--osl", "2"]
    done = bench("-u", url, "--request-count", "2", *all_given, cwd=tmp_path)
    assert "prompts of 8 tokens, answers of 2" in done.stdout
    assert "our defaults" not in done.stdout


def test_files_are_called_and_chosen_as_in_aiperf(url: str, tmp_path: Path) -> None:
    options = [
        "--concurrency",
        "1",
        "--request-count",
        "6",
        "--osl",
        "2",
        "--profile-export-prefix",
        "mine",
        "--slice-duration",
        "0.1",
    ]
    assert bench("-u", url, *options, cwd=tmp_path).returncode == 0
    folder = tmp_path / "swarmtune-bench"
    aiperf = {"mine.json", "mine.csv", "mine.jsonl", "mine_timeslices.json", "mine_timeslices.csv"}
    assert aiperf <= {path.name for path in folder.iterdir()}
    rows = list(csv.DictReader((folder / "timeslices.csv").read_text().splitlines()))
    assert sum(int(row["completed"]) for row in rows) == 6
    assert len(rows) > 1
    done = bench("-u", url, *options, "--export-level", "summary", "--artifact-dir", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "b").glob("*.jsonl"))
    assert (tmp_path / "b" / "mine.json").is_file()


def test_a_service_is_waited_for(peer: Scripted, tmp_path: Path, unused_tcp_port: int) -> None:
    peer.script = lambda asked: (503, "Busy", b"loading") if asked <= 2 else (200, "OK", ANSWER)  # type: ignore[method-assign]
    waiting = ["--wait-for-model-timeout", "60", "--wait-for-model-interval", "0.05"]
    done = bench("-u", peer.url, "--request-count", "2", *waiting, "--require-valid", "--quiet", cwd=tmp_path)
    found = json.loads((tmp_path / "swarmtune-bench" / "results.json").read_text())
    assert (found["metrics"]["completed"], found["metrics"]["failed"]) == (2, 0), done.stderr
    nobody = [
        "-u",
        f"127.0.0.1:{unused_tcp_port}",
        "--wait-for-model-timeout",
        "0.3",
        "--wait-for-model-interval",
        "0.1",
    ]
    done = bench(*nobody, cwd=tmp_path)
    assert done.returncode == 3
    assert "gave no answer within 0.3 s" in done.stderr


@pytest.mark.parametrize("mode", ["models", "both"])
def test_a_model_is_waited_for_until_it_is_listed(peer: Scripted, tmp_path: Path, mode: str) -> None:
    peer.models = ("other", "another", "m")
    waiting = ["--wait-for-model-timeout", "60", "--wait-for-model-interval", "0.05", "--wait-for-model-mode", mode]
    done = bench("-u", peer.url, "--request-count", "2", *waiting, "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (peer.listed, peer.asked) == (3, 2 if mode == "models" else 3)
    peer.models = ("other",)
    waiting[1] = "0.2"
    done = bench("-u", peer.url, *waiting, cwd=tmp_path)
    assert done.returncode == 3
    assert "/v1/models does not list m, but other" in done.stderr


@pytest.mark.parametrize("where", ["terminal", "pipe"])
@pytest.mark.parametrize("form", ["plain", "json", "event", "reason"])
def test_what_a_service_says_steers_nothing(peer: Scripted, tmp_path: Path, form: str, where: str) -> None:
    body, status, reason = HOSTILE.encode(), 500, "Bad"
    if form == "json":
        body = json.dumps({"error": {"message": HOSTILE}}).encode()
    elif form == "event":
        body, status = b"data: " + json.dumps({"error": {"message": HOSTILE}}).encode() + b"\n\n", 200
    elif form == "reason":
        body, reason = b"EVIL", "\x1b[31mRED\x1b]0;x\x07"
    peer.script = lambda _: (status, reason, body)  # type: ignore[method-assign]
    options = ["-u", peer.url, "--request-count", "4", "--api-key", "sk-secret-key", "--ui", "none"]
    if where == "terminal":
        shown = on_a_terminal(*options, cwd=tmp_path).decode()
    else:
        done = bench(*options, cwd=tmp_path)
        assert done.returncode == 4
        shown = done.stdout + done.stderr
    assert "EVIL" in shown
    read = [path.read_bytes().decode() for path in (tmp_path / "swarmtune-bench").iterdir() if path.is_file()]
    for text in (shown, *read):
        assert not [mark for mark in STEERING if mark in text]
        assert "sk-secret-key" not in text


def test_the_reason_of_an_exit_is_told_even_if_quiet(peer: Scripted, tmp_path: Path) -> None:
    peer.script = lambda _: (500, "Bad", b"out of memory " + b"x" * 5000)  # type: ignore[method-assign]
    done = bench("-u", peer.url, "--request-count", "3", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert "3 requests failed, 100% (--failed-request-threshold), most often: HTTP 500: out of memory" in done.stderr
    assert len(done.stderr) < 1000
    done = bench("-u", peer.url, "--request-count", "3", "--quiet", "--require-valid", cwd=tmp_path)
    assert done.returncode == 5
    assert "the measurement is invalid: " in done.stderr


def test_errors_without_number_are_bounded(peer: Scripted, tmp_path: Path) -> None:
    peer.script = lambda asked: (500, "Bad", (f"{asked:05d}" * 3000).encode())  # type: ignore[method-assign]
    done = bench("-u", peer.url, "--request-count", "40", "--concurrency", "4", cwd=tmp_path)
    assert "and 32 more kinds" in done.stdout
    assert len(done.stdout) < 10_000


def test_requests_that_are_cancelled_as_asked_are_no_failures(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = bench("-u", url, "--request-count", "12", "--request-cancellation-rate", "100", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "0 completed, 12 cancelled" in said
    assert "all 12 requests were cancelled, as request_cancellation_rate asks: no answer is whole" in said
    assert "12 requests were cancelled, as request_cancellation_rate asks: they count neither as completed nor" in said
    assert "failed with" not in said


@pytest.mark.parametrize("kind", ["tls", "plain"])
def test_the_wrong_scheme_is_code_3(peer: Scripted, tmp_path: Path, kind: str) -> None:
    if kind == "tls":
        data = Path(__file__).parents[1] / "loadgen/data"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(data / "localhost.pem", data / "localhost-key.pem")
        peer.socket = context.wrap_socket(peer.socket, server_side=True)
        url, words = peer.url, "use https:// instead of http://"
    else:
        url, words = peer.url.replace("http", "https"), "use http:// instead of https://"
    done = bench("-u", url, "--request-count", "12", "--concurrency", "4", cwd=tmp_path)
    assert done.returncode == 3
    assert words in done.stderr
