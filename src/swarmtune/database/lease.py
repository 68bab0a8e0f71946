"""Leases: a row of a table belongs to one live process, which renews its claim while it works."""

from __future__ import annotations

import os
import socket

import psutil
from sqlalchemy import ColumnElement, Connection, Engine, Table, select, update

from swarmtune.clock import Clock


class Lease:
    """The claim of this process to a row. The table has the columns ``owner`` and ``owner_expires_at``."""

    def __init__(self, database: Engine, table: Table, row: ColumnElement[bool], clock: Clock, seconds: float) -> None:
        """``row`` selects it; a claim that was not renewed for so many ``seconds`` may be taken over."""
        self._database, self._table, self._row = database, table, row
        self._clock, self._seconds = clock, seconds
        self.identity = process_identity()

    def acquire(self, seen: tuple[str | None, float | None] = (None, None)) -> str | None:
        """Claim the row. None if it is ours now, else the live process that has it.

        A dead process of this machine is noticed at once. Of another claim that is not in force only a second look tells,
        because clocks differ: it is taken over if it is still what ``seen``, the first look, found (owner, end).
        """
        owner, expires = self._table.c.owner, self._table.c.owner_expires_at
        now = self._clock.wall()
        with self._database.begin() as db:
            row = db.execute(select(owner, expires).where(self._row)).one()
            believed = is_in_force(row.owner_expires_at, now, self._seconds) or tuple(row) != seen
            if row.owner != self.identity and is_alive(row.owner) and believed:
                return str(row.owner)
            unchanged = (owner.is_not_distinct_from(row.owner), expires.is_not_distinct_from(row.owner_expires_at))
            claimed = update(self._table).where(self._row, *unchanged)
            taken = db.execute(claimed.values(owner=self.identity, owner_expires_at=now + self._seconds)).rowcount
        return None if taken == 1 else str(row.owner)

    def renew(self, db: Connection, **values: object) -> bool:
        """Prolong the claim, and set these columns of the row; False if another process has taken it over."""
        row = update(self._table).where(self._row, self._table.c.owner == self.identity)
        return db.execute(row.values(owner_expires_at=self._clock.wall() + self._seconds, **values)).rowcount == 1

    def holds(self, db: Connection) -> bool:
        """Is the row ours until this transaction ends? Nobody can take it over meanwhile, and no clock is asked."""
        owner = self._table.c.owner
        row = update(self._table).where(self._row, owner == self.identity)
        return db.execute(row.values(owner=owner)).rowcount == 1

    def release(self) -> None:
        """Give the row back; another process that has taken it over keeps it."""
        with self._database.begin() as db:
            row = update(self._table).where(self._row, self._table.c.owner == self.identity)
            db.execute(row.values(owner=None, owner_expires_at=None))


def is_in_force(expires_at: float | None, now: float, most_s: float) -> bool:
    """Does a claim hold by our clock (``now``: wall)? None ends more than ``most_s`` from now."""
    return now < (expires_at or 0) <= now + most_s


def process_identity() -> str:
    """host:pid:start time, so that a reused pid is not taken for this process."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(owner: str | None) -> bool:
    """May that process still run? Of another machine it is unknown; then only the lease counts."""
    if not owner:
        return False
    host, _, rest = owner.partition(":")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return True
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < 1.0
    except (psutil.Error, ValueError, OverflowError):
        return False
