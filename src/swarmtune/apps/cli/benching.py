"""The running part of ``swarmtune bench``: progress, the run, the report, the files."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from swarmtune.apps.cli.console import console_of
from swarmtune.errors import ConfigPathError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.distributed import Output, Remote, measure
from swarmtune.loadgen.exports import table
from swarmtune.loadgen.exports.facts import written
from swarmtune.loadgen.exports.report import Report
from swarmtune.loadgen.records import Progress
from swarmtune.loadgen.send.plan import limit_of

if TYPE_CHECKING:
    from rich.console import Console

    from swarmtune.loadgen.ask.spec import Spec
    from swarmtune.loadgen.selftest.ladder import Step

SELF_TEST_FILE = "self-test.json"


def bench(spec: Spec, directory: Path, arguments: argparse.Namespace, formats: tuple[str, ...], command: str) -> Report:
    """One run: measure, certify, write the files, print the table."""
    console = console_of(quiet=arguments.quiet)
    limits = limit_of(spec.options, make_dataset(spec.options, spec.seed))
    _make(directory)
    run_type = None if arguments.run_type == "auto" else arguments.run_type
    notes: list[str] = []
    with _progress(spec, limits, arguments.quiet) as advance:

        def watch(seen: Progress) -> None:
            notes[:] = seen.notes
            advance(seen)

        output = Output(directory, formats, command)
        workers, remote = spec.options.workers_max, _remote(arguments, console)
        made = measure(spec, workers, output, watch, remote=remote, run_type=run_type)
    table.show(made.results, made.facts, console)
    for note in notes:
        console.print(f"note: {note}", style="dim")
    console.print(f"files: {directory}", style="dim")
    return made


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigPathError(
            f"--artifact-dir: {directory} cannot be made: {error.strerror}. Choose another."
        ) from error


def _remote(arguments: argparse.Namespace, console: Console) -> Remote | None:
    if not arguments.listen:
        return None
    key = Path(arguments.key_file)

    def listening(address: str) -> None:
        console.print(f"waiting for {arguments.hosts} host(s): copy {key} to each and run there:")
        console.print(f"  swarmtune bench-worker {address} --key-file {key.name}")

    return Remote(arguments.listen, arguments.hosts, key, listening=listening)


@contextlib.contextmanager
def _progress(spec: Spec, limits: tuple[int | None, int | None], quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A callback that draws a progress bar: over requests, or over time if their number is not fixed."""
    console = console_of(stderr=True)
    bar = Bar(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[counts]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=quiet or not console.is_terminal,
    )  # fmt: skip
    sessions, requests = limits
    total = requests or sessions
    duration = spec.options.benchmark_duration
    task = bar.add_task("starting", total=total or duration or None, counts="")
    began: list[float] = []

    def advance(seen: Progress) -> None:
        failed = f", {seen.failed} failed" if seen.failed else ""
        counts = f"{seen.ended} done, {seen.in_flight} in flight{failed}"
        if seen.stage not in ("measuring", "stopping", "collecting", "working out results"):
            bar.update(task, description=seen.stage, counts=f"{seen.in_flight} in flight" if seen.in_flight else "")
            return
        began.append(time.monotonic())
        done = seen.ended if total else min(duration or 0.0, began[-1] - began[0])
        bar.update(task, description=seen.stage, completed=done, counts=counts)

    with bar:
        yield advance


# --- what this machine can measure -------------------------------------------------------------------------------------


def self_test(arguments: argparse.Namespace) -> int:
    """Run the ladder step by step; the result is printed and written to a file."""
    from swarmtune.loadgen.selftest.ladder import conclusion, steps

    console = console_of(quiet=arguments.quiet)
    done: list[Step] = []
    with console.status("loading a built-in server of known timing") as status:
        for step in steps():
            done.append(step)
            load = f"{step.streams} streams" if step.streams else f"{step.request_rate:g} requests/s"
            status.update(f"measured {load}: {step.verdict}")
    console.print(_step_table(done))
    sentences = conclusion(done)
    for sentence in sentences:
        console.print(sentence)
    path = Path(arguments.artifact_dir) / SELF_TEST_FILE
    with written(path) as file:
        file.write(
            orjson.dumps(
                {"steps": [asdict(step) for step in done], "conclusion": sentences}, option=orjson.OPT_INDENT_2
            )
        )
    console.print(f"files: {path}", style="dim")
    return 0 if any(step.good for step in done) else 5


def _step_table(done: list[Step]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    heads = (
        "load",
        "events/s",
        "requests/s",
        "CPU us/event",
        "TTFT mean",
        "true",
        "ITL p99",
        "true",
        "send lag p99",
        "verdict",
    )
    for head in heads:
        shown.add_column(head, justify="left" if head in ("load", "verdict") else "right")
    for step in done:
        load = f"{step.streams} streams" if step.streams else f"{step.request_rate:g} requests/s"
        itl = (f"{step.itl_p99_ms:.2f}", f"{step.true_itl_p99_ms:.2f}") if step.streams else ("", "")
        shown.add_row(
            load, f"{step.events_per_s:,.0f}", f"{step.requests_per_s:,.0f}", f"{step.cpu_us_per_event:.1f}",
            f"{step.ttft_mean_ms:.2f}", f"{step.true_ttft_mean_ms:.2f}", *itl, f"{step.send_lag_p99_ms:.2f}", step.verdict,
        )  # fmt: skip
    return shown
