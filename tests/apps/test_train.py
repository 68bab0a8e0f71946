"""``swarmtune train`` from the command line: the model, the report, and every mistake at once."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.simulator.latency_cases import measured

from swarmtune.apps.cli import main
from swarmtune.simulator.latency.features import FEATURES
from swarmtune.simulator.latency.file import fingerprint, load


def steps(path: Path, count: int = 90, factor: float = 1.0, seed: int = 0) -> Path:
    """A file of steps."""
    rows = measured(count, seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*FEATURES, "seconds", "run"])
        for features, seconds, run in zip(rows.features, rows.seconds * factor, rows.run, strict=True):
            table.writerow([*features, seconds, run])
    return path


def called(*arguments: object) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as left:
        main(["train", *map(str, arguments)])
    return int(left.value.code or 0)


def test_a_model_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.json"
    assert called("-i", steps(tmp_path / "a.csv"), "-o", model, "-t", "vllm", "--tp", 2, "--device", "A100") == 0
    told = capsys.readouterr().out
    for part in ("4 runs, each held out once", "MAPE", "bias", "Residual:", "nominal 90 %", "Domain: tokens", "Wrote"):
        assert part in told
    loaded = load(model)
    assert (loaded.identity.engine, loaded.identity.tp, loaded.identity.device) == ("vllm", 2, "A100")
    assert (loaded.identity.rows, loaded.identity.runs) == (90, 4)
    assert fingerprint(loaded)[:12] in told


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.json"
    assert called("-i", steps(tmp_path / "a.csv"), "-o", model, "-t", "sglang", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fingerprint"] == fingerprint(load(model))
    assert set(found["report"]["both"]) == {"mae_s", "mape", "rmse_s", "r2", "bias", "p90", "p99"}
    assert set(found["domain"]) == set(FEATURES)
    assert found["refused"] == {"rows": 0, "reasons": {}, "first": []}


def test_a_model_is_updated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.json"
    assert called("-i", steps(tmp_path / "a.csv"), "-o", model, "-t", "vllm") == 0
    assert called("-i", steps(tmp_path / "b.csv", seed=1), "-o", model, "-t", "vllm", "--update", model) == 0
    assert load(model).identity.rows == 180
    assert called("-i", tmp_path / "b.csv", "-o", model, "-t", "sglang", "--update", model) == 2
    assert "engine vllm and sglang" in capsys.readouterr().err
    assert load(model).identity.rows == 180


def test_all_mistakes_come_at_once_and_the_old_model_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.json"
    model.write_text("old")
    milliseconds = steps(tmp_path / "ms.csv", factor=1e3)
    assert called("-i", milliseconds, "-i", tmp_path / "none", "-o", model, "-t", "vllm", "--json") == 2
    streams = capsys.readouterr()
    found = json.loads(streams.out)
    assert len(found["mistakes"]) == 2
    assert "another unit" in streams.err
    assert model.read_text() == "old"
    assert called("-i", milliseconds, "-o", model, "-t", "vllm", "--unit", "ms") == 0
    load(model)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--weights-gib", "16"), "go together"),
        (("--tp", "0"), "is not a whole number above 0"),
        (("--weights-gib", "nan", "--bandwidth-gb-s", "1"), "is not a number above 0"),
        (("-t", "tgi"), "invalid choice"),
        (("--update", "/dev/null"), "not a file"),
        (("-o", "/no/such/folder/m"), "its folder is not there"),
        (("-o", "/"), "no file that a model could replace"),
        (("--kv-type", "fp8"), "unrecognized arguments"),
    ],
)
def test_options_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Any, told: str) -> None:
    assert called("-i", steps(tmp_path / "a.csv"), "-t", "vllm", "-o", tmp_path / "m", *options) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_steps_under_the_floor_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("-i", steps(tmp_path / "a.csv"), "-o", tmp_path / "m", "-t", "vllm")
    assert called(*options, "--weights-gib", "7", "--bandwidth-gb-s", "100") == 2
    assert "below the floor" in capsys.readouterr().err
    assert called(*options, "--weights-gib", "7", "--bandwidth-gb-s", "3000") == 0


def test_without_xgboost_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert called("-i", tmp_path / "none", "-o", tmp_path / "m", "-t", "vllm") == 2
    assert "pip install 'swarmtune[simulate]'" in capsys.readouterr().err


def test_a_kill_leaves_the_old_model(tmp_path: Path) -> None:
    model, rows = tmp_path / "m.json", steps(tmp_path / "a.csv", 3000)
    model.write_text("old")
    running = subprocess.Popen(
        [sys.executable, "-m", "swarmtune", "train", "-i", rows, "-o", model, "-t", "vllm"], stderr=subprocess.DEVNULL
    )
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1.5)
    running.kill()
    running.wait()
    assert model.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"m.json", "a.csv"}
