"""A new user's first hour with the real vLLM: nothing is edited but the model. Needs ``make test-vllm``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.vllm.page import add_row

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv-vllm" / "bin"
SWARMTUNE = str(Path(sys.executable).with_name("swarmtune"))
SEARCH_S, PROOF_S = 300, 740
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (BIN / "vllm").exists(), reason="`make test-vllm` builds vLLM (3.5 GB) first"),
]


def test_init_check_and_optimizer_prove_something(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    maker = Path(__file__).with_name("make_model.py")
    subprocess.run([BIN / "python", maker, "--directory", model, "--weights"], check=True)
    environment = {
        **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "XDG_STATE_HOME": str(tmp_path / "state"),
        "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB, which vLLM's documentation asks for on CPUs; its default takes all memory
    }  # fmt: skip
    environment.pop("SWARMTUNE_LOADGEN__MAX_CONTENDED_CPU_SHARE")  # as a user has it

    def run(*arguments: str) -> str:
        argv = [SWARMTUNE, *arguments]
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("init", "-e", "vllm", "--model", str(model))
    assert "vllm serve" in run("check")
    result = json.loads(run("optimizer", "--timeout", str(SEARCH_S), "--proof-seconds", str(PROOF_S), "--json"))
    write_down(result)  # whatever came out
    verdict = result["verdict"]
    low, high = verdict["ci95_percent"]
    assert verdict["significant"] or high - low < 20
    assert result["wall_seconds"] < 20 * 60


def write_down(result: dict[str, Any]) -> None:
    """A row more in docs/vllm-result.md."""
    baseline, best, verdict = result["baseline"], result["best"], result["verdict"]
    changed = {k: v for k, v in best["setting"].items() if v != baseline["setting"][k]}
    low, high = verdict["ci95_percent"]
    cells = [
        f"{result['wall_seconds'] / 60:.1f}",
        result["evaluations"],
        result["failures"],
        f"{baseline['score']['value']:.2f}",
        f"{best['score']['value']:.2f}",
        ", ".join(f"{k} {v}" for k, v in changed.items()) or "the baseline",
        verdict["reason"],
        f"{verdict['gain_percent']:+.1f} % ({low:+.1f} to {high:+.1f})",
    ]
    add_row(cells, "By init, check and optimizer, with nothing edited")
