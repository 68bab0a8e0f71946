"""Forty secrets, given in every way that users have, are searched for in all that a study leaves, shows and runs."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import TINY, Workplace

pytestmark = pytest.mark.e2e

INHERITED = {
    "HF_TOKEN": "hf_QmEzTnVxLwAsDfGhJkPoIuYt",
    "OPENAI_API_KEY": "sk-proj-4rT7yU1iO9pA3sD6fG8h",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYplanted01",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED02SECRET0"[:20],
    "DB_PASSWORD": "plAnted-pass-03",
    "PGPASSWORD": "correct horse battery 04",
    "GITHUB_PAT": "ghp_planted05aaaaBBBBccccDDDDeeeeFFFF1",
    "MY_DATABASE": "postgresql://bob:plAntedPw06@db.example:5432/x",
    "CALLBACK": "https://example.org/hook?token=plAnted07tok&x=1",
    "UNNAMED_THING": "sk-ant-planted08QwErTyUiOpAsDf",
    "WITHOUT_A_NAME": "eyJhbGciOiJIUzI1NiJ9.eyJwbGFudGVkIjoiMDkifQ.c2lnbmF0dXJlMDk",
    "OPAQUE_VALUE": "Zk3vQ9xLp7RtY2mWc8BnPlanted10",
    "SLACK": "xoxb-1111-planted11-abcdef",
    "registryCredential": "plAnted-cred-12",
    "SSH_PASS": "plAnted-ssh-13",
    "REDIS_URL": "redis://:plAntedRedis14@cache:6379/0",
    "SIGNING_PASSPHRASE": "plAnted-phrase-15",
    "PRIVATE": "-----BEGIN PRIVATE KEY-----\nMIIEplanted16AAAABBBBCCCC\nDDDDplanted17EEEEFFFF\n-----END PRIVATE KEY-----",
}
CONFIGURED = {
    "MODELSCOPE_API_TOKEN": "plAnted-env-20",
    "WANDB_API_KEY": "plAnted-env-21",
    "LICENSE_SECRET": 'plAnted"quoted\\22',
    "PLAIN_NAME": "glpat-planted23abcdefghijk",
    "HTTPS_PROXY_FOR_HUB": "http://carol:plAnted%4024@proxy:3128",
    "EMPTYISH": "nvapi-planted25abcdefghijklmnop",
    "SOME_PWD": "pl26pw!x",
    "SESSION_COOKIE_SECRET": "plAnted-ünicode-27",
}
ARGUMENTS = [
    "--api-key", "plAnted-argv-30", "--hf-token=plAnted-argv-31", "--auth-token", "plAnted-argv-32",
    "--header", "Authorization: Bearer plAnted-argv-33", "--hub", "https://dave:plAntedArgv34@hub/x?sig=plAnted35",
    "--ssl-keyfile-password", "plAnted-argv-36",
]  # fmt: skip
HEADERS = ["X-Api-Key: plAnted-head-40", "Authorization: Bearer plAnted-head-41", "Cookie: session=plAnted-head-42",
           "X-Tenant: Qz7LmPlanted43XyRt5Wv2Kb9"]  # fmt: skip
BODY = ["token:plAnted-body-60", '{"api_key": "plAnted-body-61", "nested": {"password": "plAnted-body-62"}}']
SECRETS = (
    *("plAnted-body-60", "plAnted-body-61", "plAnted-body-62"),
    *(value for name, value in INHERITED.items() if name not in ("MY_DATABASE", "CALLBACK", "REDIS_URL", "PRIVATE")),
    *("plAntedPw06", "plAnted07tok", "plAntedRedis14", "MIIEplanted16AAAABBBBCCCC", "DDDDplanted17EEEEFFFF"),
    *(value for name, value in CONFIGURED.items() if "proxy" not in value),
    *("plAnted%4024", "plAnted@24", "plAnted-argv-30", "plAnted-argv-31", "plAnted-argv-32", "plAnted-argv-33"),
    *("plAntedArgv34", "plAnted35", "plAnted-argv-36"),
    *("plAntedUrl50", "plAnted51", "plAnted-cli-52", "ZXJpbjpwbEFudGVkVXJsNTA="),
    *("plAnted-head-40", "plAnted-head-41", "plAnted-head-42", "Qz7LmPlanted43XyRt5Wv2Kb9"),
)
TELLING = re.compile(rb"(?i)planted\W{0,3}[a-z%]*\W{0,3}\d\d|pl26pw|correct horse")

# A service that tells all it knows: in its log, when it fails, and in what it answers.
SERVICE = """
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

known = json.dumps(dict(os.environ)) + " " + " ".join(sys.argv) + " " + repr(sys.argv) + " " + repr(dict(os.environ))
print("starting with", known, flush=True)
for name, value in os.environ.items():
    print(f"{name}={value}", flush=True)
if os.environ["SEQS"] == "3":
    raise SystemExit(f"RuntimeError: cannot start with {known[:60000]} and {' '.join(sys.argv[3:])}")

