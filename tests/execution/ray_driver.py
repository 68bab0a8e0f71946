"""Runs one service of two nodes on Ray and tells what becomes of it: ``python ray_driver.py RAY_ADDRESS HOST...``.

A program of its own, for test_ray_machines.py: what is asked comes on stdin, each answer goes to stdout as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

from swarmtune.clock import RealClock
from swarmtune.errors import CommunicationError
from swarmtune.execution.config import NodeConfig, ParallelConfig
from swarmtune.execution.executors.base import Handle, Site
from swarmtune.execution.executors.ray import RayExecutor
from swarmtune.execution.service_group import Gang, ServiceGroup
from swarmtune.records import Command, Group, Node
from swarmtune.testing.executor import FAMILY, finished, printed, python

TOLD = """
import os
print("told", *(os.environ[f"SWARMTUNE_{n}"] for n in ("RANK", "HOSTS", "DEVICES")), os.environ["ASCEND_RT_VISIBLE_DEVICES"])
"""


async def gang_of(group: ServiceGroup, argv: Sequence[str]) -> Gang:
    gang = await group.start([Command(tuple(argv))] * 2)
    assert isinstance(gang, Gang)
    return gang


async def start(group: ServiceGroup) -> tuple[Gang, list[object]]:
    """A service; of each rank, what it was told and the processes of its family."""
    gang = await gang_of(group, python(TOLD + FAMILY, "600", "polite"))
    said = [(await printed(rank, "told"), await printed(rank, "family")) for rank in gang.handles]
    return gang, [(told.split()[1:], [int(pid) for pid in family.split()[1:]]) for told, family in said]


async def ended(service: Handle) -> list[object]:
    """The code that the service ended with, or whose fault it is that nobody knows."""
    try:
        async with asyncio.timeout(50):
            return [await finished(service)]
    except CommunicationError as error:
        return [error.culprit.value, error.message]


async def anew(group: ServiceGroup) -> list[object]:
    """The codes and words of the next service, which is tried until the nodes are back."""
    async with asyncio.timeout(60):
        while True:
            try:
                gang = await gang_of(group, ["hostname"])
                return [
                    [await finished(rank) for rank in gang.handles],
                    [(await rank.logs()).strip() for rank in gang.handles],
                ]
            except CommunicationError:
                await asyncio.sleep(0.5)


async def refused(group: ServiceGroup) -> str:
    """What is said against the next service."""
    try:
        await gang_of(group, ["hostname"])
    except CommunicationError as error:
        return error.message
    return ""


async def serve(executors: Sequence[RayExecutor], nodes: Sequence[NodeConfig]) -> None:
    group = ServiceGroup(Group("g", tuple(Node(n.host, n.npu_ids) for n in nodes), 8000), executors)
    answer: object
    gang, answer = await start(group)
    while True:
        print(json.dumps(answer), flush=True)
        match (await asyncio.to_thread(sys.stdin.readline)).strip():
            case "ended":
                answer = await ended(gang)
            case "refused":
                answer = await refused(group)
            case "anew":
                answer = await anew(group)
            case "close":
                return


async def main(address: str, hosts: Sequence[str]) -> None:
    nodes = [NodeConfig(host=host) for host in hosts]
    executors = RayExecutor.for_nodes(ParallelConfig(executor="ray", ray_address=address), nodes, Site(RealClock()))
    await serve(executors, nodes)
    for executor in executors:
        await executor.close()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2:]))
    except CommunicationError as error:
        sys.exit(f"{error.culprit.value}: {error.message}")
