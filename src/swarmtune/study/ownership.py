"""One live tuner per study: a lease that is renewed while it works and taken over when it has died."""

from __future__ import annotations

import contextlib

from sqlalchemy import Connection, Engine, select, update

from swarmtune.clock import Clock
from swarmtune.database.lease import Lease
from swarmtune.errors import StudyBusyError
from swarmtune.study.tables import attempts, studies, translated

LEASE_S = 30.0
RENEW_EVERY_S = 5.0
WATCH_S = 2 * RENEW_EVERY_S  # a live tuner renews its lease meanwhile


class Ownership:
    """The right of this process to write to a study."""

    def __init__(self, database: Engine, study: str, clock: Clock) -> None:
        self._database = database
        self._study = study
        self._clock = clock
        self._lease = Lease(database, studies, studies.c.name == study, clock, LEASE_S)
        self.identity = self._lease.identity
        self._renewed_at = clock.monotonic()

    def acquire(self, seen: tuple[str | None, float | None] = (None, None)) -> None:
        """Take the study; StudyBusyError if another live tuner has it. ``seen``: see Lease."""
        owner = self._lease.acquire(seen)
        if owner is not None:
            raise busy_with(self._study, owner)

    def renew(self) -> None:
        """Prolong the lease of the study and of its running attempts, and book the time spent.

        StudyBusyError if another tuner has taken the study over; StoreError if the database does not answer.
        """
        now, monotonic = self._clock.wall(), self._clock.monotonic()
        spent, self._renewed_at = monotonic - self._renewed_at, monotonic
        with translated("be renewed"), self._database.begin() as db:
            if not self._lease.renew(db, active_seconds=studies.c.active_seconds + spent):
                raise self._taken_over()
            db.execute(
                update(attempts)
                .where(attempts.c.study == self._study, attempts.c.state == "running")
                .values(lease_expires_at=now + LEASE_S)
            )

    def guard(self, db: Connection) -> None:
        """What this transaction writes counts only while the study is ours: StudyBusyError if another tuner has taken it
        over, however long this one was stopped and whatever its clock says.
        """
        if not self._lease.holds(db):
            raise self._taken_over()

    def _taken_over(self) -> StudyBusyError:
        return StudyBusyError(
            f"Another tuner took over the study {self._study!r}, because it saw no renewal of this one's lease "
            f"({LEASE_S:g} s). The other one goes on; this one stops."
        )

    def active_seconds(self) -> float:
        """Seconds that tuners have worked on this study, all runs together (up to the last renewal)."""
        with translated("be read"), self._database.begin() as db:
            return float(db.execute(select(studies.c.active_seconds).where(studies.c.name == self._study)).scalar_one())

    def release(self) -> None:
        """Release the study."""
        with contextlib.suppress(StudyBusyError):
            self.renew()
        with translated("be released"):
            self._lease.release()


def busy_with(study: str, owner: str) -> StudyBusyError:
    """The error for a study that another live tuner owns."""
    return StudyBusyError(
        f"Another tuner ({owner}) is working on the study {study!r}. Wait for it, stop it, or use another study.",
        details={"owner": owner},
    )
