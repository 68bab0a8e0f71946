"""The view of a running study: one live screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from types import TracebackType

from loguru import logger
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from swarmtune.apps.cli.console import Shown, console_of
from swarmtune.apps.cli.output import Discreet, SideStream
from swarmtune.files import appended
from swarmtune.records import (
    Event,
    GroupsFacts,
    LoadFacts,
    MessageFacts,
    PhaseFacts,
    PredictedFacts,
    PredictingFacts,
    RemeasuredFacts,
    ResumedFacts,
    TrialFailedFacts,
    TrialFinishedFacts,
    TrialRetriedFacts,
    TrialStartedFacts,
    WarmStartFacts,
)
from swarmtune.report import sentences
from swarmtune.report.commands import kept_files, live_lines, run_lines
from swarmtune.report.figures import comparison
from swarmtune.report.times import clock_text
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.result import Result

RECENT = 6  # finished trials on the live screen


class View:
    """Listens to events. Everything goes to stderr; stdout belongs to the result."""

    def __init__(self, plan: Plan, folder: Path, level: str) -> None:
        self._plan = plan
        self._folder = folder
        self._level = level
        self._console = console_of(stderr=True)
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
        self._log = SideStream(appended(self._folder / "log.txt"))
        logger.add(Discreet(self._log), level=self._level, backtrace=False, diagnose=False)
        logger.info("study {} in {}", self._plan.engine.name, self._folder)
        for notice in self._plan.notices:
            self._say(f"note: {notice}")
        self._say(f"Tuning {self._plan.engine.name} ({self._plan.engine.model}); the study: {self._folder}")
        if self._console.is_terminal:
            screen = lambda: Shown(self._screen())  # noqa: E731
            self._live = Live(console=self._console, get_renderable=screen, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        logger.remove()
        self._log.close()
        if self._log.error is not None:
            self._say(
                f"note: {self._folder / 'log.txt'} is not complete: {self._log.error.strerror or self._log.error}"
            )

    def listen(self, event: Event) -> None:
        """Handle an event."""
        logger.log("DEBUG" if event.kind in ("load_point", "load") else "INFO", "{} {}", event.kind, dict(event.facts))
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            handler(event.facts)

    # --- events --------------------------------------------------------------------------------------------------

    def _on_resumed(self, facts: ResumedFacts) -> None:
        self._finished = facts["finished"]
        self._say(f"Resuming: {facts['finished']} of {self._plan.evaluations} evaluations are already done")

    def _on_warm_start(self, facts: WarmStartFacts) -> None:
        for text in (*facts["notices"], facts["message"]):
            if text:
                self._say(text)

    def _on_predicting(self, facts: PredictingFacts) -> None:
        if "predictions" not in self._doing:
            self._say(f"Predicting {facts['of']} settings in virtual time, while nothing is measured")
        self._doing["predictions"] = f"{facts['done']} of {facts['of']} settings in virtual time"

    def _on_predicted(self, facts: PredictedFacts) -> None:
        self._doing.pop("predictions", None)
        self._say(sentences.predicted_text(facts))

    def _on_groups(self, facts: GroupsFacts) -> None:
        if "message" in facts:
            self._say(facts["message"])
            return
        if facts["healthy"] + facts["open"] == 1:
            return  # this machine alone
        before, self._groups = self._groups, sentences.groups_now(facts)
        if self._groups != (before or sentences.groups_now({**facts, "healthy": facts["healthy"] + facts["open"]})):
            self._say(self._groups)
        for gone in self._doing.keys() - set(facts["names"]):
            del self._doing[gone]

    def _on_notice(self, facts: MessageFacts) -> None:
        self._say(f"note: {facts['message']}")

    def _on_exhausted(self, facts: MessageFacts) -> None:
        self._say(f"The search ends early: {facts['message']}")

    def _on_trial_started(self, facts: TrialStartedFacts) -> None:
        self._begun[facts["trial"]] = time.monotonic()
        self._doing[facts["group"]] = f"trial {facts['trial']} ({facts['origin']})"

    def _on_starting(self, facts: PhaseFacts) -> None:
        self._doing[facts["group"]] = f"trial {facts['trial']}: starting the service"

    def _on_waiting(self, facts: PhaseFacts) -> None:
        self._doing[facts["group"]] = f"trial {facts['trial']}: ready, waits for its turn"

    def _on_load(self, facts: LoadFacts) -> None:
        self._doing[facts["group"]] = f"trial {facts['trial']}: load {sentences.load_text(facts)}"

    def _on_trial_retried(self, facts: TrialRetriedFacts) -> None:
        self._say(sentences.retried_text(facts))

    def _on_trial_failed(self, facts: TrialFailedFacts) -> None:
        self._failed += 1
        self._say(sentences.failed_text(facts))

    def _on_trial_finished(self, facts: TrialFinishedFacts) -> None:
        self._finished += 1
        self._accelerator_s = facts.get("accelerator_seconds", self._accelerator_s)
        begun = self._begun.pop(facts["trial"], None)
        if begun is not None:
            self._seconds.append(time.monotonic() - begun)
        value, upwards = facts["value"], self._plan.objective.direction == "maximize"
        self._failed += value is None
        best = value is not None and facts["feasible"] and (self._best is None or (value > self._best) == upwards)
        if best:
            self._best = value
        result = sentences.trial_text(facts, self._plan.objective, best)
        self._say(f"[{self._finished}/{self._plan.evaluations}] {result}{self._eta_text()}", trial=True)

    def _on_remeasured(self, facts: RemeasuredFacts) -> None:
        self._remeasured += 1
        self._say(sentences.remeasured_text(facts, self._plan.objective), trial=True)

    def _on_finalist_lost(self, facts: TrialFailedFacts) -> None:
        self._say(sentences.lost_text(facts), trial=True)

    # --- time ----------------------------------------------------------------------------------------------------

    def eta_s(self) -> float | None:
        """Seconds left, from the trials so far; None before the first."""
        if not self._seconds:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        remaining_s = max(0, self._plan.evaluations - self._finished) * mean / len(self._plan.groups)
        if self._plan.timeout_s is not None:
            remaining_s = min(remaining_s, max(0.0, self._plan.timeout_s - (time.monotonic() - self._started)))
        if self._plan.accelerator_s is not None:
            rate = sum(group.accelerators for group in self._plan.groups)
            remaining_s = min(remaining_s, max(0.0, self._plan.accelerator_s - self._accelerator_s) / rate)
        points = self._plan.load_search.points if self._plan.load_search else 1
        measurement_s, groups = mean / min(2, points), len(self._plan.groups)
        first = 1 + self._plan.finalists
        search_s = self._plan.evaluations * mean / groups
        rounds = self._plan.proof_rounds(search_s, 2 * measurement_s, first * measurement_s, groups)
        again = max(0, (first if rounds else 0) + 2 * rounds - self._remeasured)
        return remaining_s + again * measurement_s / min(groups, max(1, rounds))

    def _eta_text(self) -> str:
        eta = self.eta_s()
        return "" if eta is None else f"  (ETA {clock_text(eta)})"

    # --- drawing -------------------------------------------------------------------------------------------------

    def _say(self, text: str, trial: bool = False) -> None:
        if self._live is not None and trial:
            self._recent.append(Text(text, no_wrap=True, overflow="ellipsis"))
        else:
            self._console.print(text, soft_wrap=True)

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


def show_result(result: Result, resume: str) -> None:
    """The final table, the verdict and the command, on stdout. ``resume``: the command that resumes the study."""
    console = console_of()
    best = result.best

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    for number, line in enumerate(sentences.nothing_lines(result)):
        console.print(line if number else f"\n{line}")
    found = "winner" if sentences.proven(result) else "best found"
    table = Table("", "baseline", found, "difference (95 % CI)", box=None, header_style="bold", pad_edge=False)
    for row in comparison(result):
        table.add_row(*(Text(text) for text in (row.name, row.baseline, row.winner, row.difference)))
    console.print()
    console.print(table)
    console.print(Text(f"\n{sentences.verdict_text(result)}", style="bold"), soft_wrap=True)
    remarks = (sentences.open_text(result, resume), *(text(result) for text in sentences.REMARKS))
    for line in (*filter(None, remarks), *sentences.tied_lines(result)):
        say(line)
    if best is not None:
        for file in kept_files(result):
            say(f"\nFirst copy {file.kept} to {file.path}")
        console.print(f"\n{sentences.run_text(result)}")
        for node, line in zip(result.plan.groups[0].nodes, run_lines(result.plan, best), strict=True):
            where = f"{node.host}: " if len(result.plan.groups[0].nodes) > 1 else ""
            say(f"  {where}{line}")
        if lines := live_lines(result.plan, best.setting):
            say("\n  ".join(("When it is ready, set its parameters:", *lines)))
    if (saved := result.savings) and (saved.stopped or saved.decided):
        say(f"\n{saved.sentence}")
    for line in sentences.pareto_lines(result):
        say(line)
    if foresaw := sentences.foresight_text(result):
        say(f"\n{foresaw}")
    if result.warm_start.sentence:
        say(f"\n{result.warm_start.sentence}")
    say(f"\n{sentences.budget_text(result)}")
    say(f"\n{sentences.counts_text(result)}. Study: {result.study}")
