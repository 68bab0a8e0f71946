"""A whole run: take the study over, search, prove the winner, report."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from swarmtune.clock import Clock
from swarmtune.cluster.executors.local import LocalExecutor, sweep_leftovers
from swarmtune.records import Event, Score, Trial, TrialState
from swarmtune.tuner.confirm import Verdict, compare, keeps_promises
from swarmtune.tuner.coordinator import Coordinator
from swarmtune.tuner.evaluate import Evaluator
from swarmtune.tuner.ledger import Ledger, StudyHead
from swarmtune.tuner.ownership import RENEW_EVERY_S
from swarmtune.tuner.plan import Plan
from swarmtune.tuner.report import Result
from swarmtune.tuner.study import Place, write_private

RUNNERS_UP = 3  # winners that may break their promises on re-measurement before the run says so


@dataclass(frozen=True)
class Session:
    """A study that is ours, with what works on it."""

    coordinator: Coordinator
    ledger: Ledger


@contextlib.asynccontextmanager
async def session(
    plan: Plan, place: Place, request: dict[str, Any], clock: Clock, listen: Callable[[Event], None]
) -> AsyncIterator[Session]:
    """Take a study over, clean up after a tuner that died on it, and let go of everything in the end."""
    head = place.head or StudyHead(place.name, request, {})
    head = StudyHead(head.name, head.request, plan.fingerprint())
    ledger = Ledger(place.url, head, plan.space, plan.objective.direction, clock)
    try:
        await sweep_leftovers(ledger.swept_tokens)
        executor = LocalExecutor(place.folder, clock)
        attempts = place.folder.resolve() / "attempts"
        groups = [Evaluator(plan, group, executor, clock, attempts) for group in plan.groups]
        async with _renewing(ledger, clock):
            try:
                yield Session(Coordinator(plan, ledger, groups, clock, listen), ledger)
            finally:
                for group in groups:
                    await group.stop()
                await executor.close()
    finally:
        ledger.dispose()


async def tune(
    plan: Plan, place: Place, request: dict[str, Any], clock: Clock, listen: Callable[[Event], None]
) -> Result:
    """Run or go on with a study until its budget is spent, and leave ``report.json`` in its folder."""
    started = clock.monotonic()
    async with session(plan, place, request, clock, listen) as study:
        trials = await study.coordinator.search(study.ledger.ownership.active_seconds())
        result = await _prove(plan, place, study, trials, started, clock)
    write_private(place.folder / "report.json", json.dumps(result.to_json(), indent=2) + "\n")
    return result


@contextlib.asynccontextmanager
async def _renewing(ledger: Ledger, clock: Clock) -> AsyncIterator[None]:
    """Keep the study ours while the body runs."""

    async def renew() -> None:
        while True:
            await clock.sleep(RENEW_EVERY_S)
            ledger.ownership.renew()

    task = asyncio.create_task(renew())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _prove(
    plan: Plan, place: Place, study: Session, trials: Sequence[Trial], started: float, clock: Clock
) -> Result:
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.score is not None]
    baseline = next((t for t in complete if t.setting.origin == "baseline"), None)
    best, verdict, scores = await _winner(plan, study, complete, baseline)
    return Result(
        study=str(place.folder),
        plan=plan,
        trials=tuple(trials),
        baseline=baseline,
        best=best,
        verdict=verdict,
        remeasured=scores,
        wall_seconds=clock.monotonic() - started,
    )


async def _winner(
    plan: Plan, study: Session, complete: Sequence[Trial], baseline: Trial | None
) -> tuple[Trial | None, Verdict, dict[int, list[Score]]]:
    """The setting to deploy and how sure that is: the best that keeps its promises on re-measurement, or the baseline."""
    ranked = sorted(
        (t for t in complete if t.score and t.score.feasible), key=lambda t: t.score.rank if t.score else (2, 0.0)
    )
    scores: dict[int, list[Score]] = {}
    if not ranked:
        return None, Verdict(False, None, None, 0, "no setting kept the promises"), scores
    if baseline is None or plan.confirm == 0:
        return ranked[0], Verdict(False, None, None, 0, "nothing was re-measured"), scores
    can_start = baseline.score is not None and baseline.score.value is not None
    verdict = Verdict(False, None, None, 0, "the baseline is the best setting")
    used = 0  # re-measurements that belong to earlier candidates: each is compared with the baseline of its own time
    for candidate in ranked[:RUNNERS_UP]:
        if candidate.number == baseline.number:
            if baseline.number in scores and not keeps_promises(scores[baseline.number]):
                continue
            return baseline, verdict, scores
        compared = [baseline, candidate] if can_start else [candidate]
        done = study.ledger.confirmations()[used : used + plan.confirm * len(compared)]
        scores.update(await study.coordinator.remeasure(compared, plan.confirm, done))
        used += plan.confirm * len(compared)
        again, before = scores[candidate.number], scores.get(baseline.number, [])
        if not can_start:
            before = [Score.failed()] * len(again)
        verdict = compare(again, before, plan.objective.direction)
        if keeps_promises(again):
            worse = verdict.gain_percent is not None and verdict.gain_percent <= 0 and keeps_promises(before)
            return (baseline if worse else candidate), verdict, scores
    keeps = can_start and keeps_promises(scores.get(baseline.number, []))
    return (baseline if keeps else None), verdict, scores
