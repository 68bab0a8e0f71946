"""Whole studies from files as the older tuner and its extension have them; only addresses are filled in, loads are short."""

from __future__ import annotations

import contextlib
import re
import shlex
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Workplace
from tests.lab import Lab, Machine, NoLab

pytestmark = pytest.mark.e2e

DATA = Path(__file__).parents[1] / "data"
SHORT = """
[optimizer]
confirm = 1
finalists = 1
[load_search]
start = 2
high = 4
points = 1
[loadgen]
max_unsure_share = 1.0
max_idle_share = 1.0
max_contended_cpu_share = 1.0
isl = 16
osl = 8
[objective]
slo = { p95_ttft_ms = 4000, p95_tpot_ms = 1000 }
"""
"""What the older file leaves to the tuner, so that a study takes seconds on a machine as busy as it may be."""


def shortened(text: str, **changes: tuple[str, str]) -> str:
    """The older file with few and small evaluations, by its own keys."""
    for name, (old, new) in changes.items():
        assert f"{name} = {old}\n" in text
        text = text.replace(f"{name} = {old}\n", f"{name} = {new}\n")
    return f"sample_size = 8\n{text}{SHORT}"


# --- MindIE -------------------------------------------------------------------------------------------------------------

DAEMON = Path(__file__).with_name("mindie_service.py")
CONFIG_JSON = (DATA / "older_mindie_config.json").read_text()


def test_the_older_tuners_mindie_file(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """MIES_INSTALL_PATH finds the daemon and its file; the values of today are the baseline; the file comes back."""
    home = workplace.folder / "mindie-service"
    (home / "bin").mkdir(parents=True)
    (home / "conf").mkdir()
    daemon, file = home / "bin" / "mindieservice_daemon", home / "conf" / "config.json"
    daemon.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, str(DAEMON), str(file)])}\n")
    daemon.chmod(0o755)
    file.write_text(CONFIG_JSON)
    monkeypatch.setenv("MIES_INSTALL_PATH", str(home))
    text = (DATA / "older_config_mindie.toml").read_text().replace('config_path = "config.json"\n', "")
    workplace.config(shortened(text, n_particles=("8", "3"), iters=("4", "1")))
    result = workplace.tune("-e", "mindie", "-d", "single", "--pd", "competition", "--backup")
    assert result["evaluations"] == 3
    baseline = result["baseline"]["setting"]
    assert (baseline["max_batch_size"], baseline["max_prefill_batch_size"], baseline["max_preempt_count"]) == (
        200,
        50,
        0,
    )
    assert result["verdict"]
    assert file.read_text() == CONFIG_JSON
    assert workplace.leftovers() == []


# --- the extension for several nodes ------------------------------------------------------------------------------------

