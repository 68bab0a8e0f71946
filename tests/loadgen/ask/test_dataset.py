"""From options to data, the same in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from swarmtune.errors import CommunicationError, ConfigPathError, ConfigValidationError
from swarmtune.loadgen.ask.dataset import digest, make_dataset
from swarmtune.loadgen.ask.public_data import FILES, fetch
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.arrivals import ArrivalProcess
from swarmtune.workload.tokens import count

PROGRAM = """
import json, sys
from swarmtune.loadgen.ask.dataset import digest, make_dataset
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.arrivals import ArrivalProcess
options = LoadgenOptions(**json.loads(sys.argv[1]))
blocks = ArrivalProcess("gamma", 100, 5, 0.5).blocks(1000)
print(digest(make_dataset(options, 5), make_endpoint("m", options), 60, blocks))
"""
TRACE = "".join(
    json.dumps({"timestamp": n * 100, "input_length": 30 + n, "output_length": 4, "hash_ids": [n % 3, n]}) + "\n"
    for n in range(20)
)


def digest_here(seed: int = 5, n: int = 60, **chosen: Any) -> str:
    options = LoadgenOptions(**chosen)
    return digest(make_dataset(options, seed), make_endpoint("m", options), n)


@pytest.mark.parametrize("kind", ["synthetic", "trace"])
def test_another_process_makes_the_same_requests_and_schedule(kind: str, tmp_path: Path) -> None:
    if kind == "synthetic":
        chosen: dict[str, Any] = {
            "endpoint_type": "chat", "isl": 60, "isl_stddev": 20, "osl_stddev": 3, "conversation_turn_mean": 3,
            "conversation_turn_stddev": 1, "conversation_turn_delay_mean": 50, "conversation_turn_delay_stddev": 9,
            "prompt_prefix_pool_size": 3, "prompt_prefix_length": 9, "user_context_prompt_length": 5,
        }  # fmt: skip
    else:
        path = tmp_path / "trace.jsonl"
        path.write_text(TRACE, encoding="utf-8")
        chosen = {"input_file": str(path), "isl_block_size": 16, "dataset_sampling_strategy": "shuffle"}
    found = set()
    for hash_seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(chosen)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(done.stdout.strip())
    options = LoadgenOptions(**chosen)
    blocks = ArrivalProcess("gamma", 100, 5, 0.5).blocks(1000)
    assert found == {digest(make_dataset(options, 5), make_endpoint("m", options), 60, blocks)}


def test_a_digest_sees_every_difference(tmp_path: Path) -> None:
    base = digest_here(isl=9)
    assert digest_here(isl=9) == base
    others = [
        digest_here(isl=9, seed=6), digest_here(isl=9, n=61), digest_here(isl=10), digest_here(isl=9, osl=33),
        digest_here(isl=9, extra_inputs="a:1"), digest_here(isl=9, endpoint_type="chat"),
    ]  # fmt: skip
    assert len({base, *others}) == 7
    talk: dict[str, Any] = {"conversation_turn_mean": 2}
    slow = {**talk, "conversation_turn_delay_mean": 5}
    users = {**talk, "num_users": 3, "user_centric_rate": 1}
    assert len({digest_here(**talk), digest_here(**slow), digest_here(**users)}) == 3
    path = tmp_path / "trace.jsonl"
    path.write_text(TRACE, encoding="utf-8")
    timed = {"input_file": str(path), "fixed_schedule": True}
    assert digest_here(**timed) != digest_here(**timed, replay_speedup=2)
    assert digest_here(n=1000, **timed) == digest_here(n=20, **timed)  # no more than there are
    options = LoadgenOptions()
    made = make_dataset(options, 1), make_endpoint("m", options)
    assert digest(*made, 5, [np.array([1, 2])]) != digest(*made, 5, [np.array([1, 3])])


def test_options_of_synthetic_data() -> None:
    dataset = make_dataset(LoadgenOptions(sequence_distribution="8,4:100", shared_system_prompt_length=5), 1)
    turn = dataset.session(3).turns[0]
    assert (count(turn.texts[0]), turn.output_tokens, count(turn.system), turn.input_tokens) == (8, 4, 5, 13)
    ranking = make_dataset(LoadgenOptions(endpoint_type="rankings", prompt_batch_size=4, isl=6), 1).session(0).turns[0]
    assert (len(ranking.texts), ranking.output_tokens) == (5, None)
    users = make_dataset(LoadgenOptions(conversation_turn_mean=4, num_users=2, user_centric_rate=4), 1)
    assert [users.session(index).start_ns for index in range(2)] == [0, 250_000_000]
    assert users.session(9).turns[1].interval_ns == 500_000_000
    with pytest.raises(ConfigValidationError, match="sequence_distribution"):
        make_dataset(LoadgenOptions(sequence_distribution="8"), 1)


def test_options_of_files(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps({"text": f"word {n}"}) + "\n" for n in range(30)), encoding="utf-8")
    given = {"input_file": str(path)}
    plain = make_dataset(LoadgenOptions(**given), 1)
    assert plain.size == 30
    assert plain.schedule is None
    assert [plain.session(index).turns[0].texts[0] for index in (0, 1, 31)] == ["word 0", "word 1", "word 1"]
    assert plain.session(0).turns[0].output_tokens is None
    assert make_dataset(LoadgenOptions(**given, osl=12), 1).session(0).turns[0].output_tokens == 12
    pool = make_dataset(LoadgenOptions(**given, custom_dataset_type="random_pool"), 1)
    assert len({pool.session(index).turns[0].texts[0] for index in range(30)}) < 30
    path.write_text(TRACE, encoding="utf-8")
    trace = make_dataset(LoadgenOptions(**given, fixed_schedule=True, fixed_schedule_start_offset=500), 1)
    assert trace.schedule == tuple(n * 100_000_000 for n in range(15))
    small = make_dataset(LoadgenOptions(**given, isl_block_size=16), 1)
    first, fourth = (small.session(index).turns[0].texts[0].split() for index in (0, 3))
    assert first[:16] == fourth[:16]
    assert first[16] != fourth[16]
    with pytest.raises(ConfigPathError, match="cannot be read"):
        make_dataset(LoadgenOptions(input_file=str(tmp_path / "none")), 1)


SHAREGPT = [{"conversations": [{"from": "human", "value": "one two"}, {"from": "gpt", "value": "three"}]}]


BODY = json.dumps(SHAREGPT).encode()
PINNED = dataclasses.replace(FILES["sharegpt"], size=len(BODY), sha256=hashlib.sha256(BODY).hexdigest())


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one file; other folders are missing, or hold it cut off, changed, or longer."""

    BODIES: ClassVar = {
        "/short": BODY[:-9],
        "/changed": BODY.replace(b"three", b"eerht"),
        "/long": BODY + b" ",
        "": BODY,
    }

    def do_GET(self) -> None:
        folder = self.path.removesuffix(f"/{PINNED.path}")
        body = self.BODIES.get(folder, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(FILES, "sharegpt", PINNED)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_public_data_is_fetched_once_and_used(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub + "/")
    monkeypatch.setenv("HOME", str(tmp_path))
    turn = make_dataset(LoadgenOptions(public_dataset="sharegpt"), 1).session(0).turns[0]
    assert (turn.texts, turn.output_tokens) == (("one two",), 1)
    kept = fetch("sharegpt", hub="http://127.0.0.1:1")  # nobody is asked again
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]
    kept.write_bytes(b"[]")  # cut off by something else
    with pytest.raises(CommunicationError, match="cannot be fetched"):
        fetch("sharegpt", hub="http://127.0.0.1:1")


def test_public_data_that_cannot_be_had(hub: str, tmp_path: Path) -> None:
    for address, words in (
        (f"{hub}/nothing", "404"),
        (f"{hub}/short", "cut off after"),
        (f"{hub}/changed", f"another file than the pinned one .SHA-256 {PINNED.sha256}"),
        (f"{hub}/long", "another file than the pinned one"),
        ("http://127.0.0.1:1", "cannot be fetched"),
        ("file:///etc", "http or https"),
    ):
        with pytest.raises(CommunicationError, match=words) as caught:
            fetch("sharegpt", hub=address, cache=tmp_path / "cache")
        assert "input_file" in str(caught.value) or address.startswith("file")
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    (tmp_path / "plain").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(ConfigPathError, match="cannot be written"):
        fetch("sharegpt", hub=hub, cache=tmp_path / "plain")
