"""Malformed inputs for every reader of what comes from outside, in process. Started by adversary.py.

    python benchmarks/adversary_inputs.py FOLDER COUNT SEED [READER ...]

Each reader gets a right input with a few things wrong, as a careless program, a broken disk or an attacker would
write it. It may accept the input, or refuse it with an error of the contract (docs/errors.md); anything else is a
fault, and so are five seconds, more memory than MEMORY, and an error that does not show in one screen. Prints one
JSON object a reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from swarmtune import registry
from swarmtune.errors import SwarmTuneError

MEMORY = 4 * 2**30  # bytes of addresses
SECONDS = 5.0  # for one input
MOST_SHOWN = 20_000  # letters of an error
STEERS = ("\x1b", "\x07", "\x9b", "\u202e")
VALUES: list[Any] = [
    None, True, 0, -1, 1, 3, 1.5, 1e308, -0.0, 2**53, 2**63, 2**64, 10**30, "", " ", "a", "0", "-1", "nan", "inf",
    "\u0000", "\x1b[2J",
    "\u202e", "../../etc/passwd", "/dev/zero", "$HOME", "%s%n", "{0}", "a" * 5000, "9" * 5000, [], {}, [[]], [None],
    {"": ""},
    ["a", 1], {"a": {"b": []}}, "\U0001f600", "é", "1e999", "0x10", "1_0", float("nan"), float("inf"),
]  # fmt: skip
PIECES = [
    "", "\x00", "\x1b]0;x\x07", "\u202e", "\ud800", "\ufeff", "\r", "\n", "\n\n", '"', "'", "\\", "[", "]", "{", "}",
    "(", ")", ":", ";",
    ",", "=", "#", "@", "%", "$", "*", "-", "--", "//", "..", "~", "[" * 3000, "(" * 3000, "a" * 20_000, "9" * 6000,
    "0-999999999",
    "[0-9999999]", "[[", "]]", "1e999", "nan", "\t", "x=1", "None", "true", "\u0663", " " * 3000, "1,", "*" * 500,
    "**" * 40, "-" * 4000,
]  # fmt: skip


@dataclass
class Counts:
    """What came of the inputs of one reader."""

    reader: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    raw: int = 0  # errors that would steer a terminal, or fill it
    examples: list[str] = field(default_factory=list)


class Hang(BaseException):
    """The reader took too long."""


def worse(text: str, chosen: random.Random) -> str:
    """The text with one to four things wrong."""
    for _ in range(chosen.randint(1, 4)):
        at, end = sorted(chosen.randint(0, len(text)) for _ in range(2))
        end = min(end, at + chosen.choice([0, 0, 1, 3, 30]))
        piece = chosen.choice(
            [chosen.choice(PIECES), text[at : at + 40] * chosen.choice([1, 2, 50]), str(chosen.choice(VALUES))]
        )
        text = text[:at] + piece + text[end:]
    return text[:200_000]


def worse_data(data: Any, chosen: random.Random) -> Any:
    """Plain data with one to four values or keys changed, left out or doubled."""
    data = copy.deepcopy(data)
    for _ in range(chosen.randint(1, 4)):
        places: list[tuple[Any, Any]] = []
        waiting = [data]
        while waiting:
            here = waiting.pop()
            for key, value in here.items() if isinstance(here, dict) else enumerate(here):
                places.append((here, key))
                if isinstance(value, (dict, list)):
                    waiting.append(value)
        if not places:
            return data
        here, key = chosen.choice(places)
        what = chosen.random()
        if what < 0.15:
            here.pop(key)
        elif what < 0.3 and isinstance(here, dict):
            here[chosen.choice([str(chosen.choice(VALUES)), f"{key}x", str(key).upper()])] = here.pop(key)
        elif what < 0.4:
            here[key] = [here[key]] * chosen.choice([2, 300])
        else:
            here[key] = copy.deepcopy(chosen.choice(VALUES))
    return data


def as_json(data: Any, chosen: random.Random) -> str:
    """JSON of worse data, sometimes worse itself."""
    text = json.dumps(worse_data(data, chosen), ensure_ascii=chosen.random() < 0.5)
    return worse(text, chosen) if chosen.random() < 0.4 else text


def as_bytes(text: str, chosen: random.Random) -> bytes:
    """UTF-8, sometimes not."""
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(chosen.choice([0, 0, 0, 2])):
        if data:
            data[chosen.randrange(len(data))] = chosen.randrange(256)
    return bytes(data)


# --- readers: each gets the folder, which is its own, and a source of chances ---------------------------------------


CONFIGURATION = """
[optimizer]
engine = "simulated"
evaluations = 8
algorithm = "swarm"
seed = 3
[objective]
name = "goodput"
slo = { p95_ttft_ms = 800, p95_tpot_ms = 60 }
[load_search]
start = 4
points = 3
[loadgen]
isl = 64
osl = 16
request_count = 20
header = ["X-A: b"]
[parallel]
enabled = true
executor = "ssh"
node_string = "n0,n1:n2,n3"
npus_per_node = 8
nodes_per_group = 2
[pso_options]
c1 = 1.5
[[simulated.target_field]]
name = "MAX"
config_position = "env"
dtype = "int"
min = 1
max = 64
value = 8
[command]
argv = ["./start.sh", "$PORT"]
[vllm.command]
model = "m"
others = "--max-num-seqs 8"
"""


def configuration(folder: Path, chosen: random.Random) -> None:
    """A whole configuration, up to its plan."""
    from swarmtune.settings import read_settings
    from swarmtune.tuner.planning.make import make_plan

    path = folder / "config.toml"
    lines = CONFIGURATION.splitlines()
    for _ in range(chosen.randint(1, 2)):
        at = chosen.randrange(len(lines))
        lines[at] = worse(lines[at], chosen)
    path.write_bytes(
        as_bytes("\n".join(lines), chosen) if chosen.random() < 0.3 else "\n".join(lines).encode("utf-8", "ignore")
    )
    make_plan(read_settings(path, {"optimizer": {"engine": chosen.choice(["simulated"] * 8 + ["command", "vllm"])}}))


def variables(_: Path, chosen: random.Random) -> None:
    """Settings in the environment."""
    from swarmtune.settings import read_settings

    names = [
        "SWARMTUNE_OPTIMIZER__EVALUATIONS",
        "SWARMTUNE_OBJECTIVE",
        "SWARMTUNE_LOADGEN__HEADER",
        "MODEL_EVAL_STATE_X",
    ]
    value = worse(chosen.choice(["8", '{"slo": {"p95_ttft_ms": 5}}', '["a: b"]']), chosen).replace("\0", "")
    name = chosen.choice(names)
    with contextlib.suppress(UnicodeEncodeError):
        os.environ[name] = value
    try:
        read_settings(None, {})
    finally:
        os.environ.pop(name, None)


def hostfile(_: Path, chosen: random.Random) -> None:
    """A hostfile."""
    from swarmtune.execution.hostfile import parse_hostfile

    text = "root@node1:2222 slots=8\nnode[0-3,7] slots=4 # ours\n[fe80::1]:22\nn2 max_slots=8 password=abc\n"
    shows(*parse_hostfile(worse(text, chosen))[1])


def node_string(_: Path, chosen: random.Random) -> None:
    """Groups of hosts on the command line."""
    from swarmtune.execution.hostfile import expand, parse_node_string

    shows(*parse_node_string(worse("n0,n1:2222:n[2-5],root@n6:[fe80::1]", chosen))[1])
    with contextlib.suppress(ValueError):
        expand(worse("node[0-9/2]-a[01-03]", chosen))


def expression(_: Path, chosen: random.Random) -> None:
    """A rule between parameters, and its answer for a setting."""
    from swarmtune.space.constraint import Constraint, ConstraintError

    text = worse("tp * pp <= 8 and max_num_seqs * 16 <= tokens or not (a % 4 == 0)", chosen)
    try:
        rule = Constraint.parse(text)
        rule.holds(dict.fromkeys(rule.names, 8) | {"a": 0.5})
    except ConstraintError as error:
        shows(str(error))


def study_address(folder: Path, chosen: random.Random) -> None:
    """The address of a study's database."""
    from swarmtune.database.address import database_url, shown_url
    from swarmtune.database.connection import connect_arguments

    seeds = ["sqlite:///x.db", "postgresql://u:p%40w@127.0.0.1:1/db?sslmode=require", "study.db", "mysql://h/d"]
    url = database_url(worse(chosen.choice(seeds), chosen).replace("/etc", str(folder)))
    shows(shown_url(url))
    connect_arguments(url)


