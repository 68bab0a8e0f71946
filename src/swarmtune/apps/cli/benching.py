"""The running part of ``swarmtune bench``: progress, the run, the report, the files."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from loguru import logger
from rich.table import Table

from swarmtune.apps.cli.bench_folder import SELF_TEST_FILE, Place
from swarmtune.apps.cli.bench_progress import Share, progress
from swarmtune.apps.cli.console import console_of
from swarmtune.errors import CommunicationError, MissingExtraError, one_line
from swarmtune.files import escaped
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.ask.models import missing
from swarmtune.loadgen.ask.spec import headers_of
from swarmtune.loadgen.distributed import Output, Remote, measure
from swarmtune.loadgen.distributed.single import run_single
from swarmtune.loadgen.exports import aiperf, aiperf_slices, comparison, table
from swarmtune.loadgen.exports.facts import written
from swarmtune.loadgen.exports.report import Report, report
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Progress
from swarmtune.loadgen.send.plan import limit_of

if TYPE_CHECKING:
    from rich.console import Console

    from swarmtune.loadgen.ask.spec import Spec
    from swarmtune.loadgen.selftest.ladder import Step


@dataclass(frozen=True)
class Finished:
    """A run that is over: what was measured, where its files are, and what came of it for the command."""

    report: Report
    directory: Path
    name: str = ""
    code: int = 0
    reason: str = ""


def bench(
    spec: Spec, folder: Callable[[], Path], arguments: argparse.Namespace, formats: tuple[str, ...], command: str
) -> Finished:
    """One run: measure, certify, write the files, print the table. ``folder`` is made when the data are known to be good."""
    console = console_of(quiet=arguments.quiet)
    sessions, requests = limit_of(spec.options, make_dataset(spec.options, spec.seed))
    share = Share(requests or sessions, spec.options.benchmark_duration)
    directory = folder()
    run_type = None if arguments.run_type == "auto" else arguments.run_type
    notes: list[str] = []
    shown = not arguments.quiet and arguments.ui != "none" and arguments.log_level not in SILENT
    with progress(share, shown=shown, every_s=arguments.stats_interval) as advance:

        def watch(seen: Progress) -> None:
            notes[:] = seen.notes
            advance(seen)

        output = Output(directory, formats, command)
        workers, remote = spec.options.workers_max, _remote(arguments, console)
        made = measure(spec, workers, output, watch, remote=remote, run_type=run_type)
    _rename(directory, arguments.profile_export_prefix)
    table.show(made.results, made.facts, console)
    for note in notes:
        console.print(f"note: {one_line(note)}", style="dim")
    console.print(f"files: {directory}", style="dim", soft_wrap=True)
    if arguments.random_seed is None:
        console.print(f"seed: {spec.seed}; --random-seed {spec.seed} sends the same requests again", style="dim")
    return Finished(made, directory)


SILENT = ("WARNING", "ERROR", "CRITICAL")  # levels of the log at which progress is left out
PROBED = (  # options that decide whether a service answers
    *("endpoint_type", "custom_endpoint", "streaming", "header", "extra_inputs", "payload_template", "response_field"),
    *("proxy", "tls_verify", "ca_file", "source_addresses", "wire"),
)


def _remote(arguments: argparse.Namespace, console: Console) -> Remote | None:
    if not arguments.listen:
        return None
    key = Path(arguments.key_file)

    def listening(address: str) -> None:
        console.print(f"waiting for {arguments.hosts} host(s): copy {key} to each and run there:")
        console.print(f"  swarmtune bench-worker {address} --key-file {key.name}")

    return Remote(arguments.listen, arguments.hosts, key, listening=listening)


def wait_for_model(spec: Spec, arguments: argparse.Namespace) -> str:
    """Ask the service with one token of output until it answers, for its models until it lists this one, or both, for
    --wait-for-model-timeout at most; what it said last, empty if it is ready. KeyboardInterrupt if the user does not wait
    so long.
    """
    limit_s, each_s = arguments.wait_for_model_timeout, arguments.wait_for_model_interval
    ends = time.monotonic() + limit_s
    while limit_s:
        trouble = ""
        if arguments.wait_for_model_mode != "inference":
            trouble = _unlisted(spec, max(0.1, ends - time.monotonic()))
        if arguments.wait_for_model_mode != "models" and not trouble:
            trouble = _probe(spec, max(0.1, ends - time.monotonic()))
        if not trouble:
            break
        logger.info("the service is not ready: {}", trouble)
        if time.monotonic() + each_s >= ends:
            return f"the service gave no answer within {limit_s:g} s: {trouble}"
        pause(each_s)
    return ""


def _unlisted(spec: Spec, most_s: float) -> str:
    """Why one of the addresses does not have the model; empty: all list it."""
    options, headers = spec.options, headers_of(spec.options)
    limit_s = min(most_s, options.request_timeout_seconds)
    troubles = (missing(url, spec.model, options, headers, limit_s) for url in spec.url)
    return next((trouble for trouble in troubles if trouble), "")


def _probe(spec: Spec, most_s: float) -> str:
    """One request with one token of output; why it failed, empty if it did not."""
    given = {name: getattr(spec.options, name) for name in PROBED}
    options = LoadgenOptions(
        **given, isl=1, osl=1, request_count=1, concurrency=1, gpu_telemetry=("off",), server_metrics=("off",),
        request_timeout_seconds=min(most_s, spec.options.request_timeout_seconds),
    )  # fmt: skip
    small = spec.model_copy(update={"options": options})
    with tempfile.TemporaryDirectory(prefix="swarmtune-bench-") as folder:
        try:
            made = report(small, run_single(small, Path(folder), lambda _: None))
        except CommunicationError as error:
            return str(error)
    if made.records.interrupted:
        raise KeyboardInterrupt
    return next(iter(made.results.errors), "")


def pause(seconds: float) -> None:
    """Wait; Ctrl-C ends it."""
    threading.Event().wait(seconds)


def compare(done: Sequence[Finished], directory: Path, arguments: argparse.Namespace) -> None:
    """Print the runs beside each other, and leave a picture of them where matplotlib is installed."""
    console = console_of(quiet=arguments.quiet or arguments.no_sweep_table)
    runs = [comparison.Compared(one.name, one.report.results, one.report.facts) for one in done]
    console.print(comparison.comparison(runs, console.width))
    with contextlib.suppress(MissingExtraError):
        if path := comparison.draw(runs, directory):
            console.print(f"figure: {path}", style="dim", soft_wrap=True)


def _rename(directory: Path, prefix: str | None) -> None:
    """Give AIPerf's files the name that the user wants."""
    for name in (aiperf.JSON_FILE, aiperf.CSV_FILE, aiperf.RECORDS_FILE) if prefix else ():
        if (directory / name).is_file():
            (directory / name).replace(directory / f"{prefix}{Path(name).suffix}")
    for name in (aiperf_slices.JSON_FILE, aiperf_slices.CSV_FILE) if prefix else ():
        if (directory / name).is_file():
            (directory / name).replace(directory / f"{prefix}_timeslices{Path(name).suffix}")


# --- what this machine can measure -------------------------------------------------------------------------------------


def self_test(arguments: argparse.Namespace) -> int:
    """Run the ladder step by step; the result is printed and written to a file."""
    from swarmtune.loadgen.selftest.ladder import conclusion, steps

    console = console_of(quiet=arguments.quiet)
    done: list[Step] = []
    with contextlib.closing(Place(Path(arguments.artifact_dir), overwrite=arguments.overwrite)) as place:
        path = place.folder() / SELF_TEST_FILE
        with console.status("loading a built-in server of known timing") as status:
            for step in steps():
                done.append(step)
                load = f"{step.streams} streams" if step.streams else f"{step.request_rate:g} requests/s"
                status.update(f"measured {load}: {step.verdict}")
        console.print(_step_table(done))
        sentences = conclusion(done)
        for sentence in sentences:
            console.print(sentence)
        result = {"steps": [asdict(step) for step in done], "conclusion": sentences}
        with written(path) as file:
            file.write(escaped(orjson.dumps(result, option=orjson.OPT_INDENT_2)))
    console.print(f"files: {path}", style="dim", soft_wrap=True)
    if arguments.json:
        arguments.result.write_json(result)
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
