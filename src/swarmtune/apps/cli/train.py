"""``swarmtune train``: learn how long an engine's steps take, from steps that were measured."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from swarmtune.apps.cli import EXIT_DONE
from swarmtune.errors import ConfigValidationError, MissingExtraError
from swarmtune.files import expanded

if TYPE_CHECKING:
    from swarmtune.simulator.latency.gathering import Gathered
    from swarmtune.simulator.latency.model import Identity, LatencyModel
    from swarmtune.simulator.latency.training import Progress

KINDS = ("vllm", "mindie", "sglang", "llamacpp", "kernels", "device")
MOST_BITS = 64  # of a parameter
MOST_SHOWN = 5  # refused rows; --json has more
GIB, GB = 2**30, 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "-i", "--input", action="append", default=[], metavar="IN",
        help="measured steps: rows of `swarmtune collect`, a log of requests with a stamp for each token, a folder of "
        "kernel tables, or the CSV of msserviceprofiler; may be given several times",
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="MODEL", help="the file to write")
    parser.add_argument(
        "-t", "--type", required=True, choices=KINDS,
        help="the engine that was measured; kernels: IN is a folder of kernel tables; device: nothing was measured, and the "
        "data sheets of --device and --model-config give a rough model",
    )  # fmt: skip
    parser.add_argument(
        "--update", metavar="MODEL", help="a model whose steps are kept, and learned together with the new ones"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    facts = parser.add_argument_group("what was measured (else as the rows say it, or not known)")
    facts.add_argument("--engine-version", metavar="V", help="version of the engine")
    facts.add_argument("--model", metavar="NAME", help="name of the model that was served")
    for name, what in (("tp", "tensor"), ("pp", "pipeline"), ("dp", "data")):
        facts.add_argument(f"--{name}", type=_ranks, metavar="N", help=f"ranks of {what} parallelism")
    facts.add_argument("--device", metavar="NAME", help="accelerator or processor")
    facts.add_argument("--kv-dtype", metavar="TYPE", help="type of the KV cache, such as fp8")
    how = parser.add_argument_group("how the rows are read")
    how.add_argument("--unit", choices=("s", "ms", "us"), help="unit of the times; without it seconds, and checked")
    how.add_argument("--model-config", metavar="FILE", help="config.json of the model, for kernel tables")
    how.add_argument(
        "--max-num-batched-tokens", type=_ranks, metavar="N", default=8192,
        help="tokens that the engine computes in one step at most, for logs of requests (default %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--weight-bits",
        type=_ranks,
        metavar="N",
        help="of a parameter, for -t device (default 16)",
    )
    how.add_argument("--weights-gib", type=_amount, metavar="GIB", help="size of the weights on one device, and")
    how.add_argument(
        "--bandwidth-gb-s", type=_amount, metavar="GB/S",
        help="its memory bandwidth: steps that are shorter than reading the weights once are refused",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Read, train, write the model; the exit code."""
    if arguments.type == "device":
        return from_sheets(arguments)
    if importlib.util.find_spec("xgboost") is None:
        raise MissingExtraError("swarmtune train", "simulate")
    from swarmtune.simulator.latency.file import fingerprint, load, save
    from swarmtune.simulator.latency.gathering import gather
    from swarmtune.simulator.latency.readers.base import Reading
    from swarmtune.simulator.latency.training import train

    config = expanded(arguments.model_config) if arguments.model_config else None
    reading = Reading(arguments.unit or "", config, arguments.max_num_batched_tokens)
    target = expanded(arguments.output)
    check(arguments)
    earlier = load(expanded(arguments.update)) if arguments.update else None
    only = "kernels" if arguments.type == "kernels" else ""
    with shown_progress() as advance:
        advance("reading", 0.0)
        found = gather([expanded(path) for path in arguments.input], reading, floor_s(arguments), only)
        model = train(found.rows, identity(arguments, found), earlier=earlier, progress=advance, notes=found.notes)
    save(model, target)
    if arguments.json:
        arguments.result.place = str(target)
        arguments.result.write_json(document(model, found, str(target)))
    else:
        show(model, found, str(target), fingerprint(model))
    return EXIT_DONE


