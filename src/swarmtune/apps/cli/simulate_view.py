"""What ``swarmtune simulate`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from swarmtune.apps.cli.console import console_of
from swarmtune.loadgen.exports.facts import RunFacts
from swarmtune.loadgen.exports.packed import number
from swarmtune.loadgen.exports.table import report
from swarmtune.records import Setting
from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.file import fingerprint
from swarmtune.simulator.latency.model import LatencyModel
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.simulation.fields import Effect
from swarmtune.tuner.simulation.predict import PredictedLoad
from swarmtune.tuner.simulation.search import Tried

RANKED = 8  # settings of a search that are shown


@dataclass(frozen=True)
class Prediction:
    """``tried``: the settings of a search, the best first, which ``setting`` is then. ``taken_s``: real seconds.
    ``fields``: those that are searched; in simulation only those are that move the prediction.
    ``rates``: the highest within the SLOs, requests per second, for each seed. ``ends``: the objective at the same load, if
    every step took twice as long, and half, where the model is a rough one.
    """

    plan: Plan
    setting: Setting
    loads: Sequence[PredictedLoad]
    best: PredictedLoad
    model: LatencyModel | None
    tried: Sequence[Tried]
    taken_s: float
    fields: Mapping[str, Effect]
    rates: tuple[float, ...] = ()
    ends: tuple[float | None, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def simulated_s(self) -> float:
        """Seconds of load, of all settings."""
        every = [*self.loads, *(one.load for one in self.tried)]
        return sum(one.results.scalars["duration_s"] for one in every)


def document(prediction: Prediction) -> dict[str, Any]:
    """The prediction as plain data. Nothing in it was measured."""
    plan, chosen = prediction.plan, prediction.best
    return {
        "measured": False,
        "engine": plan.engine.name,
        "setting": dict(prediction.setting.values),
        "fields": {name: str(effect) for name, effect in prediction.fields.items()},
        "model": None if prediction.model is None else fingerprint(prediction.model),
        "loads": [
            {
                **one.measurement.load,
                "feasible": one.score.feasible,
                "value": one.score.value,
                "violations": dict(one.score.violations),
                "preemptions": one.preemptions,
            }
            for one in prediction.loads
        ],
        "best": chosen.results.to_json(),
        "scheduler": {**vars(chosen.rules), "version": ".".join(map(str, chosen.rules.version))},
        "tried": [
            {"setting": dict(t.setting.values), "origin": t.setting.origin, **_outcome(t.load)}
            for t in prediction.tried
        ],
        "ends": list(prediction.ends) or None,
        "capacity": list(prediction.rates) or None,
        "notes": list(prediction.notes),
        "simulated_s": prediction.simulated_s,
        "taken_s": prediction.taken_s,
    }


def _outcome(load: PredictedLoad) -> dict[str, Any]:
    return {**load.measurement.load, "feasible": load.score.feasible, "value": load.score.value}


def show(prediction: Prediction) -> None:
    """The prediction for people, on stdout."""
    console, plan, chosen, model = console_of(), prediction.plan, prediction.best, prediction.model
    source = "as the engine declares its steps" if model is None else f"by {_trained(model)}"
    console.print(Text.assemble(("Predicted, nothing measured: ", "bold"), f"{plan.engine.name}, {source}\n"))
    if prediction.tried:
        console.print(_ranking(prediction))
        console.print()
    values = ", ".join(f"{name} {value}" for name, value in prediction.setting.values.items())
    console.print(Text(f"  setting    {values}"), soft_wrap=True)
    console.print(Text(f"  scheduler  {_rules(chosen.rules)}\n"), soft_wrap=True)
    table = _table(("load", "objective", "SLOs", "requests/s", "p99 TTFT, ms", "p99 TPOT, ms", "preemptions"))
    for one in prediction.loads:
        metrics = one.measurement.metrics
        table.add_row(
            _load(one),
            number(one.score.value),
            _slos(one),
            *(number(metrics.get(name)) for name in ("request_throughput", "p99_ttft_ms", "p99_tpot_ms")),
            f"{one.preemptions:,}",
        )
    console.print(table)
    console.print()
    if prediction.ends:
        slow, quick = map(number, prediction.ends)
        text = f"nothing was measured: steps of twice the time would give {slow}, of half the time {quick}\n"
        console.print(Text(text, style="bold"))
    if prediction.rates:
        low, high = min(prediction.rates), max(prediction.rates)
        text = (
            f"highest rate within the SLOs: {number(low)} to {number(high)} requests/s, {len(prediction.rates)} seeds\n"
        )
        console.print(Text(text, style="bold"))
    facts = RunFacts(plan.engine.model, "", chosen.options, verdict="predicted")
    console.print(report(chosen.results, facts, console.width))
    for effect in Effect:
        if names := [name for name, what in prediction.fields.items() if what is effect]:
            console.print(Text.assemble((f"{effect}: ", "bold"), ", ".join(names)), soft_wrap=True)
    for note in prediction.notes:
        console.print(Text(f"note: {note}"))
    text = f"\n{prediction.simulated_s:,.0f} s of load in {prediction.taken_s:.2f} s"
    console.print(Text(text), style="dim")


def _trained(model: LatencyModel) -> str:
    """What the model was trained on."""
    identity = model.identity
    if model.is_rough:
        return f"data sheets of {identity.device}"
    known = [identity.model, identity.device, identity.engine]
    steps = f"a model trained on {identity.rows or len(model.sample):,} steps"
    return f"{steps} of {', '.join(filter(None, known))}" if any(known) else steps


def _ranking(prediction: Prediction) -> Table:
    """The best settings of a search, and the baseline."""
    baseline = prediction.plan.baseline()
    shown = [t for n, t in enumerate(prediction.tried) if n < RANKED or t.setting == baseline]
    table = _table(("rank", "objective", "SLOs", "load", "setting"))
    for rank, tried in enumerate(prediction.tried, 1):
        if tried in shown:
            values = ", ".join(f"{name} {value}" for name, value in tried.setting.values.items())
            told = f"{values} (baseline)" if tried.setting == baseline else values
            table.add_row(
                f"{rank} of {len(prediction.tried)}",
                number(tried.load.score.value),
                _slos(tried.load),
                _load(tried.load),
                told,
            )
    return table


def _table(names: Sequence[str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in ("load", "SLOs", "setting", "rank") else "right")
    return table


def _load(one: PredictedLoad) -> str:
    words = {"concurrency": "users", "request_rate": "requests/s"}
    return ", ".join(f"{value:g} {words[name]}" for name, value in one.measurement.load.items()) or "as scheduled"


def _slos(one: PredictedLoad) -> str:
    broken = ", ".join(name for name, by in one.score.violations.items() if by > 0)
    return f"broken: {broken}" if broken else "kept"


def _rules(rules: Rules) -> str:
    """The rules of the scheduler in a line."""
    parts = [
        f"{rules.max_num_seqs} sequences",
        f"{rules.max_num_batched_tokens} tokens a step",
        f"{rules.usable_blocks:,} KV blocks of {rules.block_size}",
        f"prompts {'in pieces' if rules.chunked_prefill else 'whole'}",
        *(["prefix cache"] if rules.prefix_caching else []),
        *(["steps planned ahead"] if rules.asynchronous else []),
        *([f"{rules.pipeline} stages"] if rules.pipeline > 1 else []),
        *(["by priority"] if rules.by_priority else []),
    ]
    return ", ".join(parts)
