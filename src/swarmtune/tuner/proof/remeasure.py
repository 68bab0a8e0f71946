"""The proof: a qualifying round of finalists and baseline, then rounds of the best finalist and the baseline alone.

The number of rounds is fixed before the first of them is measured. All decisions follow from the study: a proof that was
interrupted resumes, and repeats nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from swarmtune.errors import BenchmarkExecutionError, FitnessCalculationError
from swarmtune.records import AttemptResult, Measurement, Score, Trial
from swarmtune.search.incumbent import deployable
from swarmtune.search.load import with_margin
from swarmtune.study.store import Remeasured, fair_load_of, proof_of
from swarmtune.tuner.loop.loads import load_point, score_of
from swarmtune.tuner.planning.plan import MOST_ROUNDS, Plan
from swarmtune.tuner.proof.again import Again, observed
from swarmtune.tuner.proof.confirm import (
    Observed,
    Proof,
    group_effects,
    judge,
    keeps_slos,
    qualified,
    scores,
    unproven,
)

MARGIN = 0.1  # of each SLO's limit is kept free at the load of the proof: on the cliff, chance decides
REPEATS = 2  # of a disturbed round
DISTURBED = 0.1  # of the machine, or of a device, was taken by other programs while none was idle
QUALIFY, PROVE = "qualify", "prove"  # the stages
PLANNED = "proof_planned"  # event: the number of rounds, and the contenders

Rounds = list[dict[int, Remeasured]]  # one entry per round: the re-measurement of each trial


class Remembers(Protocol):
    """What the proof needs from a study."""

    def confirmations(self) -> list[Remeasured]: ...

    def recorded(self, kind: str) -> list[dict[str, Any]]: ...

    def measurements_of(self, trial: int) -> list[Measurement]: ...

    def search_seconds(self) -> float: ...


@dataclass(frozen=True)
class _Stage:
    """A part of the proof: its rounds, and what their attempts are called in the study. ``loads``: by trial number; None
    without load search.
    """

    contenders: tuple[Trial, ...]
    loads: Mapping[int, float | None]
    name: str
    rounds: int

    def kind(self, number: int, repeat: int) -> str:
        return proof_of((t.number for t in self.contenders), number, self.name, self.rounds, repeat)


async def prove(plan: Plan, again: Again, store: Remembers, complete: Sequence[Trial]) -> tuple[Proof, Rounds]:
    """The trial to deploy, the significance of its gain, and the re-measurements behind both; last those of other finalists.

    A finalist that breaks its SLOs in its rounds is rejected, and the next one that kept them in the qualifying round is
    judged in rounds of its own. Each verdict rests on rounds that chose nothing; of two verdicts on one gain each, at most
    one is given, so that false gains stay below twice 2.5 %.

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
    entrants = (baseline, *rivals) if starts else tuple(rivals)
    loads = {t.number: proof_load(plan, store.measurements_of(t.number), again.load_of(t)) for t in entrants}
    first = await Remeasurement(plan, again, store, _Stage(entrants, loads, QUALIFY, 1), baseline.number).run()
    direction, finalists = plan.objective.direction, [t.number for t in rivals]
    qualifying = _observed(plan, first[0])
    chosen = qualified(qualifying, finalists, direction)
    if chosen is None:
        return unproven(baseline.number if starts else None, "no finalist could be measured again"), first
    earlier: Rounds = [dict(first[0])]  # measurements that the verdict does not rest on
    rejected: list[int] = []
    while True:
        winner = next(t for t in rivals if t.number == chosen)
        fair = {**loads}
        if starts:
            own = first[0].get(baseline.number)
            fair[baseline.number] = await _fair_load(plan, again, store, (baseline, winner), loads, own)
        pair = (baseline, winner) if starts else (winner,)
        round_s = _round_s(first[0], [t.number for t in pair])
        count = _rounds(plan, again, store, [t.number for t in pair], round_s, _seconds(earlier))
        rounds = await Remeasurement(plan, again, store, _Stage(pair, fair, PROVE, count), baseline.number).run()
        seen = [_observed(plan, r) for r in rounds]
        if not starts:
            seen = [{**r, baseline.number: Observed(Score.failed())} for r in seen]
        following = None
        if not keeps_slos(scores(seen, chosen)):
            rest = [n for n in finalists if n not in (chosen, *rejected) and keeps_slos(scores([qualifying], n))]
            following = qualified(qualifying, rest, direction)
        if following is None:
            break
        rejected.append(chosen)
        earlier += rounds
        chosen = following
    groups = [next((one.group for one in r.values()), "") for r in rounds]
    proof = judge(qualifying, seen, baseline.number, chosen, finalists, direction, len({*groups} - {""}), rejected)
    effects = group_effects(seen, groups, direction)
    in_pair = {t.number for t in pair}
    others = [{n: one for n, one in measured.items() if n not in in_pair} for measured in earlier]
    return replace(proof, group_effects_percent=effects, round_s=round_s or None), [*rounds, *others]


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


