"""Brings together what the workers have recorded, after each has understood its own spool in its own process."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import numpy as np

from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.clocks import SAME, Relation
from swarmtune.loadgen.distributed.merge import CHUNKS_FILE, REQUESTS_FILE, Columns, merge
from swarmtune.loadgen.distributed.messages import Collected, Piece, ReadPiece
from swarmtune.loadgen.distributed.service import Service
from swarmtune.loadgen.records import Records, WorkerFacts

PIECE_TIMEOUT_S = 60.0


class RecordsManager(Service):
    """``fetch`` for workers of other hosts, then ``records``."""

    def __init__(self, bus: Bus, directory: Path) -> None:
        """Fetched files go into ``directory``."""
        super().__init__(bus, "records-manager")
        self._directory = directory

    def fetch(self, worker: str, manager: str) -> Path:
        """Bring its files here, compressed on the way, piece by piece; where they are. CommunicationError."""
        place = self._directory / worker
        place.mkdir()
        for name in (REQUESTS_FILE, CHUNKS_FILE):
            with (place / name).open("wb") as file:
                offset = 0
                while offset >= 0:
                    piece: Piece = self.request(ReadPiece(worker, name, offset), manager, PIECE_TIMEOUT_S)
                    file.write(zlib.decompress(piece.data))
                    offset = piece.following
        return place

    def records(
        self,
        collected: dict[str, Collected],
        places: dict[str, Path],
        relations: dict[str, Relation],
        dead: dict[str, str],
        started_ns: int,
    ) -> Records:
        """All records as those of one run, in our clock. ``dead``: workers of which there are none, and why.

        ``places``: directories of the workers' files. ``started_ns`` 0: the measurement never began.
        """
        parts, ends, facts = [], [], []
        for worker, told in collected.items():
            relation, place = relations.get(worker, SAME), places[worker]
            requests, chunks = (np.load(place / name, mmap_mode="r") for name in (REQUESTS_FILE, CHUNKS_FILE))
            parts.append(Columns(requests, chunks, told.errors, relation))
            ends.append(int(relation.ours(np.array([told.ended_ns]))[0]))
            told.facts.clock_offset_error_ms = relation.error_ms
            facts.append(told.facts)
        for worker, reason in dead.items():
            note = f"{reason} during the run; its records are lost, and the load was not the one that was asked for"
            facts.append(WorkerFacts(worker, "", kernel_stamps=True, notes=[note]))
        requests, chunks, errors = merge(parts)
        now = time.monotonic_ns()
        started_ns = started_ns or now
        return Records(
            requests, chunks, errors, facts, started_ns, max([started_ns, *ends]), time.time_ns() + started_ns - now,
            next((told.request_prefix for told in collected.values()), ""),
            lost=any(told.lost for told in collected.values()),
        )  # fmt: skip
