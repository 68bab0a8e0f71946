"""measurement.json: what the tuner reads; results.json: the same with sample sizes, intervals, steady window and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from swarmtune.files import escaped
from swarmtune.loadgen.exports.facts import RunFacts, written
from swarmtune.loadgen.judge.summary import Results
from swarmtune.records import Measurement, to_plain
from swarmtune.redaction import ours

MEASUREMENT_FILE = "measurement.json"
RESULTS_FILE = "results.json"


def measurement(results: Results, facts: RunFacts) -> Measurement:
    """All finite metrics, the blocks, the load and the certificate. A degraded run is valid, and its reasons are kept."""
    valid = facts.verdict != "invalid"
    return Measurement(
        results.flat(), facts.load, valid, facts.reasons, blocks=results.blocks, early_stop=facts.early_stop
    )


def document(results: Results, facts: RunFacts) -> dict[str, Any]:
    """The object of results.json; no secrets."""
    return {
        "model": facts.model,
        "url": facts.url,
        "label": facts.label,
        "command": facts.command,
        "options": facts.options.model_dump(mode="json", exclude={"header"}),  # headers may hold keys
        "seed": facts.seed,
        "inputs_sha256": facts.inputs_sha256,
        "inputs": dict(facts.inputs),
        "verdict": facts.verdict,
        "reasons": list(facts.reasons),
        **results.to_json(),
    }


def write(results: Results, facts: RunFacts, directory: Path) -> None:
    """Both files; measurement.json last: where it is, the other is, too."""
    files = {RESULTS_FILE: document(results, facts), MEASUREMENT_FILE: to_plain(measurement(results, facts))}
    for name, content in files.items():
        with written(directory / name) as file:
            file.write(escaped(orjson.dumps(ours.hide_in(content), option=orjson.OPT_INDENT_2)))
