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
from swarmtune.tuner.confirm import Verdict, clearly_breaks, compare, keeps_promises
from swarmtune.tuner.coordinator import Coordinator
from swarmtune.tuner.evaluate import Evaluator
from swarmtune.tuner.ledger import Ledger, StudyHead
from swarmtune.tuner.ownership import RENEW_EVERY_S
from swarmtune.tuner.plan import Plan
from swarmtune.tuner.report import Result
from swarmtune.tuner.store import Outcome
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
    for file in result.files():
        file.kept.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(file.kept, file.content)
    write_private(place.folder / "report.json", json.dumps(result.to_json(), indent=2) + "\n")
    return result


@contextlib.asynccontextmanager
async def _renewing(ledger: Ledger, clock: Clock) -> AsyncIterator[None]:
    """Keep the study ours while the body runs; when that fails, the body is cancelled and the reason raised."""
    body = asyncio.current_task()

    async def renew() -> None:
        while True:
            await clock.sleep(RENEW_EVERY_S)
            ledger.ownership.renew()

    def stop_body(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and body is not None:
            body.cancel()

    task = asyncio.create_task(renew())
    task.add_done_callback(stop_body)
    try:
        yield
    except asyncio.CancelledError:
        if task.done() and not task.cancelled() and (reason := task.exception()) is not None:
            raise reason from None
        raise
    finally:
        task.remove_done_callback(stop_body)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _prove(
    plan: Plan, place: Place, study: Session, trials: Sequence[Trial], started: float, clock: Clock
) -> Result:
    complete = [t for t in trials if t.state is TrialState.COMPLETE and t.score is not None]
    baseline = next((t for t in complete if t.setting.origin == "baseline"), None)
    best, verdict, again = await _winner(plan, study, complete, baseline)
    return Result(
        study=str(place.folder),
        plan=plan,
        trials=tuple(trials),
        baseline=baseline,
        best=best,
        verdict=verdict,
        remeasured=again,
        wall_seconds=clock.monotonic() - started,
    )


async def _winner(
    plan: Plan, study: Session, complete: Sequence[Trial], baseline: Trial | None
) -> tuple[Trial | None, Verdict, dict[int, list[Outcome]]]:
    """The setting to deploy and how sure that is: the best that keeps its promises on re-measurement, or the baseline."""
    ranked = sorted(
        (t for t in complete if t.score and t.score.feasible), key=lambda t: t.score.rank if t.score else (2, 0.0)
    )
    found: dict[int, list[Outcome]] = {}
    if not ranked:
        return None, Verdict(False, None, None, 0, "no setting kept the promises"), found
    if baseline is None or plan.confirm == 0:
        return ranked[0], Verdict(False, None, None, 0, "nothing was re-measured"), found
    can_start = baseline.score is not None and baseline.score.value is not None
    verdict = Verdict(False, None, None, 0, "the baseline is the best setting")
    for candidate in ranked[:RUNNERS_UP]:
        if candidate.number == baseline.number:
            if found and clearly_breaks(scores_of(found[baseline.number])):
                continue
            return baseline, verdict, found
        found |= await _compared(plan, study, candidate, baseline if can_start else None)
        again = scores_of(found[candidate.number])
        before = scores_of(found[baseline.number]) if can_start else [Score.failed()] * len(again)
        verdict = compare(again, before, plan.objective.direction)
        if keeps_promises(again):
            worse = verdict.gain_percent is not None and verdict.gain_percent <= 0 and not clearly_breaks(before)
            return (baseline if worse else candidate), verdict, found
    keeps = can_start and keeps_promises(scores_of(found[baseline.number]))
    return (baseline if keeps else None), verdict, found


async def _compared(plan: Plan, study: Session, candidate: Trial, baseline: Trial | None) -> dict[int, list[Outcome]]:
    """Interleaved re-measurements of a candidate and the baseline, each at the load where it does best."""
    done = study.ledger.confirmations(candidate.number)
    loads = {candidate.number: plan.load_value(candidate.measurement) if candidate.measurement else None}
    if plan.load_search is None:
        loads = {}
    if baseline is None:
        return await study.coordinator.remeasure([candidate], plan.confirm, done, loads)
    known = [o.measurement for n, o in done if n == baseline.number and o.measurement is not None]
    if known and plan.load_search is not None:  # an earlier run has settled it
        loads[baseline.number] = plan.load_value(known[0])
    else:
        loads[baseline.number] = await study.coordinator.fair_load(baseline, candidate)
    return await study.coordinator.remeasure([baseline, candidate], plan.confirm, done, loads)


def scores_of(outcomes: Sequence[Outcome]) -> list[Score]:
    """Their scores; a re-measurement that could not start counts as a failure."""
    return [o.score or Score.failed() for o in outcomes]