def database(folder: Path, chosen: random.Random) -> None:
    """A study's database whose bytes or rows are wrong."""
    from swarmtune.study.place import last_place
    from swarmtune.study.reader import latest_study, lost_tokens, reading

    path = folder / "study.db"
    shutil.copy(os.environ["ADVERSARY_STUDY"], path)
    if chosen.random() < 0.5:
        content = bytearray(path.read_bytes())
        for _ in range(chosen.choice([1, 20, 2000])):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
        path.write_bytes(content[: chosen.choice([len(content), chosen.randrange(len(content))])])
    else:
        _change_rows(path, chosen)
    head = latest_study(str(path))
    if head is not None:
        with reading(str(path)) as reader:
            for read in (
                reader.trials,
                reader.attempts,
                reader.load_points,
                reader.events,
                reader.artifacts,
                reader.remeasured,
            ):
                read(head.name)
        lost_tokens(str(path), head.name, 0.0)
    last_place(folder / "output", str(path))


def _change_rows(path: Path, chosen: random.Random) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for _ in range(chosen.randint(1, 4)):
            table = chosen.choice(tables)
            columns = [row[1] for row in db.execute(f"PRAGMA table_info('{table}')")]
            if not columns:  # dropped
                continue
            column, value = chosen.choice(columns), chosen.choice(VALUES)
            old = db.execute(f"SELECT {column} FROM '{table}' LIMIT 1").fetchone()
            if old and isinstance(old[0], str) and old[0][:1] in "[{" and chosen.random() < 0.7:
                with contextlib.suppress(ValueError):
                    value = as_json(json.loads(old[0]), chosen)
            value = json.dumps(value) if isinstance(value, (dict, list)) else value
            with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                if chosen.random() < 0.1:
                    db.execute(f"DROP TABLE '{table}'")
                else:
                    db.execute(f"UPDATE '{table}' SET {column} = ? WHERE rowid % 2 = ?", (value, chosen.randrange(2)))
        db.commit()