class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    count = 0

    def log_message(self, *_):
        pass

    def send(self, status, text, kind="application/json"):
        data = text.encode()
        self.send_response(status, "as " + str(self.headers.get("X-Api-Key")))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.send(200, "{}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = {name: value for name, value in self.headers.items()}
        print("request with", told, flush=True)
        Answers.count += 1
        if Answers.count % 5 == 4:
            words = " ".join(f"{name}: {value}" for name, value in told.items() if name != "User-Agent")
            keys = " ".join(os.environ[name] for name in ("DB_PASSWORD", "WANDB_API_KEY", "SOME_PWD", "OPAQUE_VALUE"))
            return self.send(401, json.dumps({"error": {"message": f"no login with {keys}, no access for {words[:400]}"}}))
        count = body.get("max_tokens") or 4
        events = [{"choices": [{"index": 0, "text": " word", "finish_reason": None}]} for _ in range(count)]
        events.append({"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": count}})
        if not body.get("stream"):
            return self.send(200, json.dumps({"choices": [{"index": 0, "text": " word", "finish_reason": "length"}]}))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")
            self.wfile.flush()
            time.sleep(0.004 / int(os.environ["SEQS"]))
        self.wfile.write(b"data: [DONE]\\n\\n")

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


def configuration(folder: Path) -> str:
    argv = [sys.executable, str(folder / "service.py"), "$PORT", *ARGUMENTS]
    tables = "\n".join(f"{name} = {_text(value)}" for name, value in CONFIGURED.items())
    study = TINY.replace('engine = "simulated"', 'engine = "command"')
    return f"""{study}
header = [{", ".join(map(_text, HEADERS))}]
extra_inputs = [{", ".join(map(_text, BODY))}]
[command]
argv = [{", ".join(map(_text, argv))}]
model = "m"
[command.env]
{tables}
[[command.target_field]]
name = "SEQS"
config_position = "env"
dtype = "enum"
dtype_param = ["1", "2", "3", "4"]
value = "2"
"""


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Watched:
    """The command lines of all processes of a folder, for the time of a ``with``."""

    def __init__(self, folder: Path) -> None:
        self.lines: set[str] = set()
        self._folder, self._end = str(folder), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            for process in psutil.process_iter():
                try:
                    if time.time() - process.create_time() < 1:
                        continue  # a command line shows what was typed until Python has started
                    words = process.cmdline()
                    if self._folder in process.cwd() and not any("service.py" in word for word in words):
                        self.lines.add(" ".join(words))
                except (psutil.Error, OSError):
                    continue

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def files_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("config.toml", "service.py"):
            yield path, path.read_bytes()


def leaks(where: str, data: bytes) -> list[str]:
    told = data.decode(errors="replace")
    found = [f"{where}: {secret}" for secret in SECRETS if secret in told]
    return found + [f"{where}: {match[0]!r} in {data[max(0, match.start() - 60) : match.end() + 20]!r}"
                    for match in list(TELLING.finditer(data))[:3]]  # fmt: skip


def rows_of(database: Path) -> Iterator[tuple[str, bytes]]:
    with sqlite3.connect(database) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in db.execute(f"SELECT * FROM '{table}'"):
                yield table, repr(row).encode()


def test_forty_secrets_are_nowhere(workplace: Workplace) -> None:
    assert len(SECRETS) >= 40
    folder = workplace.folder
    (folder / "service.py").write_text(SERVICE)
    workplace.config(configuration(folder))
    (folder / "home").mkdir()
    environment = {**INHERITED, "XDG_STATE_HOME": str(folder / "home"), "HOME": str(folder / "home")}
    with Watched(folder) as seen:
        screens = run(workplace, environment, "optimizer", "--json", "--log-level", "DEBUG")
        screens |= run(workplace, environment, "optimizer", "-lb")
        screens |= run(workplace, environment, "check")
        url = "http://127.0.0.1:9/v1?api-version=1&code=plAnted51"
        screens |= run(workplace, environment, "bench", "-m", "m", "--url", url, "--request-count", "2", *flags())
        url = "http://erin:plAntedUrl50@127.0.0.1:9"
        screens |= run(workplace, environment, "bench", "-m", "m", "--url", url, "--proxy", f"{url}1")
    found = [leak for where, text in screens.items() for leak in leaks(where, text)]
    found += [leak for line in seen.lines for leak in leaks("process", line.encode())]
    found += [leak for path, data in files_of(folder) for leak in leaks(path.relative_to(folder).as_posix(), data)]
    for database in folder.rglob("*.db"):
        found += [leak for table, row in rows_of(database) for leak in leaks(f"table {table}", row)]
    assert not found, "\n".join(found[:60])
    logs = [data for path, data in files_of(folder) if path.name == "output.log"]
    assert any(b"starting with" in data for data in logs)  # what is hidden was there
    assert any(b"***" in text for text in screens.values())


def flags() -> list[str]:
    return [word for header in HEADERS[:2] for word in ("-H", header)] + ["--api-key", "plAnted-cli-52"]


def run(workplace: Workplace, more: Mapping[str, str], command: str, *arguments: str) -> dict[str, bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWARMTUNE", "MODEL"))} | dict(more)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "swarmtune", command, *arguments], cwd=workplace.folder, env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=170, check=False,
    )  # fmt: skip
    told = f"{command} {' '.join(arguments)[:20]} ({done.returncode}, {time.monotonic() - began:.0f} s)"
    return {f"{told} stdout": done.stdout, f"{told} stderr": done.stderr}
