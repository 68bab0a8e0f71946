"""``swarmtune simulate``: what a setting is predicted to do, in virtual time; nothing is started and nothing measured."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from swarmtune.apps.cli import EXIT_DONE, EXIT_NOTHING_FEASIBLE
from swarmtune.apps.cli.options import add_plan_arguments, chosen_config, overrides
from swarmtune.apps.cli.quantities import count, few, not_negative, positive
from swarmtune.errors import ConfigValidationError, one_line
from swarmtune.files import expanded

if TYPE_CHECKING:
    from swarmtune.apps.cli.simulate_view import Prediction
    from swarmtune.tuner.planning.plan import Plan
    from swarmtune.tuner.planning.simulation import Simulation
    from swarmtune.tuner.simulation.predict import Service

AMPLE_BLOCKS = 2**20  # as engines say it where they know nothing
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
        "--model",
        "--latency-model",
        metavar="FILE",
        help="model of step times, as `swarmtune train` writes it (-e simulated needs none)",
    )
    tried = parser.add_mutually_exclusive_group()
    tried.add_argument(
        "--evaluations",
        type=count,
        metavar="N",
        help="try so many settings by the search of optimizer, and show the best",
    )
    tried.add_argument(
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
    load.add_argument(
        "--find-capacity", action="store_true", help="the highest rate within the SLOs, in place of a load search"
    )
    load.add_argument("--trace", metavar="FILE", help="replay this trace at its own times, in place of the workload")
    parser.add_argument(
        "--kv-blocks", type=count, metavar="N", help="KV blocks of a replica, as the engine's log counts them"
    )
    parser.add_argument("--replicas", type=few, default=1, metavar="N", help="copies of the service (default 1)")
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
    from swarmtune.apps.cli import simulate_view as view
    from swarmtune.apps.cli.options import planned
    from swarmtune.apps.cli.train import shown_progress
    from swarmtune.settings import read_settings
    from swarmtune.simulator.latency.file import load
    from swarmtune.tuner.simulation.capacity import capacity
    from swarmtune.tuner.simulation.fields import effects, narrowed
    from swarmtune.tuner.simulation.predict import Predictor, Service, best, refuse_of_another
    from swarmtune.tuner.simulation.search import Tried, searched
    from swarmtune.tuner.simulation.virtual_load import FrontEnd

    plan = planned(read_settings(chosen_config(args.config, args.engine), _given(args)))
    setting = plan.space.setting(set_values(args.set), origin="user") if args.set else plan.baseline()
    if broken := plan.space.broken(setting):
        raise ConfigValidationError([f"--set: breaks the rule {rule!r}" for rule in broken])
    model = load(expanded(args.model)) if args.model else None
    if model is not None:
        refuse_of_another(model, plan)
    front = FrontEnd(request_s=args.front_end / 1000)
    cost = None if model is None else model.tables()
    service = Service(cost, front, args.replicas, args.router, args.kv_blocks, bool(args.steps or args.plot))
    predictor, began, tried = Predictor(plan, service), time.perf_counter(), list[Tried]()
    fields = effects(plan, service)
    if args.evaluations:
        wanted = narrowed(replace(plan, evaluations=args.evaluations), fields)
        with shown_progress() as advance:
            tried = searched(
                wanted,
                Predictor(wanted, replace(service, rows=False)),
                args.evaluations,
                lambda count, _: advance("trying settings", count / args.evaluations),
            )
        setting = tried[0].setting
    rates: tuple[float, ...] = ()
    if args.find_capacity:
        with shown_progress() as advance:
            found = capacity(plan, setting, service, lambda share: advance("looking for the highest rate", share))
        loads, rates = [found.best], found.rates
    else:
        loads = predictor.loads(setting)
    taken_s = time.perf_counter() - began
    prediction = view.Prediction(plan, setting, loads, best(loads), model, tried, taken_s, fields, rates)
    if model is not None and model.is_rough:
        prediction = replace(prediction, ends=_ends(prediction, service))
    prediction = replace(prediction, notes=tuple(_notes(prediction, args.kv_blocks)))
    if args.steps or args.plot:
        from swarmtune.report.steps import draw_steps, write_steps

        if args.steps:
            write_steps(prediction.best.rows, expanded(args.steps))
        if args.plot:
            draw_steps(prediction.best.rows, expanded(args.plot))
    return _shown(prediction, args)


def run_alone(plan: Plan, simulation: Simulation, args: argparse.Namespace) -> int:
    """The search of ``optimizer`` in virtual time, shown as ``simulate`` shows it; nothing is measured or kept."""
    from swarmtune.apps.cli import simulate_view as view
    from swarmtune.apps.cli.train import shown_progress
    from swarmtune.tuner.simulation.fields import effects, narrowed
    from swarmtune.tuner.simulation.foresee import service_of
    from swarmtune.tuner.simulation.predict import Predictor, best
    from swarmtune.tuner.simulation.search import searched

    service, began, count = replace(service_of(simulation), rows=False), time.perf_counter(), simulation.predictions
    fields = effects(plan, service)
    wanted = narrowed(plan, fields)
    with shown_progress() as advance:
        tried = searched(wanted, Predictor(wanted, service), count, lambda n, _: advance("trying settings", n / count))
    setting = tried[0].setting
    loads = Predictor(plan, service).loads(setting)
    taken_s = time.perf_counter() - began
    prediction = view.Prediction(plan, setting, loads, best(loads), simulation.model, tried, taken_s, fields)
    if simulation.model is not None and simulation.model.is_rough:
        prediction = replace(prediction, ends=_ends(prediction, service))
    prediction = replace(prediction, notes=tuple(_notes(prediction, simulation.kv_blocks)))
    return _shown(prediction, args)


def _shown(prediction: Prediction, args: argparse.Namespace) -> int:
    from swarmtune.apps.cli import simulate_view as view

    if args.json:
        args.result.write_json(view.document(prediction))
    else:
        view.show(prediction)
    return EXIT_DONE if prediction.best.score.feasible else EXIT_NOTHING_FEASIBLE


def _given(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The options as settings."""
    given = overrides(args)
    if args.concurrency or args.request_rate or args.trace or args.find_capacity:
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


