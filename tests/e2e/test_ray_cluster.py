"""Tuning on a Ray cluster that is there already: it places and watches, the rest is as everywhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import QUICK, Workplace

pytestmark = pytest.mark.e2e
ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")


@pytest.fixture
def cluster() -> Iterator[tuple[str, str]]:
    """Its address, and that of its only node, which has four devices."""
    folder = Path(f"/tmp/swarmtune-ray-{os.getpid()}")  # short: a socket's path has 107 characters
    ray.init(
        num_cpus=2, resources={"NPU": 4}, include_dashboard=False, _temp_dir=str(folder), log_to_driver=False,
        object_store_memory=100 << 20,
    )  # fmt: skip
    yield ray.get_runtime_context().gcs_address, ray.util.get_node_ip_address()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_study_on_ray(workplace: Workplace, cluster: tuple[str, str]) -> None:
    address, node = cluster
    work = workplace.folder / "node"
    workplace.config(f'{QUICK}[parallel]\nray_address = "{address}"\nwork_dir = "{work}"\n')
    options = ("--executor", "ray", "--nodes", node, "--nodes-per-group", "1", "--npus-per-node", "4")
    result = workplace.tune("--evaluations", "3", *options)
    assert result["evaluations"] == 3
    assert result["budget"]["accelerator_seconds"]["spent"] > 0
    assert json.loads((workplace.study / "attempts" / "0000-1" / "load-0" / "measurement.json").read_text())["valid"]
    assert (workplace.study / "attempts" / "0000-1" / "service" / "output.log").is_file()
    assert [*work.glob("*")] == []
    assert workplace.leftovers() == []
