"""Options that several commands share, and the way from a command line to a plan."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarmtune import registry
from swarmtune.errors import ConfigurationError, ConfigValidationError, one_line

if TYPE_CHECKING:
    from swarmtune.settings import BaseSections
    from swarmtune.sources import Rest
    from swarmtune.tuner.planning.inquiry import Inquiry
    from swarmtune.tuner.planning.plan import Plan


EMBEDDED = Path(__file__).with_name("embedded.toml")


def chosen_config(given: str | None, engine: str | None) -> Path | None:
    """The configuration file; the embedded one where llama.cpp is tuned and there is no other."""
    from swarmtune.settings import config_path

    path = config_path(given)
    return EMBEDDED if path is None and registry.engines.spelled(engine or "llamacpp") == "llamacpp" else path


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """-e, -b and -c; ``-h`` lists what is registered."""
    broken = registry.load_plugins()
    parser.add_argument(
        "-e", "--engine", metavar="ENGINE", help=f"service under tune (default llamacpp). {listed(registry.engines)}"
    )
    parser.add_argument(
        "-b", "--benchmark", "--benchmark_policy", metavar="BENCHMARK", dest="benchmark",
        help=f"load generator (default swarmtune). {listed(registry.benchmarks)}",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--config", metavar="FILE",
        help="configuration (default $SWARMTUNE_CONFIG_PATH, then ./config.toml, then built-in defaults)",
    )  # fmt: skip
    if broken:
        parser.epilog = "\n".join([*(parser.epilog or "").splitlines(), *broken])


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Budget, algorithm, seed and study."""
    parser.add_argument(
        "--evaluations", type=int, metavar="N", help="settings to measure, baseline included (default 16)"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="TIME",
        help="time for the search, e.g. 300, 90s, 20m, 4h (without the final proof)",
    )
    parser.add_argument(
        "--algorithm", metavar="NAME", help=f"search algorithm (default swarm). {listed(registry.searches)}"
    )
    parser.add_argument(
        "--confirm",
        type=int,
        metavar="N",
        help="rounds of the proof, 0: none (default: as many as --proof-seconds allow)",
    )
    parser.add_argument(
        "--proof-seconds",
        type=seconds,
        metavar="TIME",
        help="time for the proof, e.g. 300, 20m (default: a quarter of the search's; at least 3 rounds)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same sequence of settings (default 0)")
    parser.add_argument(
        "--study", metavar="URL",
        help="database of the study: a path, sqlite:///PATH or postgresql://USER@HOST/DB (default: a new folder)",
    )  # fmt: skip


def add_simulation_arguments(parser: argparse.ArgumentParser) -> None:
    """Predictions in virtual time; the keys of [simulation]."""
    parser.add_argument(
        "--simulate",
        nargs="?",
        const=True,
        choices=["only"],
        help="predict settings in virtual time first, and measure the few worth it; only: measure none (docs/simulation.md)",
    )
    parser.add_argument(
        "--latency-model", metavar="FILE", help="model of step times for --simulate, as `swarmtune train` writes it"
    )


def add_parallel_arguments(parser: argparse.ArgumentParser) -> None:
    """Several groups of nodes at once; the keys of [parallel]."""
    group = parser.add_argument_group("several groups of nodes at once (docs/cluster.md)")
    group.add_argument("--parallel", action="store_true", help="use the groups of [parallel], or those given here")
    group.add_argument("--hostfile", metavar="PATH", help="one host a line: [USER@]HOST[:PORT] [slots=N], node[0-7]")
    group.add_argument(
        "--node-string", "--nodes", metavar="HOSTS", dest="node_string", help='groups of hosts: "n0,n1:n2,n3"'
    )
    group.add_argument("--nodes-per-group", type=int, metavar="N", help="hosts that serve together (default 2)")
    group.add_argument("--npus-per-node", type=int, metavar="N", help="devices of a host (default 8; 0: it has none)")
    group.add_argument(
        "--executor",
        metavar="NAME",
        help=f"how hosts are reached (default ssh; this machine itself: local). {listed(registry.executors)}",
    )


