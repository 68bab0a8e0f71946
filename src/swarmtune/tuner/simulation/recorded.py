"""The predictions of a study: read from it if they are complete, else made and recorded."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from swarmtune.clock import Clock
from swarmtune.records import Event, PredictedFacts, Prediction, Trial, TrialState, Value, from_plain
from swarmtune.search.predicted import Predicted, PredictedSearch
from swarmtune.study.writer import StudyWriter
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.planning.simulation import Simulation
from swarmtune.tuner.simulation.anchor import Known
from swarmtune.tuner.simulation.foresee import Foresight, foreseen, request_of

PREDICTED, PREDICTING = "predicted", "predicting"
TELL_EVERY_S = 0.5


class _CancelledError(Exception):
    """Nobody waits for the predictions any more."""


@dataclass
class Foreseeing:
    """Makes the search of a study whose settings are predicted. ``foresights``: by models that have learned from more and
    more results; empty before ``search`` was called.
    """

    plan: Plan
    simulation: Simulation
    writer: StudyWriter
    clock: Clock
    listen: Callable[[Event], None]
    foresights: tuple[Foresight, ...] = ()

    async def search(self) -> PredictedSearch:
        """Among the predictions that the study has; without any, and from the second call on, among new ones by a model that
        has learned from all results so far. Errors as of ``foreseen``. A cancelled call leaves nothing in the study; the
        next one begins anew.
        """
        recorded = () if self.foresights else self._recorded()
        self.foresights = recorded or (*self.foresights, await self._made())
        made = self.foresights[-1]
        self.listen(Event(PREDICTED, self.clock.wall(), made.facts))
        known = [Predicted(one.setting, one.score) for one in made.predictions if one.score.value is not None]
        learned = [t.setting.key for t in self.writer.trials() if t.number in made.facts.get("trials", ())]
        plan = self.plan
        return PredictedSearch(plan.space, plan.seed, plan.evaluations, known, made.facts["spread"], learned)

    def _recorded(self) -> tuple[Foresight, ...]:
        """What earlier runs of the study have predicted with the same model; what is not whole is left out."""
        request, whole = request_of(self.plan, self.simulation), list[Foresight]()
        for facts in self.writer.recorded(PREDICTED):
            try:
                known: PredictedFacts = from_plain(facts, PredictedFacts)
            except (ValueError, TypeError):
                continue
            if known["request"] != request or not 0 < known["spread"] < math.inf:
                continue
            found = [one for one in self.writer.predictions(known["model"]) if self._is_of_the_space(one)]
            if len(found) == known["predictions"]:
                whole.append(Foresight(tuple(found), known))
        return tuple(whole)

    def _is_of_the_space(self, prediction: Prediction) -> bool:
        """A study may come from anyone: only settings that could be asked for are read from it."""
        space, setting = self.plan.space, prediction.setting
        try:
            again = space.decode(space.encode(setting))
            same = again.values.keys() == setting.values.keys()
            return same and all(_alike(again.values[n], v) for n, v in setting.values.items()) and space.legal(setting)
        except (ValueError, TypeError, LookupError, ArithmeticError):
            return False

    async def _made(self) -> Foresight:
        told_s, cancelled, loop = -math.inf, threading.Event(), asyncio.get_running_loop()

        def progress(done: int, of: int) -> None:
            nonlocal told_s
            if cancelled.is_set():
                raise _CancelledError
            now = self.clock.monotonic()
            if now - told_s >= TELL_EVERY_S:
                told_s = now
                event = Event(PREDICTING, self.clock.wall(), {"done": done, "of": of})
                loop.call_soon_threadsafe(self.listen, event)

        try:
            made = await asyncio.to_thread(foreseen, self.plan, self.simulation, self._measured(), progress)
        finally:
            cancelled.set()
        event = Event(PREDICTED, self.clock.wall(), made.facts)
        self.writer.keep_predictions(made.predictions, made.facts["model"], event)
        return made

    def _measured(self) -> list[Known]:
        """Every trial that has a measurement; the baseline, if it has one, is the first."""
        found = [t for t in self.writer.trials() if t.state is TrialState.COMPLETE and t.measurement is not None]
        found.sort(key=lambda trial: (trial.setting.origin != "baseline", trial.number))
        return [self._known(trial) for trial in found]

    def _known(self, trial: Trial) -> Known:
        counts = [] if trial.measurement is None else [trial.measurement]
        return Known(trial.number, trial.setting, (*self.writer.measurements_of(trial.number), *counts))


def _alike(one: Value, other: Value) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return type(one) is type(other) and one == other
