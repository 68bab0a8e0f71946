"""Two services of an engine that writes one file cannot be on one machine."""

from __future__ import annotations

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