def measurement(folder: Path, chosen: random.Random) -> None:
    """What a load generator leaves."""
    from swarmtune.loadgen.benchmark import SwarmtuneBenchmark
    from swarmtune.loadgen.options import LoadgenOptions

    data = {
        "metrics": {"p95_ttft_ms": 3.5, "success_rate": 1.0, "request_goodput": 2.0}, "load": {"concurrency": 4.0},
        "valid": True, "reasons": [], "source": "measured", "blocks": {"ttft_ms": [1.0, 2.0]}, "early_stop": None,
    }  # fmt: skip
    (folder / "measurement.json").write_bytes(as_bytes(as_json(data, chosen), chosen))
    SwarmtuneBenchmark(LoadgenOptions()).read(folder)


def adapters(folder: Path, chosen: random.Random) -> None:
    """The results of other load generators."""
    name = chosen.choice(["vllm_benchmark", "aiperf", "guidellm", "ais_bench"])
    made = registry.benchmarks.load(name)
    benchmark = made(made.Config())
    data = {
        "request_throughput": 3.5, "output_throughput": 100.0, "mean_ttft_ms": 5.0, "completed": 10, "failed": 0,
        "duration": 3.0,
        "ttfts": [0.1, 0.2], "itls": [[0.1], [0.2]],
        "benchmarks": [{"metrics": {"requests_per_second": {"successful": {"mean": 1}}}}],
        "time_to_first_token": {"avg": 1.0, "p95": 2.0, "unit": "ms"}, "request_count": {"avg": 10},
    }  # fmt: skip
    for file in ("vllm_bench.json", "result.json", "profile_export_aiperf.json", "benchmarks.json", "performance.csv"):
        (folder / file).write_bytes(as_bytes(as_json(data, chosen), chosen))
    benchmark.read(folder)


STREAM = (
    'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a","reasoning":"b"},'
    '"finish_reason":null}],"usage":{"prompt_tokens":3,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":1}}}\n\n'
)


def answers(_: Path, chosen: random.Random) -> None:
    """What a service answers, on every endpoint."""
    from swarmtune.loadgen import ENDPOINTS
    from swarmtune.loadgen.endpoints import make_endpoint
    from swarmtune.loadgen.endpoints.base import understood
    from swarmtune.loadgen.options import LoadgenOptions

    kind = chosen.choice(sorted(ENDPOINTS))
    template = {"payload_template": '{"p": {{ text|tojson }}}'} if kind == "template" else {}
    endpoint = make_endpoint("m", LoadgenOptions(endpoint_type=kind, **template))
    body = as_bytes(worse(STREAM * chosen.randint(1, 4) + "data: [DONE]\n\n", chosen), chosen)
    cuts = sorted(chosen.randrange(len(body) + 1) for _ in range(3))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    pieces = list(enumerate(parts))
    shows(understood(endpoint, pieces).error or "")