def _ends(prediction: Prediction, service: Service) -> tuple[float | None, ...]:
    """The objective at the same load, if all steps took as long as a rough model may be off, and as short."""
    from swarmtune.simulator.latency.analytical import FACTOR
    from swarmtune.simulator.latency.model import GROUPS
    from swarmtune.tuner.simulation.predict import Predictor

    model, load = prediction.model, prediction.best.workload.load
    if model is None:
        return ()
    costs = (model.scaled(dict.fromkeys(GROUPS, by)).tables() for by in (FACTOR, 1 / FACTOR))
    predictors = (Predictor(prediction.plan, replace(service, cost=cost, rows=False)) for cost in costs)
    return tuple(one.at(prediction.setting, load).score.value for one in predictors)


def _notes(prediction: Prediction, kv_blocks: int | None) -> list[str]:
    """What a reader should know of what was not simulated."""
    plan, rules = prediction.plan, prediction.best.rules
    notes = ["a start that fails, an adapter, speculation and pictures are not predicted"]
    data_ranks = str(plan.engine.ranks().get("data_parallel_size", ""))
    if data_ranks.isdecimal() and int(data_ranks) > 1:
        notes.append(f"data parallel ranks are not modelled: this is one of the {data_ranks}, with the whole load")
    if kv_blocks is None and rules.blocks >= AMPLE_BLOCKS:
        notes.append(
            "how much the KV cache holds is not known, so it is simulated without an end: give --kv-blocks, or the table "
            f"[{plan.engine.name}.memory]"
        )
    return notes
