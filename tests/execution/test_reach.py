"""Executors are shared by groups that share a node, closed when nobody uses them, and never twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarmtune.clock import RealClock
from swarmtune.execution.config import NodeConfig, ParallelConfig, ServiceGroupConfig
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.reach import Reach


class Told(LocalExecutor):
    """Tells when it has been closed; slow, and in trouble if wanted."""

    def __init__(self, node: NodeConfig, closed: list[str], trouble: str = "") -> None:
        super().__init__(Path(node.work_dir), RealClock())
        self._node = node
        self._closed_nodes = closed
        self._trouble = trouble

    async def close(self) -> None:
        await super().close()
        await asyncio.sleep(0.05)
        self._closed_nodes.append(self._node.host)
        if self._trouble == self._node.host:
            raise RuntimeError("it stays")


def of(*hosts: str, folder: Path) -> ServiceGroupConfig:
    nodes = tuple(NodeConfig(host=host, work_dir=str(folder)) for host in hosts)
    return ServiceGroupConfig(group_id="g", nodes=nodes)


@pytest.fixture
def closed() -> list[str]:
    return []


def reach(closed: list[str], told: list[str], trouble: str = "") -> Reach:
    return Reach(ParallelConfig(), RealClock(), told.append, lambda node: Told(node, closed, trouble))


async def test_a_shared_node_is_closed_with_its_last_group(closed: list[str], tmp_path: Path) -> None:
    there = reach(closed, [])
    ab, bc = there.of(of("a", "b", folder=tmp_path)), there.of(of("b", "c", folder=tmp_path))
    assert ab[1] is bc[0]
    there.let_go(ab)
    await asyncio.sleep(0.2)
    assert closed == ["a"]
    again = there.of(of("a", folder=tmp_path))
    assert again[0] is not ab[0]
    there.let_go(bc)
    await there.close()
    assert sorted(closed) == ["a", "a", "b", "c"]


async def test_the_end_waits_for_what_is_being_closed(closed: list[str], tmp_path: Path) -> None:
    there = reach(closed, [])
    there.let_go(there.of(of("a", "a", folder=tmp_path)))
    await there.close()
    assert closed == ["a"]


async def test_trouble_is_told_and_in_the_end_raised(closed: list[str], tmp_path: Path) -> None:
    told: list[str] = []
    there = reach(closed, told, trouble="a")
    there.let_go(there.of(of("a", folder=tmp_path)))
    there.of(of("a", "b", folder=tmp_path))
    with pytest.raises(RuntimeError, match="it stays"):
        await there.close()
    assert told == ["it stays"]
    assert sorted(closed) == ["a", "a", "b"]


async def test_it_can_be_used_again(closed: list[str], tmp_path: Path) -> None:
    there = reach(closed, [])
    (before,) = there.of(of("a", folder=tmp_path))
    await there.close()
    (after,) = there.of(of("a", folder=tmp_path))
    assert after is not before
    await there.close()
    assert closed == ["a", "a"]
