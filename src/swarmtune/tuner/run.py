"""A whole run: take the study over, search, prove the winner, report."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarmtune.clock import Clock
from swarmtune.errors import Culprit, OptimizationError, SwarmTuneError
from swarmtune.execution.executors.local import sweep_leftovers
from swarmtune.records import AttemptResult, Event, Trial, TrialState
from swarmtune.study.ownership import RENEW_EVERY_S
from swarmtune.study.place import Place
from swarmtune.study.reader import StudyHead
from swarmtune.study.writer import StudyWriter
from swarmtune.tuner.loop.attempts import Attempts
from swarmtune.tuner.loop.coordinator import Coordinator
from swarmtune.tuner.loop.groups import Groups, looked_after
from swarmtune.tuner.loop.loads import savings
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.proof.again import Again
from swarmtune.tuner.proof.confirm import unproven
from swarmtune.tuner.proof.remeasure import Rounds, finalists_of, prove
from swarmtune.tuner.result import Result, Spent
from swarmtune.tuner.warm_start.record import NOTHING, WARM_START, WarmStart
from swarmtune.tuner.warm_start.similar import circumstances, gather


@dataclass(frozen=True)
class Session:
    """A study that is ours, with what works on it."""

    coordinator: Coordinator
    again: Again
    ledger: StudyWriter
    warm: WarmStart


@contextlib.asynccontextmanager
async def session(
    plan: Plan, place: Place, request: dict[str, Any], clock: Clock, listen: Callable[[Event], None]
) -> AsyncIterator[Session]:
    """Take a study over, clean up after a tuner that died on it, and let go of everything in the end."""
    head = place.head or StudyHead(place.name, request, {})
    head = StudyHead(head.name, head.request, {**plan.fingerprint(), **circumstances(plan)})
    ledger = StudyWriter(place.url, head, plan.space, plan.objective.direction, clock)
    try:
        await sweep_leftovers(ledger.swept_tokens)
        groups = Groups(plan, place.folder, clock, ledger.swept_tokens)
        for notice in ledger.notices:
            listen(Event("notice", clock.wall(), {"message": notice}))
        warm = _warm_start(plan, ledger, clock, listen)
        async with _renewing(ledger, clock):
            try:
                dispatcher = groups.dispatcher(listen)
                attempts = Attempts(plan, ledger, groups.bench, listen)
                coordinator = Coordinator(plan, attempts, dispatcher, warm)
                async with looked_after(plan, groups, dispatcher, clock, listen):
                    yield Session(coordinator, Again(plan, attempts, dispatcher), ledger, warm)
            finally:
                await groups.close()
    finally:
        ledger.dispose()


async def tune(
    plan: Plan, place: Place, request: dict[str, Any], clock: Clock, listen: Callable[[Event], None]
) -> Result:
    """Run or go on with a study until its budget is spent, and say what came out; a proof that failed is told in the result.

    Raises what the user must act on. Cancelled or failed it has stopped all services and let go of the study, and
    another call goes on with it.
    """
    started = clock.monotonic()
    async with session(plan, place, request, clock, listen) as study:
        ledger, accelerators = study.ledger, {group.name: group.accelerators for group in plan.groups}
        spent = ledger.accelerator_seconds(accelerators)
        trials = await study.coordinator.search(ledger.search_seconds(), spent)
        wall_s = study.coordinator.budget.wall_s
        result = await _prove(plan, place, study, trials, started, clock)
        search_s, proof_s = (ledger.accelerator_seconds(accelerators, of_trials=of) for of in (True, False))
        return replace(result, spent=Spent(wall_s, search_s, proof_s), warm_start=study.warm)


def _warm_start(plan: Plan, ledger: StudyWriter, clock: Clock, listen: Callable[[Event], None]) -> WarmStart:
    """What the study was started with: as its ledger says; a new study looks for it and writes it down first."""
    recorded = ledger.recorded(WARM_START)
    if recorded:
        found = WarmStart.from_json(recorded[0])
    elif plan.warm_start and not ledger.trials():
        found = gather(plan, ledger.head.fingerprint, ledger.head.name, clock.wall())
        ledger.append(Event(WARM_START, clock.wall(), found.to_json()))
    else:
        return NOTHING
    listen(Event(WARM_START, clock.wall(), {"message": found.sentence, "notices": list(found.notices)}))
    return found


@contextlib.asynccontextmanager
async def _renewing(ledger: StudyWriter, clock: Clock) -> AsyncIterator[None]:
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
    failure: str | None = None
    rounds: Rounds = []
    try:
        proof, rounds = await prove(plan, study.again, study.ledger, complete)
    except SwarmTuneError as error:
        if isinstance(error, OptimizationError) or error.culprit is Culprit.BUG:
            raise
        failure = error.message
        best = next((t.number for t in finalists_of(plan, complete)), None)
        proof = unproven(best, f"the proof failed: {failure}")
    remeasured: dict[int, list[AttemptResult]] = {}
    for again in (again for measured in rounds for again in measured.values()):
        remeasured.setdefault(again.trial_number, []).append(again.outcome)
    return Result(
        study=str(place.folder),
        plan=plan,
        trials=tuple(trials),
        baseline=next((t for t in complete if t.setting.origin == "baseline"), None),
        proof=proof,
        remeasured=remeasured,
        savings=savings(plan.objective, study.ledger.measurements()) if plan.early_stop else None,
        wall_seconds=clock.monotonic() - started,
        proof_failure=failure,
    )
