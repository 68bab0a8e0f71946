"""Files that are almost right, and what a run does with them: read, sliced, put in order, made into bodies.

As a program: ``fuzz_files.py FOLDER COUNT SEED`` tries so many files of each kind, under a limit of memory.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import sys
from functools import cache
from pathlib import Path
from typing import Any

from swarmtune.errors import ConfigurationError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.endpoints.base import Endpoint
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.session import Dataset
from swarmtune.workload.traces import KINDS

MEMORY = 3 * 2**30  # bytes of addresses
GROWTH_KB = 150_000  # of memory in use, from the first tenth of the files to the last
MADE = 20_000  # tokens of a text that is made here
HELLO = {"role": "user", "content": "hi"}
MESSAGES = [{"from": "system", "value": "be"}, {"from": "human", "value": "a b"}, {"from": "gpt", "value": "c"}]
SHARED = {"conversations": MESSAGES}
LINES: dict[str, list[Any]] = {
    "single_turn": [
        {"text": "a b", "output_length": 7, "timestamp": 3, "session_id": "s", "extra": {"top_k": 1}, "image": "data:,x"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "g"}]}], "delay": 5, "tools": [{}]},
        {"model": "m", "prompt": "raw", "max_tokens": 3}, {"payload": {"input": ["a"]}},
        {"texts": ["a", "b"], "system": "s"},
    ],
    "multi_turn": [
        {"session_id": 1, "timestamp": 5, "turns": [{"text": "a"}, {"text": "b", "delay": 4, "n": 2}], "top_p": 0.5},
        {"session_id": 1, "turns": [{"messages": [HELLO]}, "c"]},
    ],
    "random_pool": [{"type": "random_pool", "text": "a"}, "plain", [HELLO]],
    "sharegpt": [SHARED, {"items": [{"role": "user", "text": "a"}, {"role": "assistant", "content": "b"}]}],
    "mooncake_trace": [
        {"timestamp": 0, "input_length": 900, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 3, "session_id": "a", "text_input": "x", "delay": 4}, {"input_length": 4, "session_id": "a"},
    ],
    "bailian_trace": [
        {"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.1, "input_length": 40, "output_length": 5, "hash_ids": [5]}
    ],
}  # fmt: skip
ROWS = {
    "azure_trace": "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n"
    "2024-05-10 00:00:00.009930+00:00,2162,5\r\n",
    "burst_gpt_trace": 'Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,"Chat\nGPT",472,18,490,x\n'
    "45,GPT-4,1087,0,1087,x\n150.5,GPT-4,0,7,7,x\n",
}
VALUES: list[Any] = [
    None, True, 0, -1, 1, 1.5, 1e300, -0.0, 2**53, 2**63, 2**64, 4_000_000_000, 10**7, "", "a", "inf", " ",
    "\u0000", "\U0001f600",
    [], {}, [[]], [HELLO], {"role": "user"}, "data:,x", "http://x", ["a"], [1], [None], {"a": {"b": []}}, "w " * 50,
]  # fmt: skip
BYTES = [
    b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xe4\xbd", b"\r", b"\n", b"\r\n", b"\n\n", b'"', b"'", b",", b";", b"[", b"]",
    b"{", b"}", b":", b"\\", b"\\ud83d", b"\\ude00", b"\\u0000", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1e-999",
    b"-", b"inf", b"9" * 25, b"0" * 5000, b"[" * 300, b"[" * 2000, b'{"a":' * 1500, b"null", b"true", b"\x1f\x8b",
    b"\xff\xfe", b"\t", b" ", b"9999-12-31", b"0001-01-01", b"-1", b"1_0", "\u0663".encode(), b"x" * 3000,
]  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {}, {}, {}, {}, {"fixed_schedule": True}, {"max_isl": 3, "max_osl": 2},
    {"dataset_sampling_strategy": "shuffle", "osl": 4},
    {"fixed_schedule": True, "fixed_schedule_start_offset": 1, "replay_speedup": 1e-9}, {"conversation_turn_mean": 5},
    {"num_users": 2, "user_centric_rate": 3, "conversation_turn_mean": 2}, {"extra_inputs": ("a:1", "n:2")},
]  # fmt: skip
ENDPOINTS = ["chat", "chat", "chat", "chat", "completions", "embeddings", "responses", "rankings", "tgi"]


def almost(kind: str, chosen: random.Random) -> bytes:
    """A file of this kind with a few things wrong, or none."""
    if kind in ROWS:
        text = ROWS[kind].encode()
    else:
        lines = [copy.deepcopy(chosen.choice(LINES[kind])) for _ in range(chosen.randint(1, 4))]
        for _ in range(chosen.choice((0, 1, 1, 2, 4))):
            _change(chosen.choice(lines), chosen)
        listed = chosen.random() < 0.3
        text = (json.dumps(lines) if listed else "\n".join(map(json.dumps, lines))).encode()
    for _ in range(chosen.choice((0, 0, 0, 0, 1, 1, 2, 5))):
        start = chosen.randint(0, len(text))
        end = min(len(text), start + chosen.choice((0, 0, 1, 1, 5, 40)))
        text = text[:start] + chosen.choice(BYTES) + text[end:]
    return text


def _change(tree: Any, chosen: random.Random) -> None:
    """Put another value somewhere into an object or a list."""
    while isinstance(tree, dict | list) and tree:
        key: Any = chosen.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        if isinstance(tree[key], dict | list) and tree[key] and chosen.random() < 0.7:
            tree = tree[key]
            continue
        if isinstance(tree, dict) and chosen.random() < 0.3:
            tree[chosen.choice(("turns", "text", "payload", "model", "timestamp", "session_id", "stream", "x"))] = (
                tree.pop(key)
            )
        else:
            tree[key] = copy.deepcopy(chosen.choice(VALUES))
        return


@cache
def options_of(path: Path, kind: str, endpoint: str, number: int) -> LoadgenOptions:
    """They are made once, as that takes longer than reading a small file."""
    return LoadgenOptions(input_file=str(path), custom_dataset_type=kind, endpoint_type=endpoint, **OPTIONS[number])  # type: ignore[arg-type]


def use(path: Path, kind: str, chosen: random.Random) -> str:
    """Do with a file what a run does before it sends; the mistake that is told. Nothing but ConfigurationError may come."""
    options = options_of(path, chosen.choice((kind, "auto")), chosen.choice(ENDPOINTS), chosen.randrange(len(OPTIONS)))
    try:
        dataset = make_dataset(options, 1)
    except ConfigurationError as error:
        told = str(error)
    else:
        _send(dataset, make_endpoint("m", options))
        return ""
    assert str(path) in told
    assert len(told) < 50_000
    return told


def _send(dataset: Dataset, endpoint: Endpoint) -> None:
    for index in (0, 1, 2**40):
        if max(part.input_tokens for entry in dataset.contents.entries for part in entry) > MADE:  # type: ignore[attr-defined]
            break
        history: Any = ()
        for turn in dataset.session(index).turns:
            json.loads(endpoint.body(turn, history))
            assert endpoint.most_tokens(turn) >= -1
            history = endpoint.continued(history, turn, "answer")
    assert all(0 <= start < 2**63 for start in dataset.schedule or ())
    json.dumps(dict(dataset.counts))
    assert all(len(note) < 10_000 for note in dataset.notes(5, "m"))


def tried(kind: str, path: Path, count: int, seed: int) -> tuple[int, int]:
    """So many files of a kind; how many were refused, and by how many KB the memory grew after the first tenth."""
    chosen, refused, used_kb = random.Random(f"{seed}:{kind}"), 0, 0
    with path.open("wb", buffering=0) as stream:  # one file: to make it anew 10,000 times is slow on some disks
        for number in range(count):
            text = almost(kind, chosen)
            stream.seek(0)
            stream.write(text)
            stream.truncate()
            try:
                told = use(path, kind, chosen)
            except Exception:
                print(f"{kind} number {number}: {text!r}", file=sys.stderr)
                raise
            assert "does not fit into memory" not in told
            refused += bool(told)
            if number == count // 10:
                used_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used_kb


def main(folder: Path, count: int, seed: int) -> None:
    """Try them all; print what came of them. An exception of another kind, and memory that grows, end it with code 1."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for kind in KINDS:
        refused, grown = tried(kind, folder / "data", count, seed)
        print(f"{kind}: {refused} of {count} refused, {grown} KB more", flush=True)
        assert grown < GROWTH_KB


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
