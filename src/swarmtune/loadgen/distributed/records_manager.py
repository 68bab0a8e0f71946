"""Brings together what the workers have recorded, after each has understood its own spool in its own process."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from swarmtune.errors import BenchmarkExecutionError, CommunicationError
from swarmtune.files import created
from swarmtune.loadgen.distributed.clocks import SAME, monotonic_ns
from swarmtune.loadgen.distributed.merge import CHUNKS_FILE, REQUESTS_FILE, Columns, merge
from swarmtune.loadgen.distributed.messages import Collected, Merge, Piece, ReadPiece
from swarmtune.loadgen.distributed.service import Service, on_message
from swarmtune.loadgen.records import Records, WorkerFacts

PIECE_TIMEOUT_S = 60.0


def records_of(told: Collected, *, interrupted: bool) -> Records:
    """The records behind this message. The arrays are mapped, not read: they stay when the files are removed."""
    requests, chunks = (np.load(Path(told.directory) / name, mmap_mode="c") for name in (REQUESTS_FILE, CHUNKS_FILE))
    return Records(
        requests, chunks, told.errors, told.facts, told.started_ns, told.ended_ns, told.started_unix_ns,
        told.request_prefix, interrupted=interrupted, lost=told.lost, early_stop=told.early_stop,
    )  # fmt: skip


class RecordsManager(Service):
    """Fetches from other hosts, converts all times to our clock, and leaves one set of columns."""

    @on_message(Merge)
    def merge(self, _: str, message: Merge) -> Collected:
        """All records as those of one run. A worker whose host is lost meanwhile counts as dead."""
        parts, ends, facts, dead = [], [], [], dict(message.dead)
        for worker, told in message.collected.items():
            manager = message.managers.get(worker, "")
            relation = message.relations.get(manager, SAME)
            try:
                place = self._fetch(worker, manager) if manager else Path(told.directory)
            except CommunicationError:
                dead[worker] = f"is gone with its host {manager}"
                continue
            requests, chunks = (np.load(place / name, mmap_mode="r") for name in (REQUESTS_FILE, CHUNKS_FILE))
            parts.append(Columns(requests, chunks, told.errors, relation))
            ends.append(int(relation.ours(np.array([told.ended_ns]))[0]))
            for fact in told.facts:
                fact.clock_offset_error_ms = relation.error_ms
            facts += told.facts
        if not parts:
            raise BenchmarkExecutionError(
                f"No worker is left: {'; '.join(f'{name} {why}' for name, why in dead.items())}"
            )
        for worker, reason in dead.items():
            note = f"{reason} during the run; its records are lost, and the load was not the one that was asked for"
            facts.append(WorkerFacts(worker, "", kernel_stamps=True, notes=[note]))
        requests, chunks, errors = merge(parts)
        np.save(self.place / REQUESTS_FILE, requests)
        np.save(self.place / CHUNKS_FILE, chunks)
        now = monotonic_ns(self.clock)
        started_ns = message.started_ns or now
        collected = message.collected.values()
        return Collected(
            str(self.place), errors, facts, started_ns, max([started_ns, *ends]),
            round(self.clock.wall() * 1e9) + started_ns - now,
            next((told.request_prefix for told in collected), ""), any(told.lost for told in collected),
        )  # fmt: skip

    def _fetch(self, worker: str, manager: str) -> Path:
        """Bring its files here, compressed on the way, piece by piece; where they are. CommunicationError."""
        place = self.place / worker
        place.mkdir()
        for name in (REQUESTS_FILE, CHUNKS_FILE):
            with created(place / name) as file:
                offset = 0
                while offset >= 0:
                    piece: Piece = self.channel.request(ReadPiece(worker, name, offset), manager, PIECE_TIMEOUT_S)
                    file.write(zlib.decompress(piece.data))
                    offset = piece.following
        return place
