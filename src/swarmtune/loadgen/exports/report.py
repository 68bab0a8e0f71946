"""After a run: certify it, calculate the results, leave the files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from swarmtune.devices.neighbours import NEIGHBOURS
from swarmtune.loadgen.ask.dataset import digest, make_dataset
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.exports import aiperf, jsonl, measurement, observed, parquet, plots, vllm
from swarmtune.loadgen.exports.facts import RunFacts
from swarmtune.loadgen.judge.certify import Certificate, certify
from swarmtune.loadgen.judge.summary import Results, results
from swarmtune.loadgen.observe.power import power_watts
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Records
from swarmtune.loadgen.send.plan import concurrency_of, least_requests_of, mode_of
from swarmtune.objective.objectives import NO_POWER
from swarmtune.objective.objectives import POWER as POWER_WATTS
from swarmtune.records import EarlyStop

DIGESTED = 1000  # requests whose bytes enter the digest
VLLM_FILE = "vllm_bench.json"
ALWAYS = ("jsonl", "measurement")


@dataclass(frozen=True)
class Report:
    """A finished run."""

    records: Records
    results: Results
    certificate: Certificate
    facts: RunFacts


def report(spec: Spec, records: Records, command: str = "") -> Report:
    """The results and the certificate of their measurement."""
    certificate = certify(records, spec.options)
    endpoint = make_endpoint(spec.model, spec.options)
    found = results(
        records,
        spec.request_slos,
        confidence=spec.options.confidence_level,
        target_concurrency=concurrency_of(spec.options),
        closed=mode_of(spec.options) == "closed",
        offered_s=None if least_requests_of(spec.options) else spec.options.benchmark_duration,
        streamed=endpoint.streams,
    )
    watts, absent = power_watts(
        records.observed.devices.without({NEIGHBOURS}), spec, records.started_ns, records.ended_ns
    )
    power = {} if watts is None else {POWER_WATTS: watts}
    notes = (*found.notes, *records.observed.notes)
    found = replace(found, scalars={**found.scalars, **certificate.facts, **power}, notes=notes)
    if spec.power_needed and absent:
        certificate = replace(certificate, reasons=(*certificate.reasons, f"{NO_POWER}{absent}"))
    inputs = digest(make_dataset(spec.options, spec.seed), endpoint, min(DIGESTED, len(records.requests)))
    facts = facts_of(spec, certificate, command, inputs, records.early_stop)
    return Report(records, found, certificate, facts)


def facts_of(
    spec: Spec, certificate: Certificate, command: str, inputs_sha256: str, early_stop: EarlyStop | None = None
) -> RunFacts:
    """What the files say of a run besides its results; no secrets."""
    return RunFacts(
        spec.model,
        without_secrets(",".join(spec.url)),
        _showable(spec.options),
        certificate.level,
        certificate.reasons,
        command,
        inputs_sha256=inputs_sha256,
        early_stop=early_stop,
    )


def without_secrets(text: str) -> str:
    """The same without the names and passwords in its URLs."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)


def _showable(options: LoadgenOptions) -> LoadgenOptions:
    return options.model_copy(update={"proxy": without_secrets(options.proxy), "header": ()})


def write_files(made: Report, directory: Path, formats: tuple[str, ...] = ALWAYS) -> None:
    """Write these formats; the measurement last. ConfigPathError if the directory cannot be written."""
    for name in formats:
        FORMATS[name](made, directory)


def _jsonl(made: Report, directory: Path) -> None:
    jsonl.write(made.records, directory)
    observed.write_jsonl(made.records, directory)


def _parquet(made: Report, directory: Path) -> None:
    parquet.write(made.records, directory)
    observed.write_parquet(made.records, directory)


FORMATS: Mapping[str, Callable[[Report, Path], object]] = {
    "jsonl": _jsonl,
    "parquet": _parquet,
    "vllm": lambda made, directory: vllm.write(made.records, made.results, made.facts, directory / VLLM_FILE),
    "aiperf": lambda made, directory: aiperf.write(made.records, made.results, made.facts, directory),
    "plots": lambda made, directory: plots.write(made.records, made.results, directory),
    "measurement": lambda made, directory: measurement.write(made.results, made.facts, directory),
}
