"""The whole loop as a stranger runs it: real processes, a real server, real sockets, kill -9."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from swarmtune.fleet.service_run import free_port
from tests.e2e.conftest import QUICK, SEARCHING, Workplace

pytestmark = pytest.mark.e2e

KEYS = [
    "study",
    "engine",
    "benchmark",
    "seed",
    "evaluations",
    "failures",
    "wall_seconds",
    "baseline",
    "best",
    "verdict",
    "finalists",
    "tied",
    "rejected",
    "may_change_answers",
    "load_search_ended_at_its_ceiling",
    "no_difference",
    "pareto",
    "budget",
    "warm_start",
    "simulation",
    "early_stop",
]


def rows(study: Path, query: str) -> list[Any]:
    database = sqlite3.connect(study / "study.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def begun(workplace: Workplace) -> bool:
    """Is there a study that can go on?"""
    found = list(workplace.folder.glob("swarmtune-studies/*/study.db"))
    table = "SELECT 1 FROM sqlite_master WHERE name = 'swarmtune_studies'"
    return bool(found and rows(workplace.study, table) and rows(workplace.study, "SELECT 1 FROM swarmtune_studies"))


def test_json_is_one_object_and_everything_lies_in_the_study(workplace: Workplace) -> None:
    workplace.config(SEARCHING)
    result = workplace.tune("--seed", "3")
    assert list(result) == KEYS
    assert (result["engine"], result["benchmark"], result["seed"]) == ("simulated", "swarmtune", 3)
    assert result["evaluations"] == 5
    assert {"setting", "measurement", "score"} <= result["baseline"].keys()
    assert {"setting", "measurement", "score", "command"} <= result["best"].keys()
    assert {"significant", "gain_percent", "ci95_percent"} <= result["verdict"].keys()
    assert result["best"]["score"]["value"] > 0
    study = workplace.study
    assert json.loads((study / "report.json").read_text()) == result
    assert stat.S_IMODE(study.stat().st_mode) == 0o700
    assert stat.S_IMODE((study / "report.json").stat().st_mode) == 0o600
    assert len(rows(study, "SELECT * FROM swarmtune_load_points")) > 5
    assert (study / "attempts" / "0000-1" / "service" / "output.log").is_file()
    assert workplace.leftovers() == []


def finished_trials(workplace: Workplace) -> dict[int, str]:
    """What each trial came to. Re-measurements of the proof have its number too, and are another kind."""
    done = "SELECT trial_number, outcome FROM swarmtune_attempts WHERE state = 'done' AND kind = 'trial'"
    return dict(rows(workplace.study, done))


def attempts_begun(workplace: Workplace) -> int:
    return len(rows(workplace.study, "SELECT 1 FROM swarmtune_attempts")) if begun(workplace) else 0


def test_kill_9_at_any_moment_loses_and_repeats_nothing(workplace: Workplace) -> None:
    """Killed again and again in the middle of an attempt: exactly the budget, each trial once, no process left.

    Each kill waits for attempts that have begun, not for seconds, so that a quick machine is hit at the same places.
    """
    moments = random.Random(7)
    finished: dict[int, str] = {}
    killed = 0
    for _ in range(6):
        known = begun(workplace)
        process = workplace.start(*(["-lb"] if known else []))
        target = attempts_begun(workplace) + moments.randint(0, 2)
        while attempts_begun(workplace) < target and process.poll() is None:
            time.sleep(0.02)
        pause = time.monotonic() + moments.uniform(0.1, 1.5)
        while time.monotonic() < pause and process.poll() is None:
            time.sleep(0.02)
        killed += process.poll() is None
        process.kill()
        process.communicate()
        if begun(workplace):
            now = finished_trials(workplace)
            assert finished.items() <= now.items(), "a finished trial was lost or changed"
            finished = now
        else:
            shutil.rmtree(workplace.folder / "swarmtune-studies", ignore_errors=True)
    assert killed > 1
    result = workplace.tune(*(["-lb"] if begun(workplace) else []))
    assert result["evaluations"] == 5
    assert finished.items() <= finished_trials(workplace).items()
    attempts = rows(workplace.study, "SELECT trial_number, state FROM swarmtune_attempts WHERE kind = 'trial'")
    assert Counter(n for n, state in attempts if state == "done") == dict.fromkeys(range(5), 1)
    trials = rows(workplace.study, "SELECT state FROM trials")
    assert trials == [("COMPLETE",)] * 5
    assert workplace.leftovers() == []


def test_no_process_outlives_a_killed_tuner(workplace: Workplace) -> None:
    process = workplace.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any("swarmtune.loadgen" in line for line in workplace.leftovers()):
        time.sleep(0.05)
    assert any("swarmtune.simulator" in line for line in workplace.leftovers())
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while workplace.leftovers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workplace.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_in_order_and_can_go_on(workplace: Workplace, number: int) -> None:
    process = workplace.start()
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/5]"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "-lb" in err
    assert "Traceback" not in err
    assert workplace.leftovers() == []
    assert workplace.tune("-lb", "--evaluations", "3")["evaluations"] == 3


def test_two_services_at_a_time(workplace: Workplace) -> None:
    workplace.config(QUICK.replace("confirm = 1", "confirm = 1\ngroups = 2"))
    assert workplace.tune()["evaluations"] == 5
    groups = rows(workplace.study, "SELECT DISTINCT service_group FROM swarmtune_attempts")
    assert sorted(groups) == [("local-0",), ("local-1",)]


def test_backup_keeps_what_was_run(workplace: Workplace) -> None:
    workplace.tune("--backup", "--evaluations", "2")
    kept = workplace.study / "backup" / "0001-2"
    assert "--max-num-seqs" in (kept / "command.txt").read_text()
    assert (kept / "service" / "output.log").is_file()
    assert (kept / "load-0" / "measurement.json").is_file()
    artifacts = rows(workplace.study, "SELECT path FROM swarmtune_artifacts ORDER BY id")
    assert Path(artifacts[1][0]).name == "0001-2"


def test_nothing_feasible_is_exit_code_3(workplace: Workplace) -> None:
    workplace.config(QUICK.replace("p95_ttft_ms = 2000", "p95_ttft_ms = 0.001"))
    code, out, err = workplace.run("--json", "--evaluations", "2")
    assert code == 3, err
    assert json.loads(out)["best"] is None


def test_a_service_that_crashes_under_load_is_a_failed_setting(workplace: Workplace) -> None:
    workplace.config(QUICK + '[simulated]\nothers = "--crash-after-requests 6"\n')
    code, out, err = workplace.run("--json", "--evaluations", "2")
    assert code == 3, err
    result = json.loads(out)
    assert result["failures"] == 2
    failures = [json.loads(o)["failure"] for (o,) in rows(workplace.study, "SELECT outcome FROM swarmtune_attempts")]
    assert all("died while it was measured" in f for f in failures)
    assert workplace.leftovers() == []


def test_settings_that_cannot_start_teach_the_search(workplace: Workplace) -> None:
    """Too much KV cache runs out of memory; the run goes on, the dashboard's constraint says infeasible."""
    fields = """
[[simulated.target_field]]
name = "kv_cache_tokens"
config_position = "--kv-cache-tokens"
dtype = "enum"
dtype_param = [4096, 65536]
value = 4096
[[simulated.target_field]]
name = "max_num_seqs"
config_position = "--max-num-seqs"
dtype = "int"
min = 2
max = 32
value = 8
"""
    workplace.config(QUICK + fields)
    result = workplace.tune("--evaluations", "6", "--algorithm", "random")
    assert result["failures"] > 0
    assert result["best"]["setting"]["kv_cache_tokens"] == 4096
    legacy = rows(workplace.study, "SELECT value_json FROM trial_system_attributes WHERE key = 'constraints'")
    assert len(legacy) == 6
    assert sum(max(json.loads(v)) > 0 for (v,) in legacy) == result["failures"]


