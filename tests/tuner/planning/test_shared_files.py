"""Two services of an engine that writes one file cannot be on one machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarmtune.errors import ConfigValidationError
from swarmtune.settings import read_settings
from swarmtune.tuner.planning.make import make_plan

MINDIE = """{
    "ServerConfig": {"ipAddress": "127.0.0.1", "port": 1025},
    "BackendConfig": {
        "ModelDeployConfig": {"ModelConfig": [{"modelName": "qwen", "worldSize": 1}]},
        "ScheduleConfig": {"maxBatchSize": 4}
    }
}"""


@pytest.mark.parametrize("groups", [1, 2])
def test_mindie_has_one_config(tmp_path: Path, groups: int) -> None:
    file = tmp_path / "config.json"
    file.write_text(MINDIE)
    field = {
        "name": "seqs", "config_position": "BackendConfig.ScheduleConfig.maxBatchSize", "min": 1, "max": 9, "dtype": "int"
    }  # fmt: skip
    settings = read_settings(
        None,
        {
            "optimizer": {"engine": "mindie", "groups": groups, "warm_start": False},
            "mindie": {"config_path": str(file), "command": ["daemon"], "target_field": [field]},
        },
    )
    if groups == 1:
        assert make_plan(settings).groups[0].name
        return
    with pytest.raises(ConfigValidationError, match=r"config\.json on 127\.0\.0\.1 would be written by"):
        make_plan(settings)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"maxSeqLen": 600}, "most requests will be refused: prompts of 512 and answers of 128"),
        ({"maxInputTokenLen": 500}, "most requests will be refused: prompts of 512 tokens are more than the 500"),
        ({"maxIterTimes": 64}, "answers of 128 tokens are asked for, and the service cuts them off at 64"),
        ({"maxSeqLen": 640, "maxInputTokenLen": 512, "maxIterTimes": 128}, ""),
    ],
)
def test_a_load_that_the_file_does_not_let_through_is_noted(tmp_path: Path, limits: dict[str, int], words: str) -> None:
    content = json.loads(MINDIE)
    of_schedule = {name: value for name, value in limits.items() if name == "maxIterTimes"}
    content["BackendConfig"]["ScheduleConfig"] |= of_schedule
    content["BackendConfig"]["ModelDeployConfig"] |= {n: v for n, v in limits.items() if n not in of_schedule}
    (tmp_path / "config.json").write_text(json.dumps(content))
    field = {"name": "seqs", "config_position": "BackendConfig.ScheduleConfig.maxBatchSize", "min": 1, "max": 9}
    given = {
        "optimizer": {"engine": "mindie", "warm_start": False},
        "mindie": {"config_path": str(tmp_path / "config.json"), "command": ["daemon"], "target_field": [field]},
        "loadgen": {"isl": 512, "osl": 128},
    }
    notices = [n for n in make_plan(read_settings(None, given)).notices if "refused" in n or "cuts them off" in n]
    assert len(notices) == bool(words)
    assert all(words in notice for notice in notices)
