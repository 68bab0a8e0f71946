"""``swarmtune bench``: load-test a service; the load generator as a tool of its own."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarmtune import registry
from swarmtune.errors import CommunicationError, ConfigValidationError

if TYPE_CHECKING:
    from swarmtune.loadgen.ask.spec import Spec
    from swarmtune.loadgen.exports.report import Report

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
SLO_NAMES = {
    "time_to_first_token": "ttft_ms",
    "time_to_second_token": "ttst_ms",
    "time_to_first_output_token": "ttfo_ms",
    "inter_token_latency": "tpot_ms",
    "request_latency": "e2el_ms",
    "output_token_throughput_per_user": "output_throughput_per_user",
    "ttft": "ttft_ms",
    "tpot": "tpot_ms",
    "e2el": "e2el_ms",
}
SWEPT = ("concurrency", "request_rate", "isl", "osl", "prefill_concurrency")  # a comma list means one run for each
HIDDEN = ("header", "random_seed")  # they have a spelling of their own below
FORMATS = ("jsonl", "vllm", "aiperf", "parquet", "plots")
DEFAULT_FORMATS = "jsonl,vllm,aiperf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of loadgen/options.py, and those of a run by hand."""
    parser.epilog = EPILOG
    parser.usage = "%(prog)s -m MODEL [--url URL] [LOAD] [DATA] [options]"
    parser.add_argument("-m", "--model", "--model-names", metavar="MODEL", help="the model's name at the service")
    parser.add_argument(
        "-u", "--url", metavar="URL", default="http://127.0.0.1:8000",
        help="the service, with or without /v1; several, separated by commas, share the requests (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--random-seed", "--seed", type=int, default=0, metavar="N",
        help="same seed: the same requests at the same times, byte for byte (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "-H", "--header", action="append", default=[], metavar="'NAME: VALUE'",
        help="further HTTP header; may be repeated (a key is better in $SWARMTUNE_API_KEY or $OPENAI_API_KEY)",
    )  # fmt: skip
    parser.add_argument(
        "--goodput", metavar="LIMITS", default="",
        help="limits that a request must keep, in ms: 'time_to_first_token:200 inter_token_latency:20'",
    )  # fmt: skip
    add_output(parser.add_argument_group("output"))
    add_machine(parser.add_argument_group("machine"))
    add_options(parser)


def add_output(group: argparse._ArgumentGroup) -> None:
    """Options for the result files, and for the exit code."""
    group.add_argument(
        "--artifact-dir", "--output-artifact-dir", metavar="DIR", default="swarmtune-bench",
        help="folder of the results (default %(default)s)",
    )  # fmt: skip
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
    group.add_argument("--quiet", action="store_true", help="no progress, no table")


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
            "action": argparse.BooleanOptionalAction,
            "default": None,
            "help": text + (" (default on)" if default else ""),
        }
    choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
    if kind := field.json_schema_extra["registered"]:
        choices = list(getattr(registry, kind))
    if default == ():
        return {"action": "append", "default": None, "metavar": "TEXT", "help": f"{text}; may be repeated"}
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


def run(arguments: argparse.Namespace) -> int:
    """The whole command; the exit code."""
    from swarmtune.apps.cli.benching import bench, self_test
    from swarmtune.loadgen.wire import notice

    formats = tuple(part for part in arguments.export.split(",") if part)
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise ConfigValidationError([f"--export: {', '.join(unknown)} is not among {', '.join(FORMATS)}"])
    if (note := notice(arguments.wire or "auto")) and not arguments.quiet:
        print(f"note: {note}", file=sys.stderr)
    if arguments.self_test:
        return self_test(arguments)
    specs = list(runs(arguments))
    if arguments.run_type == "single" and (arguments.listen or any(spec.options.workers_max > 1 for _, spec in specs)):
        raise ConfigValidationError(["--run-type single has one worker and no hosts"])
    worst = 0
    for number, (name, spec) in enumerate(specs):
        directory = Path(arguments.artifact_dir) / name
        if len(specs) > 1 and not arguments.quiet:
            print(f"run {number + 1} of {len(specs)}: {name}", file=sys.stderr)
        try:
            made = bench(spec, directory, arguments, ("measurement", *formats), command_line())
        except CommunicationError as error:
            print(f"swarmtune bench: {error}", file=sys.stderr)
            return EXIT_UNREACHABLE
        except OSError as error:
            print(f"swarmtune bench: {directory}: {error.strerror or error}; nothing was concluded", file=sys.stderr)
            return EXIT_FAILED
        worst = max(worst, exit_code(made, arguments))
        if made.records.interrupted:
            return EXIT_INTERRUPTED
    return worst


