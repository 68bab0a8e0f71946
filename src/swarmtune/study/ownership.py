"""One live tuner per study: a lease that is renewed while it works and taken over when it has died."""

from __future__ import annotations

import contextlib
import os
import socket

import psutil
from sqlalchemy import Engine, or_, select, update

from swarmtune.clock import Clock
from swarmtune.errors import StudyBusyError
from swarmtune.study.store import translated
from swarmtune.study.tables import attempts, studies

LEASE_S = 30.0
RENEW_EVERY_S = 5.0


class Ownership:
    """The right of this process to write to a study."""

    def __init__(self, database: Engine, study: str, clock: Clock) -> None:
        self._database = database
        self._study = study
        self._clock = clock
        self.identity = _identity()
        self._renewed_at = clock.monotonic()

    def acquire(self) -> None:
        """Take the study; StudyBusyError if another live tuner has it. A dead one on this machine is noticed at once."""
        now = self._clock.wall()
        with self._database.begin() as db:
            row = db.execute(
                select(studies.c.owner, studies.c.owner_expires_at).where(studies.c.name == self._study)
            ).one()
            held = row.owner != self.identity and owned(row.owner, row.owner_expires_at, now)
            free = or_(studies.c.owner.is_(None), studies.c.owner == row.owner)
            taken = (
                db.execute(
                    update(studies)
                    .where(studies.c.name == self._study, free)
                    .values(owner=self.identity, owner_expires_at=now + LEASE_S)
                ).rowcount
                if not held
                else 0
            )
        if taken != 1:
            raise StudyBusyError(
                f"Another tuner ({row.owner}) is working on the study {self._study!r}. Wait for it, stop it, "
                "or use another study.",
                details={"owner": row.owner},
            )

    def renew(self) -> None:
        """Prolong the lease of the study and of its running attempts, and book the time spent."""
        now, monotonic = self._clock.wall(), self._clock.monotonic()
        spent, self._renewed_at = monotonic - self._renewed_at, monotonic
        with translated("be renewed"), self._database.begin() as db:
            renewed = db.execute(
                update(studies)
                .where(studies.c.name == self._study, studies.c.owner == self.identity)
                .values(owner_expires_at=now + LEASE_S, active_seconds=studies.c.active_seconds + spent)
            )
            if renewed.rowcount != 1:
                raise StudyBusyError(
                    f"Another tuner took the study {self._study!r} over while this one was not heard of for {LEASE_S:g} s. "
                    "It goes on there; this one stops."
                )
            db.execute(
                update(attempts)
                .where(attempts.c.study == self._study, attempts.c.state == "running")
                .values(lease_expires_at=now + LEASE_S)
            )

    def active_seconds(self) -> float:
        """Seconds that tuners have worked on this study, all runs together (up to the last renewal)."""
        with translated("be read"), self._database.begin() as db:
            return float(db.execute(select(studies.c.active_seconds).where(studies.c.name == self._study)).scalar_one())

    def release(self) -> None:
        """Let go of the study."""
        with contextlib.suppress(StudyBusyError):
            self.renew()
        with translated("be released"), self._database.begin() as db:
            db.execute(
                update(studies)
                .where(studies.c.name == self._study, studies.c.owner == self.identity)
                .values(owner=None, owner_expires_at=None)
            )


def owned(owner: str | None, expires_at: float | None, now: float) -> bool:
    """Does a live tuner work on the study? ``now``: wall clock."""
    return bool(owner) and (expires_at or 0) > now and _alive(str(owner))


def lost_tokens(database: Engine, study: str, now: float) -> list[str]:
    """Tokens of all attempts of a study whose tuner has died; empty while a live one works on it. ``now``: wall clock.

    All, not only those that were cut off: a service lives on while the next setting needs no other.
    """
    with database.begin() as db:
        row = db.execute(select(studies.c.owner, studies.c.owner_expires_at).where(studies.c.name == study)).first()
        if row is None or owned(row.owner, row.owner_expires_at, now):
            return []
        return [r.token for r in db.execute(select(attempts.c.token).where(attempts.c.study == study))]


def _identity() -> str:
    """host:pid:start time, so that a pid that was given to another process later is not taken for us."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def _alive(owner: str) -> bool:
    """Is that process still there? Unknown on other machines: then only the lease tells."""
    host, _, rest = owner.partition(":")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return True
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < 1.0
    except (psutil.Error, ValueError):
        return False
