"""measurement.json: what the tuner reads; results.json: the same with sample sizes, intervals, steady window and errors."""

from __future__ import annotations

from pathlib import Path

import orjson

from swarmtune.loadgen.exports.facts import RunFacts, written
from swarmtune.loadgen.judge.summary import Results
from swarmtune.records import Measurement, to_plain

MEASUREMENT_FILE = "measurement.json"
RESULTS_FILE = "results.json"


def measurement(results: Results, facts: RunFacts) -> Measurement:
    """All finite metrics, the blocks, the load and the certificate. A degraded run is valid, and its reasons are kept."""
    valid = facts.verdict != "invalid"
    return Measurement(
        results.flat(), facts.load, valid, facts.reasons, blocks=results.blocks, early_stop=facts.early_stop
    )


def write(results: Results, facts: RunFacts, directory: Path) -> None:
    """Both files; measurement.json last: where it is, the other is, too."""
    report = {
        "model": facts.model,
        "url": facts.url,
        "label": facts.label,
        "command": facts.command,
        "options": facts.options.model_dump(mode="json", exclude={"header"}),  # headers may hold keys
        "inputs_sha256": facts.inputs_sha256,
        "verdict": facts.verdict,
        "reasons": list(facts.reasons),
        **results.to_json(),
    }
    for name, content in ((RESULTS_FILE, report), (MEASUREMENT_FILE, to_plain(measurement(results, facts)))):
        with written(directory / name) as file:
            file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