def check(arguments: argparse.Namespace) -> None:
    """ConfigValidationError with what the options cannot mean."""
    mistakes = [] if arguments.input else ["-i: name what was measured (or -t device, where nothing was)"]
    if (arguments.weights_gib is None) != (arguments.bandwidth_gb_s is None):
        mistakes.append("--weights-gib and --bandwidth-gb-s go together: the shortest step is the one over the other")
    target = expanded(arguments.output)
    if not target.parent.is_dir():
        mistakes.append(f"-o {target}: its folder is not there")
    elif target.exists() and not target.is_file():
        mistakes.append(f"-o {target} is no file that a model could replace")
    if mistakes:
        raise ConfigValidationError(mistakes)


def _impossible(arguments: argparse.Namespace, config: Mapping[str, Any]) -> list[str]:
    """What no service of this model could be, as sentences."""
    found, text = [], config.get("text_config")
    parts = [config, text] if isinstance(text, dict) else [config]
    heads = [part["num_attention_heads"] for part in parts if isinstance(part.get("num_attention_heads"), int)]
    if arguments.tp and any(number % arguments.tp for number in heads):
        found.append(f"--tp {arguments.tp}: the model's {heads[0]} attention heads cannot be shared among so many")
    if arguments.weight_bits is None and any(isinstance(part.get("quantization_config"), dict) for part in parts):
        found.append("--weight-bits: the model is quantized (quantization_config): give the bits of a parameter")
    if arguments.weight_bits is not None and arguments.weight_bits > MOST_BITS:
        found.append(f"--weight-bits {arguments.weight_bits:g}: no parameter has more than {MOST_BITS}")
    return found


def from_sheets(arguments: argparse.Namespace) -> int:
    """Write a model of a device and a model that nobody has measured; the exit code."""
    import msgspec

    from swarmtune.apps.cli.console import console_of
    from swarmtune.engines.memory import kv_bytes_per_token
    from swarmtune.simulator.latency.analytical import DEVICES, FACTOR, analytical, device_of, shape_of
    from swarmtune.simulator.latency.file import fingerprint, save
    from swarmtune.simulator.latency.gathering import Gathered
    from swarmtune.simulator.latency.readers.kernels import model_config

    missing = [] if arguments.device else [f"--device: one of {', '.join(DEVICES)}"]
    missing += [] if arguments.model_config else ["--model-config: the model's config.json"]
    missing += ["-i: -t device learns from nothing that was measured; leave it out"] if arguments.input else []
    if missing:
        raise ConfigValidationError(missing)
    arguments.input = [""]
    check(arguments)
    target, path = expanded(arguments.output), expanded(arguments.model_config)
    config = model_config(path)
    try:
        kv_bytes = kv_bytes_per_token(config, arguments.kv_dtype)
    except ValueError as error:  # of UnknownLayerError, too
        raise ConfigValidationError(
            [f"--model-config {path}: what its KV cache takes is not known: {error}"]
        ) from error
    if mistakes := _impossible(arguments, config):
        raise ConfigValidationError(mistakes)
    facts = msgspec.structs.replace(identity(arguments, Gathered.nothing()), tp=arguments.tp or 1)
    bits = arguments.weight_bits or 16
    model = analytical(shape_of(config), device_of(arguments.device), kv_bytes, facts, bits / 8)
    save(model, target)
    if arguments.json:
        arguments.result.place = str(target)
        arguments.result.write_json(
            {"exit_code": EXIT_DONE, "model": str(target), "fingerprint": fingerprint(model), "factor": FACTOR}
        )
    else:
        console = console_of()
        console.print(f"Wrote {target}: from data sheets, nothing was measured.", soft_wrap=True)
        console.print("A step may take half or twice as long; anchor it with swarmtune calibrate.", soft_wrap=True)
    return EXIT_DONE


def floor_s(arguments: argparse.Namespace) -> float:
    """Seconds in which the weights are read once; 0: not known."""
    if arguments.weights_gib is None:
        return 0.0
    return float(arguments.weights_gib * GIB / (arguments.bandwidth_gb_s * GB))


