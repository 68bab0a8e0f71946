"""``swarmtune bench`` as a user meets it: real processes, a server of known timing, the simulated engine."""

from __future__ import annotations

import csv
import json
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swarmtune.apps.cli.bench import slos
from swarmtune.loadgen.exports.parquet import read as read_parquet
from swarmtune.loadgen.selftest.ladder import served

SWARMTUNE = str(Path(sys.executable).with_name("swarmtune"))


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server that answers after 50 ms, and then every 10 ms."""
    with served(tmp_path / "truth.bin") as address:
        yield address


def bench(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [SWARMTUNE, "bench", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


def results(folder: Path, name: str = "swarmtune-bench") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name / "results.json").read_text())
    return found


def test_a_run_leaves_a_table_and_files_that_other_tools_read(url: str, tmp_path: Path) -> None:
    goodput = "time_to_first_token:1000 inter_token_latency:0.001"
    options = ["--concurrency", "4", "--request-count", "20", "--osl", "8", "--goodput", goodput]
    done = bench("-m", "self-test", "--url", url, *options, "--export", "jsonl,vllm,aiperf,parquet,plots", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("20 completed", "time to first token, ms", "asked and achieved", "measurement: "):
        assert words in done.stdout
    folder = tmp_path / "swarmtune-bench"
    found = results(tmp_path)
    assert found["metrics"]["completed"] == 20
    assert found["metrics"]["request_goodput"] == 0.0
    assert found["command"].startswith("swarmtune bench -m self-test")
    assert json.loads((folder / "vllm_bench.json").read_text())["completed"] == 20
    assert json.loads((folder / "profile_export_aiperf.json").read_text())["request_count"]["avg"] == 20
    rows = list(csv.reader((folder / "profile_export_aiperf.csv").read_text().splitlines()))
    assert rows[0][:2] == ["Metric", "avg"]
    assert len(read_parquet(folder).requests) == len((folder / "requests.jsonl").read_text().splitlines()) == 20
    assert len(list(folder.glob("*.svg"))) == 4
    assert not list(folder.glob("*spool*"))
    assert not list(folder.glob("worker*"))


def test_a_comma_list_is_a_sweep(url: str, tmp_path: Path) -> None:
    done = bench(
        "-m", "m", "-u", url, "--concurrency", "1,3", "--request-count", "6", "--osl", "2", "--quiet", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = [results(tmp_path, f"swarmtune-bench/concurrency{users}") for users in (1, 3)]
    assert [one["metrics"]["peak_concurrency"] for one in found] == [1, 3]
    assert found[0]["seed"] != found[1]["seed"]
    assert found[0]["inputs_sha256"] != found[1]["inputs_sha256"]


def test_a_second_run_sends_other_prompts_and_leaves_the_files_of_the_first(url: str, tmp_path: Path) -> None:
    options = ["-m", "m", "-u", url, "--request-count", "4", "--osl", "2"]
    first = bench(*options, "--export", "jsonl,aiperf", cwd=tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    bench(*options, "--export", "vllm", cwd=tmp_path)
    assert {path: path.read_bytes() for path in kept} == kept
    assert sorted(path.name for path in (tmp_path / "swarmtune-bench-2").iterdir()) == [
        "devices.jsonl", "measurement.json", "results.json", "vllm_bench.json",
    ][not (tmp_path / "swarmtune-bench-2/devices.jsonl").exists() :]  # fmt: skip
    one, two = results(tmp_path), results(tmp_path, "swarmtune-bench-2")
    assert one["inputs_sha256"] != two["inputs_sha256"]
    assert f"--random-seed {one['seed']} sends the same requests again" in first.stdout
    again = bench(*options, "--random-seed", str(one["seed"]), "--export", "vllm", "--overwrite", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert results(tmp_path)["inputs_sha256"] == one["inputs_sha256"]
    assert not (tmp_path / "swarmtune-bench/profile_export.jsonl").exists()
    swept = bench(*options, "--concurrency", "1,2", "--random-seed", "3", "--artifact-dir", ".", cwd=tmp_path)
    assert "all runs send the same prompts, which a prefix cache may answer" in swept.stderr
    assert (tmp_path / "concurrency2/results.json").exists()


@pytest.mark.parametrize("run_type", ["single", "process"])
def test_the_same_seed_gives_the_same_inputs(url: str, tmp_path: Path, run_type: str) -> None:
    seen = []
    for seed, name in (("5", "a"), ("5", "b"), ("6", "c")):
        options = ["--request-rate", "200", "--request-count", "30", "--osl", "2", "--random-seed", seed]
        place = ["--artifact-dir", name, "--run-type", run_type]
        assert bench("-m", "m", "-u", url, *options, *place, "--quiet", cwd=tmp_path).returncode == 0
        rows = [json.loads(line) for line in (tmp_path / name / "requests.jsonl").read_text().splitlines()]
        times = [row["scheduled_ns"] - rows[0]["scheduled_ns"] for row in rows]
        seen.append((results(tmp_path, name)["inputs_sha256"], times))
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[2][0]
    assert seen[0][1] != seen[2][1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["-m MODEL is missing"]),
        (["-m", "m", "--url", "ftp://x"], ["http://host:port"]),
        (["-m", "m", "--url", "http://user:pw@host"], ["the url of host has a name and a password"]),
        (["-m", "m", "--concurrency", "0"], ["--concurrency", "greater than or equal to 1"]),
        (["-m", "m", "--isl", "x", "--osl", "-3"], ["--isl", "--osl"]),
        (["-m", "m", "--goodput", "ttf:3 e2el:soon"], ["'ttf' is not among", "NAME:MILLISECONDS"]),
        (["-m", "m", "--fixed-schedule"], ["fixed_schedule needs an input_file"]),
        (["-m", "m", "--input-file", "/no/such/file"], ["/no/such/file"]),
        (["-m", "m", "--request-rate", "1", "--user-centric-rate", "2"], ["only one of"]),
        (["-m", "m", "--export", "excel"], ["excel is not among"]),
        (["-m", "m", "-H", "no colon"], ["Name: value"]),
        (["-m", "m", "--run-type", "single", "--workers-max", "2"], ["single"]),
        (["-m", "m", "--url", ""], ["--url: '' has an empty item", "http://127.0.0.1:8000"]),
        (["-m", "m", "--url", "http://host:99999"], ["--url", "'http://host:99999'", "a number from 1 to 65535"]),
        (["-m", "m", "--concurrency", "1,,2"], ["--concurrency: '1,,2' has an empty item", "1,4,16"]),
    ],
)
def test_mistakes_are_told_in_one_go_and_nothing_is_left(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nobody_there_is_code_3(tmp_path: Path, unused_tcp_port: int) -> None:
    done = bench("-m", "m", "--url", f"127.0.0.1:{unused_tcp_port}", "--request-count", "1", cwd=tmp_path)
    assert done.returncode == 3
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_artifact_folder_that_cannot_be_written_is_told(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = bench("-m", "m", "-u", url, "--request-count", "1", "--artifact-dir", "file/x", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "file/x" in done.stderr


class Refusing(BaseHTTPRequestHandler):
    """Answers every second request, and keeps what it was sent."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]] = []  # noqa: RUF012 - of the test that uses it

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(dict(self.headers))
        fine = len(self.seen) % 2
        body = (
            b'data: {"choices":[{"text":"x","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
            if fine
            else b'{"error":"busy"}'
        )
        self.send_response(200 if fine else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Refusing.seen.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_too_many_failures_are_code_4_and_named(refusing: ThreadingHTTPServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{refusing.server_port}"
    done = bench("-m", "m", "-u", url, "--request-count", "8", "--concurrency", "1", cwd=tmp_path)
    assert done.returncode == 4
    assert "HTTP 503: busy" in done.stdout
    fine = bench("-m", "m", "-u", url, "--request-count", "8", "--failed-request-threshold", "0.9", cwd=tmp_path)
    assert fine.returncode == 0


def test_a_measurement_that_is_not_valid_is_code_5_if_asked(url: str, tmp_path: Path) -> None:
    options = ["--request-count", "8", "--osl", "2", "--max-idle-share", "1e-12", "--quiet"]
    assert bench("-m", "m", "-u", url, *options, "--require-valid", cwd=tmp_path).returncode == 5
    assert bench("-m", "m", "-u", url, *options, cwd=tmp_path).returncode == 0
    assert results(tmp_path)["verdict"] == "invalid"


def test_secrets_are_sent_and_never_written(refusing: ThreadingHTTPServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{refusing.server_port}/?api-version=1&api-key=hidden-secret"
    env = {"PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "sk-very-secret"}
    options = ["--request-count", "4", "-H", "X-Pass: also-secret", "--failed-request-threshold", "1"]
    done = bench("-m", "m", "-u", url, *options, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert Refusing.seen[0]["Authorization"] == "Bearer sk-very-secret"
    assert Refusing.seen[0]["X-Pass"] == "also-secret"
    written = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert "very-secret" not in written + done.stdout + done.stderr
    assert "also-secret" not in written + done.stdout + done.stderr
    assert "hidden-secret" not in written + done.stdout + done.stderr
    assert results(tmp_path)["url"].endswith("/?api-version=1&api-key=***")
    nobody = bench("-m", "m", "-u", "127.0.0.1:9?sig=hidden-secret", "--request-count", "1", cwd=tmp_path)
    assert (nobody.returncode, "hidden-secret" in nobody.stdout + nobody.stderr) == (3, False)


@pytest.mark.parametrize("run_type", ["single", "process"])
def test_ctrl_c_gives_partial_results(url: str, tmp_path: Path, run_type: str) -> None:
    options = ["--concurrency", "4", "--benchmark-duration", "600", "--osl", "8", "--run-type", run_type, "--quiet"]
    process = subprocess.Popen([SWARMTUNE, "bench", "-m", "m", "-u", url, *options], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        spools = list(tmp_path.rglob("spool.bin"))
        if spools and spools[0].stat().st_size > 0:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    found = results(tmp_path)
    assert found["verdict"] == "invalid"
    assert "interrupted" in found["reasons"][0]
    assert found["metrics"]["completed"] > 0
    assert not list(tmp_path.rglob("spool.bin"))


def test_server_metrics_are_read_beside_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "swarmtune.simulator", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        url = server.stdout.readline().split()[-1]
        options = ["--concurrency", "2", "--benchmark-duration", "3", "--osl", "8", "--server-metrics", "auto"]
        done = bench("-m", "simulated", "-u", url, *options, "--quiet", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    finally:
        server.kill()
        server.communicate()
    rows = [json.loads(line) for line in (tmp_path / "swarmtune-bench/telemetry.jsonl").read_text().splitlines()]
    run = json.loads((tmp_path / "swarmtune-bench/run.json").read_text())
    assert any(run["started_ns"] <= row["ns"] <= run["ended_ns"] for row in rows)
    summary = json.loads((tmp_path / "swarmtune-bench/telemetry.json").read_text())
    (tokens,) = [row for row in summary if row["name"] == "vllm:generation_tokens_total"]
    assert tokens["delta"] > 0


def test_devices_are_indices(tmp_path: Path) -> None:
    done = bench("-m", "m", "--devices", "0,x", cwd=tmp_path)
    assert (done.returncode, "--devices: x: not an index" in done.stderr) == (2, True)


def test_a_trace_is_replayed_at_its_times(url: str, tmp_path: Path) -> None:
    trace = [{"timestamp": 100 * i, "input_length": 20, "output_length": 2, "hash_ids": [1]} for i in range(8)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trace))
    options = ["--fixed-schedule", "--input-file", "trace.jsonl", "--replay-speedup", "2"]
    done = bench("-m", "m", "-u", url, *options, "--fixed-schedule-start-offset", "200", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "swarmtune-bench/requests.jsonl").read_text().splitlines()]
    assert [round((row["scheduled_ns"] - rows[0]["scheduled_ns"]) / 1e6) for row in rows] == [0, 50, 100, 150, 200, 250]


def test_what_a_file_gives_and_what_is_left_out_is_told(url: str, tmp_path: Path) -> None:
    rows = "5,ChatGPT,10,4,14,x\n6,ChatGPT,12,0,12,x\n7,GPT-4,3,5,8,x\n8,GPT-4,0,5,5,x\n"
    (tmp_path / "burst.csv").write_text(f"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n{rows}")
    options = ["--input-file", "burst.csv", "--request-count", "6", "--concurrency", "2"]
    done = bench("-m", "m", "-u", url, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "1 of 4 rows left out (no response), 1 row of 0 tokens sent as 1" in told
    assert "3 of 4 rows used, each 2 times" in told
    found = results(tmp_path)
    assert found["inputs"]["left_out"] == {"no response": 1}
    assert (found["inputs"]["total"], found["inputs"]["entries"], found["inputs"]["sessions"]) == (4, 3, 6)
    assert any("3 of 4 rows used, each 2 times" in note for note in found["notes"])


def certificate(folder: Path) -> tuple[Path, Path]:
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return key, cert


def test_https_with_a_certificate_of_ones_own(refusing: ThreadingHTTPServer, tmp_path: Path) -> None:
    key, cert = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    refusing.socket = context.wrap_socket(refusing.socket, server_side=True)
    url = f"https://localhost:{refusing.server_port}"
    options = ["--request-count", "6", "--failed-request-threshold", "1", "--quiet"]
    done = bench("-m", "m", "-u", url, *options, "--ca-file", str(cert), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path)["metrics"]["completed"] == 3
    unknown = bench("-m", "m", "-u", url, *options, "--artifact-dir", "unknown", cwd=tmp_path)
    assert unknown.returncode == 3
    assert "self-signed certificate" in unknown.stderr
    trusting = bench("-m", "m", "-u", url, *options, "--no-tls-verify", "--artifact-dir", "trusting", cwd=tmp_path)
    assert trusting.returncode == 0


def test_the_limits_have_aiperfs_names_or_ours() -> None:
    assert slos("time_to_first_token:200 inter_token_latency:20") == ({"ttft_ms": 200.0, "tpot_ms": 20.0}, [])
    assert slos("e2el_ms:5") == ({"e2el_ms": 5.0}, [])
