"""``swarmtune bench``: load-test a service; the load generator as a tool of its own."""

from __future__ import annotations

import argparse
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarmtune import registry
from swarmtune.apps.cli.actions import END_OF_FILE, Given, Once, OnOff
from swarmtune.apps.cli.quantities import empty_item, indices, interval, repetitions, share
from swarmtune.errors import CommunicationError, ConfigValidationError
from swarmtune.redaction import Redactor, ours

if TYPE_CHECKING:
    from swarmtune.apps.cli.bench_folder import Place
    from swarmtune.apps.cli.benching import Finished
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
SWEPT = (  # a comma list means one run for each
    *("concurrency", "request_rate", "isl", "osl", "prefill_concurrency", "isl_stddev", "osl_stddev", "request_count"),
    *("benchmark_duration", "conversation_num", "conversation_turn_mean", "num_users"),
)
URL = "http://127.0.0.1:8000"
SEEDS = 2**31  # of which one is drawn for each run
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


def translated(arguments: Sequence[str]) -> list[str]:
    """The command line with AIPerf's names and the options of --config in our own words."""
    from swarmtune.apps.cli.aiperf import translated as ours

    return ours(arguments)


def formats_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The files to write, measurement.json first. ConfigValidationError on an unknown one."""
    formats = [part.strip() for part in arguments.export.split(",")] if arguments.export else []
    if "" in formats:
        raise ConfigValidationError([empty_item("export", arguments.export, DEFAULT_FORMATS)])
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise ConfigValidationError([f"--export: {', '.join(unknown)} is not among {', '.join(FORMATS)}"])
    check_prefix(arguments.profile_export_prefix)
    if arguments.export_level == "summary":
        summaries = {"aiperf": "aiperf_summary", "vllm": "vllm", "plots": "plots"}
        formats = [summaries[name] for name in formats if name in summaries]
    if arguments.auto_plot and "plots" not in formats:
        formats.append("plots")
    return ("measurement", *formats)


def check_prefix(prefix: str | None) -> None:
    """ConfigValidationError if files that are called so would leave the folder of the run, or replace others of it."""
    from swarmtune.loadgen.exports.report import FILES, OF_AIPERF

    if prefix is None:
        return
    names = {f"{prefix}{end}" for end in (".json", ".csv", ".jsonl", "_timeslices.json", "_timeslices.csv")}
    if taken := sorted(names & (FILES - OF_AIPERF)):
        raise ConfigValidationError([f"--profile-export-prefix {prefix}: {taken[0]} is another file of the run"])
    if prefix != Path(prefix).name or not prefix.isprintable() or len(prefix) > 200:
        raise ConfigValidationError(
            ["--profile-export-prefix: a name is needed, with no folder; that is --artifact-dir"]
        )


def run(arguments: argparse.Namespace) -> int:
    """The whole command; the exit code."""
    from swarmtune.apps.cli.bench_folder import Place
    from swarmtune.apps.cli.benching import self_test, wait_for_model
    from swarmtune.loadgen.ask.target import check_sources, notes
    from swarmtune.loadgen.wire import notice

    formats = formats_of(arguments)
    if (note := notice(arguments.wire or "auto")) and not arguments.quiet:
        print(f"note: {note}", file=sys.stderr)
    if arguments.self_test:
        return self_test(arguments)
    specs = list(runs(arguments))
    if not arguments.listen:  # those of other hosts are theirs
        check_sources(specs[0][1].options)
    for note in notes(specs[0][1].url, specs[0][1].options):
        if not arguments.quiet:
            print(f"note: {note}", file=sys.stderr)
    if not arguments.listen and {"hosts", "key_file"} & getattr(arguments, "given", set()):
        raise ConfigValidationError(["--hosts and --key-file need --listen"])
    if arguments.run_type == "single" and (arguments.listen or any(spec.options.workers_max > 1 for _, spec in specs)):
        raise ConfigValidationError(["--run-type single has one worker and no hosts"])
    if len(specs) > 1 and arguments.random_seed is not None and not arguments.quiet:
        print(
            "note: with --random-seed all runs send the same prompts, which a prefix cache may answer", file=sys.stderr
        )
    if trouble := wait_for_model(specs[0][1], arguments):
        return _ended(EXIT_UNREACHABLE, trouble, arguments)
    with closing(Place(Path(arguments.artifact_dir), overwrite=arguments.overwrite)) as place:
        return _run_all(specs, place, arguments, formats)


def _run_all(
    specs: list[tuple[str, Spec]], place: Place, arguments: argparse.Namespace, formats: tuple[str, ...]
) -> int:
    """One run after the other, and what they are beside each other; the worst exit code."""
    from swarmtune.apps.cli.benching import bench, compare, pause

    worst = 0
    done: list[Finished] = []
    for number, (name, spec) in enumerate(specs):
        if len(specs) > 1 and not arguments.quiet:
            print(f"run {number + 1} of {len(specs)}: {name}", file=sys.stderr)
        if number:
            pause(arguments.cooldown)
        try:
            one = bench(spec, partial(place.folder, name), arguments, formats, command_line(arguments))
        except CommunicationError as error:
            return _ended(EXIT_UNREACHABLE, str(error), arguments, done)
        except OSError as error:
            told = f"{arguments.artifact_dir}: {error.strerror or error}; nothing was concluded"
            return _ended(EXIT_FAILED, told, arguments, done)
        code, reason = exit_code(one.report, arguments)
        done.append(replace(one, name=name, code=code, reason=reason))
        if code:
            print(f"swarmtune bench: {name + ': ' if name else ''}{reason}", file=sys.stderr)
        worst = max(worst, code)
        if code == EXIT_INTERRUPTED:
            worst = code
            break
    if len(done) > 1:
        compare(done, place.folder(), arguments)
    return _ended(worst, "", arguments, done)


def _ended(code: int, trouble: str, arguments: argparse.Namespace, done: Sequence[Finished] = ()) -> int:
    """Tell the trouble, and with --json everything that was measured; the exit code again."""
    from swarmtune.loadgen.exports.measurement import document

    if trouble:
        print(f"swarmtune bench: {trouble}", file=sys.stderr)
    if arguments.json:
        listed = [
            {"name": one.name, "directory": str(one.directory), "exit_code": one.code, "reason": one.reason}
            | document(one.report.results, one.report.facts)
            for one in done
        ]
        arguments.result.write_json({"exit_code": code, "error": trouble, "runs": listed})
    return code


def runs(arguments: argparse.Namespace) -> Iterator[tuple[str, Spec]]:
    """Name and spec of every run: one, or one for each value of a comma list. All mistakes in one ConfigValidationError."""
    import itertools

    if not arguments.model:
        raise ConfigValidationError(
            ["-m MODEL is missing: the name of the model, as the service lists it at /v1/models"]
        )
    given = {name: value for name in _fields() if (value := getattr(arguments, name, None)) is not None}
    given["header"] = [
        *arguments.header,
        *([f"Authorization: Bearer {arguments.api_key}"] if arguments.api_key else []),
    ]
    lists = {
        name: [part.strip() for part in str(given[name]).split(",")]
        for name in SWEPT
        if name in given and "," in str(given[name])
    }
    if empty := [empty_item(name, given[name], "1,4,16") for name, values in lists.items() if "" in values]:
        raise ConfigValidationError(empty)
    doubled = [
        f"--{name.replace('_', '-')}: a value is named twice" for name, v in lists.items() if len(set(v)) < len(v)
    ]
    if doubled:
        raise ConfigValidationError(doubled)
    if arguments.sweep_type == "zip" and len(lists) < 2:
        raise ConfigValidationError(
            ["--sweep-type zip needs two lists of values: --concurrency 1,2 --request-count 10,20"]
        )
    if arguments.sweep_type == "zip" and len({len(values) for values in lists.values()}) > 1:
        raise ConfigValidationError(["--sweep-type zip needs lists of the same length"])
    combined = list(
        zip(*lists.values(), strict=True) if arguments.sweep_type == "zip" else itertools.product(*lists.values())
    )
    for number in range(arguments.num_profile_runs):
        for values in combined or [()]:
            changed = dict(zip(lists, values, strict=True))
            words = [f"{name}{value}" for name, value in changed.items()]
            words += [f"run{number + 1}"] if arguments.num_profile_runs > 1 else []
            yield "-".join(words), _spec(arguments, {**given, **changed})


def _fields() -> list[str]:
    from swarmtune.loadgen.options import LoadgenOptions

    return [name for name in LoadgenOptions.model_fields if name not in HIDDEN]


def _spec(arguments: argparse.Namespace, given: dict[str, Any]) -> Spec:
    from pydantic import ValidationError

    from swarmtune.loadgen.ask.spec import Spec
    from swarmtune.loadgen.contradictions import contradictions

    urls = [url.strip() for text in arguments.url or [URL] for url in text.split(",")]
    limits, mistakes = slos(arguments.goodput)
    if "" in urls:
        mistakes.append(empty_item("url", ",".join(arguments.url), URL))
    devices = indices(arguments.devices, mistakes)
    try:
        spec = Spec(
            url=tuple(url if "://" in url else f"http://{url}" for url in urls if url) or (URL,), model=arguments.model,
            seed=secrets.randbelow(SEEDS) if arguments.random_seed is None else arguments.random_seed,
            request_slos=limits, options=given,
        )  # fmt: skip
    except ValidationError as error:
        mistakes += [_mistake_text(one) for one in error.errors()]
    else:
        mistakes += contradictions(spec.options, spec.url)
        if spec.options.stop_when_decided and not limits:
            mistakes.append("--stop-when-decided needs --goodput: without limits nothing is decided")
    if mistakes:
        raise ConfigValidationError(mistakes)
    nodes = tuple(node.model_copy(update={"devices": devices}) for node in spec.service_nodes)
    return spec.model_copy(update={"nodes": nodes})


def _mistake_text(mistake: Any) -> str:
    place = [str(part) for part in mistake["loc"] if part != "options"]
    message = mistake["msg"].removeprefix("Value error, ")
    return f"--{place[0].replace('_', '-')}: {message}" if place else message


def slos(text: str) -> tuple[dict[str, float], list[str]]:
    """Limits under our names from AIPerf's spelling, and the mistakes in the text."""
    limits: dict[str, float] = {}
    mistakes = []
    if text and not all(part.strip() for part in text.split(",")):
        mistakes.append(empty_item("goodput", text, "time_to_first_token:200"))
    for part in text.replace(",", " ").split():
        name, _, value = part.partition(":")
        metric = SLO_NAMES.get(name, name if name in SLO_NAMES.values() else None)
        if (metric or name) in limits:
            mistakes.append(f"--goodput: {name} is named twice: one limit of a kind can hold")
        try:
            limits[metric or name] = limit = float(value)
        except ValueError:
            limit = 0.0
        if not 0 < limit < float("inf"):
            mistakes.append(f"--goodput: {part!r} is not of the form NAME:MILLISECONDS")
            limits.pop(metric or name, None)
        if metric is None:
            mistakes.append(f"--goodput: {name!r} is not among {', '.join(SLO_NAMES)}")
    return limits, mistakes


