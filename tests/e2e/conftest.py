"""A tuner as a stranger runs it: the real command in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest


def study(evaluations: int, confirm: int, ttft_ms: int, tpot_ms: int, concurrency: int, request_count: int) -> str:
    """The configuration of a study that a simulated service answers in seconds, on a machine as busy as it may be."""
    return f"""
[optimizer]
engine = "simulated"
evaluations = {evaluations}
confirm = {confirm}
finalists = 1
[objective]
slo = {{ p95_ttft_ms = {ttft_ms}, p95_tpot_ms = {tpot_ms} }}
[load_search]
enabled = false
[loadgen]
concurrency = {concurrency}
request_count = {request_count}
warmup_request_count = 0
max_unsure_share = 1.0
max_idle_share = 1.0
max_contended_cpu_share = 1.0
isl = 16
osl = 8
"""


QUICK = study(evaluations=5, confirm=1, ttft_ms=2000, tpot_ms=500, concurrency=4, request_count=12)
TINY = study(evaluations=6, confirm=2, ttft_ms=4000, tpot_ms=1000, concurrency=2, request_count=8)
SEARCHING = QUICK.replace("enabled = false", "start = 4\npoints = 2\nhigh = 8")


@dataclass
class Workplace:
    """A folder, and the command in it."""

    folder: Path
    packages: Path | None = None  # a folder with more packages, as if they were installed

    def config(self, text: str = QUICK) -> None:
        (self.folder / "config.toml").write_text(text)

    def start(self, *arguments: str, command: str = "optimizer") -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWARMTUNE", "MODEL"))}
        environment["SWARMTUNE_LOADGEN__MAX_CONTENDED_CPU_SHARE"] = "1"  # other tests run at the same time
        if self.packages:
            environment["PYTHONPATH"] = str(self.packages)
        return subprocess.Popen(
            [sys.executable, "-m", "swarmtune", command, *arguments], cwd=self.folder, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str, command: str = "optimizer") -> tuple[int, str, str]:
        process = self.start(*arguments, command=command)
        out, err = process.communicate(timeout=150)
        return process.returncode, out, err

    def tune(self, *arguments: str) -> dict[str, Any]:
        code, out, err = self.run("--json", *arguments)
        assert code == 0, err
        return json.loads(out)  # type: ignore[no-any-return]

    @property
    def study(self) -> Path:
        (found,) = (self.folder / "swarmtune-studies").iterdir()
        return found

    def leftovers(self) -> list[str]:
        """Command lines of processes that work in this folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.folder) in process.cwd() and process.pid != os.getpid():
                    found.append(" ".join(process.cmdline()))
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    place = Workplace(tmp_path)
    place.config()
    return place
