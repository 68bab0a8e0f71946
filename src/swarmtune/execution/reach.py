"""The executors of all groups of a run: made when a group joins, closed when no group uses them any more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from swarmtune.clock import Clock
from swarmtune.devices.host import is_here
from swarmtune.execution.config import NodeConfig, ParallelConfig, ServiceGroupConfig
from swarmtune.execution.executors import executor_class, executors_for
from swarmtune.execution.executors.base import Executor, Site
from swarmtune.execution.hostfile import SSH_PORT

Make = Callable[[NodeConfig], Executor]


def executor_of(config: ParallelConfig, host: str, ssh_port: int = SSH_PORT) -> str:
    """The name of the executor that reaches a host: the configured one; for this machine the local one, unless an executor
    was chosen.
    """
    here = "executor" not in config.model_fields_set and ssh_port == SSH_PORT and is_here(host)
    return "local" if here else config.executor


class Reach:
    """Makes and shares executors: one for each node, however many groups it is in; one for each node of a reservation."""

    def __init__(
        self,
        config: ParallelConfig,
        clock: Clock,
        report: Callable[[str], None],
        make: Make | None = None,
        leftovers: Iterable[str] = (),
        folder: str = "",
    ) -> None:
        """``report`` gets the message of a failed close. ``make`` replaces ``config.executor``.

        ``leftovers`` and ``folder``: see ``Site``.
        """
        self._config = config
        self._report = report
        self._make = make
        self._site = Site(clock, tuple(leftovers), folder)
        self._users: Counter[Executor] = Counter()
        self._shared: dict[tuple[object, ...], Executor] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, group: ServiceGroupConfig) -> list[Executor]:
        """One executor for each node, the master's first; give them back with ``let_go``."""
        if self._make is None and executor_class(self._config.executor).reserves:
            executors = [*executors_for(self._config, group.ranks, self._site)]
        else:
            executors = [self._of_node(node) for node in group.ranks]
        self._users.update(executors)
        return executors

    def let_go(self, executors: Sequence[Executor]) -> None:
        """Give back the executors of a group; those that no other group uses are closed, in the background."""
        self._users.subtract(executors)
        unused = [executor for executor in dict.fromkeys(executors) if not self._users[executor]]
        for executor in unused:
            del self._users[executor]
            self._shared = {key: other for key, other in self._shared.items() if other is not executor}
            self._closing.add(asyncio.create_task(self._close(executor)))

    async def settled(self) -> None:
        """Wait until all unused executors are closed."""
        closing, self._closing = self._closing, set()
        await asyncio.gather(*closing)

    async def close(self) -> None:
        """Close all executors; the first error is raised after all have been closed."""
        await self.settled()
        executors, self._users, self._shared = list(self._users), Counter(), {}
        for result in await asyncio.gather(*(executor.close() for executor in executors), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _of_node(self, node: NodeConfig) -> Executor:
        key = (node.host, node.ssh_port, node.username, node.work_dir)
        if key not in self._shared:
            self._shared[key] = self._make(node) if self._make else self._usual(node)
        return self._shared[key]

    def _usual(self, node: NodeConfig) -> Executor:
        return executors_for(self._config, [node], self._site, executor_of(self._config, node.host, node.ssh_port))[0]

    async def _close(self, executor: Executor) -> None:
        try:
            await executor.close()
        except Exception as error:  # noqa: BLE001 - the others go on
            self._report(str(error))
