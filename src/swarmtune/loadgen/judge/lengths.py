"""Have answers the lengths that were asked for, and do counts of the service fit their events? Notes on a run. Pure."""

from __future__ import annotations

import numpy as np

from swarmtune.loadgen.judge.latencies import Bools, Ints, columns
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.read.counts import ALLOWED_MORE, ALLOWED_PART
from swarmtune.loadgen.records import Outcome, Records

SOME = 0.05  # share of the answers


def length_notes(records: Records, options: LoadgenOptions) -> list[str]:
    """What to say of answers that are longer or shorter than asked for, and of counts below the events with text."""
    data = columns(records)
    completed = data.outcome(Outcome.COMPLETED)
    rows = data.rows[completed]
    asked = rows["asked_output_tokens"].astype(np.int64) * np.maximum(1, rows["choices"])
    tokens = rows["output_tokens"].astype(np.int64)
    longer = (asked > 0) & (tokens > asked + np.maximum(ALLOWED_MORE, asked // ALLOWED_PART))
    shorter = (asked > 0) & (tokens < asked)
    split = rows["server_counted"] & (tokens < rows["chunks"]) & (tokens != asked)
    found = []
    if _some(longer):
        found.append(
            f"{_of(longer)} answers are longer than asked for ({_middle(tokens[longer])} tokens where "
            f"{_middle(asked[longer])} were asked for): the service does not keep the limit (max_tokens)"
        )
    if _some(shorter):
        way = "the service does not obey ignore_eos; ask for the length by its own name (--extra-inputs min_tokens:N)"
        way = way if options.ignore_eos else "give ignore_eos for answers of exactly that length"
        found.append(
            f"{_of(shorter)} answers are shorter than asked for ({_middle(tokens[shorter])} tokens where "
            f"{_middle(asked[shorter])} were asked for): they ended by themselves (osl_mismatch_count); {way}"
        )
    if _some(split):
        found.append(
            f"{_of(split)} answers have more events with text than tokens by their usage, by "
            f"{_middle((rows['chunks'] - tokens)[split])}: one may have come in two events, or too few are counted"
        )
    return found


def _some(which: Bools) -> bool:
    return bool(np.count_nonzero(which) > SOME * len(which))


def _of(which: Bools) -> str:
    return f"{np.count_nonzero(which):,} of {len(which):,}"


def _middle(values: Ints) -> str:
    return f"{int(np.median(values)):,}"
