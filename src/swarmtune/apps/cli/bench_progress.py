"""The progress of one run of ``swarmtune bench``: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from loguru import logger
from rich.console import Console
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from swarmtune.apps.cli.console import console_of
from swarmtune.loadgen.records import Progress
from swarmtune.report.times import clock_text

MEASURED = ("measuring", "stopping", "collecting", "working out results")

Advance = Callable[[Progress], None]


class Share:
    """How much of the measurement is done: of so many requests, or of so many seconds if their number is not fixed."""

    def __init__(self, total: int | None, duration_s: float | None) -> None:
        self.total = total or duration_s or None
        self._counted = bool(total)
        self._began: float | None = None

    def done(self, seen: Progress) -> float:
        """In the unit of ``total``."""
        if seen.stage not in MEASURED:
            return 0.0
        if self._began is None:
            self._began = time.monotonic()
        done = float(seen.ended) if self._counted else time.monotonic() - self._began
        return done if self.total is None else min(done, float(self.total))

    def eta_s(self, seen: Progress) -> float | None:
        """Seconds left; None as long as nobody can know."""
        done = self.done(seen)
        if self.total is None or self._began is None or done <= 0:
            return None
        return (self.total - done) * (time.monotonic() - self._began) / done


def counts_text(seen: Progress) -> str:
    """How many requests have ended, are under way and failed."""
    failed = f", {seen.failed} failed" if seen.failed else ""
    if seen.stage not in MEASURED:
        return f"{seen.in_flight} in flight" if seen.in_flight else ""
    return f"{seen.ended} done, {seen.in_flight} in flight{failed}"


def line_of(seen: Progress, share: Share) -> str:
    """The progress in one line, with the time that is left."""
    of = f" of {share.total:g}" if share.total and seen.stage in MEASURED and share.done(seen) == seen.ended else ""
    text = counts_text(seen).replace(" done", f"{of} done", 1)
    eta = share.eta_s(seen)
    left = "" if eta is None or seen.stage != "measuring" else f"  (ETA {clock_text(eta)})"
    return f"{seen.stage}{': ' if text else ''}{text}{left}"


@contextlib.contextmanager
def progress(share: Share, *, shown: bool, every_s: float) -> Iterator[Advance]:
    """A callback that shows how far the run is, on stderr. ``every_s``: between two lines where that is no terminal."""
    console = console_of(stderr=True)
    if console.is_terminal or not shown:
        with _bar(share, console, shown=shown) as advance:
            yield advance
        return
    yield _lines(share, console, every_s)


def _lines(share: Share, console: Console, every_s: float) -> Advance:
    last = time.monotonic()
    stage = ""

    def advance(seen: Progress) -> None:
        nonlocal last, stage
        if seen.stage != stage:
            stage = seen.stage
            logger.info("stage: {}", stage)
        logger.debug("{}", seen)
        share.done(seen)
        if every_s and time.monotonic() - last >= every_s:
            last = time.monotonic()
            console.print(line_of(seen, share), soft_wrap=True)

    return advance


@contextlib.contextmanager
def _bar(share: Share, console: Console, *, shown: bool) -> Iterator[Advance]:
    bar = Bar(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[counts]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not shown,
    )  # fmt: skip
    task = bar.add_task("starting", total=share.total, counts="")

    def advance(seen: Progress) -> None:
        logger.debug("{}", seen)
        if seen.stage in MEASURED:
            bar.update(task, description=seen.stage, completed=share.done(seen), counts=counts_text(seen))
        else:
            bar.update(task, description=seen.stage, counts=counts_text(seen))

    with bar:
        yield advance
