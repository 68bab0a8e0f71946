"""The real vLLM, started, loaded with its own benchmark, tuned and diagnosed. Needs ``make test-vllm``."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.vllm.page import add_row

from swarmtune.clock import RealClock
from swarmtune.engines.help_text import flags_in_help, missing_in_help
from swarmtune.engines.vllm import VllmEngine
from swarmtune.errors import Culprit
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.records import Group
from swarmtune.space import Space

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("config.toml")
VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
SWARMTUNE = str(Path(sys.executable).with_name("swarmtune"))

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not VLLM.exists(), reason="`make test-vllm` builds vLLM (3.5 GB) first"),
]


@pytest.fixture(scope="module", autouse=True)
def model() -> None:
    """The tiny model that the configuration names; made once."""
    subprocess.run([VLLM.with_name("python"), Path(__file__).with_name("make_model.py")], check=True)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The configuration's paths begin at the repository root."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def processes_of_vllm() -> list[str]:
    """Command lines that still name our program."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{VLLM} serve" in line:
            found.append(line)
    return found


@pytest.mark.parametrize("benchmark", ["vllm_benchmark", "swarmtune"])
def test_tunes_and_proves(benchmark: str, tmp_path: Path) -> None:
    environment = {**os.environ, "SWARMTUNE_OUTPUT": str(tmp_path)}
    argv = [SWARMTUNE, "optimizer", "-e", "vllm", "-b", benchmark, "-c", str(CONFIG), "--evaluations", "3", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["engine"], result["benchmark"], result["evaluations"]) == ("vllm", benchmark, 3)
    baseline, best = result["baseline"], result["best"]
    assert baseline["setting"] == {"MAX_NUM_SEQS": 2, "MAX_NUM_BATCHED_TOKENS": 256}
    for trial in (baseline, best):
        metrics = trial["measurement"]["metrics"]
        assert (metrics["completed"], metrics["total_output_tokens"]) == (32, 32 * 16)
        assert metrics["p95_ttft_ms"] > metrics["mean_tpot_ms"] > 0
    if benchmark == "vllm_benchmark":
        (file,) = tmp_path.glob("*/attempts/0000-1/load-0/result.json")
        told = json.loads(file.read_text())
        for name in ("output_throughput", "p95_ttft_ms", "p95_tpot_ms", "request_goodput"):
            assert baseline["measurement"]["metrics"][name] == told[name]
    assert f"--max-num-seqs {best['setting']['MAX_NUM_SEQS']}" in best["command"]
    assert processes_of_vllm() == []
    write_down(result)


def write_down(result: dict[str, Any]) -> None:
    """One row per benchmark in docs/vllm-result.md."""
    baseline, best, verdict = result["baseline"], result["best"], result["verdict"]
    cells = [
        result["benchmark"],
        result["evaluations"],
        result["failures"],
        round(result["wall_seconds"]),
        f"{baseline['score']['value']:.2f}",
        f"{best['score']['value']:.2f}",
        ", ".join(f"{k.lower()} {v}" for k, v in best["setting"].items()),
        verdict["reason"] + ("" if verdict["gain_percent"] is None else f" ({verdict['gain_percent']:+.0f} %)"),
    ]
    add_row(cells, "Three evaluations", lambda row: f"| {result['benchmark']} |" in row)


async def test_too_large_a_cache_is_out_of_memory(tmp_path: Path) -> None:
    section = tomllib.loads(CONFIG.read_text())["vllm"]
    section["env"]["VLLM_CPU_KVCACHE_SPACE"] = "1000"
    engine = VllmEngine(VllmEngine.Config.model_validate(section))
    setting = Space(engine.fields(), engine.constraints()).default()
    executor = LocalExecutor(tmp_path, RealClock())
    try:
        handle = await executor.start(engine.command(setting, Group(port=9317)))
        async with asyncio.timeout(300):
            while (code := await handle.poll()) is None:  # noqa: ASYNC110 - the contract has poll
                await asyncio.sleep(0.2)
        error = engine.diagnose(code, await handle.logs(400))
    finally:
        await executor.close()
    assert (error.details["cause"], error.culprit) == ("out_of_memory", Culprit.SETTING)
    assert "less than requested memory for kv" in error.message


def test_the_schema_agrees_with_the_installed_vllm() -> None:
    told = subprocess.run([VLLM, "serve", "--help=all"], capture_output=True, text=True, check=True).stdout
    engine = VllmEngine(VllmEngine.Config())
    assert missing_in_help(told, [name for name in engine.schema.commands.names if name.startswith("--")]) == []
    assert "--max-num-seqs" in flags_in_help(told)