def runs(arguments: argparse.Namespace) -> Iterator[tuple[str, Spec]]:
    """Name and spec of every run: one, or one for each value of a comma list. All mistakes in one ConfigValidationError."""
    import itertools

    if not arguments.model:
        raise ConfigValidationError(
            ["-m MODEL is missing: the name of the model, as the service lists it at /v1/models"]
        )
    given = {name: value for name in _fields() if (value := getattr(arguments, name, None)) is not None}
    given["header"] = arguments.header
    lists = {
        name: [part.strip() for part in str(given[name]).split(",")]
        for name in SWEPT
        if name in given and "," in str(given[name])
    }
    if lists and {len(values) for values in lists.values()} == {0}:
        lists = {}
    for values in itertools.product(*lists.values()):
        changed = dict(zip(lists, values, strict=True))
        yield "-".join(f"{name}{value}" for name, value in changed.items()), _spec(arguments, {**given, **changed})


def _fields() -> list[str]:
    from swarmtune.loadgen.options import LoadgenOptions

    return [name for name in LoadgenOptions.model_fields if name not in HIDDEN]


def _spec(arguments: argparse.Namespace, given: dict[str, Any]) -> Spec:
    from pydantic import ValidationError

    from swarmtune.loadgen.ask.spec import Spec

    urls = [url.strip() for url in arguments.url.split(",") if url.strip()]
    limits, mistakes = slos(arguments.goodput)
    devices = _indices(arguments.devices, mistakes)
    try:
        spec = Spec(
            url=tuple(url if "://" in url else f"http://{url}" for url in urls), model=arguments.model,
            seed=arguments.random_seed, request_slos=limits, options=given,
        )  # fmt: skip
    except ValidationError as error:
        mistakes += [_mistake_text(one) for one in error.errors()]
    if mistakes:
        raise ConfigValidationError(mistakes)
    nodes = tuple(node.model_copy(update={"devices": devices}) for node in spec.service_nodes)
    return spec.model_copy(update={"nodes": nodes})


def _indices(text: str, mistakes: list[str]) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if wrong := [word for word in words if not (word.isascii() and word.isdecimal())]:
        mistakes.append(f"--devices: {', '.join(wrong)}: not an index; write for example 0,1")
    return () if wrong else tuple(sorted(map(int, words)))


def _mistake_text(mistake: Any) -> str:
    place = [str(part) for part in mistake["loc"] if part != "options"]
    message = mistake["msg"].removeprefix("Value error, ")
    return f"--{place[0].replace('_', '-')}: {message}" if place else message


def slos(text: str) -> tuple[dict[str, float], list[str]]:
    """Limits under our names from AIPerf's spelling, and the mistakes in the text."""
    limits: dict[str, float] = {}
    mistakes = []
    for part in text.replace(",", " ").split():
        name, _, value = part.partition(":")
        metric = SLO_NAMES.get(name, name if name in SLO_NAMES.values() else None)
        try:
            limits[metric or name] = float(value)
        except ValueError:
            mistakes.append(f"--goodput: {part!r} is not of the form NAME:MILLISECONDS")
        if metric is None:
            mistakes.append(f"--goodput: {name!r} is not among {', '.join(SLO_NAMES)}")
    return limits, mistakes


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def exit_code(made: Report, arguments: argparse.Namespace) -> int:
    """The exit code of a finished run."""
    scalars = made.results.scalars
    if made.records.interrupted:
        return EXIT_INTERRUPTED
    if made.records.lost:
        return EXIT_UNREACHABLE
    if arguments.require_valid and made.certificate.level != "valid":
        return EXIT_NOT_VALID
    failed = 1 - scalars["success_rate"]
    return EXIT_REQUESTS_FAILED if failed > arguments.failed_request_threshold else 0


def command_line() -> str:
    """The command line without secrets, for the results."""
    from swarmtune.loadgen.exports.report import without_secrets

    words, secret = [], False
    for word in sys.argv[1:]:
        hidden = "***" if secret else without_secrets(word)
        secret = word in ("-H", "--header")
        if word.startswith("-H") and not secret:
            hidden = "-H***"
        words.append("--header=***" if word.startswith("--header=") else hidden)
    return shlex.join(["swarmtune", *words])
