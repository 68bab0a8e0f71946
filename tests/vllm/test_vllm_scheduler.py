"""Our scheduler makes the batches that vLLM's own classes make, step by step. Needs ``make test-vllm``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.simulator import scheduler_cases

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.exists(), reason="`make test-vllm` builds vLLM (3.5 GB) first"),
]


def test_the_batches_of_vllm(tmp_path: Path) -> None:
    here = Path(__file__)
    subprocess.run([PYTHON, here.with_name("make_model.py"), "--directory", tmp_path / "model"], check=True)
    cases = scheduler_cases.cases((0, 32))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    argv = [
        PYTHON,
        here.with_name("drive_scheduler.py"),
        *(tmp_path / n for n in ("model", "cases.json", "batches.json")),
    ]
    subprocess.run(argv, check=True)
    theirs = json.loads((tmp_path / "batches.json").read_text())
    assert sum(len(batches) for batches in theirs) > 50_000
    for case, batches in zip(cases, theirs, strict=True):
        assert scheduler_cases.run(case) == batches, case["rules"]
