"""Predictions of a study: anchored to what was measured, whole or not there, kept apart from results."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmtune.clock import RealClock
from swarmtune.errors import ConfigurationError, StudyBusyError
from swarmtune.records import AttemptResult, Event, Measurement, Setting
from swarmtune.settings import read_settings
from swarmtune.study.reader import StudyHead, reading
from swarmtune.study.writer import StudyWriter
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.simulation import anchor, recorded
from swarmtune.tuner.simulation.anchor import Known, anchored
from swarmtune.tuner.simulation.fields import Effect
from swarmtune.tuner.simulation.foresee import effects_of, foreseen, refuse_unpredictable, service_of
from swarmtune.tuner.simulation.predict import Predictor
from swarmtune.tuner.simulation.recorded import Foreseeing

CONFIG = """
simulate = true
[optimizer]
engine = "simulated"
[objective]
slo = { p95_ttft_ms = 2000, p95_tpot_ms = 100 }
[load_search]
high = 32
points = 2
[loadgen]
request_count = 30
isl = 64
osl = 16
[simulation]
predictions = 12
"""


FOREIGN = """UPDATE swarmtune_predictions
SET prediction = replace(prediction, '"max_num_seqs": ', '"max_num_seqs": "; rm -rf", "x": ') WHERE id = 3"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text(CONFIG)
    return make_plan(read_settings(Path("config.toml"), {}))


def as_measured(
    plan: Plan, slower: float = 1.0, front_s: float = 0.0, setting: Setting | None = None
) -> list[Measurement]:
    """The baseline (or this setting) at its loads, on a service whose steps take so much longer."""
    assert plan.simulation is not None
    service = service_of(plan.simulation)
    groups = ("weights", "tokens", "attention", "kv", "requests")
    moved = replace(service, multipliers=dict.fromkeys(groups, slower), front=replace(service.front, request_s=front_s))
    loads = Predictor(plan, moved).loads(setting or plan.baseline())
    return [replace(one.measurement, source="measured") for one in loads]


def opened(plan: Plan, url: str = "study.db") -> StudyWriter:
    return StudyWriter(url, StudyHead("s", {}, {"engine": "x"}), plan.space, "maximize", RealClock())


def with_baseline(plan: Plan) -> StudyWriter:
    """A study whose baseline is measured, at each of its loads."""
    study, loads = opened(plan), as_measured(plan, 1.3)
    attempt = study.open(plan.baseline(), "local", "token-of-baseline")
    for one in loads:
        study.append(one, attempt)
    score = plan.objective.score(loads[-1])
    study.close(attempt, AttemptResult(score, loads[-1]))
    return study


def foreseeing(plan: Plan, study: StudyWriter, listen: Callable[[Event], None] = lambda _: None) -> Foreseeing:
    assert plan.simulation is not None
    return Foreseeing(plan, plan.simulation, study, RealClock(), listen)


@pytest.mark.parametrize(("slower", "front_s"), [(1.0, 0.0), (1.5, 0.0), (0.6, 0.0), (1.0, 0.02)])
def test_the_anchor_finds_what_the_model_lacks(plan: Plan, slower: float, front_s: float) -> None:
    assert plan.simulation is not None
    measured, service = as_measured(plan, slower, front_s), service_of(plan.simulation)
    found_anchor = anchored(plan, service, [Known(0, plan.baseline(), measured)])
    for real in measured:
        found = Predictor(plan, found_anchor.service).at(plan.baseline(), plan.at(plan.load_value(real))).measurement
        for name in ("mean_tpot_ms", "mean_e2el_ms", "request_throughput"):
            assert found.metrics[name] == pytest.approx(real.metrics[name], rel=0.06), (name, found_anchor.fit)


def test_a_model_of_another_service_is_refused(plan: Plan) -> None:
    assert plan.simulation is not None
    with pytest.raises(ConfigurationError, match="No calibration explains the measurement of the baseline"):
        anchored(plan, service_of(plan.simulation), [Known(0, plan.baseline(), as_measured(plan, 30.0))])


