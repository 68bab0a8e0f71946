"""The options of ``swarmtune bench``: those of loadgen/options.py, and those of a run by hand."""

from __future__ import annotations

import argparse
from typing import Any

from swarmtune import registry
from swarmtune.apps.cli.actions import END_OF_FILE, Given, Once, OnOff
from swarmtune.apps.cli.quantities import interval, repetitions, share

EPILOG = """\
examples:
  swarmtune bench -m MODEL --url http://127.0.0.1:8000 --concurrency 8 --request-count 200
  swarmtune bench -m MODEL --endpoint-type chat --request-rate 5 --benchmark-duration 60 --isl 512 --osl 128
  swarmtune bench -m MODEL --concurrency 1,4,16,64 --benchmark-duration 30       a sweep: one run each
  swarmtune bench -m MODEL --fixed-schedule --input-file mooncake.jsonl --replay-speedup 10
  swarmtune bench -m MODEL --request-rate 4 --goodput "time_to_first_token:200 inter_token_latency:20"
  swarmtune bench --self-test                                                    what this machine can measure

exit codes: 0 done, 1 the run failed, 2 the command line or a file is wrong, 3 the endpoint cannot be reached,
4 too many requests failed (--failed-request-threshold), 5 not valid (--require-valid), 130 interrupted
"""
EXIT_FAILED, EXIT_UNREACHABLE, EXIT_REQUESTS_FAILED, EXIT_NOT_VALID, EXIT_INTERRUPTED = 1, 3, 4, 5, 130
URL = "http://127.0.0.1:8000"
HIDDEN = ("header", "random_seed")  # they have a spelling of their own below
FORMATS = ("jsonl", "vllm", "aiperf", "parquet", "plots")
DEFAULT_FORMATS = "jsonl,vllm,aiperf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of loadgen/options.py, and those of a run by hand."""
    parser.epilog = EPILOG
    parser.register("action", None, Once)
    parser.usage = "%(prog)s -m MODEL [--url URL] [LOAD] [DATA] [options]"
    parser.add_argument("-m", "--model", "--model-names", metavar="MODEL", help="the model's name at the service")
    parser.add_argument(
        "-u", "--url", metavar="URL", action="extend", nargs="+",
        help=f"the service, with or without /v1; several share the requests (default {URL})",
    )  # fmt: skip
    parser.add_argument(
        "--random-seed", "--seed", type=int, metavar="N",
        help="same seed: the same requests at the same times, byte for byte (default: another one for every run, so that "
        "a prefix cache knows none of its prompts)",
    )  # fmt: skip
    parser.add_argument(
        "-H", "--header", action="extend", nargs="+", default=[], metavar="'NAME: VALUE'",
        help="further HTTP header; may be repeated (a key is better in $SWARMTUNE_API_KEY or $OPENAI_API_KEY)",
    )  # fmt: skip
    parser.add_argument(
        "--api-key", metavar="KEY",
        help="sent as 'Authorization: Bearer KEY' and shown nowhere; others see it in the list of processes: better in "
        "$SWARMTUNE_API_KEY or $OPENAI_API_KEY",
    )  # fmt: skip
    parser.add_argument(
        "-f", "--config", metavar="FILE",
        help="options from a YAML or TOML file, as NAME: VALUE or in AIPerf's form; those of the command line come first",
    )  # fmt: skip
    parser.add_argument(
        "--goodput", metavar="LIMITS", default="",
        help="limits that a request must keep, in ms: 'time_to_first_token:200 inter_token_latency:20'",
    )  # fmt: skip
    parser.add_argument(END_OF_FILE, action=Given, nargs=0, help=argparse.SUPPRESS)
    add_output(parser.add_argument_group("output"))
    add_series(parser.add_argument_group("several runs (a list of values: one run for each)"))
    add_machine(parser.add_argument_group("machine"))
    add_options(parser)


def add_output(group: argparse._ArgumentGroup) -> None:
    """Options for the result files, and for the exit code."""
    group.add_argument(
        "--artifact-dir", "--output-artifact-dir", metavar="DIR", default="swarmtune-bench",
        help="folder of the results (default %(default)s); if it holds those of another run, a number is put after it",
    )  # fmt: skip
    group.add_argument(
        "--overwrite", action="store_true", help="remove the results of an earlier run from --artifact-dir instead"
    )
    group.add_argument(
        "--export", metavar="LIST", default=DEFAULT_FORMATS,
        help=f"of {', '.join(FORMATS)}; measurement.json and results.json always come (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--require-valid", action="store_true", help=f"exit with {EXIT_NOT_VALID} unless the measurement is certified"
    )
    group.add_argument(
        "--failed-request-threshold", type=share, metavar="SHARE", default=0.1,
        help=f"exit with {EXIT_REQUESTS_FAILED} if a larger share of the requests failed (default %(default)s)",
    )  # fmt: skip
    group.add_argument("--quiet", action="store_true", help="no progress, no table; errors are told")
    group.add_argument(
        "--json",
        action="store_true",
        help="print all results as one JSON object on stdout; everything else goes to stderr",
    )
    group.add_argument(
        "--export-level", choices=("summary", "records"), metavar="NAME",
        help="summary: no files with a line for each request; records: with them, as without this option",
    )  # fmt: skip
    group.add_argument("--auto-plot", action="store_true", help="plots, too, whatever --export says")
    group.add_argument(
        "--profile-export-prefix", metavar="NAME",
        help="AIPerf's files are called NAME.json, NAME.csv and NAME.jsonl (default profile_export...)",
    )  # fmt: skip
    group.add_argument(
        "--ui", choices=("simple", "dashboard", "none"), default="simple", metavar="NAME",
        help="progress: simple, which dashboard is, too, or none (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--stats-interval", type=interval, default=10.0, metavar="S",
        help="time between two lines of progress where stderr is no terminal, s; 0: none (default %(default)g)",
    )  # fmt: skip