def engine_log(_: Path, chosen: random.Random) -> None:
    """What an engine says before it ends."""
    from swarmtune.engines.diagnosis import diagnose

    log = 'INFO 01-01 00:00:00 [core.py:1] loading\nTraceback (most recent call last):\n  File "a.py", line 1\n'
    log += (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\nValueError: max_num_seqs (8) must be\n"
    )
    text = worse(log * chosen.choice([1, 1, 200]), chosen)
    shows(str(diagnose(chosen.choice(["vllm", "mindie", "x"]), chosen.choice([None, 0, 1, -9, 132, 999]), text)))


def engine_help(_: Path, chosen: random.Random) -> None:
    """What an engine says of its options."""
    from swarmtune.engines.help_text import flags_in_help, read_help, version_in

    text = "usage: serve [-h] [--max-num-seqs MAX]\n\n  --max-num-seqs MAX_NUM_SEQS\n      Maximum. (default: None)\n"
    text += "  --dtype {auto,half}, -d {auto,half}   Type (default: auto)\n  --x, --no-x\nvLLM 0.11.0\n"
    text = worse(text * chosen.choice([1, 1, 50]), chosen)
    read_help(text)
    flags_in_help(text)
    version_in(text)


def metrics(_: Path, chosen: random.Random) -> None:
    """What accelerators, exporters and their tools tell."""
    from swarmtune.devices import npu_smi, nvidia_smi, prometheus

    text = '# HELP x y\n# TYPE vllm:requests gauge\nvllm:requests{model="m",e="0"} 3.0\n'
    text += 'DCGM_FI_DEV_POWER_USAGE{gpu="0"} 71.5 17\n'
    with contextlib.suppress(ValueError):  # as it says
        prometheus.parse(worse(text * chosen.choice([1, 1, 300]), chosen))
    nvidia_smi.parse(worse("0, 81559\n1, 81559 MiB\n", chosen))
    npu_smi.parse(worse("| 0  910B3 | OK | 93.4 42 0 / 0 |\n| 0 | 0000:C1:00.0 | 0 0 / 0 3161 / 65536 |\n", chosen))


MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 32, "head_dim": 128, "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
    "sliding_window": 4096, "layer_types": ["full_attention", "sliding_attention"],
    "quantization_config": {"quant_method": "awq"},
    "text_config": {"hidden_size": 1}, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
}  # fmt: skip


def model_folder(folder: Path, chosen: random.Random) -> None:
    """A model's files, with the bounds that its memory sets."""
    from swarmtune.engines.gguf_model import gguf_config
    from swarmtune.engines.model_files import model_troubles
    from swarmtune.engines.weights import weight_bytes

    (folder / "config.json").write_bytes(as_bytes(as_json(MODEL, chosen), chosen))
    (folder / "model.safetensors.index.json").write_bytes(
        as_bytes(as_json({"metadata": {"total_size": 5}}, chosen), chosen)
    )
    (folder / "model.safetensors").write_bytes(chosen.randbytes(chosen.choice([0, 7, 64])))
    shows(*model_troubles(str(folder)))
    weight_bytes(folder)
    head = bytearray(b"GGUF\x03\0\0\0" + chosen.randbytes(chosen.choice([0, 16, 200])))
    (folder / "m.gguf").write_bytes(head)
    with contextlib.suppress(ValueError):  # as it says
        gguf_config(folder / "m.gguf")
    made = registry.engines.load("vllm")
    memory = {
        "device_bytes": chosen.choice([80 << 30, 1, 1 << 60]),
        "tokens_per_sequence": chosen.choice([1, 2000, 10**9]),
    }  # type: dict[str, Any]
    for model in (folder, folder / "m.gguf"):
        memory["model_config_path"] = str(model)
        shows(*made(made.Config.model_validate({"command": {"model": str(model)}, "memory": memory})).mistakes())


