"""A service group with its executors: the ranks of a service start together and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from swarmtune.execution.executors.base import Executor, Handle, NotHeldError
from swarmtune.records import Command, Group

LEAST_LINES = 400  # of the log of one rank
VISIBLE = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def rank_environment(group: Group) -> dict[str, str]:
    """Environment variables that describe the group to the command of ``group.rank``, for start scripts and engines.

    SWARMTUNE_GROUP, _HOSTS ("h1,h2", the master first), _NODES, _RANK, _DEVICES ("0,1"), _MASTER and _PORT; where devices
    are given, CUDA, Ascend and HIP see no others.
    """
    devices = ",".join(map(str, group.nodes[group.rank].devices))
    variables = {
        "SWARMTUNE_GROUP": group.name,
        "SWARMTUNE_HOSTS": ",".join(node.host for node in group.nodes),
        "SWARMTUNE_NODES": str(len(group.nodes)),
        "SWARMTUNE_RANK": str(group.rank),
        "SWARMTUNE_DEVICES": devices,
        "SWARMTUNE_MASTER": group.master,
        "SWARMTUNE_PORT": str(group.port),
    }
    return variables | (dict.fromkeys(VISIBLE, devices) if devices else {})


class ServiceGroup:
    """A group with an executor for each of its nodes, in the same order."""

    def __init__(self, group: Group, executors: Sequence[Executor]) -> None:
        self.group = group
        self.executors = tuple(executors)

    async def start(self, commands: Sequence[Command], port: int = 0) -> Handle:
        """Start one command on each node, rank by rank. If one cannot start, or the call is cancelled, those that had
        started are stopped, and the reason is raised.

        ``port``: where the service answers, if the group names none.
        """
        group = replace(self.group, port=port or self.group.port)
        starts = [
            asyncio.create_task(executor.start(with_rank(command, replace(group, rank=rank))))
            for rank, (executor, command) in enumerate(zip(self.executors, commands, strict=True))
        ]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            done = await asyncio.gather(*starts, return_exceptions=True)
            await _stop_all([handle for handle in done if isinstance(handle, Handle)], grace_s=0.0)
            raise
        handles = [start.result() for start in starts]
        return handles[0] if len(handles) == 1 else Gang(handles)

    async def get(self, directory: str, local: Path) -> None:
        """Copy a folder from every node: the master's to ``local``, the others' to ``local-rank-N``."""
        for rank, executor in enumerate(self.executors):
            await executor.get(of_rank(directory, rank), local.with_name(of_rank(local.name, rank)))

    async def answers(self) -> bool:
        """Does every node start a command? NotHeldError if the nodes would have to be reserved first."""
        if not all(executor.held for executor in self.executors):
            raise NotHeldError(f"the nodes of {self.group.name} are not reserved")
        handles = await asyncio.gather(
            *(executor.start(Command(("true",), directory=f"health-{self.group.name}")) for executor in self.executors)
        )
        await _stop_all(handles, grace_s=0.0)
        return True


def of_rank(name: str, rank: int) -> str:
    """A name with the suffix of a rank; rank 0 has none."""
    return f"{name}-rank-{rank}" if rank else name


class Gang(Handle):
    """The ranks of one service. The service has ended as soon as any rank has."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self.handles = tuple(handles)
        self._code: int | None = None

    async def poll(self) -> int | None:
        """See Handle: the exit code of the first rank that ended; of several, that of a failed one."""
        if self._code is None:
            codes = [code for handle in self.handles if (code := await handle.poll()) is not None]
            self._code = next((code for code in codes if code != 0), codes[0] if codes else None)
        return self._code

    async def logs(self, lines: int = 50) -> str:
        """See Handle: the lines of each rank under a heading, the master's last, where a diagnosis looks first. Of more than
        LEAST_LINES each rank has its share.
        """
        share = max(min(lines, LEAST_LINES), lines // len(self.handles))
        texts = [f"--- rank {rank} ---\n{await handle.logs(share)}" for rank, handle in enumerate(self.handles)]
        return "\n".join([*texts[1:], texts[0]])

    async def stop(self, grace_s: float = 5.0) -> None:
        """See Handle: all ranks concurrently; the first error is raised after all have been stopped."""
        await _stop_all(self.handles, grace_s)


def with_rank(command: Command, group: Group) -> Command:
    """The command with rank variables added; its own environment takes precedence."""
    return replace(command, env={**rank_environment(group), **command.env})


async def _stop_all(handles: Sequence[Handle], grace_s: float) -> None:
    """Stop all handles; the first error is raised after all have been stopped."""
    results = await asyncio.gather(*(handle.stop(grace_s) for handle in handles), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
