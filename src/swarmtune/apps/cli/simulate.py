"""``swarmtune simulate``: what a setting is predicted to do, in virtual time; nothing is started and nothing measured."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from swarmtune.apps.cli import EXIT_DONE, EXIT_NOTHING_FEASIBLE
from swarmtune.apps.cli.options import add_plan_arguments, chosen_config, overrides
from swarmtune.apps.cli.quantities import count, not_negative, positive
from swarmtune.errors import ConfigValidationError, one_line

ROUTERS = ("round-robin", "least-loaded", "prefix")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "Examples:\n"
        "  swarmtune simulate -e simulated\n"
        "  swarmtune simulate -e vllm -c config.toml --model steps.json --set max_num_seqs=64\n"
        "  swarmtune simulate -e vllm -c config.toml --model steps.json --trace conversation_trace.jsonl\n\n"
        f"{parser.epilog}"
    )
    add_plan_arguments(parser)
    parser.add_argument(
        "--model", metavar="FILE", help="model of step times, as `swarmtune train` writes it (-e simulated needs none)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the setting; the rest is the baseline",
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--concurrency", type=count, metavar="N", help="this load, in place of a load search")
    load.add_argument(
        "--request-rate", type=positive, metavar="R", help="requests per second, in place of a load search"
    )
    load.add_argument("--trace", metavar="FILE", help="replay this trace at its own times, in place of the workload")
    parser.add_argument(
        "--kv-blocks", type=count, metavar="N", help="KV blocks of a replica, as the engine's log counts them"
    )
    parser.add_argument("--replicas", type=count, default=1, metavar="N", help="copies of the service (default 1)")
    parser.add_argument(
        "--router", choices=ROUTERS, default=ROUTERS[0], help="who gets a request (default %(default)s)"
    )
    parser.add_argument(
        "--front-end",
        type=not_negative,
        default=0.0,
        metavar="MS",
        help="time of HTTP and tokenizer for a request (default 0)",
    )
    parser.add_argument(
        "--steps", metavar="FILE", help="write each step as a trace event (ui.perfetto.dev, chrome://tracing)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw running, waiting and KV cache over time (.svg or .png)")
    parser.add_argument("--json", action="store_true", help="print the prediction as one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Predict and show it; ConfigValidationError with all mistakes."""
    from swarmtune.apps.cli.options import planned
    from swarmtune.settings import read_settings
    from swarmtune.tuner.simulation.predict import Service, best, predicted
    from swarmtune.tuner.simulation.virtual_load import FrontEnd

    settings = read_settings(chosen_config(args.config, args.engine), _given(args))
    plan = planned(settings)
    setting = plan.space.setting(set_values(args.set), origin="user") if args.set else plan.baseline()
    if broken := plan.space.broken(setting):
        raise ConfigValidationError([f"--set: breaks the rule {rule!r}" for rule in broken])
    model, cost = None, None
    if args.model:
        from swarmtune.simulator.latency.file import load

        model = load(Path(args.model))
        cost = model.tables()
    front = FrontEnd(request_s=args.front_end / 1000)
    service = Service(cost, front, args.replicas, args.router, args.kv_blocks, bool(args.steps or args.plot))
    began = time.perf_counter()
    loads = predicted(plan, setting, service)
    taken_s = time.perf_counter() - began
    chosen = best(loads)
    if args.steps:
        from swarmtune.report.steps import write_steps

        write_steps(chosen.rows, Path(args.steps))
    if args.plot:
        from swarmtune.report.steps import draw_steps

        draw_steps(chosen.rows, Path(args.plot))
    notes = _notes(plan, args, model)
    if args.json:
        args.result.write_json(_document(plan, setting, loads, chosen, notes, taken_s, model))
    else:
        _show(plan, setting, loads, chosen, notes, taken_s, model)
    return EXIT_DONE if chosen.score.feasible else EXIT_NOTHING_FEASIBLE