MINDIE = {
    "Version": "1.0.0", "ServerConfig": {"ipAddress": "127.0.0.1", "port": 1025, "httpsEnabled": False},
    "BackendConfig": {
        "npuDeviceIds": [[0, 1]], "ModelDeployConfig": {
            "maxSeqLen": 2560, "maxInputTokenLen": 2048, "ModelConfig": [{"modelName": "m", "worldSize": 2,
            "cpuMemSize": 5}],
        },
        "ScheduleConfig": {"maxPrefillBatchSize": 50, "maxPrefillTokens": 8192, "maxBatchSize": 200,
        "cacheBlockSize": 128},
    },
}  # fmt: skip


def service_file(folder: Path, chosen: random.Random) -> None:
    """MindIE's own file."""
    from swarmtune.records import Group, Setting

    path = folder / "config.json"
    path.write_bytes(as_bytes(as_json(MINDIE, chosen), chosen))
    made = registry.engines.load("mindie")
    engine = made(made.Config.model_validate({"config_path": str(path), "config_bak_path": str(path)}))
    shows(*engine.mistakes())
    fields = engine.fields()
    engine.constraints()
    engine.command(Setting({f.name: f.value for f in fields}), Group(port=1025))


def messages(folder: Path, chosen: random.Random) -> None:
    """What tuners and nodes leave in a shared folder, and what an agent answers."""
    from swarmtune.clock import RealClock
    from swarmtune.execution.executors.node_agent import NodeAgent
    from swarmtune.execution.mailbox import Watch, distrust, read_message

    path = folder / "message.json"
    data = {
        "command": "check_success",
        "tuner": "t",
        "handle": "h",
        "lines": 5,
        "grace_s": 1.0,
        "path": "x",
        "passage": "y",
    }
    data["command"] = chosen.choice(["check_success", "process_poll", "stop", "put", "backup", "eof"])
    path.write_bytes(as_bytes(as_json(data, chosen), chosen))
    distrust(path)
    Watch(path, RealClock()).name()
    message = read_message(path)
    if message is not None and message.get("command") != "start":
        agent = NodeAgent(folder / "node", folder / "root", RealClock())

        async def obey() -> None:
            await agent._answer("init", {"command": "init", "tuner": "t"})  # noqa: SLF001 - what the loop calls
            await agent._answer("one", message)  # noqa: SLF001

        (folder / "node" / "answers").mkdir(parents=True)
        asyncio.run(obey())


def ssh(folder: Path, chosen: random.Random) -> None:
    """OpenSSH's configuration."""
    from swarmtune.execution.executors import ssh_config

    path = folder / "config"
    text = "Host n1 n*\n  HostName %h.x\n  Port 2222\n  User a\n  IdentityFile ~/.ssh/id\n  ProxyJump b@j:22,k\n"
    text += "Match host n1\n  Port 3\n"
    path.write_bytes(as_bytes(worse(text, chosen).replace("exec", "host"), chosen))
    try:
        ssh_config.lines(ssh_config.effective("n1", files=[str(path)]))
    except (ValueError, OSError) as error:
        shows(str(error)[:2000])


def options(folder: Path, chosen: random.Random) -> None:
    """The command line of bench, and its file of options."""
    from swarmtune.apps.cli import CommandParser, bench

    words = [
        "-m",
        "m",
        "--url",
        "http://127.0.0.1:1",
        "--request-count",
        "3",
        "--isl",
        "5",
        "--goodput",
        "ttft:5",
        "-H",
        "A: b",
    ]
    words = [worse(word, chosen) if chosen.random() < 0.3 else word for word in words]
    if chosen.random() < 0.3:
        (folder / "f.yaml").write_bytes(
            as_bytes(worse("isl: 512\nextra_inputs: [a:1]\nurl: http://h\n", chosen), chosen)
        )
        words += ["-f", str(folder / "f.yaml")]
    parser = CommandParser("bench")
    bench.add_arguments(parser)
    parser.add_shared()
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.suppress(SystemExit):
        for _ in bench.runs(parser.parse_args(bench.translated(words))):
            pass
    shows(told.getvalue()[:MOST_SHOWN])