def add_older_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the older tuner that its scripts give; ``older_notes`` says what they mean here."""
    group = parser.add_argument_group("options of the older tuner, which change nothing here")
    group.add_argument(
        "-d", "--deploy-policy", "--deploy_policy", choices=("single", "multiple"), dest="deploy_policy",
        help="one machine or several for a service: name them with --hostfile or --nodes",
    )  # fmt: skip
    group.add_argument(
        "--pd", choices=("competition", "disaggregation"),
        help="prefill and decode in one service, or apart: for that, start it by a script of yours (-e command)",
    )  # fmt: skip


def older_notes(plan: Plan, args: argparse.Namespace) -> Plan:
    """The plan, with a notice of each option of the older tuner that asks for what this plan does not do."""
    notices, several = [], any(len(group.nodes) > 1 for group in plan.groups)
    if args.deploy_policy == "multiple" and not several:
        notices.append(
            "-d multiple has no effect: each service runs on one machine; name the machines that serve together with "
            "--hostfile or --nodes (docs/cluster.md)"
        )
    if args.deploy_policy == "single" and several:
        notices.append("-d single has no effect: the groups that are given have several machines")
    if args.pd == "disaggregation":
        notices.append(
            "--pd disaggregation has no effect: engines start prefill and decode together; start them apart by a script "
            "of yours (-e command), with their numbers as fields"
        )
    return replace(plan, notices=(*plan.notices, *notices))


def listed(parts: registry.Registry) -> str:
    """What is registered, for --help."""
    return "; ".join(f"{name}: {parts.summary(name)}" if parts.summary(name) else name for name in parts).replace(
        "%", "%%"
    )


def seconds(text: str) -> float:
    """A time span in seconds from 300, 90s, 20m or 4h."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:].lower())
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; use 300, 90s, 20m or 4h") from None
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a duration above 0")
    return value


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The given options as nested settings; what was not given is not there."""
    search = ("evaluations", "timeout", "confirm", "proof_seconds", "algorithm", "seed", "study")
    names = ("engine", "benchmark", *search, "backup")
    given = {name: getattr(args, name, None) for name in names}
    tables = {"optimizer": {name: value for name, value in given.items() if value is not None and value is not False}}
    nodes = ("hostfile", "node_string", "nodes_per_group", "npus_per_node", "executor")
    given = {name: getattr(args, name, None) for name in nodes}
    tables["parallel"] = {name: value for name, value in given.items() if value is not None}
    if tables["parallel"] or getattr(args, "parallel", False):
        tables["parallel"]["enabled"] = True
    if getattr(args, "latency_model", None):
        tables["simulation"] = {"model": args.latency_model}
    found: dict[str, Any] = {name: table for name, table in tables.items() if table}
    return {**found, "simulate": args.simulate} if getattr(args, "simulate", None) else found


def read_plan(path: Path | None, given: dict[str, dict[str, Any]], preview: bool = False) -> tuple[BaseSections, Plan]:
    """The settings and their plan, for which the nodes are asked for the installed engine. ConfigValidationError with the
    mistakes in both: those that the plan finds in what is right are told with those of the settings. ``preview``: the plan
    is only shown, and what is missing on a node is a mistake only beside others.
    """
    from swarmtune.settings import read_settings
    from swarmtune.tuner.planning.inquiry import CHECK_S, Inquiry

    def report(text: str) -> None:
        print(text, file=sys.stderr)

    try:
        settings = read_settings(path, given)
    except ConfigValidationError as error:
        further = _further(error.details.get("rest"), Inquiry(report, limit_s=CHECK_S))
        raise ConfigValidationError([*error.mistakes, *further]) from error
    asks = None if settings.simulate == "only" else Inquiry(report, preview=preview)  # that needs no service
    return settings, planned(settings, inquiry=asks)


def _further(rest: Rest | None, inquiry: Inquiry) -> list[str]:
    """The mistakes of the plan that do not follow from what was left out."""
    if rest is None or ("optimizer",) in rest.places:
        return []
    try:
        reachable = not any(place[0] in ("parallel", "deploy") for place in rest.places)
        planned(rest.settings, rest.places, inquiry if reachable else None)
    except ConfigValidationError as error:
        return error.mistakes
    except ConfigurationError:
        pass
    return []


def planned(settings: BaseSections, without: Collection[tuple[str, ...]] = (), inquiry: Inquiry | None = None) -> Plan:
    """The plan of these settings; each mistake begins with where it was written: file, variable or command line.

    ``without``: places of keys that were left out as wrong (``sources.Rest``). Mistakes that may follow from that are left
    out; without the name of the engine, nothing is said of it.
    """
    from swarmtune.apps.cli.consequences import Consequences
    from swarmtune.tuner.planning.make import make_plan

    try:
        plan = make_plan(settings, inquiry, engine_known=("optimizer", "engine") not in without)
    except ConfigValidationError as error:
        follow = Consequences(without)
        places = [(mistake.partition(":")[0], mistake) for mistake in error.mistakes if mistake not in follow]
        raise ConfigValidationError([f"{settings.origin(p)}: {one_line(m)}" for p, m in places]) from error
    if plan.simulation is not None:
        from swarmtune.tuner.simulation.foresee import refuse_unpredictable

        refuse_unpredictable(plan, plan.simulation)
    return plan
