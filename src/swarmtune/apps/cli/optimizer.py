"""``swarmtune optimizer``: tune a service."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarmtune.apps.cli import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOTHING_FEASIBLE, check
from swarmtune.apps.cli.machine import noticed
from swarmtune.apps.cli.options import (
    EMBEDDED,
    add_older_arguments,
    add_parallel_arguments,
    add_plan_arguments,
    add_search_arguments,
    add_simulation_arguments,
    chosen_config,
    older_notes,
    overrides,
    read_plan,
)
from swarmtune.apps.cli.view import View, show_result
from swarmtune.clock import RealClock
from swarmtune.errors import ConfigPathError, ConfigValidationError, one_line
from swarmtune.report.document import REPORT_FILE, document, write_report
from swarmtune.settings import BaseSections, read_settings
from swarmtune.study.place import Place, keep_request, last_place, merged, new_place
from swarmtune.tuner.planning.places import check_study
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.result import Result

SHOWN = 1000  # characters of the command line of a study that is not ours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_plan_arguments(parser)
    add_search_arguments(parser)
    add_simulation_arguments(parser)
    add_parallel_arguments(parser)
    add_older_arguments(parser)
    parser.add_argument(
        "-lb", "--load-breakpoint", "--load_breakpoint", action="store_true", help="resume the last study"
    )
    parser.add_argument(
        "--backup", action="store_true", help="keep the service's files of every attempt beside its logs"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as one JSON object on stdout; progress goes to stderr"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and show the plan, run nothing")


def run(args: argparse.Namespace) -> int:
    """Run or resume a study; returns the exit code."""
    settings, plan, place, request = _prepare(args)
    plan = noticed(older_notes(plan, args))
    if plan.simulation is not None and plan.simulation.alone and not args.dry_run:
        from swarmtune.apps.cli.simulate import run_alone

        return run_alone(plan, plan.simulation, args)
    if args.dry_run:
        if args.json:
            args.result.write_json(check.document(plan))
        else:
            check.show(plan)
        return EXIT_DONE
    if place is None:
        place = new_place(plan.output, plan.engine.name, plan.study, RealClock().wall())
        keep_request(place, request)
    view = View(plan, place.folder, args.log_level or settings.log_level)
    with view:
        result = asyncio.run(_tune(plan, place, request, view))
    if result is None:
        message = f"Interrupted. Nothing is lost: `{resume_line(args)}` resumes. The study: {place.folder}"
        print(f"\n{message}", file=sys.stderr)
        args.result.fail(message, EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED
    unwritten = None
    try:
        report = write_report(result)
        args.result.place = str(place.folder / REPORT_FILE)
    except ConfigPathError as error:  # a full disk: the result is known, and the study goes on
        report, unwritten = document(result), error
    if args.json:
        args.result.write_json(report)
    else:
        show_result(result, resume_line(args))
    if unwritten is not None:
        message = f"{unwritten.message} Everything else is done; `{resume_line(args)}` writes it."
        print(f"\n{message}", file=sys.stderr)
        return EXIT_FAILED
    if result.proof_failure is not None:
        print(f"\nThe proof failed; `{resume_line(args)}` tries it again.", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE if result.best is not None else EXIT_NOTHING_FEASIBLE


def resume_line(args: argparse.Namespace) -> str:
    """The command that resumes this study, without the address of a database, which may hold a password."""
    config = f" -c {shlex.quote(args.config)}" if args.config else ""
    return f"swarmtune optimizer -lb{config}{' --study URL' if args.study else ''}"


def _prepare(args: argparse.Namespace) -> tuple[BaseSections, Plan, Place | None, dict[str, Any]]:
    """Settings and plan; with -lb those of the last study, overridden by the options given now."""
    given, path = overrides(args), chosen_config(args.config, args.engine)
    place = None
    if args.load_breakpoint:
        before_resume = read_settings(path, given)
        wrong: list[str] = []
        check_study(before_resume.optimizer.study, wrong)
        if wrong:
            raise ConfigValidationError(wrong)
        place = last_place(Path(before_resume.output).expanduser(), before_resume.optimizer.study)
        before = place.head.request if place.head else {}
        if place.ours:
            given = merged(before.get("overrides", {}), given)
            if args.config is None and before.get("config"):
                path = _started_with(Path(before["config"]), path)
        elif before:
            print(_elsewhere(place.name, before), file=sys.stderr)
        if not args.dry_run:
            _sweep(place)
    settings, plan = read_plan(path, given, preview=args.dry_run)
    tables = {
        name: {k: v for k, v in table.items() if k != "study"} if isinstance(table, dict) else table
        for name, table in given.items()
    }
    request = {"overrides": tables, "config": str(path.resolve()) if path else None}
    return settings, plan, place, request


def _started_with(then: Path, now: Path | None) -> Path:
    """The configuration with which the study was started; said where another one is found here."""
    if now is not None and now != EMBEDDED and now.resolve() != then:
        text = f"Resuming with {one_line(str(then))}, with which the study was started; -c {now} takes {now} instead."
        print(text, file=sys.stderr)
    return then


def _elsewhere(name: str, request: Mapping[str, Any]) -> str:
    """What to say of a study that this user has not started here: a database may come from anyone, and what it holds runs
    nothing.
    """
    told = one_line(json.dumps(request))[:SHOWN]
    only = f"The study {one_line(name)} was not started from here, so only what you give now is used"
    return f"{only}; it was started with: {told}"


def _sweep(place: Place) -> None:
    """End the leftovers of a killed tuner, and restore its files, before anything reads them. StudyBusyError: it lives."""
    from swarmtune.execution.executors.local import sweep_leftovers
    from swarmtune.study.reader import look_twice, lost_tokens

    if place.head is not None:
        asyncio.run(look_twice(place.url, place.head, RealClock(), lambda text: print(text, file=sys.stderr)))
    asyncio.run(sweep_leftovers(lost_tokens(place.url, place.name, RealClock().wall())))


async def _tune(plan: Plan, place: Place, request: dict[str, Any], view: View) -> Result | None:
    """The run, ended in order by SIGINT, SIGTERM or SIGHUP: then None."""
    from swarmtune.tuner.run import tune  # takes a second to import; --help and --dry-run do without

    work = asyncio.ensure_future(tune(plan, place, request, RealClock(), view.listen))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and so do we then
            loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return None