def add_series(group: argparse._ArgumentGroup) -> None:
    """Options for more than one run."""
    group.add_argument(
        "--sweep-type", choices=("grid", "zip"), default="grid", metavar="NAME",
        help="of several lists: grid: every value with every other; zip: the first with the first (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--num-profile-runs",
        type=repetitions,
        default=1,
        metavar="N",
        help="repeat all runs so often, 1 to 10 (default 1)",
    )
    group.add_argument(
        "--cooldown", type=interval, default=0.0, metavar="S", help="pause between two runs, s (default 0)"
    )
    group.add_argument("--no-sweep-table", action="store_true", help="no comparison of the runs at the end")
    group.add_argument(
        "--wait-for-model-timeout", type=interval, default=0.0, metavar="S",
        help="before the first run, wait so long for a request to be answered, s (default 0: do not ask)",
    )  # fmt: skip
    group.add_argument(
        "--wait-for-model-interval",
        type=interval,
        default=5.0,
        metavar="S",
        help="time between two such requests (default 5)",
    )
    group.add_argument(
        "--wait-for-model-mode", choices=("models", "inference", "both"), default="inference", metavar="NAME",
        help="inference: until a request with one token of output is answered; models: until /v1/models lists the model; "
        "both (default %(default)s)",
    )  # fmt: skip


def add_machine(group: argparse._ArgumentGroup) -> None:
    """Options for the machines that send the load."""
    group.add_argument(
        "--self-test", action="store_true",
        help="measure what this machine can measure, with a built-in server of known timing",
    )  # fmt: skip
    group.add_argument(
        "--devices", metavar="LIST", default="",
        help="indices of the service's accelerators, e.g. 0,1, if not all of its machine (power_watts, devices.jsonl)",
    )  # fmt: skip
    group.add_argument(
        "--run-type", choices=("auto", "single", "process", "distributed"), default="auto", metavar="TYPE",
        help="single: all in one process; process: every service in its own; distributed: workers on other hosts, too; "
        "auto (default): workers in their own",
    )  # fmt: skip
    group.add_argument(
        "--listen", metavar="tcp://HOST:PORT", default="",
        help="take workers of other hosts (swarmtune bench-worker), with keys that both sides must have",
    )  # fmt: skip
    group.add_argument("--hosts", type=int, default=1, metavar="N", help="wait for so many other hosts (default 1)")
    group.add_argument(
        "--key-file", metavar="FILE", default="swarmtune-bench.key",
        help="keys for --listen, made if missing; copy them to the hosts, and only there (default %(default)s)",
    )  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for every field of LoadgenOptions, in its groups. Names of plugins are among the values."""
    from swarmtune.loadgen.options import LoadgenOptions

    registry.load_plugins()
    groups: dict[str, Any] = {}
    for name, field in LoadgenOptions.model_fields.items():
        if name in HIDDEN:
            continue
        extra = field.json_schema_extra
        title = str(extra["group"]) if isinstance(extra, dict) else "other"
        group = groups.setdefault(title, parser.add_argument_group(title))
        group.add_argument(f"--{name.replace('_', '-')}", **_arguments(name, field))


def _arguments(name: str, field: Any) -> dict[str, Any]:
    from typing import get_args

    text = f"{field.description}".replace("%", "%%")
    default = field.default
    shown = "" if default in (None, "", (), False, 0) else f" (default {default})".replace("%", "%%")
    if field.annotation is bool:
        return {
            "action": OnOff,
            "default": None,
            "help": text + (" (default on)" if default else ""),
        }
    choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
    if kind := field.json_schema_extra["registered"]:
        choices = list(getattr(registry, kind))
    if default == ():
        return {
            "action": "extend",
            "nargs": "+",
            "default": None,
            "metavar": "TEXT",
            "help": f"{text}; may be repeated",
        }
    if choices:
        listed = ", ".join(c for c in choices if c)
        return {
            "choices": [c for c in choices if c],
            "default": None,
            "metavar": "NAME",
            "help": f"{text}: {listed}{shown}",
        }
    return {"default": None, "metavar": _metavar(field, name), "help": text + shown}


def _metavar(field: Any, name: str) -> str:
    kinds = str(field.annotation)
    if "str" in kinds:
        return "FILE" if "file" in name else "TEXT"
    return "X" if "float" in kinds else "N"
