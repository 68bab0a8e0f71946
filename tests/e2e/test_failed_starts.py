"""Services that do not start, through the command: the run stops or goes on, and the line that tells is on the screen."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Workplace

pytestmark = pytest.mark.e2e

SERVICE = """
import os, sys
port, batch = sys.argv[1], int(sys.argv[2])
text, most = {text!r}, {most}
if batch > most:
    sys.exit(text.format(batch=batch))
print({noise!r}, flush=True)
simulator = ["-P", "-m", "swarmtune.simulator", "--host", "127.0.0.1", "--port", port, "--model", "m"]
os.execv(sys.executable, [sys.executable, *simulator, "--max-num-seqs", str(batch)])
"""
CONFIG = """
[optimizer]
engine = "command"
evaluations = 6
confirm = 0
warm_start = false
[objective]
slo = {{ p95_ttft_ms = 4000, p95_tpot_ms = 1000 }}
[load_search]
enabled = false
[loadgen]
concurrency = 2
request_count = 8
isl = 16
osl = 8
max_unsure_share = 1.0
max_idle_share = 1.0
max_contended_cpu_share = 1.0
[command]
argv = ["{python}", "{script}", "$PORT", "$BATCH"]
model = "m"
[[command.target_field]]
name = "batch"
min = 1
max = 64
value = 4
"""


def configure(workplace: Workplace, text: str, most: int = 0, noise: str = "") -> None:
    script = workplace.folder / "service.py"
    script.write_text(SERVICE.format(text=text, most=most, noise=noise))
    workplace.config(CONFIG.format(python=sys.executable, script=script))


def attempts(study: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(study / "study.db")) as database:
        return database.execute("SELECT state, outcome FROM swarmtune_attempts").fetchall()


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        ("ModuleNotFoundError: No module named 'vllm'", "Install it"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "HF_TOKEN"),
        ("OSError: We couldn't connect to the hub, and no file is in the cache", "out of reach"),
    ],
)
def test_what_only_the_user_can_mend_ends_the_run_at_once(workplace: Workplace, text: str, way_out: str) -> None:
    configure(workplace, text)
    code, out, err = workplace.run()
    assert code == 1
    assert text in err
    assert way_out in err
    assert "objective.slo" not in out + err
    assert len(attempts(workplace.study)) == 1


@pytest.mark.parametrize("text", ["KeyError: 'layers.0.mlp'", "ValueError: the batch is too large"])
def test_if_every_setting_fails_in_the_same_way_the_run_ends_with_the_last_lines(
    workplace: Workplace, text: str
) -> None:
    configure(workplace, text)
    code, out, err = workplace.run()
    assert code == 1
    assert "No service has become ready" in err
    assert text in err
    assert "objective.slo" not in out + err
    assert len(attempts(workplace.study)) <= 4


def test_failures_of_the_infrastructure_end_the_run_with_their_line(workplace: Workplace) -> None:
    text = "OSError: [Errno 28] No space left on device"
    configure(workplace, text)
    code, out, err = workplace.run("--evaluations", "2")
    assert code in (1, 3)
    assert text in err
    assert "objective.slo" not in out + err


def test_a_harmless_line_above_the_cause_changes_nothing(workplace: Workplace) -> None:
    noise = "INFO Port 29500 is already in use, trying port 29501"
    configure(workplace, f"{noise}\nValueError: batch {{batch}} is too large", most=8, noise=noise)
    result = workplace.tune()
    assert result["evaluations"] == 6
    assert 0 < result["failures"] < 6
    failed = [outcome for _, outcome in attempts(workplace.study) if "too large" in outcome]
    assert len(failed) == result["failures"], "each is tried once"
    assert all('"culprit": "setting"' in outcome for outcome in failed)
