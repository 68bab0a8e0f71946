"""Commands on the nodes of a Ray cluster: a placement group reserves a service group, an actor on each node runs commands.

Ray places and watches; commands run under our supervisors, which end with the actor, and the actor ends with the driver,
with its node, and with Ray. We never call ``ray up`` or ``ray stop``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from swarmtune.clock import Clock, RealClock, within
from swarmtune.errors import CommunicationError, Culprit, IPCTimeoutError
from swarmtune.execution.config import NodeConfig, ParallelConfig
from swarmtune.execution.executors.asking import ANSWER_S, AskingExecutor, raised_of
from swarmtune.execution.executors.base import Site
from swarmtune.execution.executors.local import copy
from swarmtune.execution.executors.node_commands import Message, NodeCommands
from swarmtune.execution.executors.ray_membership import MEMBERSHIP, ray
from swarmtune.execution.supervisor import make_private

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group  # isort: skip
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # isort: skip

RESERVE_S = 60.0  # Ray itself would wait for ever for an impossible reservation
LEASE_S = 15.0  # an actor that gets no renewal for so long ends its commands
ON_NODE = 0.001  # of the resource "node:ADDRESS" that every Ray node has


class RayReservation:
    """The placement group of a service group: its nodes and devices are ours until its last executor releases it."""

    def __init__(self, nodes: Sequence[NodeConfig], device_resource: str, clock: Clock, address: str = "auto") -> None:
        """``device_resource``: the resource that counts devices, such as "GPU" or "NPU". ``address``: of the cluster."""
        self._bundles = [
            {f"node:{n.host}": ON_NODE, **({device_resource: len(n.npu_ids)} if n.npu_ids else {})} for n in nodes
        ]
        self._clock = clock
        self._address = address
        self._group: PlacementGroup | None = None
        self._number = 0  # the number of our membership when it was reserved
        self._watching: asyncio.Task[None] | None = None
        self._reserving = asyncio.Lock()
        self._users = 0

    @property
    def lost(self) -> bool:
        """Have we left the cluster of this reservation, because its head was gone?"""
        return self._number != MEMBERSHIP.number

    @property
    def held(self) -> bool:
        """Are the nodes ours now?"""
        return self._group is not None and not self.lost

    def use(self) -> None:
        """Count one more executor that uses the reservation."""
        self._users += 1

    async def group(self) -> PlacementGroup:
        """Reserve it, once in each cluster. CommunicationError if there is none, or nodes are not free within RESERVE_S."""
        async with self._reserving:
            if self._group is None or self.lost:
                self._group = None
                self._group = await self._reserved()
            return self._group

    async def _reserved(self) -> PlacementGroup:
        await asyncio.to_thread(MEMBERSHIP.join, self._address)
        if self._watching is None or self.lost:
            self._number = MEMBERSHIP.number
            self._watching = asyncio.create_task(MEMBERSHIP.watch(self._number, self._clock))
        await MEMBERSHIP.check(self._number, self._clock)
        group: PlacementGroup = placement_group(self._bundles, strategy="PACK")
        try:
            await within(self._clock, RESERVE_S, self.unless_lost(_awaited(group.ready())))
        except BaseException as error:
            if not self.lost:
                remove_placement_group(group)
            if isinstance(error, TimeoutError):
                raise CommunicationError(
                    f"Ray has not reserved {self._bundles} within {RESERVE_S:g} s: the nodes are gone or in use"
                ) from error
            raise
        return group

    async def unless_lost(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of ``work``. CommunicationError if we leave the cluster first: no answer would come any more."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._watching or task}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise CommunicationError("the Ray cluster is lost: its head does not answer")
            return task.result()
        finally:
            task.cancel()

    async def release(self) -> None:
        """Count one executor less; after the last, the nodes are free for others."""
        self._users -= 1
        if self._users > 0:
            return
        group, self._group = self._group, None
        with contextlib.suppress(Exception):  # the cluster may be gone
            if group is not None and not self.lost:
                await MEMBERSHIP.check(self._number, self._clock)
                remove_placement_group(group)
        if self._watching is not None:
            self._watching.cancel()


class _NodeActor:
    """Runs on the node. Made a Ray actor by ``RayExecutor``."""

    def __init__(self, root: str) -> None:
        self._clock = RealClock()
        folder = Path(root).expanduser()
        clear_abandoned(folder.parent)
        self._mark = mark(folder)
        # Ray kills the children of a worker with it, and a killed supervisor can end nothing.
        self._commands = NodeCommands(folder, self._clock, adopted=True)
        self._last_renewal = self._clock.monotonic()
        self._lease: asyncio.Task[None] | None = None

    async def answer(self, message: Message) -> Message:
        """See NodeCommands."""
        await self.renew()
        return await self._commands.answer(message)

    async def renew(self) -> None:
        """Renew the driver's lease."""
        self._last_renewal = self._clock.monotonic()
        if self._lease is None:
            self._lease = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """End everything when the driver has been silent for too long; Ray itself may take minutes to notice."""
        while self._clock.monotonic() < self._last_renewal + LEASE_S:
            await self._clock.sleep(1.0)
        await self._commands.end()
        os._exit(1)

    async def put(self, packed: bytes, path: str) -> Message:
        """Unpack a file or folder on the node."""
        with tempfile.TemporaryDirectory() as folder:
            await asyncio.to_thread(unpack, packed, Path(folder))
            return await self._commands.answer({"command": "put", "passage": f"{folder}/it", "path": path})

    async def get(self, path: str) -> tuple[Message, bytes]:
        """Pack a file or folder of the node."""
        with tempfile.TemporaryDirectory() as folder:
            answer = await self._commands.answer({"command": "backup", "passage": f"{folder}/it", "path": path})
            return answer, b"" if "error" in answer else await asyncio.to_thread(pack, Path(folder) / "it")

    async def clear(self, roots: list[str]) -> None:
        """Remove the folders of lost actors."""
        for root in roots:
            await asyncio.to_thread(shutil.rmtree, Path(root).expanduser(), ignore_errors=True)

    def place(self) -> tuple[str, int]:
        """Host address and process id of the actor."""
        return str(ray.util.get_node_ip_address()), os.getpid()  # type: ignore[no-untyped-call]


