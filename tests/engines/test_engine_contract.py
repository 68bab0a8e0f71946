"""All six engines keep the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swarmtune import registry
from swarmtune.engines import register
from swarmtune.engines.base import Engine
from swarmtune.records import Group, Node
from swarmtune.testing.engine import EngineContract

MINDIE_FILE: dict[str, Any] = {
    "ServerConfig": {"ipAddress": "127.0.0.1", "port": 1025, "managementPort": 1026},
    "BackendConfig": {
        "ModelDeployConfig": {"ModelConfig": [{"modelName": "llama", "worldSize": 1}]},
        "ScheduleConfig": {
            "maxBatchSize": 200,
            "maxPrefillBatchSize": 50,
            "maxPrefillTokens": 8192,
            "prefillTimeMsPerReq": 150,
            "decodeTimeMsPerReq": 50,
            "supportSelectBatch": True,
            "maxQueueDelayMicroseconds": 5000,
            "maxPreemptCount": 0,
        },
    },
}


def make(name: str, **section: Any) -> Engine:
    """An engine as the plan makes it: from its section of config.toml."""
    register()
    kind = registry.engines.load(name)
    return kind(kind.Config.model_validate(section))


class TestLlamacpp(EngineContract):
    def make_engine(self, folder: Path) -> Engine:
        return make("llamacpp", max_threads=4)


class TestVllm(EngineContract):
    def make_engine(self, folder: Path) -> Engine:
        return make("vllm", command={"model": "/models/llama", "served_model_name": "llama", "others": "--dtype auto"})


class TestSglang(EngineContract):
    def make_engine(self, folder: Path) -> Engine:
        return make("sglang", command={"model": "/models/llama"})


class TestMindie(EngineContract):
    def make_engine(self, folder: Path) -> Engine:
        (folder / "config.json").write_text(json.dumps(MINDIE_FILE))
        return make("mindie", config_path=str(folder / "config.json"), command="./daemon")


class TestSimulated(EngineContract):
    def make_engine(self, folder: Path) -> Engine:
        return make("simulated", noise=0.1)


class TestSimulatedLive(EngineContract):
    def make_engine(self, folder: Path) -> Engine:
        seqs = {"name": "max_num_seqs", "config_position": "POST /settings", "min": 1, "max": 64, "value": 8}
        return make("simulated", target_field=[seqs])


class TestCommand(EngineContract):
    def make_engine(self, folder: Path) -> Engine:
        (folder / "service.yaml").write_text("scheduler:\n  queues:\n  - {depth: 4}\n")
        return make(
            "command",
            argv=["./start.sh", "$PORT", "$BATCH"],
            model="m",
            config_path=str(folder / "service.yaml"),
            target_field=[
                {"name": "batch", "min": 1, "max": 64, "value": 8},
                {"name": "eager", "config_position": "--eager", "dtype": "bool", "value": False},
                {"name": "depth", "config_position": "scheduler.queues.0.depth", "min": 1, "max": 9, "value": 4},
                {"name": "CONCURRENCY", "min": 1, "max": 64, "value": 8},
                {"name": "delay", "config_position": "PUT /settings", "min": 0, "max": 9, "value": 4},
            ],
        )


def test_where_a_service_tells_its_metrics(tmp_path: Path) -> None:
    group = Group("g", (Node("n1"),), 8000)
    assert make("vllm", command={"model": "m"}).metrics_url(group) == "http://n1:8000/metrics"
    assert make("command", argv=["x"], model="m").metrics_url(group) == ""
    for server, url in (
        ({}, ""),
        ({"metricsPort": 1027}, "http://n1:1027/metrics"),
        ({"metricsPort": 1027, "managementIpAddress": "127.0.0.2"}, "http://127.0.0.2:1027/metrics"),
    ):
        changed = {**MINDIE_FILE, "ServerConfig": {**MINDIE_FILE["ServerConfig"], **server}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        assert make("mindie", config_path=str(tmp_path / "config.json"), command="d").metrics_url(group) == url
