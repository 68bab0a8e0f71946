"""What a person sees while a study runs: one live screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

from loguru import logger
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from swarmtune.records import Event
from swarmtune.tuner.pareto import pareto_set
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.proof.confirm import NO_GAIN
from swarmtune.tuner.result import Result, mean_value, run_lines

RECENT = 6  # finished trials on the live screen


class View:
    """Listens to events. Everything goes to stderr; stdout belongs to the result."""

    def __init__(self, plan: Plan, folder: Path, level: str) -> None:
        self._plan = plan
        self._folder = folder
        self._level = level
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._started = time.monotonic()
        self._begun: dict[int, float] = {}
        self._seconds: list[float] = []
        self._finished = 0
        self._failed = 0
        self._accelerator_s = 0.0
        self._remeasured = 0
        self._best: float | None = None
        self._groups = ""
        self._doing: dict[str, str] = {}
        self._recent: deque[Text] = deque(maxlen=RECENT)

    def __enter__(self) -> View:
        logger.remove()
        logger.add(self._folder / "log.txt", level=self._level, enqueue=False)
        logger.info("study {} in {}", self._plan.engine.name, self._folder)
        for notice in self._plan.notices:
            self._say(f"note: {notice}")
        self._say(f"Tuning {self._plan.engine.name} ({self._plan.engine.model}); the study: {self._folder}")
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._screen, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        logger.remove()

    def listen(self, event: Event) -> None:
        """Take an event in."""
        logger.log("DEBUG" if event.kind in ("load_point", "load") else "INFO", "{} {}", event.kind, dict(event.facts))
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            handler(event.facts)

    # --- events --------------------------------------------------------------------------------------------------

    def _on_resumed(self, facts: Any) -> None:
        self._finished = facts["finished"]
        self._say(f"Going on: {facts['finished']} of {self._plan.evaluations} evaluations are done already")

    def _on_warm_start(self, facts: Any) -> None:
        for text in (*facts["notices"], facts["message"]):
            if text:
                self._say(text)

    def _on_groups(self, facts: Any) -> None:
        if "message" in facts:
            self._say(facts["message"])
            return
        self._groups = f"{facts['healthy']} of {facts['healthy'] + facts['open']} groups healthy"
        for gone in self._doing.keys() - set(facts["names"]):
            del self._doing[gone]

    def _on_exhausted(self, facts: Any) -> None:
        self._say(f"The search ends early: {facts['message']}")

    def _on_trial_started(self, facts: Any) -> None:
        self._begun[facts["trial"]] = time.monotonic()
        self._doing[facts["group"]] = f"trial {facts['trial']} ({facts['origin']})"

    def _on_starting(self, facts: Any) -> None:
        self._doing[facts["group"]] = f"trial {facts['trial']}: starting the service"

    def _on_waiting(self, facts: Any) -> None:
        self._doing[facts["group"]] = f"trial {facts['trial']}: ready, waits for its turn"

    def _on_load(self, facts: Any) -> None:
        load = " ".join(f"{k} {facts[k]:g}" for k in ("concurrency", "request_rate") if k in facts)
        self._doing[facts["group"]] = f"trial {facts['trial']}: load {load}"

    def _on_trial_retried(self, facts: Any) -> None:
        self._say(f"trial {facts['trial']}: attempt {facts['attempt']} failed, again: {first_line(facts['failure'])}")

    def _on_trial_failed(self, facts: Any) -> None:
        self._failed += 1
        self._say(f"trial {facts['trial']} given up: {first_line(facts['failure'])}")

    def _on_trial_finished(self, facts: Any) -> None:
        self._finished += 1
        self._accelerator_s = facts.get("accelerator_seconds", self._accelerator_s)
        begun = self._begun.pop(facts["trial"], None)
        if begun is not None:
            self._seconds.append(time.monotonic() - begun)
        value, unit = facts["value"], self._plan.objective.unit
        if value is None:
            self._failed += 1
            what = f"cannot run: {first_line(facts['failure'])}"
        elif facts["feasible"]:
            what = f"{value:.4g} {unit}"
            better = self._best is None or (value > self._best) == (self._plan.objective.direction == "maximize")
            if better:
                self._best = value
                what += "  <- best so far"
        else:
            broken = ", ".join(f"{k} {v:+.0%}" for k, v in facts["violations"].items())
            what = f"{value:.4g} {unit}, breaks {broken}"
        load = " ".join(f"at {k} {v:g}" for k, v in facts["load"].items())
        self._say(
            f"[{self._finished}/{self._plan.evaluations}] trial {facts['trial']}: {what} {load}{self._eta_text()}",
            trial=True,
        )

    def _on_remeasured(self, facts: Any) -> None:
        self._remeasured += 1
        value = "no result" if facts["value"] is None else f"{facts['value']:.4g} {self._plan.objective.unit}"
        where = f"round {facts['round']}/{facts['of']}" if "round" in facts else "at the winner's load"
        self._say(f"proof, {where}: trial {facts['trial']} measured again: {value}", trial=True)

    def _on_finalist_lost(self, facts: Any) -> None:
        self._say(
            f"proof: trial {facts['trial']} could not be measured again: {first_line(facts['failure'])}", trial=True
        )

    # --- time ----------------------------------------------------------------------------------------------------

    def eta_s(self) -> float | None:
        """Seconds left, from the trials so far; None before the first."""
        if not self._seconds:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        left = max(0, self._plan.evaluations - self._finished) * mean / len(self._plan.groups)
        if self._plan.timeout_s is not None:
            left = min(left, max(0.0, self._plan.timeout_s - (time.monotonic() - self._started)))
        if self._plan.accelerator_s is not None:
            rate = sum(group.accelerators for group in self._plan.groups)
            left = min(left, max(0.0, self._plan.accelerator_s - self._accelerator_s) / rate)
        points = self._plan.load_search.points if self._plan.load_search else 1
        again = max(0, (1 + self._plan.finalists) * self._plan.confirm - self._remeasured)
        return left + again * mean / min(2, points) / min(len(self._plan.groups), max(1, self._plan.confirm))

    def _eta_text(self) -> str:
        eta = self.eta_s()
        return "" if eta is None else f"  (ETA {clock_text(eta)})"

    # --- drawing -------------------------------------------------------------------------------------------------

    def _say(self, text: str, trial: bool = False) -> None:
        if self._live is not None and trial:
            self._recent.append(Text(text, no_wrap=True, overflow="ellipsis"))
        else:
            self._console.print(text, markup=False, soft_wrap=True)

    def _screen(self) -> Group:
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._plan.evaluations, completed=self._finished, width=30)
        best = "-" if self._best is None else f"{self._best:.4g} {self._plan.objective.unit}"
        eta = self.eta_s()
        head.add_row(
            bar,
            f"{self._finished}/{self._plan.evaluations} evaluated, {self._failed} failed",
            f"best {best}",
            f"elapsed {clock_text(time.monotonic() - self._started)}",
            f"ETA {clock_text(eta) if eta is not None else '...'}",
        )
        if self._plan.accelerator_s is not None:
            head.add_row("", f"{self._accelerator_s:.0f}/{self._plan.accelerator_s:.0f} accelerator-seconds")
        if self._groups:
            mean = f", {sum(self._seconds) / len(self._seconds):.0f} s a trial" if self._seconds else ""
            head.add_row("", self._groups + mean)
        doing = Table.grid(padding=(0, 2))
        for group, what in self._doing.items():
            doing.add_row(Text(group, style="bold"), Text(what))
        return Group(head, doing, *self._recent)


def show_result(result: Result) -> None:
    """The final table, the verdict and the command, on stdout."""
    console = Console(highlight=False)
    baseline, best, unit = result.baseline, result.best, result.plan.objective.unit
    if best is None:
        console.print(
            f"\nNothing feasible was found in {result.evaluations} evaluations: {result.verdict.reason}.", markup=False
        )
        console.print("Loosen [objective.slo], widen the ranges, or give more evaluations.", markup=False)
    table = Table("", "baseline", "winner", "difference", box=None, header_style="bold", pad_edge=False)
    _add_measured(table, result, unit)
    if best is not None and baseline is not None:
        for name, value in best.setting.values.items():
            before = baseline.setting.values[name]
            table.add_row(Text(name), Text(str(before)), Text(str(value)), "" if before == value else "changed")
    console.print()
    console.print(table)
    console.print(Text(f"\n{verdict_text(result)}", style="bold"))
    if effects := result.proof.group_effects_percent:
        shown = ", ".join(f"{name} {effect:+.1f} %" for name, effect in effects.items())
        console.print(
            f"The groups differ in speed: {shown}. Every gain is within a group.", markup=False, soft_wrap=True
        )
    for line in tied_lines(result):
        console.print(line, markup=False, soft_wrap=True)
    if best is not None:
        for file in result.files():
            console.print(f"\nFirst copy {file.kept} to {file.path}", markup=False, soft_wrap=True)
        console.print("\nRun the winner:" if best is not baseline else "\nRun the baseline:")
        for node, line in zip(result.plan.groups[0].nodes, run_lines(result.plan, best), strict=True):
            where = f"{node.host}: " if len(result.plan.groups[0].nodes) > 1 else ""
            console.print(f"  {where}{line}", markup=False, soft_wrap=True)
    if (saved := result.savings) and (saved.stopped or saved.decided):
        console.print(f"\n{saved.sentence}", markup=False, soft_wrap=True)
    for line in pareto_lines(result):
        console.print(line, markup=False, soft_wrap=True)
    if result.warm_start.sentence:
        console.print(f"\n{result.warm_start.sentence}", markup=False, soft_wrap=True)
    console.print(f"\n{budget_text(result)}", markup=False, soft_wrap=True)
    counts = f"{result.evaluations} evaluations, {result.failures} failed, {clock_text(result.wall_seconds)}"
    console.print(f"\n{counts}. Study: {result.study}", soft_wrap=True, markup=False)


def _add_measured(table: Table, result: Result, unit: str) -> None:
    pair = (result.baseline, result.best)
    values = [mean_value(result.remeasured.get(t.number, ())) if t else None for t in pair]
    scored = [t.score.value if t and t.score else None for t in pair]
    shown = [v if v is not None else s for v, s in zip(values, scored, strict=True)]
    gain, interval = result.verdict.gain_percent, result.verdict.ci95_percent
    difference = "" if gain is None else f"{gain:+.1f} %"
    if interval is not None:
        difference += f" (95 % CI {interval[0]:+.1f} to {interval[1]:+.1f} %)"
    name = f"{type(result.plan.objective).__name__.lower()} ({unit})"
    table.add_row(name, *("-" if v is None else f"{v:.4g}" for v in shown), difference)
    metrics = [*result.plan.objective.limits, "output_throughput", "success_rate"]
    for metric in metrics:
        row = [result.shown_metric(t, metric) for t in pair]
        table.add_row(metric, *("-" if v is None else f"{v:.4g}" for v in row), "")
    loads = [t.measurement.load if t and t.measurement else {} for t in pair]
    table.add_row("load", *(" ".join(f"{k} {v:g}" for k, v in load.items()) or "-" for load in loads), "")


def verdict_text(result: Result) -> str:
    """The verdict in a sentence."""
    verdict = result.verdict
    if result.best is None:
        return f"No setting can be recommended: {verdict.reason}."
    if result.best is result.baseline:
        return f"No significant gain: keep the baseline; {verdict.reason}."
    groups = f" on {result.proof.groups} groups" if result.proof.groups > 1 else ""
    basis = f"({verdict.rounds} interleaved rounds{groups})"
    if verdict.significant and (verdict.gain_percent or 0) < 0:
        return f"The winner is to be preferred: {verdict.reason} {basis}."
    if verdict.significant:
        gain = "" if verdict.gain_percent is None else f" by {verdict.gain_percent:.1f} %"
        return f"The winner is better{gain}: {verdict.reason} {basis}."
    gain = "" if verdict.gain_percent is None else f" (measured {verdict.gain_percent:+.1f} %)"
    why = "" if verdict.reason == NO_GAIN else f": {verdict.reason}"
    return f"No significant gain{gain}{why} {basis}."


def tied_lines(result: Result) -> list[str]:
    """The settings that could not be told apart from the recommended one, and what follows for their parameters."""
    standings = {s.trial: s.against_best for s in result.proof.finalists}
    lines = []
    for trial in result.tied:
        changes = {k: v for k, v in trial.setting.values.items() if result.best and v != result.best.setting.values[k]}
        interval = standings[trial.number].ci95_percent
        how = "too few rounds to tell" if interval is None else f"95 % CI {interval[0]:+.1f} to {interval[1]:+.1f} %"
        lines.append(f"Tied with it: trial {trial.number} ({how}) " + ", ".join(f"{k} {v}" for k, v in changes.items()))
    matters = [f"{name} ({' or '.join(map(str, values))})" for name, values in result.no_difference().items()]
    return [*lines, f"No measurable difference: {', '.join(matters)}"] if matters else lines


def pareto_lines(result: Result) -> list[str]:
    """The Pareto set as a table: a line for each setting that nothing beats in all objectives."""
    found = pareto_set(result.plan.objective, result.trials)
    if found is None:
        return []
    units = {o["name"]: o["unit"] for o in found["objectives"]}
    head = f"\nPareto set: {len(found['set'])} of {found['of']} settings that keep the promises, "
    lines = [f"{head}hypervolume {found['hypervolume']:.3f}"]
    for row in found["set"]:
        values = "  ".join(f"{name} {value:.4g} {units[name]}" for name, value in row["values"].items())
        lines.append(
            f"  trial {row['trial']:>3}  {values}  " + ", ".join(f"{k} {v}" for k, v in row["setting"].items())
        )
    return lines


def budget_text(result: Result) -> str:
    """What was spent of each budget."""
    shown = []
    for name, row in result.budget().items():
        limit = "" if row["limit"] is None else f" of {row['limit']:g}"
        proof = f" (and {row['proof']:.0f} for the proof)" if row.get("proof") else ""
        shown.append(f"{row['spent']:.0f}{limit} {name.replace('_', ' ')}{proof}")
    return f"Spent: {', '.join(shown)}"


def clock_text(seconds: float) -> str:
    """A time span for people: 42s, 3m05s, 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def first_line(text: str | None) -> str:
    """The first line of a message."""
    return (text or "").splitlines()[0] if text else ""
