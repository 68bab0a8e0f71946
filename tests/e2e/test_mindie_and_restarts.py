"""MindIE through its config.json, which always comes back; and restarts only where a parameter needs one."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import QUICK, Workplace

pytestmark = pytest.mark.e2e

DAEMON = Path(__file__).with_name("mindie_service.py")
ORIGINAL = """{
    "ServerConfig": {"ipAddress": "127.0.0.1", "port": 1025},
    "BackendConfig": {
        "ModelDeployConfig": {"ModelConfig": [{"modelName": "qwen", "worldSize": 1}]},
        "ScheduleConfig": {
            "maxBatchSize": 20, "maxPrefillBatchSize": 10, "maxPreemptCount": 0, "maxQueueDelayMicroseconds": 5000,
            "supportSelectBatch": false, "prefillTimeMsPerReq": 150, "decodeTimeMsPerReq": 50
        }
    }
}
"""
FIELD = """
[[mindie.target_field]]
name = "max_batch_size"
config_position = "BackendConfig.ScheduleConfig.maxBatchSize"
min = 10
max = 60
dtype = "int"
[[mindie.target_field]]
name = "max_prefill_batch_size"
config_position = "BackendConfig.ScheduleConfig.maxPrefillBatchSize"
min = 0.1
max = 0.7
dtype = "ratio"
dtype_param = "max_batch_size"
"""


@pytest.fixture
def mindie(workplace: Workplace) -> Path:
    """A MindIE installation with an old-style configuration; returns its config.json."""
    file = workplace.folder / "conf" / "config.json"
    file.parent.mkdir()
    file.write_text(ORIGINAL)
    command = json.dumps([sys.executable, str(DAEMON), str(file)])
    section = f'[mindie]\nconfig_path = "{file}"\ncommand = {command}\n'
    workplace.config(QUICK.replace('engine = "simulated"', 'engine = "mindie"') + section + FIELD)
    return file


def wait_until_tuned(file: Path, process: object) -> None:
    deadline = time.monotonic() + 90
    while file.read_text() == ORIGINAL and time.monotonic() < deadline:
        time.sleep(0.02)
    assert file.read_text() != ORIGINAL


def test_tunes_through_the_file_and_puts_it_back(workplace: Workplace, mindie: Path) -> None:
    result = workplace.tune("--evaluations", "3")
    assert result["baseline"]["setting"] == {"max_batch_size": 20, "max_prefill_batch_size": 10}
    assert result["evaluations"] == 3
    assert mindie.read_text() == ORIGINAL
    assert workplace.leftovers() == []


def test_the_file_comes_back_after_kill_9_of_the_tuner(workplace: Workplace, mindie: Path) -> None:
    process = workplace.start()
    wait_until_tuned(mindie, process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while (mindie.read_text() != ORIGINAL or workplace.leftovers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mindie.read_text() == ORIGINAL
    assert workplace.leftovers() == []


def test_the_file_comes_back_when_the_supervisors_die_with_the_tuner(workplace: Workplace, mindie: Path) -> None:
    """Nobody is left who could restore it: the next start does, before it takes the tuned file for the baseline."""
    process = workplace.start()
    wait_until_tuned(mindie, process)
    family = psutil.Process(process.pid).children(recursive=True)
    supervisors = [p for p in family if "supervisor.py" in " ".join(p.cmdline())]
    assert supervisors
    process.send_signal(signal.SIGSTOP)  # so that it does not see them die and restore the file itself
    for supervisor in supervisors:
        os.kill(supervisor.pid, signal.SIGKILL)
    process.kill()
    process.communicate()
    assert mindie.read_text() != ORIGINAL
    result = workplace.tune("-lb", "--evaluations", "2")
    assert result["baseline"]["setting"]["max_batch_size"] == 20
    assert mindie.read_text() == ORIGINAL
    assert workplace.leftovers() == []


def test_a_load_parameter_never_restarts_the_service(workplace: Workplace) -> None:
    """The older tuner searched CONCURRENCY beside the service's parameters; it is no reason to start anew (C7)."""
    field = """
[[simulated.target_field]]
name = "CONCURRENCY"
config_position = "env"
min = 1
max = 20
value = 4
dtype = "int"
"""
    workplace.config(QUICK.replace("confirm = 1", "confirm = 0") + field)
    result = workplace.tune("--evaluations", "4")
    assert result["evaluations"] == 4
    started = sorted(p.parent.name for p in workplace.study.glob("attempts/*/service"))
    assert started == ["0000-1"]
    loads = {
        json.loads(p.read_text())["load"]["concurrency"] for p in workplace.study.glob("attempts/*/*/measurement.json")
    }
    assert len(loads) == 4