EXTENSION = """
n_particles = 2
iters = 2
service = "master"

[vllm.command]
host = "127.0.0.1"
port = 8000
model = "qwen"
served_model_name = "qwen"
others = ""

[[vllm.target_field]]
name = "MAX_NUM_BATCHED_TOKENS"
config_position = "env"
min = 8192
max = 65536
dtype = "int"
value = 8192

[[vllm.target_field]]
name = "MAX_NUM_SEQS"
config_position = "env"
min = 32
max = 512
dtype = "int"
value = 64

[parallel]
enabled = true
evaluation_timeout = 600
retry_count = 2
retry_delay = 1

[[parallel.service_groups]]
group_id = 0
master_node_index = 0
start_script = "./start_service.sh h2"
config_path = "/tmp/params.json"
health_check_url = "http://localhost:8000/health"
health_check_timeout = 120

[[parallel.service_groups.nodes]]
host = "h1"
ssh_port = 22
npu_ids = [0, 1, 2, 3, 4, 5, 6, 7]
work_dir = "/tmp/modelevalstate"
username = "root"

[[parallel.service_groups.nodes]]
host = "h2"
ssh_port = 22
npu_ids = [0, 1, 2, 3, 4, 5, 6, 7]
work_dir = "/tmp/modelevalstate"
username = "root"

[[parallel.service_groups]]
group_id = 1
master_node_index = 1
start_script = "./start_service.sh h3"
config_path = "/tmp/params.json"
health_check_url = "http://h4:8000/health"
health_check_timeout = 120
nodes = [{ host = "h3", work_dir = "/tmp/modelevalstate" }, { host = "h4", work_dir = "/tmp/modelevalstate" }]
"""
START = """#!/bin/sh
# On the master alone, as: start_service.sh WORKER --config PATH. It starts the worker itself.
set -eu
[ "$2" = --config ]
ssh -F {ssh} "$1" {worker} --config "$3" "$(hostname)" < /dev/null &
exec {serve} --config "$3" "$(hostname)" 0
"""
RANK = """#!/bin/sh
# One rank of the service: run.sh --config PATH MASTER [RANK].
set -eu
value() {{ {python} -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$config" "$1"; }}
config=$2
echo "$(hostname) $(value MAX_NUM_SEQS)" >> {seen}
exec {python} -m swarmtune.simulator --model qwen --nodes 2 --node-rank "${{4-1}}" --host "$3" --port 8000 \\
  --max-num-seqs "$(value MAX_NUM_SEQS)" --max-num-batched-tokens "$(value MAX_NUM_BATCHED_TOKENS)"
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(Lab(4, [tmp_path_factory.getbasetemp()]))
        except NoLab as reason:
            pytest.skip(str(reason))


def log_in_among_each_other(lab: Lab, folder: Path) -> Path:
    """A configuration of SSH that all machines see, by which each can log in on the others."""
    folder.mkdir(mode=0o700)
    for name in ("id", "known_hosts"):
        (folder / name).write_bytes((lab.folder / name).read_bytes())
        (folder / name).chmod(0o600)
    config = folder / "config"
    config.write_text(lab.config.read_text().replace(str(lab.folder), str(folder)))
    return config


def ours(machine: Machine) -> list[str]:
    """Command lines of what the study has started there."""
    return [c for c in machine.commands() if "swarmtune" in c or "supervisor" in c]


def test_the_extensions_file_with_two_groups(workplace: Workplace, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """``start_script`` runs on the masters alone, with ``--config PATH``, and starts the workers by its own SSH."""
    folder = workplace.folder
    (folder / "home" / ".ssh").mkdir(parents=True, mode=0o700)
    (folder / "home" / ".ssh" / "config").write_text(lab.config.read_text())
    monkeypatch.setenv("HOME", str(folder / "home"))
    python, seen, run = shlex.quote(sys.executable), folder / "seen", folder / "run.sh"
    run.write_text(RANK.format(python=python, seen=shlex.quote(str(seen))))
    run.chmod(0o755)
    ssh = shlex.quote(str(log_in_among_each_other(lab, folder / "ssh")))
    (folder / "start_service.sh").write_text(START.format(ssh=ssh, worker=run, serve=run))
    text = shortened(EXTENSION)
    for machine in lab.machines:  # a name must mean the same to SSH and to HTTP, and here nothing resolves h1
        text = re.sub(rf"\b{machine.name}\b", machine.address, text)
    workplace.config(text)

    result = workplace.tune("-e", "vllm", "--parallel")

    assert result["evaluations"] == 4
    assert result["baseline"]["setting"] == {"MAX_NUM_BATCHED_TOKENS": 8192, "MAX_NUM_SEQS": 64}
    assert result["verdict"]
    assert f"./start_service.sh {lab.machines[1].address} --config /tmp/params.json" in result["best"]["command"]
    with contextlib.closing(sqlite3.connect(workplace.study / "study.db")) as database:
        groups = database.execute("SELECT DISTINCT service_group FROM swarmtune_attempts ORDER BY 1").fetchall()
    assert groups == [("0",), ("1",)]
    ranks = [line.split() for line in seen.read_text().splitlines()]
    assert {host for host, _ in ranks} == {machine.name for machine in lab.machines}
    for worker, master in (("h2", "h1"), ("h3", "h4")):  # each worker has read the values of its master
        assert sorted(v for h, v in ranks if h == worker) == sorted(v for h, v in ranks if h == master)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(ours(machine) for machine in lab.machines):
        time.sleep(0.1)  # a worker ends when its master has
    for machine in lab.machines:
        assert ours(machine) == []
        assert machine.run("sh", "-c", "ls -A /tmp/modelevalstate; ls /tmp/params.json 2>/dev/null || true") == ""