def trace(folder: Path, chosen: random.Random) -> None:
    """A file of requests."""
    from swarmtune.loadgen.ask.dataset import make_dataset
    from swarmtune.loadgen.options import LoadgenOptions

    line = {"timestamp": 5, "input_length": 90, "output_length": 5, "hash_ids": [0, 1], "text": "a", "session_id": "s"}
    shared = [{"id": "a", "conversations": [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c"}]}]
    path = folder / "trace.jsonl"
    text = (
        "\n".join([json.dumps(line), as_json(line, chosen), json.dumps(line)])
        if chosen.random() < 0.6
        else as_json(shared, chosen)
    )
    path.write_bytes(as_bytes(text, chosen))
    dataset = make_dataset(LoadgenOptions(input_file=str(path), request_count=3), chosen.randrange(9))
    for number in range(2):
        dataset.session(number)


def hooks(folder: Path, chosen: random.Random) -> None:
    """What the methods of a plugin's engine return or raise."""
    from swarmtune.engines.simulated import SimulatedEngine
    from swarmtune.settings import read_settings
    from swarmtune.tuner.planning.make import make_plan

    members = ["fields", "command", "constraints", "notes", "mistakes", "questions", "model", "port"]
    value, raised = copy.deepcopy(chosen.choice(VALUES)), chosen.random() < 0.3

    def wrong(*_: Any) -> Any:
        if raised:
            raise chosen.choice([ValueError, KeyError, ZeroDivisionError, RecursionError, OSError, StopIteration])(
                value
            )
        return [value] if chosen.random() < 0.3 else value

    name = chosen.choice(members)
    member = property(wrong) if name in ("model", "port") else wrong
    made = type("Planted", (SimulatedEngine,), {"name": "planted", name: member, "__module__": "planted"})
    registry.register_engine("planted", made)
    path = folder / "config.toml"
    path.write_text(CONFIGURATION.replace('"simulated"', '"planted"').split("[[simulated")[0])
    plan = make_plan(read_settings(path, {}))
    plan.fingerprint()


READERS: Mapping[str, Callable[[Path, random.Random], None]] = {
    "configuration": configuration, "variables": variables, "hostfile": hostfile, "node string": node_string,
    "rule": expression,
    "study's address": study_address, "study's database": database, "measurement": measurement,
    "other load generators": adapters,
    "answers of services": answers, "engine's log": engine_log, "engine's help": engine_help, "metrics": metrics,
    "model's folder": model_folder, "MindIE's file": service_file, "messages of nodes": messages, "OpenSSH's file": ssh,
    "options of bench": options, "traces": trace, "hooks of plugins": hooks,
}  # fmt: skip


def shows(*texts: str) -> None:
    """Raise if this would steer a terminal or fill it."""
    for text in texts:
        if len(text) > MOST_SHOWN:
            raise AssertionError(f"{len(text)} letters of one message: {text[:200]!r}")


def hung(*_: object) -> None:
    """The alarm."""
    raise Hang


def attack(name: str, folder: Path, count: int, seed: int) -> Counts:
    """Give a reader so many inputs."""
    counts, use = Counts(name), READERS[name]
    signal.signal(signal.SIGALRM, hung)
    for number in range(count):
        chosen = random.Random(f"{seed}:{name}:{number}")
        own = folder / "input"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        counts.inputs += 1
        fault = ""
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            try:
                use(own, chosen)
            except Hang:  # of a machine that is busy, perhaps: the same once more
                signal.setitimer(signal.ITIMER_REAL, 4 * SECONDS)
                use(own, random.Random(f"{seed}:{name}:{number}"))
            counts.accepted += 1
        except SwarmTuneError as error:
            counts.refused += 1
            if len(str(error)) > MOST_SHOWN:
                counts.raw += 1
                fault = f"an error of {len(str(error))} letters"
        except Hang:
            counts.hangs += 1
            fault = "hang: " + "".join(traceback.format_exc(limit=-3))
        except AssertionError as error:
            counts.raw += 1
            fault = f"raw: {error}"
        except Exception:  # noqa: BLE001 - it is what is looked for
            counts.tracebacks += 1
            fault = traceback.format_exc(limit=-4)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if fault and len(counts.examples) < 5:
            counts.examples.append(f"{name}, input {number} of seed {seed}: {fault}"[:3000])
    return counts


def main() -> None:
    """Attack the readers, one JSON object a line."""
    folder, count, seed, *names = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    registry.load_plugins()
    os.chdir(folder)
    for name in names or READERS:
        print(json.dumps(asdict(attack(name, Path(folder), int(count), int(seed)))), flush=True)


if __name__ == "__main__":
    main()
