"""``swarmtune calibrate``: anchor a model of step times to a service that was seen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from swarmtune.apps.cli import EXIT_DONE
from swarmtune.apps.cli.options import add_plan_arguments, chosen_config, overrides
from swarmtune.apps.cli.quantities import count
from swarmtune.files import expanded

if TYPE_CHECKING:
    from swarmtune.simulator.calibration import Calibrated

LEAST_SHOWN = 0.005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "Example:\n"
        "  swarmtune calibrate steps.json --log requests.jsonl -e vllm -c config.toml --kv-blocks 3400 -o anchored.json\n\n"
        f"{parser.epilog}"
    )
    parser.add_argument("model", metavar="MODEL", help="a model that `swarmtune train` wrote")
    parser.add_argument(
        "--log", required=True, metavar="FILE",
        help="requests of one run: requests.jsonl or .parquet of swarmtune bench, or the log of vllm bench serve "
        "--save-detailed, AIPerf or LLMServingSim",
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="MODEL", help="the file to write")
    parser.add_argument(
        "--first",
        type=count,
        default=60,
        metavar="N",
        help="how many requests of the log are used (default %(default)s)",
    )
    add_plan_arguments(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the setting that ran; the rest: baseline",
    )
    parser.add_argument("--kv-blocks", type=count, metavar="N", help="KV blocks, as the engine's log counts them")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(args: argparse.Namespace) -> int:
    """Calibrate and write the model; the exit code."""
    from swarmtune.apps.cli.options import planned
    from swarmtune.apps.cli.simulate import set_values
    from swarmtune.settings import read_settings
    from swarmtune.simulator.calibration import calibrated
    from swarmtune.simulator.latency.file import load, save
    from swarmtune.simulator.latency.readers.requests import observed
    from swarmtune.tuner.simulation.predict import Service, refuse_of_another, rules_of

    model = load(expanded(args.model))
    plan = planned(read_settings(chosen_config(args.config, args.engine), overrides(args)))
    setting = plan.space.setting(set_values(args.set)) if args.set else plan.baseline()
    rules = rules_of(plan, setting, Service(blocks=args.kv_blocks))
    refuse_of_another(model, plan)
    found = calibrated(model, observed(expanded(args.log)), rules, args.first)
    save(found.model, expanded(args.output))
    if args.json:
        args.result.place = args.output
        args.result.write_json(_document(found, args.output))
    else:
        _show(found, args.output)
    return EXIT_DONE


def _document(found: Calibrated, path: str) -> dict[str, Any]:
    from swarmtune.simulator.latency.file import fingerprint

    return {
        "model": path,
        "fingerprint": fingerprint(found.model),
        "requests": found.requests,
        "multipliers": dict(found.fit.multipliers),
        "front_end_s": found.fit.front_s,
        "error_before": dict(found.fit.before),
        "error_after": dict(found.fit.after),
    }


def _show(found: Calibrated, path: str) -> None:
    """What was changed, and what it mends, on stdout."""
    from rich.table import Table
    from rich.text import Text

    from swarmtune.apps.cli.console import console_of

    console = console_of()
    table = Table(box=None, header_style="dim", pad_edge=False, title_justify="left")
    for name in (f"mean error over {found.requests} requests", "before", "after"):
        table.add_column(name, justify="left" if name.startswith("mean") else "right")
    names = {"ttft": "time to first token", "tpot": "time per output token", "e2e": "request latency"}
    for key, name in names.items():
        if key in found.fit.before:
            table.add_row(name, *(f"{100 * errors[key]:+.1f} %" for errors in (found.fit.before, found.fit.after)))
    console.print(table)
    moved = [f"{name} x {by:.3g}" for name, by in found.fit.multipliers.items() if abs(by - 1) >= LEAST_SHOWN]
    console.print(Text(f"multipliers: {', '.join(moved) or 'none differs from 1'}"))
    if found.fit.front_s >= 1e-5:
        console.print(Text(f"front end: {found.fit.front_s * 1000:.2f} ms a request (swarmtune simulate --front-end)"))
    console.print(Text(f"Wrote {path}."))
