"""The proof: finalists and baseline are re-measured side by side, round after round, until the best is clear.

All decisions follow from the study: a proof that was interrupted resumes, and repeats nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from swarmtune.errors import BenchmarkExecutionError
from swarmtune.records import AttemptResult, Score, Trial
from swarmtune.search.incumbent import deployable
from swarmtune.study.store import Remeasured, fair_load_of, proof_of
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.proof.again import Again
from swarmtune.tuner.proof.confirm import Observed, Proof, group_effects, judge, still_open, unproven

Rounds = list[dict[int, Remeasured]]  # one entry per round: the re-measurement of each trial


class Remembers(Protocol):
    """What the proof needs from a study."""

    def confirmations(self) -> list[Remeasured]: ...


async def prove(plan: Plan, again: Again, store: Remembers, complete: Sequence[Trial]) -> tuple[Proof, Rounds]:
    """The trial to deploy, the significance of its gain, and the re-measurements behind both.

    After a cancelled or failed call the re-measurements so far are in the study; the next call continues from them.
    """
    ranked = finalists_of(plan, complete)
    baseline = next((t for t in complete if t.setting.origin == "baseline"), None)
    if not ranked:
        return unproven(None, "no setting kept the SLOs"), []
    if baseline is None or plan.confirm == 0:
        return unproven(ranked[0].number, "nothing was re-measured"), []
    rivals = [t for t in ranked if t.setting.key != baseline.setting.key][: plan.finalists]
    if not rivals:
        return unproven(baseline.number, "the baseline is the best setting"), []
    starts = baseline.score is not None and baseline.score.value is not None
    loads = {t.number: again.load_of(t) for t in rivals}
    if starts:
        loads[baseline.number] = await _fair_load(again, store, baseline, rivals[0])
    contenders = [baseline, *rivals] if starts else rivals
    rounds = await Remeasurement(plan, again, store, contenders, loads, baseline.number).run()
    seen = [_observed(plan, r) for r in rounds]
    if not starts:
        seen = [{**r, baseline.number: Observed(Score.failed())} for r in seen]
    direction = plan.objective.direction
    groups = [next((one.group for one in r.values()), "") for r in rounds]
    proof = judge(seen, baseline.number, [t.number for t in rivals], direction, len({*groups} - {""}))
    return replace(proof, group_effects_percent=group_effects(seen, groups, direction)), rounds


def finalists_of(plan: Plan, complete: Sequence[Trial]) -> list[Trial]:
    """One trial for each setting that may be deployed, the search's favourite first: at most ``plan.finalists`` + 1, so
    that the baseline may be among them.

    Of several trials of one setting, the one with the (lower) median load. Of several objectives, the first ranks.
    A setting whose measurements were all stopped early is left out, because it has only a bound.
    """
    rows = [(t.setting, replace(t.score, values={})) for t in complete if t.score is not None]
    finalists = []
    for setting in deployable(plan.space, rows, len(rows)):
        same = [
            t for t in complete if t.setting.key == setting.key and t.measurement and not t.measurement.stopped_early
        ]
        same.sort(key=lambda t: plan.load_value(t.measurement) if t.measurement else 0.0)
        finalists += same[(len(same) - 1) // 2 :][:1]
    return finalists[: plan.finalists + 1]


class Remeasurement:
    """Re-measures the contenders in rounds, as many rounds at a time as there are groups.

    A round measures every contender once on one group; if a group fails, the next group repeats the whole round. Order:
    A B C, C B A, B C A, A C B, ..., so that drift affects all alike. A contender that is clearly beaten is left out of
    later rounds, and so is a finalist that no group can measure.
    """

    def __init__(
        self,
        plan: Plan,
        again: Again,
        store: Remembers,
        contenders: Sequence[Trial],
        loads: Mapping[int, float | None],
        baseline: int,
    ) -> None:
        """``loads``: by trial number; None without load search."""
        self._plan, self._again, self._loads, self._baseline = plan, again, loads, baseline
        self._numbers = [t.number for t in contenders]
        self._contenders = list(contenders)
        self._lost: set[int] = set()
        self._rounds = _recorded(store, self._numbers, plan.confirm)
        self._groups = {name: asyncio.Lock() for name in again.group_names}

    async def run(self) -> Rounds:
        """Measure and return the rounds. BenchmarkExecutionError if the baseline or all finalists cannot be measured."""
        most, width = self._plan.confirm, len(self._groups)
        if not width:
            raise BenchmarkExecutionError("No group of nodes is left for the proof; resume with -lb.")
        for first in range(0, most, width):
            wave = range(first, min(first + width, most))
            await _together([self._round(number) for number in wave])
            done = self._rounds[: wave.stop]
            self._contenders = [t for t in self._contenders if t.number not in self._lost]
            if wave.stop >= 2:
                seen, numbers = [_observed(self._plan, r) for r in done], [t.number for t in self._contenders]
                open_ = still_open(seen, numbers, self._baseline, self._plan.objective.direction)
                self._contenders = [t for t in self._contenders if t.number in open_]
            if all(t.number == self._baseline for t in self._contenders):
                return done
        return self._rounds

    async def _round(self, number: int) -> None:
        names = list(self._groups)
        for step in range(len(names)):
            name, last = names[(number + step) % len(names)], step == len(names) - 1
            with contextlib.suppress(*() if last else (BenchmarkExecutionError,)):
                async with self._groups[name]:
                    await self._on_group(number, name, last)
                return

    async def _on_group(self, number: int, group: str, last: bool) -> None:
        results = self._rounds[number]
        if any(t.number not in results and t.number not in self._lost for t in self._contenders):
            # measurements of another group cannot be compared within this round
            results = self._rounds[number] = {n: one for n, one in results.items() if one.group == group}
        for trial in in_order(self._contenders, number):
            if trial.number in results or trial.number in self._lost:
                continue
            kind, facts = proof_of(self._numbers, number), {"round": number + 1, "of": self._plan.confirm}
            load = self._loads.get(trial.number)
            try:
                outcome = await self._again.measure(trial, group, kind, load, facts)
            except BenchmarkExecutionError:
                others = {*self._numbers} - {self._baseline, trial.number}
                alone = not results and not last  # no contender was measured on this group: the group may be to blame
                if alone or trial.number == self._baseline or self._lost >= others:
                    raise
                self._lost.add(trial.number)
                continue
            results[trial.number] = Remeasured(kind, trial.number, group, outcome)


def in_order(contenders: Sequence[Trial], number: int) -> list[Trial]:
    """The order of the contenders in a round: rotated by one every second round, odd rounds backwards."""
    turn = number // 2 % len(contenders) if contenders else 0
    turned = [*contenders[turn:], *contenders[:turn]]
    return turned[::-1] if number % 2 else turned


async def _fair_load(again: Again, store: Remembers, baseline: Trial, winner: Trial) -> float | None:
    """The load at which the baseline is measured in the proof: its own, or the winner's if it does better there.

    The winner's load search started where better settings had led; the baseline's did not. None without load search.
    """
    own, other = again.load_of(baseline), again.load_of(winner)
    if own is None or other is None or own == other or baseline.score is None:
        return own
    kind = fair_load_of(winner.number)
    recorded = next((a.outcome for a in store.confirmations() if a.kind == kind), None)
    outcome = recorded
    for name in again.group_names:
        if outcome is None:
            with contextlib.suppress(BenchmarkExecutionError):
                outcome = await again.measure(baseline, name, kind, other, {})
    if outcome is None:
        return own
    return other if outcome.score is not None and outcome.score.rank < baseline.score.rank else own


def _recorded(store: Remembers, numbers: Sequence[int], most: int) -> Rounds:
    kinds = {proof_of(numbers, number): number for number in range(most)}
    rounds: Rounds = [{} for _ in range(most)]
    for again in store.confirmations():
        if again.kind in kinds:
            rounds[kinds[again.kind]][again.trial_number] = again
    return rounds


def _observed(plan: Plan, measured: Mapping[int, Remeasured]) -> dict[int, Observed]:
    return {number: _one(plan, again.outcome) for number, again in measured.items()}


def _one(plan: Plan, outcome: AttemptResult) -> Observed:
    blocks = outcome.measurement.blocks.get(plan.objective.metric, ()) if outcome.measurement else ()
    return Observed(outcome.score or Score.failed(), blocks)


async def _together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all concurrently; if one fails, the others are cancelled and its error is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
