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

from swarmtune.apps.cli.bench_options import (
    DEFAULT_FORMATS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_VALID,
    EXIT_REQUESTS_FAILED,
    EXIT_UNREACHABLE,
    FORMATS,
    HIDDEN,
    URL,
    add_arguments,
)
from swarmtune.apps.cli.quantities import empty_item, indices
from swarmtune.errors import CommunicationError, ConfigValidationError
from swarmtune.redaction import Redactor, ours

if TYPE_CHECKING:
    from swarmtune.apps.cli.bench_folder import Place
    from swarmtune.apps.cli.benching import Finished
    from swarmtune.loadgen.ask.spec import Spec
    from swarmtune.loadgen.exports.report import Report

__all__ = ("add_arguments", "run", "translated")  # what a command has
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
SEEDS = 2**31  # of which one is drawn for each run


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