def test_without_a_measurement_the_model_is_used_as_it_is(plan: Plan) -> None:
    assert plan.simulation is not None
    facts = foreseen(plan, plan.simulation, ()).facts
    assert not facts["anchored"]
    assert facts["multipliers"] == {}
    assert facts["spread"] == 0.5


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An anchor that is looked for in a few steps."""
    monkeypatch.setattr(anchor, "MOST_TRIALS", 4)


@pytest.mark.usefixtures("quick")
async def test_predictions_are_kept_apart_and_read_again(plan: Plan) -> None:
    study, told = with_baseline(plan), list[Event]()
    first = foreseeing(plan, study, told.append)
    search = await first.search()
    assert first.foresights[-1].facts["anchored"]
    assert {"predicting", "predicted"} <= {event.kind for event in told}
    assert len(study.trials()) == 1
    assert len(study.measurements()) == len(study.measurements_of(0))
    again = foreseeing(plan, study)
    searched = await again.search()
    assert again.foresights == first.foresights
    with closing(sqlite3.connect("study.db")) as db:
        assert db.execute("SELECT count(*) FROM swarmtune_predictions").fetchone() == (12,)
        assert db.execute("SELECT count(*) FROM trials").fetchone() == (1,)
    baseline = study.trials()[0]
    assert baseline.score is not None
    for one in (search, searched):
        one.tell(baseline.setting, baseline.score)
    assert search.ask([]) == searched.ask([])
    study.dispose()


@pytest.mark.usefixtures("quick")
async def test_the_model_learns_from_every_result(plan: Plan) -> None:
    study = with_baseline(plan)
    first = foreseeing(plan, study)
    search = await first.search()
    assert first.foresights[-1].facts["trials"] == [0]
    setting = search.ask([])
    attempt, load = study.open(setting, "local", "token-of-another"), as_measured(plan, 2.0, setting=setting)[-1]
    study.append(load, attempt)
    study.close(attempt, AttemptResult(plan.objective.score(load), load))
    await first.search()
    assert [one.facts["trials"] for one in first.foresights] == [[0], [0, 1]]
    again = foreseeing(plan, study)
    await again.search()
    assert again.foresights == first.foresights, "a study that goes on reads all of them, and makes none"
    study.dispose()


def test_what_nothing_explains_leaves_the_baseline_alone(plan: Plan) -> None:
    assert plan.simulation is not None
    service, baseline = service_of(plan.simulation), as_measured(plan, 1.3)
    odd = Known(1, plan.baseline(), as_measured(plan, 60.0))
    alone = anchored(plan, service, [Known(0, plan.baseline(), baseline)])
    both = anchored(plan, service, [Known(0, plan.baseline(), baseline), odd])
    assert both.trials == (0, 1)
    assert max(both.service.multipliers.values()) < 5
    assert alone.trials == (0,)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM swarmtune_predictions WHERE id = 3",
        "UPDATE swarmtune_predictions SET prediction = 'x' WHERE id = 3",
        FOREIGN,
        "UPDATE swarmtune_events SET facts = replace(facts, '\"spread\": ', '\"spread\": -') WHERE kind = 'predicted'",
        "UPDATE swarmtune_events SET facts = '[]' WHERE kind = 'predicted'",
        'UPDATE swarmtune_events SET facts = replace(facts, \'"predictions": 12\', \'"predictions": "many"\')',
    ],
)
async def test_what_is_not_whole_is_made_anew(plan: Plan, damage: str) -> None:
    study = with_baseline(plan)
    first = foreseeing(plan, study)
    await first.search()
    with closing(sqlite3.connect("study.db")) as db:
        db.execute(damage)
        db.commit()
    again = foreseeing(plan, study)
    await again.search()
    assert again.foresights[-1].facts == first.foresights[-1].facts
    assert {p.setting.key for p in again.foresights[-1].predictions} == {
        p.setting.key for p in first.foresights[-1].predictions
    }
    third = foreseeing(plan, study)
    await third.search()
    assert third.foresights == again.foresights
    study.dispose()


@pytest.mark.usefixtures("quick")
async def test_another_request_gets_predictions_of_its_own(plan: Plan) -> None:
    study = with_baseline(plan)
    await foreseeing(plan, study).search()
    assert plan.simulation is not None
    more = replace(plan, simulation=replace(plan.simulation, predictions=14))
    again = foreseeing(more, study)
    await again.search()
    assert again.foresights[-1].facts["predictions"] == 14
    study.dispose()


@pytest.mark.usefixtures("quick")
async def test_a_cancelled_call_leaves_nothing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    study, entered = with_baseline(plan), asyncio.Event()
    loop = asyncio.get_running_loop()
    made = recorded.foreseen

    def slow(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(entered.set)
        return made(*arguments)

    monkeypatch.setattr(recorded, "foreseen", slow)
    work = asyncio.ensure_future(foreseeing(plan, study).search())
    await entered.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert study.recorded("predicted") == []
    monkeypatch.undo()
    await foreseeing(plan, study).search()
    study.dispose()


def test_a_tuner_that_lost_the_study_records_no_predictions(plan: Plan) -> None:
    study = with_baseline(plan)
    assert plan.simulation is not None
    made = foreseen(plan, plan.simulation, ())
    with closing(sqlite3.connect("study.db")) as db:
        db.execute("UPDATE swarmtune_studies SET owner = 'another:1:1'")
        db.commit()
    with pytest.raises(StudyBusyError):
        study.keep_predictions(made.predictions, "m", Event("predicted", 1.0, made.facts))
    with reading("study.db") as reader:
        assert reader.predictions("s") == []
        assert reader.events("s", "predicted") == []
    study.dispose()


def test_a_study_of_an_earlier_version_has_none(plan: Plan) -> None:
    study = with_baseline(plan)
    study.dispose()
    with closing(sqlite3.connect("study.db")) as db:
        db.execute("DROP TABLE swarmtune_predictions")
        db.commit()
    with reading("study.db") as reader:
        assert reader.predictions("s") == []
        assert len(reader.trials("s")) == 1


def test_every_field_is_one_of_three(plan: Plan) -> None:
    assert plan.simulation is not None
    found = effects_of(plan, plan.simulation)
    assert found.keys() == {d.name for d in plan.space.dimensions}
    assert found["max_num_seqs"] is Effect.MOVES


def test_a_pareto_set_is_not_predicted(plan: Plan) -> None:
    Path("config.toml").write_text(CONFIG.replace("[objective]", "[objective]\npareto = ['throughput', 'p95_ttft_ms']"))
    made = make_plan(read_settings(Path("config.toml"), {}))
    assert made.simulation is not None
    with pytest.raises(ConfigurationError, match="no Pareto set"):
        refuse_unpredictable(made, made.simulation)


def test_predictions_are_plain_data(plan: Plan) -> None:
    study = with_baseline(plan)
    assert plan.simulation is not None
    made = foreseen(plan, plan.simulation, ())
    study.keep_predictions(made.predictions, "m", Event("predicted", 1.0, made.facts))
    assert study.predictions("m") == list(made.predictions)
    with closing(sqlite3.connect("study.db")) as db:
        one = json.loads(db.execute("SELECT prediction FROM swarmtune_predictions").fetchone()[0])
    assert one["low"] <= one["score"]["value"] <= one["high"]
    study.dispose()