class RayExecutor(AskingExecutor):
    """One node of a reservation, by its rank there."""

    reserves = True

    @classmethod
    def for_nodes(cls, config: ParallelConfig, nodes: Sequence[NodeConfig], site: Site) -> Sequence[RayExecutor]:
        """Executors for the nodes of one group, by rank; the cluster is joined if it is not yet.

        CommunicationError, for the user, if there is none.
        """
        MEMBERSHIP.join(config.ray_address)
        reservation = RayReservation(nodes, config.ray_resource, site.clock, config.ray_address)
        return [cls(reservation, rank, node.work_dir, site.clock) for rank, node in enumerate(nodes)]

    def __init__(self, reservation: RayReservation, rank: int, work_dir: str, clock: Clock) -> None:
        super().__init__()
        reservation.use()
        self._reservation = reservation
        self._rank = rank
        self._work_dir = work_dir
        self._roots: list[str] = []  # folders of all actors so far; those of lost ones are removed with the last one's
        self._clock = clock
        self._actor: Any = None
        self._number = 0  # the number of the membership in which the actor was made
        self._making = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """See Executor."""
        return self._reservation.held

    async def put(self, local: Path, remote: str) -> None:
        """See Executor: through Ray's object store."""
        source = local.resolve()
        if not source.exists():
            raise CommunicationError(f"cannot copy {local}: no such file", culprit=Culprit.USER)
        packed = await asyncio.to_thread(pack, source)
        raised_of(await self._call("put", packed, remote))

    async def get(self, remote: str, local: Path) -> None:
        """See Executor: through Ray's object store."""
        answer, packed = await self._call("get", remote)
        raised_of(answer)
        await asyncio.to_thread(_place, packed, local)

    async def close(self) -> None:
        """See Executor. Ends the actor; the last executor of the group also gives up the reservation."""
        if self.last_codes is not None:
            return
        self.last_codes = {}
        actor, self._actor = self._actor, None
        if self._renewing is not None:
            self._renewing.cancel()
        try:
            if actor is not None:
                answer = await self._await(partial(actor.answer.remote, {"command": "eof"}), ANSWER_S)
                self.last_codes = raised_of(answer)["codes"]
                await self._await(partial(actor.clear.remote, self._roots), ANSWER_S)
        finally:
            if actor is not None:
                await self._kill(actor)
            await self._reservation.release()

    async def ask(self, name: str, wait_s: float = ANSWER_S, **facts: Any) -> Message:
        """See AskingExecutor."""
        return raised_of(await self._call("answer", {"command": name, **facts}, wait_s=wait_s))

    async def _call(self, method: str, *arguments: Any, wait_s: float = ANSWER_S) -> Any:
        async with self._making:
            if self._actor is None or self._number != MEMBERSHIP.number:
                with _errors_translated(self._rank):
                    await self._make()
            actor = self._actor
        try:
            return await self._await(partial(getattr(actor, method).remote, *arguments), wait_s)
        except CommunicationError:
            if self._actor is actor:
                self._actor = None  # the next one gets another actor, when its node is there again
                await self._kill(actor)
            raise

    async def _make(self) -> None:
        group = await self._reservation.group()
        await MEMBERSHIP.check(MEMBERSHIP.number, self._clock)
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=self._rank)
        made = ray.remote(_NodeActor).options(num_cpus=0, scheduling_strategy=strategy, max_concurrency=64)
        self._roots.append(f"{self._work_dir}/ray-{uuid.uuid4().hex[:12]}")
        self._actor = made.remote(self._roots[-1])
        self._number = MEMBERSHIP.number
        self._renewing = self._renewing or asyncio.create_task(self._renew())

    async def _kill(self, actor: Any) -> None:
        with contextlib.suppress(Exception):  # it may be gone, and its cluster with it
            await MEMBERSHIP.check(MEMBERSHIP.number, self._clock)
            ray.kill(actor)

    async def _renew(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # we have just left the cluster
                if self._actor is not None and self._number == MEMBERSHIP.number:
                    self._actor.renew.remote()  # nobody waits for it: a lost actor is noticed by who asks it
            await self._clock.sleep(LEASE_S / 3)

    async def _await(self, ask: Callable[[], Any], wait_s: float) -> Any:
        try:
            with _errors_translated(self._rank):
                return await within(self._clock, wait_s, self._reservation.unless_lost(_awaited(ask())))
        except TimeoutError as error:
            raise IPCTimeoutError(f"the actor on rank {self._rank} did not answer within {wait_s:g} s") from error


@contextlib.contextmanager
def _errors_translated(rank: int) -> Iterator[None]:
    """Translate errors of Ray into CommunicationError."""
    try:
        yield
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise CommunicationError(f"the actor on rank {rank} is lost: {reason}") from error


async def _awaited(reference: Any) -> Any:
    return await reference


def mark(folder: Path) -> int:
    """Make the folder and lock it; it counts as in use while this process lives (the descriptor is open)."""
    make_private(folder)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def clear_abandoned(parent: Path) -> None:
    """Remove the folders of actors that Ray killed, as it does when a driver dies."""
    for lock in parent.glob("ray-*/.lock"):
        with contextlib.suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def pack(path: Path) -> bytes:
    """A file or folder as one tar archive, in which it is called "it"; links stay links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(path, arcname="it")
    return buffer.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """Inverse of ``pack``: ``folder / "it"``."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extraction_filter = getattr(tarfile, "tar_filter", None)  # Python before 3.11.4 knows no filters
        archive.extractall(folder)  # noqa: S202 - the archive is our own driver's


def _place(packed: bytes, local: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        unpack(packed, Path(folder))
        copy(Path(folder) / "it", local)