def test_optuna_dashboard_shows_infeasible_trials_as_infeasible(workplace: Workplace) -> None:
    """Through the dashboard's own HTTP API, which is what its pages read."""
    import urllib.request

    workplace.config(QUICK.replace("p95_ttft_ms = 2000", "p95_ttft_ms = 0.001"))
    workplace.run("--evaluations", "2")
    program = shutil.which("optuna-dashboard", path=str(Path(subprocess.sys.executable).parent))
    assert program is not None
    port = free_port()
    server = subprocess.Popen(
        [program, f"sqlite:///{workplace.study / 'study.db'}", "--port", str(port), "--host", "127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        answer = None
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies/1?after=0", timeout=5) as reply:
                    answer = json.loads(reply.read())
                    break
            except OSError:
                time.sleep(0.1)
        assert answer is not None
        assert [t["state"] for t in answer["trials"]] == ["Complete", "Complete"]
        assert all(any(c > 0 for c in t["constraints"]) for t in answer["trials"])
        assert answer["is_preferential"] is False
    finally:
        server.terminate()
        server.wait(20)


def test_a_report_that_cannot_be_written_hides_no_result(workplace: Workplace) -> None:
    workplace.tune()
    report = workplace.study / "report.json"
    report.unlink()
    report.mkdir()
    code, out, err = workplace.run("-lb")
    assert code == 1, err
    assert "report.json" in err
    assert "resumes" not in err
    assert "-lb" in err
    assert "baseline" in out
    report.rmdir()
    assert workplace.tune("-lb")["evaluations"] == 5


def test_a_full_disk_says_so_and_can_go_on(workplace: Workplace, tmp_path: Path) -> None:
    small = tmp_path / "swarmtune-studies"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        code, _, err = workplace.run()
        assert code in (1, 2), err
        assert "Traceback" not in err
        assert "space" in err or "full" in err
        assert workplace.leftovers() == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        if list(small.glob("*/study.db")) and rows(
            workplace.study, "SELECT 1 FROM sqlite_master WHERE name='swarmtune_studies'"
        ):
            assert workplace.tune("-lb")["evaluations"] == 5
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
