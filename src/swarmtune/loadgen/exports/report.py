"""After a run: certify it, calculate the results, leave the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swarmtune.devices.neighbours import NEIGHBOURS
from swarmtune.errors import one_line
from swarmtune.loadgen.ask.dataset import digest, make_dataset
from swarmtune.loadgen.ask.spec import Spec, headers_of
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.exports import aiperf, aiperf_slices, jsonl, measurement, observed, parquet, plots, slices, vllm
from swarmtune.loadgen.exports.comparison import PICTURE
from swarmtune.loadgen.exports.facts import RunFacts
from swarmtune.loadgen.judge import prompts
from swarmtune.loadgen.judge.certify import Certificate, certify
from swarmtune.loadgen.judge.lengths import length_notes
from swarmtune.loadgen.judge.summary import Results, results
from swarmtune.loadgen.observe.power import power_watts
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read.tokenizer import BETTER, BUILT_IN, Counter, counter
from swarmtune.loadgen.records import Phase, Records
from swarmtune.loadgen.send.plan import concurrency_of, least_requests_of, mode_of
from swarmtune.objective.objectives import NO_POWER
from swarmtune.objective.objectives import POWER as POWER_WATTS
from swarmtune.records import EarlyStop
from swarmtune.redaction import Redactor, ours

SHOWN = 500  # characters of an error
DIGESTED = 1000  # requests whose bytes enter the digest
VLLM_FILE = "vllm_bench.json"
ALWAYS = ("jsonl", "measurement")
OF_AIPERF = frozenset(
    (aiperf.JSON_FILE, aiperf.CSV_FILE, aiperf.RECORDS_FILE, aiperf_slices.JSON_FILE, aiperf_slices.CSV_FILE)
)
FILES = OF_AIPERF | frozenset(  # all that a run may leave
    (
        *(measurement.MEASUREMENT_FILE, measurement.RESULTS_FILE, jsonl.ROWS_FILE, jsonl.RUN_FILE, VLLM_FILE),
        *(parquet.REQUESTS_FILE, parquet.CHUNKS_FILE, parquet.NPZ_FILE, observed.SUMMARY, slices.FILE, PICTURE),
        *(f"{name}.{form}" for name in (observed.DEVICES, observed.SERVERS) for form in ("jsonl", "parquet")),
        *(f"{name}.{form}" for name in plots.NAMES for form in ("svg", "png")),
    )
)


@dataclass(frozen=True)
class Report:
    """A finished run."""

    records: Records
    results: Results
    certificate: Certificate
    facts: RunFacts


def report(spec: Spec, records: Records, command: str = "") -> Report:
    """The results and the certificate of their measurement. What the service said is shown without what it must not hold:
    characters that steer a terminal, and the keys that were sent to it.
    """
    given = Redactor()
    for value in headers_of(spec.options).values():
        given.learn(value, *value.split())
    records = replace(records, errors=[shown(given.hide(text)) for text in records.errors])
    records = prompts.settled(records, spec.options)
    certificate = certify(records, spec.options)
    endpoint = make_endpoint(spec.model, spec.options)
    tokenizer = counter(spec.options.tokenizer, spec.model)
    found = results(
        records,
        spec.request_slos,
        confidence=spec.options.confidence_level,
        target_concurrency=concurrency_of(spec.options),
        closed=mode_of(spec.options) == "closed",
        offered_s=None if least_requests_of(spec.options) else spec.options.benchmark_duration,
        streamed=endpoint.streams,
        tokenizer=tokenizer.name,
    )
    watts, absent = power_watts(
        records.observed.devices.without({NEIGHBOURS}), spec, records.started_ns, records.ended_ns
    )
    power = {} if watts is None else {POWER_WATTS: watts}
    dataset = make_dataset(spec.options, spec.seed)
    rows = records.requests
    sessions = len(np.unique(rows["session"][(rows["phase"] == Phase.MEASURED) & (rows["sent_ns"] > 0)]))
    notes = (
        *found.notes,
        *_tokenizer_notes(tokenizer, found, spec.options.tokenizer),
        *_service_notes(records, spec.options),
        *dataset.notes(sessions, spec.model),
        *records.observed.notes,
    )
    found = replace(found, scalars={**found.scalars, **certificate.facts, **power}, notes=notes)
    if spec.power_needed and absent:
        certificate = replace(certificate, reasons=(*certificate.reasons, f"{NO_POWER}{absent}"))
    inputs = digest(dataset, endpoint, min(DIGESTED, len(records.requests)))
    facts = facts_of(spec, certificate, command, inputs, records.early_stop)
    used = {**dataset.counts, "sessions": sessions} if dataset.counts else {}
    return Report(records, found, certificate, replace(facts, inputs=used))


def _tokenizer_notes(tokenizer: Counter, found: Results, asked: str) -> tuple[str, ...]:
    note = tokenizer.note or (BETTER if tokenizer.name == BUILT_IN and not asked else "")
    if asked and tokenizer.note:
        return (f"tokenizer: {one_line(note)}: {tokenizer.name} counts where the service states no tokens",)
    return (f"tokenizer: {one_line(note)}",) if note and found.scalars.get("estimated_count") else ()


def _service_notes(records: Records, options: LoadgenOptions) -> tuple[str, ...]:
    """What the service did otherwise than most, and the figures stand all the same."""
    opened = sum(worker.open_ends for worker in records.workers)
    found = [prompts.added(records, options), *length_notes(records, options)]
    if options.endpoint_type in prompts.WITHOUT_ANSWER:  # where that is usual
        found.append(prompts.shortened(records, options))
    if opened:
        found.append(
            f"the service left the connection open behind the last event of {opened:,} answers: each counts as ended with "
            "that event, and its connection was given up"
        )
    return tuple(filter(None, found))


def facts_of(
    spec: Spec, certificate: Certificate, command: str, inputs_sha256: str, early_stop: EarlyStop | None = None
) -> RunFacts:
    """What the files say of a run besides its results; no secrets."""
    return RunFacts(
        spec.model,
        ours.hide(",".join(spec.url)),
        _showable(spec.options),
        certificate.level,
        certificate.reasons,
        command,
        inputs_sha256=inputs_sha256,
        early_stop=early_stop,
        seed=spec.seed,
    )


def shown(text: str) -> str:
    """A message of the service, ready for people: in one line, of bounded length, without secrets."""
    text = one_line(ours.hide(text))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _showable(options: LoadgenOptions) -> LoadgenOptions:
    return options.model_copy(update={"proxy": ours.hide(options.proxy), "header": ()})


def write_files(made: Report, directory: Path, formats: tuple[str, ...] = ALWAYS) -> None:
    """Write these formats; the measurement last. ConfigPathError if the directory cannot be written."""
    if made.facts.options.slice_duration:
        slices.write(made.records, made.facts.options.slice_duration, directory)
        if {"aiperf", "aiperf_summary"} & set(formats):
            aiperf_slices.write(made.records, made.facts.options.slice_duration, made.facts, directory)
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
    "aiperf_summary": lambda made, directory: aiperf.write_summary(made.records, made.results, made.facts, directory),
    "plots": lambda made, directory: plots.write(made.records, made.results, directory),
    "measurement": lambda made, directory: measurement.write(made.results, made.facts, directory),
}
