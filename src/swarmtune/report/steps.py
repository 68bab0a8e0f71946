"""The steps of simulated replicas: as trace events, and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from swarmtune.errors import ConfigPathError
from swarmtune.loadgen.exports.facts import optional, written
from swarmtune.loadgen.exports.plots import BLUE, ORANGE, STYLE

MICRO = 1e6
SHOWN = 4000  # points of a curve
FORMS = ("svg", "png")
Rows = Sequence[NDArray[np.void]]


def write_steps(replicas: Rows, path: Path) -> None:
    """Chrome's trace format, which ui.perfetto.dev opens: a slice for each step, counters for what runs and waits.

    ConfigPathError if the file cannot be written.
    """
    events: list[dict[str, Any]] = []
    for number, rows in enumerate(replicas):
        events.append({"ph": "M", "pid": number, "name": "process_name", "args": {"name": f"replica {number}"}})
        for row in rows.tolist():
            start, end, tokens, decodes, context, prefills, running, waiting, used, preempted, work = row
            name = "decode" if not prefills else ("prefill" if not decodes else "mixed")
            made = {
                "tokens": tokens,
                "decodes": decodes,
                "prefills": prefills,
                "context": context,
                "prefill_work": work,
                "preempted": preempted,
            }
            slice_ = {
                "ph": "X",
                "pid": number,
                "tid": 0,
                "name": name,
                "ts": start * MICRO,
                "dur": (end - start) * MICRO,
            }
            events.append({**slice_, "args": made})
            counts = {"running": running, "waiting": waiting}
            events.append({"ph": "C", "pid": number, "name": "requests", "ts": start * MICRO, "args": counts})
            events.append({"ph": "C", "pid": number, "name": "KV blocks", "ts": start * MICRO, "args": {"used": used}})
    with written(path) as file:
        file.write(orjson.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def draw_steps(replicas: Rows, path: Path) -> None:
    """Requests that run and wait, and used KV blocks, over time. MissingExtraError without matplotlib; ConfigPathError if
    the file cannot be written.
    """
    matplotlib, figures = optional("matplotlib", "--plot"), optional("matplotlib.figure", "--plot")
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=(9, 5), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        for number, rows in enumerate(replicas):
            chosen = rows[:: max(1, len(rows) // SHOWN)]
            suffix = f", replica {number}" if len(replicas) > 1 else ""
            for axes, name, colour in ((top, "running", BLUE), (top, "waiting", ORANGE), (bottom, "blocks_used", BLUE)):
                shade = {"color": colour} if len(replicas) == 1 else {}
                axes.step(chosen["start"], chosen[name], where="post", label=f"{name}{suffix}", **shade)
        top.set_title("simulated: requests that run and wait")
        top.set_ylabel("requests")
        top.legend(loc="upper right")
        bottom.set_title("used KV blocks")
        bottom.set_xlabel("time, s")
        form = path.suffix.removeprefix(".").lower() or "svg"
        if form not in FORMS:
            raise ConfigPathError(f"{path}: a figure is a file that ends in {' or '.join(f'.{one}' for one in FORMS)}.")
        with written(path) as file:
            figure.savefig(file, format=form, dpi=130)