def exit_code(made: Report, arguments: argparse.Namespace) -> tuple[int, str]:
    """The exit code of a finished run, and why it is not 0."""
    scalars = made.results.scalars
    if made.records.interrupted:
        return EXIT_INTERRUPTED, "interrupted; the results are those of the part that was measured"
    first = next(iter(made.results.errors), "")
    if made.records.lost:
        return EXIT_UNREACHABLE, f"the service could no longer be reached{f': {first}' if first else ''}"
    if arguments.require_valid and made.certificate.level != "valid":
        return EXIT_NOT_VALID, f"the measurement is {made.certificate.level}: {'; '.join(made.certificate.reasons)}"
    ended = scalars["completed"] + scalars["failed"]
    if not ended and not scalars["cancelled"]:
        return EXIT_REQUESTS_FAILED, "not a single request was answered before the end"
    failed = scalars["failed"] / ended if ended else 0.0
    if failed <= arguments.failed_request_threshold:
        return 0, ""
    told = f"{scalars['failed']:,.0f} requests failed, {failed:.0%} (--failed-request-threshold)"
    return EXIT_REQUESTS_FAILED, f"{told}{f', most often: {first}' if first else ''}"


def command_line(arguments: argparse.Namespace) -> str:
    """The command line without secrets, for the results."""
    given = Redactor()
    given.learn(arguments.api_key or "", *(header.partition(":")[2] for header in arguments.header))
    return ours.hide(given.hide(shlex.join(["swarmtune", *sys.argv[1:]])))