def proof_load(plan: Plan, measured: Sequence[Measurement], load: float | None) -> float | None:
    """The load at which a trial is measured in the proof: at most the one it was scored at, and low enough that each SLO is
    kept with ``MARGIN``, by what its measurements of the search say. None without load search.
    """
    if plan.load_search is None or load is None:
        return load
    points = []
    for measurement in measured:
        with contextlib.suppress(FitnessCalculationError):  # one of another load generator, without the objective
            points.append(load_point(plan, measurement, score_of(plan.objective, measurement)))
    return with_margin(plan.load_search, points, load, MARGIN) if points else load


class Remeasurement:
    """Re-measures the contenders of a stage in rounds, as many rounds at a time as there are groups.

    A round measures every contender once on one group, with the same requests; if a group fails, the next group repeats the
    whole round. A round in which other programs took much of the machine is repeated. Order: A B, B A, ..., so that drift
    affects all alike. A finalist that no group can measure is left out.
    """

    def __init__(self, plan: Plan, again: Again, store: Remembers, stage: _Stage, baseline: int) -> None:
        """``baseline``: its trial number."""
        self._plan, self._again, self._stage, self._baseline = plan, again, stage, baseline
        self._lost: set[int] = set()
        self._repeats, self._rounds = _recorded(store, stage)
        self._groups = {name: asyncio.Lock() for name in sorted(again.group_names)}

    async def run(self) -> Rounds:
        """Measure and return the rounds. BenchmarkExecutionError if the baseline or all finalists cannot be measured."""
        width = len(self._groups)
        if not width:
            raise BenchmarkExecutionError("No group of nodes is left for the proof; resume with -lb.")
        for first in range(0, self._stage.rounds, width):
            await _together([self._round(number) for number in range(first, min(first + width, self._stage.rounds))])
        return self._rounds

    async def _round(self, number: int) -> None:
        names = list(self._groups)
        for step in range(len(names)):
            name, last = names[(number + step) % len(names)], step == len(names) - 1
            with contextlib.suppress(*() if last else (BenchmarkExecutionError,)):
                async with self._groups[name]:
                    while await self._on_group(number, name, last):
                        self._repeats[number] += 1
                        self._rounds[number] = {}
                return

    async def _on_group(self, number: int, group: str, last: bool) -> bool:
        """Measure what is missing of a round; was it disturbed, and is to be repeated?"""
        stage, results, repeat = self._stage, self._rounds[number], self._repeats[number]
        contenders = [t for t in stage.contenders if t.number not in self._lost]
        if any(t.number not in results for t in contenders):
            # measurements of another group cannot be compared within this round
            results = self._rounds[number] = {n: one for n, one in results.items() if one.group == group}
        for trial in in_order(contenders, number):
            if trial.number in results or trial.number in self._lost:
                continue
            kind = stage.kind(number, repeat)
            facts = {"round": number + 1, "of": stage.rounds, "stage": stage.name}
            try:
                outcome = await self._again.measure(trial, group, kind, stage.loads.get(trial.number), facts)
            except BenchmarkExecutionError:
                others = {t.number for t in stage.contenders} - {self._baseline, trial.number}
                alone = not results and not last  # no contender was measured on this group: the group may be to blame
                if alone or trial.number == self._baseline or self._lost >= others:
                    raise
                self._lost.add(trial.number)
                continue
            results[trial.number] = Remeasured(kind, trial.number, group, outcome)
        return repeat < REPEATS and any(disturbed(one.outcome) for one in results.values())


def disturbed(outcome: AttemptResult) -> bool:
    """Did other programs take much of the machine during this measurement?"""
    metrics = outcome.measurement.metrics if outcome.measurement else {}
    return max(metrics.get("contended_cpu_share", 0.0), metrics.get("other_device_share", 0.0)) > DISTURBED


