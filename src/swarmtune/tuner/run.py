"""A whole run: take the study over, search, prove the winner, report."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarmtune.clock import Clock
from swarmtune.errors import Culprit, StoreError, StudyBusyError, SwarmTuneError
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
from swarmtune.tuner.simulation.recorded import Foreseeing
from swarmtune.tuner.warm_start.record import NOTHING, WARM_START, WarmStart
from swarmtune.tuner.warm_start.similar import circumstances, gather


@dataclass(frozen=True)
class Session:
    """A study that this process owns, with the loop and the proof on it."""

    coordinator: Coordinator
    again: Again
    writer: StudyWriter
    warm: WarmStart


@contextlib.asynccontextmanager
async def session(
    plan: Plan, place: Place, request: dict[str, Any], clock: Clock, listen: Callable[[Event], None]
) -> AsyncIterator[Session]:
    """Take over a study, clean up after a tuner that died, and release study, groups and database at the end."""
    head = place.head or StudyHead(place.name, request, {})
    head = replace(head, fingerprint={**plan.fingerprint(), **circumstances(plan)})
    writer = StudyWriter(place.url, head, plan.space, plan.objective.direction, clock)
    try:
        await sweep_leftovers(writer.swept_tokens)
        groups = Groups(plan, place.folder, clock, writer.swept_tokens)
        for notice in writer.notices:
            listen(Event("notice", clock.wall(), {"message": notice}))
        warm = _warm_start(plan, writer, clock, listen)
        async with _renewing(writer, clock):
            try:
                dispatcher = groups.dispatcher(listen)
                attempts = Attempts(plan, writer, groups.bench, listen)
                coordinator = Coordinator(plan, attempts, dispatcher, warm)
                async with looked_after(plan, groups, dispatcher, clock, listen):
                    yield Session(coordinator, Again(plan, attempts, dispatcher), writer, warm)
            finally:
                await groups.close()
    finally:
        writer.dispose()


async def tune(
    plan: Plan, place: Place, request: dict[str, Any], clock: Clock, listen: Callable[[Event], None]
) -> Result:
    """Run or resume a study until its budget is spent, and return the result; ``proof_failure`` says why a proof failed.

    Raises errors that the user must act on. A cancelled or failed call has stopped all services and released the study;
    another call resumes it.
    """
    started = clock.monotonic()
    async with session(plan, place, request, clock, listen) as study:
        writer, accelerators = study.writer, {group.name: group.accelerators for group in plan.groups}
        started -= writer.ownership.active_seconds()  # of earlier runs: the result is that of all of them
        spent = writer.accelerator_seconds(accelerators)
        foreseeing = Foreseeing(plan, plan.simulation, writer, clock, listen) if plan.simulation else None
        foresee = foreseeing.search if foreseeing else None
        trials = await study.coordinator.search(writer.search_seconds(), spent, foresee)
        wall_s = study.coordinator.budget.wall_s
        result = await _prove(plan, place, study, trials, started, clock)
        search_s, proof_s = (writer.accelerator_seconds(accelerators, of_trials=of) for of in (True, False))
        foresights = foreseeing.foresights if foreseeing else ()
        spent_in_all = Spent(wall_s, search_s, proof_s)
        return replace(result, spent=spent_in_all, warm_start=study.warm, foresights=foresights)


def _warm_start(plan: Plan, writer: StudyWriter, clock: Clock, listen: Callable[[Event], None]) -> WarmStart:
    """What the study learned from earlier ones: read from the study, or, for a new study, gathered and recorded in it."""
    recorded = writer.recorded(WARM_START)
    if recorded:
        try:
            warm = WarmStart.from_json(recorded[0])
        except (ValueError, LookupError):
            warm = WarmStart(notices=("What the study learned from earlier ones is damaged and left out.",))
    elif plan.warm_start and not writer.trials():
        warm = gather(plan, writer.head.fingerprint, writer.head.name, clock.wall())
        writer.append(Event(WARM_START, clock.wall(), warm.to_json()))
    else:
        return NOTHING
    listen(Event(WARM_START, clock.wall(), {"message": warm.sentence, "notices": list(warm.notices)}))
    return warm


@contextlib.asynccontextmanager
async def _renewing(writer: StudyWriter, clock: Clock) -> AsyncIterator[None]:
    """Renew the study's lease while the body runs; if that fails, the body is cancelled and the reason raised."""
    body = asyncio.current_task()

    async def renew() -> None:
        while True:
            await clock.sleep(RENEW_EVERY_S)
            writer.ownership.renew()

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
        proof, rounds = await prove(plan, study.again, study.writer, complete)
    except SwarmTuneError as error:
        if isinstance(error, StoreError | StudyBusyError) or error.culprit is Culprit.BUG:
            raise  # the study cannot be read, or is another's
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
        savings=savings(plan.objective, study.writer.measurements()) if plan.early_stop else None,
        wall_seconds=clock.monotonic() - started,
        proof_failure=failure,
    )
