"""``swarmtune check``: validate, and show the plan without running it."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import Any

from rich.table import Table
from rich.text import Text

from swarmtune.apps.cli import EXIT_DONE
from swarmtune.apps.cli.console import console_of
from swarmtune.apps.cli.machine import noticed
from swarmtune.apps.cli.options import (
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
from swarmtune.errors import one_line
from swarmtune.execution.reach import executor_of
from swarmtune.records import command_line
from swarmtune.report.commands import DEFAULT_PORT, live_lines
from swarmtune.space import Dimension, Field
from swarmtune.tuner.planning.plan import Plan

ASSUMED_START_S = 30.0  # start time of a service without earlier measurements


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_plan_arguments(parser)
    add_search_arguments(parser)
    add_simulation_arguments(parser)
    add_parallel_arguments(parser)
    add_older_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the configuration and show the plan; ConfigValidationError with all mistakes."""
    given, path = overrides(args), chosen_config(args.config, args.engine)
    show(noticed(older_notes(read_plan(path, given, preview=True)[1], args)))
    return EXIT_DONE


def show(plan: Plan) -> None:
    """The plan for people, on stdout."""
    console = console_of()
    console.print(Text.assemble(("Configuration OK.", "bold"), " This would run:\n"))
    for name, text in facts(plan):
        console.print(Text.assemble("  ", (f"{name:<12}", "bold"), f" {one_line(text)}"), soft_wrap=True)
    console.print()
    console.print(space_table(plan))
    for text in (c.text for c in plan.space.constraints):
        console.print(f"  rule: {text}")
    group = plan.groups[0]
    port = group.port or DEFAULT_PORT
    console.print("\nService, baseline:", style="bold")
    for node, command in zip(group.nodes, plan.commands(plan.baseline(), replace(group, port=port)), strict=True):
        where = f"{node.host}: " if len(group.nodes) > 1 else ""
        console.print(f"  {where}{command_line(command)}", soft_wrap=True)
    for line in live_lines(plan, plan.baseline()):
        console.print(f"  when it is ready: {line}", soft_wrap=True)
    load = plan.benchmark.command(plan.workload, f"http://127.0.0.1:{port}")
    console.print(f"{'Load, on the master of each group' if plan.load_python else 'Load'}:", style="bold")
    load = replace(load, argv=(plan.load_python, *load.argv[1:])) if plan.load_python else load
    console.print(f"  {command_line(load)}", soft_wrap=True)
    for notice in plan.notices:
        console.print(f"note: {notice}")


def document(plan: Plan) -> dict[str, Any]:
    """The plan for programs: what ``optimizer --dry-run --json`` prints."""
    group = replace(plan.groups[0], port=plan.groups[0].port or DEFAULT_PORT)
    load = plan.benchmark.command(plan.workload, f"http://127.0.0.1:{group.port}")
    dimensions, baseline = {d.name: d for d in plan.space.dimensions}, plan.baseline()
    return {
        "plan": {name: one_line(text) for name, text in facts(plan)},
        "parameters": [
            {
                "name": field.name,
                "position": field.config_position,
                "values": described(field, dimensions.get(field.name)),
                "baseline": baseline.values[field.name],
            }
            for field in plan.space.fields
        ],
        "rules": [constraint.text for constraint in plan.space.constraints],
        "service": [command_line(command) for command in plan.commands(baseline, group)],
        "load": command_line(load),
        "notices": list(plan.notices),
    }


def facts(plan: Plan) -> list[tuple[str, str]]:
    """The plan in a few lines."""
    slos = ", ".join(f"{name} <= {limit:g}" for name, limit in plan.objective.limits.items()) or "none"
    search = plan.load_search
    load = plan.workload.load.to_json()
    size = f"{plan.space.size:.3g}" if math.isfinite(plan.space.size) else "countless"
    loads = (
        f"{plan.load_variable} {search.low:g} to {search.high:g}, at most {search.points} points"
        if search
        else f"{load}"
    )
    return [
        ("engine", f"{plan.engine.name} ({plan.engine.model})"),
        ("benchmark", plan.benchmark.name),
        ("objective", objective_text(plan)),
        ("SLOs", f"{slos}, success rate >= {plan.objective.min_success_rate:g}"),
        ("workload", plan.benchmark.described(plan.workload)),
        ("load", loads),
        ("early stop", plan.early_stop_text),
        (
            "search",
            f"{plan.algorithm}, {plan.evaluations} evaluations, seed {plan.seed}, {len(plan.groups)} service(s) at a time",
        ),
        *([("groups", groups_text(plan))] if plan.parallel else []),
        *([("installed", "; ".join(plan.installed))] if plan.installed else []),
        *([("simulation", simulation_text(plan))] if plan.simulation else []),
        ("space", f"{size} settings in {len(plan.space.dimensions)} dimensions"),
        ("time", expected_time(plan)),
    ]


