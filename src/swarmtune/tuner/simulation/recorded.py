"""The predictions of a study: read from it if they are complete, else made and recorded."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarmtune.clock import Clock
from swarmtune.records import Event, Measurement, PredictedFacts, Prediction, TrialState, Value, from_plain
from swarmtune.search.predicted import Predicted, PredictedSearch
from swarmtune.study.writer import StudyWriter
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.planning.simulation import Simulation
from swarmtune.tuner.simulation.foresee import Foresight, foreseen, request_of

PREDICTED, PREDICTING = "predicted", "predicting"
TELL_EVERY_S = 0.5


class _CancelledError(Exception):
    """Nobody waits for the predictions any more."""


@dataclass
class Foreseeing:
    """Makes the search of a study whose settings are predicted; ``foresight`` is None before ``search`` was called."""

    plan: Plan
    simulation: Simulation
    writer: StudyWriter
    clock: Clock
    listen: Callable[[Event], None]
    foresight: Foresight | None = None

    async def search(self) -> PredictedSearch:
        """Errors as of ``foreseen``. A cancelled call leaves nothing in the study; the next one begins anew."""
        made = self._recorded() or await self._made()
        self.foresight = made
        self.listen(Event(PREDICTED, self.clock.wall(), made.facts))
        known = [Predicted(one.setting, one.score) for one in made.predictions if one.score.value is not None]
        return PredictedSearch(self.plan.space, self.plan.seed, self.plan.evaluations, known, made.facts["spread"])

    def _recorded(self) -> Foresight | None:
        """What an earlier run of the study has predicted with the same model; None if it is not whole."""
        request = request_of(self.plan, self.simulation)
        for facts in reversed(self.writer.recorded(PREDICTED)):
            try:
                known: PredictedFacts = from_plain(facts, PredictedFacts)
            except (ValueError, TypeError):
                continue
            if known["request"] != request or not 0 < known["spread"] < math.inf:
                continue
            found = [one for one in self.writer.predictions(known["model"]) if self._is_of_the_space(one)]
            if len(found) == known["predictions"]:
                return Foresight(tuple(found), known)
        return None

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
            made = await asyncio.to_thread(foreseen, self.plan, self.simulation, self._baseline(), progress)
        finally:
            cancelled.set()
        event = Event(PREDICTED, self.clock.wall(), made.facts)
        self.writer.keep_predictions(made.predictions, made.facts["model"], event)
        return made

    def _baseline(self) -> Sequence[Measurement]:
        """The baseline at every load at which it was measured; nothing if it was not."""
        for trial in self.writer.trials():
            if trial.setting.origin == "baseline" and trial.state is TrialState.COMPLETE:
                return self.writer.measurements_of(trial.number)
        return ()


def _alike(one: Value, other: Value) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return type(one) is type(other) and one == other