def in_order(contenders: Sequence[Trial], number: int) -> list[Trial]:
    """The order of the contenders in a round: rotated by one every second round, odd rounds backwards."""
    turn = number // 2 % len(contenders) if contenders else 0
    turned = [*contenders[turn:], *contenders[:turn]]
    return turned[::-1] if number % 2 else turned


async def _fair_load(
    plan: Plan,
    again: Again,
    store: Remembers,
    pair: tuple[Trial, Trial],
    loads: Mapping[int, float | None],
    own: Remeasured | None,
) -> float | None:
    """The load at which the baseline is measured: its own, or the winner's if it does better there and keeps the margin.

    The winner's load search started where better settings had led; the baseline's did not. None without load search.
    ``pair``: baseline and winner; ``own``: the baseline in the qualifying round, on whose group the other load is tried
    first. A proof that has begun keeps its load.
    """
    baseline, winner = pair
    mine, other = loads[baseline.number], loads[winner.number]
    if mine is None or other is None or mine == other or own is None or own.outcome.score is None:
        return mine
    kind, before = fair_load_of(winner.number, other), store.confirmations()
    outcome = next((a.outcome for a in before if a.kind == kind), None)
    begun = any(a.trial_number == winner.number and a.kind.startswith(f"{PROVE}:") for a in before)
    for name in () if begun else sorted(again.group_names, key=lambda name: name != own.group):
        if outcome is None:
            with contextlib.suppress(BenchmarkExecutionError):
                outcome = await again.measure(baseline, name, kind, other, {})
    if outcome is None or outcome.measurement is None or outcome.score is None or outcome.score.value is None:
        return mine
    found = load_point(plan, outcome.measurement, outcome.score)
    kept = all(violation <= -MARGIN / 2 for violation in found.violations.values())
    return other if kept and outcome.score.rank < own.outcome.score.rank else mine


def _round_s(measured: Mapping[int, Remeasured], numbers: Sequence[int]) -> float:
    """Seconds that a round of these trials takes, from the qualifying round; 0 if unknown."""
    return sum(float(measured[n].outcome.facts.get("seconds", 0.0)) for n in numbers if n in measured)


def _seconds(rounds: Rounds) -> float:
    """Seconds that the measurements of these rounds took."""
    return sum(float(one.outcome.facts.get("seconds", 0.0)) for r in rounds for one in r.values())


def _rounds(
    plan: Plan,
    again: Again,
    store: Remembers,
    pair: Sequence[int],
    round_s: float,
    spent_s: float,
) -> int:
    """How many rounds: ``confirm``, else as many as the time allows. It is recorded before the first one, and kept then.

    ``spent_s``: seconds of the proof so far.
    """
    if plan.confirm is not None:
        return plan.confirm
    for facts in store.recorded(PLANNED):
        rounds = facts.get("rounds")
        if facts.get("contenders") == list(pair) and isinstance(rounds, int):
            return max(1, min(MOST_ROUNDS, rounds))
    rounds = plan.proof_rounds(store.search_seconds(), round_s, spent_s, len(again.group_names))
    again.emit(PLANNED, {"contenders": list(pair), "rounds": rounds, "round_s": round(round_s, 1)})
    return rounds


def _recorded(store: Remembers, stage: _Stage) -> tuple[list[int], Rounds]:
    """The latest repeat of each round that the study knows, and its re-measurements."""
    kinds = {stage.kind(n, repeat): (n, repeat) for n in range(stage.rounds) for repeat in range(REPEATS + 1)}
    repeats = [0] * stage.rounds
    rounds: Rounds = [{} for _ in range(stage.rounds)]
    for again in store.confirmations():
        number, repeat = kinds.get(again.kind, (-1, 0))
        if number >= 0 and repeat >= repeats[number]:
            if repeat > repeats[number]:
                rounds[number], repeats[number] = {}, repeat
            rounds[number][again.trial_number] = again
    return repeats, rounds


def _observed(plan: Plan, measured: Mapping[int, Remeasured]) -> dict[int, Observed]:
    return {number: observed(plan, again.outcome) for number, again in measured.items()}


async def _together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all concurrently; if one fails, the others are cancelled and its error is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