def simulation_text(plan: Plan) -> str:
    """How many settings are predicted, of what, and what each field does to a prediction."""
    from swarmtune.tuner.simulation.fields import told
    from swarmtune.tuner.simulation.foresee import effects_of

    simulation = plan.simulation
    if simulation is None:
        return ""
    model = "the engine's own step times" if simulation.model is None else f"a model ({simulation.fingerprint[:12]})"
    measured = "nothing is measured" if simulation.alone else "the few worth it are measured"
    return (
        f"{simulation.predictions} settings are predicted by {model}, {measured}; {told(effects_of(plan, simulation))}"
    )


def groups_text(plan: Plan) -> str:
    """The groups with their hosts and the number of devices of each."""
    shown = [
        f"{g.name} ({', '.join(f'{n.host}: {len(n.devices)}' for n in g.nodes[:4])}{', ...' if len(g.nodes) > 4 else ''})"
        for g in plan.groups[:8]
    ]
    more = f" and {len(plan.groups) - 8} more" if len(plan.groups) > 8 else ""
    if plan.parallel is None:
        return f"{'; '.join(shown)}{more}"
    nodes = [node for group in plan.parallel.service_groups for node in group.nodes]
    names = dict.fromkeys(executor_of(plan.parallel, node.host, node.ssh_port) for node in nodes)
    return f"{'; '.join(shown)}{more}; by {', '.join(names)}"


def objective_text(plan: Plan) -> str:
    """The objective, or several to trade off."""
    several = plan.objective.several or {type(plan.objective).__name__.lower(): plan.objective}
    return " against ".join(f"{o.direction} {name} ({o.unit})" for name, o in several.items())


def expected_time(plan: Plan) -> str:
    """A rough estimate of the time and of the accelerators' time, with its assumptions."""
    limit = "" if plan.timeout_s is None else f", the search at most {plan.timeout_s / 60:.1f} min"
    window, assumed = load_seconds(plan)
    if window is None:
        return f"unknown: the load is a number of requests, not of seconds{limit}"
    points = plan.load_search.points if plan.load_search else 1
    start = min(ASSUMED_START_S, plan.start_timeout_s)
    one, groups = window + start, len(plan.groups)
    search = plan.evaluations * (points * window + start) / groups
    rounds = plan.proof_rounds(search, 2 * one, (1 + plan.finalists) * one, groups)
    proof = (2 * math.ceil(rounds / groups) + 2 + plan.finalists) * one if rounds else 0.0
    total = search + proof
    devices = sum(group.accelerators for group in plan.groups)
    spent = f" ({devices * total / 3600:.2g} accelerator-hours)" if any(g.nodes[0].devices for g in plan.groups) else ""
    longest = plan.benchmark.longest_s(plan.workload)
    waits = longest is not None and longest > window
    about = "about" if waits else "at most about"
    slow = f" and a load {window:g} s; a slow service takes longer, up to {longest:g} s a load" if waits else ""
    return f"{about} {math.ceil(total / 60)} min{spent}, if a start takes {start:g} s{assumed}{slow}{limit}"


def load_seconds(plan: Plan) -> tuple[float | None, str]:
    """The seconds that one load takes, and what was assumed for that; None: unknown.

    Of a load that is a number of requests, from the longest answers that the SLOs allow and the load that is tried first.
    """
    workload, limits = plan.workload, plan.objective.limits
    if workload.duration_s is not None:
        return workload.duration_s, ""
    users = plan.load_search.start if plan.load_search else workload.load.concurrency
    parts = {name.rsplit("_", 2)[-2]: value / 1000 for name, value in limits.items() if name.count("_") >= 2}
    answer_s = parts.get("e2el", parts.get("ttft", 0.0) + parts.get("tpot", 0.0) * workload.output_tokens_mean)
    if not workload.requests or not users or not answer_s or plan.load_variable != "concurrency":
        return None, ""
    return math.ceil(workload.requests / users) * answer_s, f" and an answer {answer_s:.2g} s, as the SLOs allow"


def space_table(plan: Plan) -> Table:
    """Fields, their ranges and the baseline."""
    table = Table("parameter", "position", "values", "baseline", box=None, header_style="bold", pad_edge=False)
    baseline = plan.baseline().values
    dimensions = {d.name: d for d in plan.space.dimensions}
    for field in plan.space.fields:
        values = described(field, dimensions.get(field.name))
        shown = (field.name, field.config_position, values, str(baseline[field.name]))
        table.add_row(*(Text(shortened(one_line(text))) for text in shown))
    return table


def described(field: Field, dimension: Dimension | None) -> str:
    """The values of a field in a few words."""
    if dimension is None:
        return "constant" if not field.derived and field.dtype != "env" else f"{field.dtype} of {field.dtype_param}"
    if dimension.choices:
        shown = [str(c) for c in dimension.choices]
        return ", ".join(shown) if len(shown) <= 8 else f"{shown[0]}, {shown[1]} ... {shown[-1]} ({len(shown)})"
    what = f" x {field.dtype_param}" if field.dtype == "ratio" else ""
    return f"{dimension.low:g} to {dimension.high:g}{what}{' (log)' if dimension.log else ''}"


def shortened(text: str, most: int = 120) -> str:
    """A text, shortened to fit into its row."""
    return text if len(text) <= most else f"{text[:most]}..."