def _given(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The options as settings."""
    given = overrides(args)
    if args.concurrency or args.request_rate or args.trace:
        given["load_search"] = {"enabled": False}
    loadgen: dict[str, Any] = {}
    if args.concurrency:
        loadgen = {"concurrency": args.concurrency}
    elif args.request_rate:
        loadgen = {"request_rate": args.request_rate}
    elif args.trace:
        loadgen = {"input_file": args.trace, "fixed_schedule": True}
    return {**given, **({"loadgen": loadgen} if loadgen else {})}


def set_values(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE, values as JSON has them, else as texts. ConfigValidationError with all mistakes."""
    values: dict[str, Any] = {}
    mistakes = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            mistakes.append(f"--set {one_line(pair)[:60]}: write NAME=VALUE")
        elif name in values:
            mistakes.append(f"--set {one_line(name)[:60]}: given twice; write it once")
        else:
            values[name] = _value(text)
    if mistakes:
        raise ConfigValidationError(mistakes)
    return values


def _value(text: str) -> bool | int | float | str:
    try:
        read = json.loads(text.lower() if text in ("True", "False") else text)
    except (ValueError, RecursionError):
        return text
    return read if isinstance(read, bool | int | float | str) else text


def _notes(plan: Any, args: argparse.Namespace, model: Any) -> list[str]:
    """What a reader should know of what was not simulated."""
    notes = []
    if args.kv_blocks is None and plan.engine.scheduling(plan.baseline()).blocks >= 2**20:
        notes.append(
            "how much the KV cache holds is not known, so it is simulated without an end: give --kv-blocks, or the table "
            f"[{plan.engine.name}.memory]"
        )
    if model is not None and model.identity.engine not in ("", plan.engine.name):
        notes.append(f"the model was trained on steps of {model.identity.engine}, not of {plan.engine.name}")
    return notes


def _document(
    plan: Any, setting: Any, loads: list[Any], chosen: Any, notes: list[str], taken_s: float, model: Any
) -> dict[str, Any]:
    """The prediction as plain data. Nothing in it was measured."""
    from swarmtune.simulator.latency.file import fingerprint

    return {
        "measured": False,
        "engine": plan.engine.name,
        "setting": dict(setting.values),
        "model": None if model is None else fingerprint(model),
        "loads": [
            {
                **one.measurement.load,
                "feasible": one.score.feasible,
                "value": one.score.value,
                "violations": dict(one.score.violations),
                "preemptions": one.preemptions,
            }
            for one in loads
        ],
        "best": chosen.results.to_json(),
        "scheduler": {**vars(chosen.rules), "version": ".".join(map(str, chosen.rules.version))},
        "notes": notes,
        "simulated_s": sum(one.results.scalars["duration_s"] for one in loads),
        "taken_s": taken_s,
    }


def _show(plan: Any, setting: Any, loads: list[Any], chosen: Any, notes: list[str], taken_s: float, model: Any) -> None:
    """The prediction for people, on stdout."""
    from rich.table import Table
    from rich.text import Text

    from swarmtune.apps.cli.console import console_of
    from swarmtune.loadgen.exports.facts import RunFacts
    from swarmtune.loadgen.exports.packed import number
    from swarmtune.loadgen.exports.table import report

    console = console_of()
    source = "as the engine declares its steps" if model is None else f"by a model of {model.identity.rows:,} steps"
    console.print(Text.assemble(("Predicted, nothing measured: ", "bold"), f"{plan.engine.name}, {source}\n"))
    values = ", ".join(f"{name} {value}" for name, value in setting.values.items())
    console.print(Text(f"  setting    {values}"), soft_wrap=True)
    console.print(Text(f"  scheduler  {_rules(chosen.rules)}\n"), soft_wrap=True)
    table = Table(box=None, header_style="dim", pad_edge=False)
    names = ("load", "objective", "SLOs", "requests/s", "p99 TTFT, ms", "p99 TPOT, ms", "preemptions")
    for name in names:
        table.add_column(name, justify="left" if name in ("load", "SLOs") else "right")
    for one in loads:
        load = " ".join(f"{name} {value:g}" for name, value in one.measurement.load.items()) or "as scheduled"
        metrics = one.measurement.metrics
        broken = ", ".join(name for name, by in one.score.violations.items() if by > 0)
        table.add_row(
            load,
            number(one.score.value),
            f"broken: {broken}" if broken else "kept",
            *(number(metrics.get(name)) for name in ("request_throughput", "p99_ttft_ms", "p99_tpot_ms")),
            f"{one.preemptions:,}",
        )
    console.print(table)
    console.print()
    facts = RunFacts(plan.engine.model, "", chosen.options, verdict="predicted")
    console.print(report(chosen.results, facts, console.width))
    for note in notes:
        console.print(Text(f"note: {note}"))
    simulated_s = sum(one.results.scalars["duration_s"] for one in loads)
    console.print(Text(f"\n{simulated_s:.0f} s of load in {taken_s:.2f} s"), style="dim")


def _rules(rules: Any) -> str:
    """The rules of the scheduler in a line."""
    parts = [
        f"{rules.max_num_seqs} sequences",
        f"{rules.max_num_batched_tokens} tokens a step",
        f"{rules.usable_blocks:,} KV blocks of {rules.block_size}",
        f"prompts {'in pieces' if rules.chunked_prefill else 'whole'}",
        *(["prefix cache"] if rules.prefix_caching else []),
        *(["steps planned ahead"] if rules.asynchronous else []),
        *([f"{rules.pipeline} stages"] if rules.pipeline > 1 else []),
        *(["by priority"] if rules.by_priority else []),
    ]
    return ", ".join(parts)