def identity(arguments: argparse.Namespace, found: Gathered) -> Identity:
    """What was measured, by the options and else by the rows."""
    from datetime import UTC, datetime

    import msgspec

    from swarmtune.simulator.latency.model import Identity

    engine = arguments.type if arguments.type not in ("kernels", "device") else ""
    given = {"engine": engine, "version": arguments.engine_version}
    given |= {name: getattr(arguments, name) for name in ("model", "tp", "pp", "dp", "device", "kv_dtype")}
    known = {name: value or found.facts.get(name) for name, value in given.items()}
    contradictions = [
        f"{name} is {value} by the options and {found.facts[name]} by the rows"
        for name, value in given.items()
        if value and found.facts.get(name) not in (None, str(value))
    ]
    counts = {name: known.pop(name) or 0 for name in ("tp", "pp", "dp")}
    if wrong := [
        f"{name} is {value!r} in the rows, and no number" for name, value in counts.items() if not _is_count(value)
    ]:
        contradictions += wrong
    if contradictions:
        raise ConfigValidationError(contradictions)
    texts = {name: str(value or "") for name, value in known.items()}
    date = datetime.now(UTC).date().isoformat()
    runs = len(set(found.rows.run.tolist()))
    whole = {**{name: int(value) for name, value in counts.items()}, "rows": len(found.rows), "runs": runs}
    return msgspec.convert({**texts, **whole, "date": date}, Identity)


def _is_count(value: Any) -> bool:
    return str(value).isascii() and str(value).isdecimal() and len(str(value)) < 7


def document(model: LatencyModel, found: Gathered, path: str) -> dict[str, Any]:
    """The object of --json."""
    import msgspec

    from swarmtune.simulator.latency.features import FEATURES
    from swarmtune.simulator.latency.file import fingerprint

    domain = dict(zip(FEATURES, model.domain.T.tolist(), strict=True))
    return {
        "exit_code": EXIT_DONE,
        "model": path,
        "fingerprint": fingerprint(model),
        "identity": msgspec.to_builtins(model.identity),
        "report": msgspec.to_builtins(model.report),
        "domain": domain,
        "kept_for_updates": len(model.sample),
        "refused": {"rows": len(found.refusals), "reasons": found.refusals.reasons, "first": found.refusals.listed},
    }


def show(model: LatencyModel, found: Gathered, path: str, mark: str) -> None:
    """The report, for people."""
    from rich.table import Table

    from swarmtune.apps.cli.console import console_of
    from swarmtune.simulator.latency.features import FEATURES

    console = console_of()
    report = model.report
    table = Table(title=f"Held-out steps: {report.validation}", title_justify="left")
    for name in ("", "MAE ms", "MAPE", "P90", "P99", "RMSE ms", "R²", "bias"):
        table.add_column(name, justify="left" if not name else "right")
    for name, errors in (
        ("physics", report.physics),
        ("as used" if not report.residual else "and residual", report.both),
    ):
        shares = (f"{100 * value:.1f} %" for value in (errors.mape, errors.p90, errors.p99))
        moments = (f"{1e3 * errors.rmse_s:.3g}", f"{errors.r2:.3f}", f"{100 * errors.bias:+.1f} %")
        table.add_row(name, f"{1e3 * errors.mae_s:.3g}", *shares, *moments)
    console.print(table)
    used = ", ".join(f"{value}: {kind}" for value, kind in report.residual.items())
    falls = f"; with more work the mean time falls by {100 * report.falls:.1f} % at most" if report.falls else ""
    console.print(f"Residual: {used or 'none, as it did not make held-out steps better'}{falls}.", soft_wrap=True)
    if report.coverage is not None and report.half_width is not None:
        told = f"{100 * report.coverage:.0f} % of the held-out steps"
        console.print(f"The nominal 90 % interval holds {told}, with ± {100 * report.half_width:.0f} % in the median.")
    ends = [f"{name} {low:g} to {high:g}" for name, (low, high) in zip(FEATURES, model.domain.T.tolist(), strict=True)]
    console.print(f"Domain: {', '.join(ends)}; beyond it physics alone, and wider intervals.", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if found.refusals:
        console.print(f"Refused: {len(found.refusals):,} rows ({found.refusals.text}).", soft_wrap=True)
        for line in found.refusals.listed[:MOST_SHOWN]:
            console.print(f"  {line}", soft_wrap=True)
    console.print(
        f"Wrote {path}: {model.identity.rows:,} steps of {model.identity.runs} runs, {mark[:12]}.", soft_wrap=True
    )


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress]:
    """A callback that shows how far the training is: a bar on stderr, where that is a terminal."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    from swarmtune.apps.cli.console import console_of

    console = console_of(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)
        yield lambda stage, share: bar.update(task, description=stage, completed=share)


def _ranks(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:9]) > 0 and len(text) < 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _amount(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
