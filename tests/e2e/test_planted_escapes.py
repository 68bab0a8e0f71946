"""What steers a terminal is planted in every text that others supply, and is searched for on the screen and in the files."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Workplace

pytestmark = pytest.mark.e2e

EVIL = "\x1b]0;PWNED\x07\x1b[2J\x1b[31mEVIL\x1b[0m\u202egnp\u202c<script>alert(1)</script>[bold]x[/bold]\x9b31m\u2066z"
# The console's own sequences begin with the same letter, so what is searched for is in none of them.
STEERS = re.compile(r"\x1b\]|\x1b\[2J|\x1b\[31mEVIL|\x07|[\u202a-\u202e\u2066-\u2069\x80-\x9f]|\x1b\[0m\W?gnp")

SERVICE = f"""
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EVIL = {EVIL!r}
print("starting", EVIL, flush=True)
if os.environ["SEQS"] == "3":
    sys.stderr.write(f"Traceback (most recent call last):\\nRuntimeError: {{EVIL}} cannot start\\n")
    raise SystemExit(1)

class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    count = 0

    def log_message(self, *_):
        pass

    def send(self, status, text, kind="application/json"):
        data = text.encode()
        self.send_response(status, "no")
        self.send_header("Content-Type", kind)
        self.send_header("X-Evil", EVIL.encode().decode("latin-1").replace("\\n", ""))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/v1/models":
            return self.send(200, json.dumps({{"data": [{{"id": EVIL}}]}}, ensure_ascii=False))
        if self.path == "/metrics":
            series = [f'vllm:num_requests_running{{{{m="{{EVIL}}"}}}} 1', f'x{{{{l="{{EVIL}}"}}}} 1']
            return self.send(200, "# TYPE x gauge\\n" + "\\n".join(series) + "\\n", "text/plain")
        self.send(200, "{{}}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Answers.count += 1
        if Answers.count % 5 == 4:
            return self.send(400, json.dumps({{"error": {{"message": EVIL, "type": EVIL}}}}, ensure_ascii=False))
        count = body.get("max_tokens") or 4
        events = [{{"choices": [{{"index": 0, "text": EVIL, "finish_reason": None}}], "model": EVIL}} for _ in range(count)]
        events.append({{"choices": [], "usage": {{"prompt_tokens": 16, "completion_tokens": count}}}})
        if not body.get("stream"):
            return self.send(200, json.dumps({{"choices": [{{"index": 0, "text": EVIL, "finish_reason": "length"}}]}}))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\\n\\n")
            self.wfile.flush()
            time.sleep(0.003)
        self.wfile.write(b"data: [DONE]\\n\\n")

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""
COMMAND = """
[command]
argv = ["{python}", "{folder}/service.py", "$PORT"]
model = "m"
[[command.target_field]]
name = "SEQS"
config_position = "env"
dtype = "enum"
dtype_param = ["1", "2", "3"]
value = "2"
"""


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """All that the command shows on a terminal."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWARMTUNE", "MODEL"))}
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "swarmtune", *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=its, stderr=its,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "400"},
    )  # fmt: skip
    os.close(its)
    seen = bytearray()
    try:
        while data := os.read(ours, 1 << 16):
            seen += data
    except OSError:  # the terminal is closed with its last process
        pass
    finally:
        os.close(ours)
    process.wait(timeout=30)
    return seen.decode(errors="replace")


def steering(where: str, text: str) -> list[str]:
    return [f"{where}: {text[max(0, m.start() - 80) : m.end() + 20]!r}" for m in list(STEERS.finditer(text))[:3]]


@pytest.fixture
def service() -> Iterator[str]:
    """The same service without a tuner."""
    names: dict[str, object] = {"__name__": "planted"}
    head = (
        SERVICE.partition("print(")[0]
        + SERVICE[SERVICE.index("class Answers") : SERVICE.index("ThreadingHTTPServer((")]
    )
    exec(head, names)
    handler = names["Answers"]
    assert isinstance(handler, type)
    assert issubclass(handler, BaseHTTPRequestHandler)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def written(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".csv", ".txt", ".log", ".svg", ".md", ".html"):
            yield path.name, path.read_text(errors="replace")


def test_a_study_shows_nothing_raw(workplace: Workplace) -> None:
    folder = workplace.folder
    (folder / "service.py").write_text(SERVICE)
    study = TINY.replace('engine = "simulated"', 'engine = "command"')
    workplace.config(study + COMMAND.format(python=sys.executable, folder=folder))
    seen = on_a_terminal(folder, "optimizer", "--log-level", "DEBUG")

    assert "EVIL" in seen
    found = steering("screen", seen)
    for name, text in written(folder / "swarmtune-studies"):
        found += steering(name, text)
    assert not found, "\n".join(found)
    logs = list((folder / "swarmtune-studies").rglob("service/output.log"))
    assert any("EVIL" in path.read_text() for path in logs)


def test_a_load_test_shows_nothing_raw(tmp_path: Path, service: str) -> None:
    common = ("bench", "--url", service, "--request-count", "12", "--concurrency", "2", "--osl", "4")
    runs = {
        "served": (*common, "-m", "m", "--output-format", "jsonl,measurement,aiperf,vllm,plots"),
        "model": (*common, "-m", EVIL, "--wait-for-model-timeout", "1", "--wait-for-model-mode", "models"),
        "waited": (*common, "-m", "m", "--wait-for-model-timeout", "1", "--wait-for-model-mode", "models"),
        "option": (*common, f"--{EVIL}", EVIL),
        "value": (*common, "-m", "m", "--arrival-pattern", EVIL),
        "command": (EVIL,),
        "file": (*common, "-m", "m", "--input-file", EVIL),
        "config": ("check", "-c", EVIL),
        "hosts": ("check", "--node-string", EVIL, "--executor", "ssh"),
    }
    (tmp_path / "trace.jsonl").write_text(
        json.dumps({"timestamp": EVIL, "input_length": EVIL, EVIL: 1}, ensure_ascii=False)
    )
    runs["trace"] = (*common, "-m", "m", "--input-file", "trace.jsonl")
    (tmp_path / "config.toml").write_text(f"[vllm.command]\nmodel = {json.dumps(EVIL)}\n{json.dumps(EVIL)} = 1\n")
    runs["table"] = ("check", "-e", "vllm", "-c", "config.toml")
    (tmp_path / "hosts").write_text(f"n1 slots={EVIL}\n{EVIL}\n")
    runs["hostfile"] = ("check", "--hostfile", "hosts", "-c", "none.toml")
    found = []
    for name, arguments in runs.items():
        seen = on_a_terminal(tmp_path, *arguments)
        assert seen, name
        assert "Traceback" not in seen, seen
        found += steering(name, seen)
    for name, text in written(tmp_path):
        if name not in ("trace.jsonl", "hosts"):
            found += steering(name, text)
    assert not found, "\n".join(found)
