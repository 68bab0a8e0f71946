"""The table [objective]: per accelerator, watt and dollar, and Pareto sets; what is refused says the way out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.tuner.loop.test_coordinator import plan as made_up
from tests.tuner.planning.test_plan import plan, refused

from swarmtune.apps.cli.check import objective_text
from swarmtune.loadgen import benchmark
from swarmtune.objective import Latency, Per, Throughput
from swarmtune.records import Measurement, Trial, TrialState
from swarmtune.report.pareto import pareto_set
from swarmtune.report.sentences import pareto_lines
from swarmtune.tuner.proof.confirm import unproven
from swarmtune.tuner.result import Result

TRADE = {"pareto": ["throughput", "p95_ttft_ms"], "slo": {"p95_ttft_ms": 500.0}}


@pytest.mark.parametrize(
    ("table", "per", "unit"),
    [
        ({"per": "accelerator"}, Per("accelerator"), "req/s/accelerator"),
        ({"per": "dollar", "dollars_per_hour": 2.5}, Per("dollar", 2.5), "req/$"),
        ({"per": "dollar", "group_dollars_per_hour": 20}, Per("dollar", 20, of_group=True), "req/$"),
    ],
)
def test_per(table: dict[str, Any], per: Per, unit: str) -> None:
    made = plan(objective=table)
    assert (made.objective.per, made.objective.unit) == (per, unit)  # type: ignore[attr-defined]
    assert made.fingerprint() != plan().fingerprint()
    assert made.early_stop is not None
    assert made.early_stop.metric == "", "a rate of another unit is no value to beat"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"per": "dollar"}, ("needs one price", "dollars_per_hour")),
        ({"per": "dollar", "dollars_per_hour": 1, "group_dollars_per_hour": 1}, ("needs one price",)),
        ({"dollars_per_hour": 1}, ("a price has no effect",)),
        ({"name": "weighted", "per": "accelerator"}, ("only goodput and throughput",)),
        ({"pareto": ["throughput"]}, ("two or three different",)),
        ({"pareto": ["throughput", "throughput"]}, ("two or three different",)),
        ({"pareto": ["p95_ttft_ms", "throughput"]}, ("the first one ranks",)),
        ({"pareto": ["throughput", "speed"]}, ("'speed' is neither", "p95_ttft_ms")),
        ({"name": "goodput", "pareto": ["throughput", "p95_ttft_ms"]}, ("objective.name", "leave name out")),
        ({"pareto": ["throughput", "goodput"], "slo": {"p95_itl_ms": 5.0}}, ("goodput needs an SLO",)),
    ],
)
def test_what_makes_no_sense_is_refused(table: dict[str, Any], words: tuple[str, ...]) -> None:
    said = refused(objective=table)
    assert all(word in said for word in words), said


EXPORTER = "http://127.0.0.1:9400/metrics"


def test_an_objective_per_watt_needs_a_source_of_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "devices_without_power", lambda devices: "no driver")
    said = refused(objective={"per": "watt"})
    assert all(word in said for word in ("objective.per", "no driver", "gpu_telemetry", "per = 'accelerator'")), said
    made = plan(objective={"per": "watt"}, loadgen={"gpu_telemetry": EXPORTER})
    assert (made.objective.needs_power, made.objective.unit) == (True, "req/J")


def test_a_machine_that_tells_its_power_needs_no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "devices_without_power", lambda devices: "")
    assert plan(objective={"per": "watt"}).objective.needs_power


def test_other_machines_need_an_exporter_and_groups_on_one_machine_devices_of_their_own() -> None:
    parallel = {"enabled": True, "port": 8000, "service_groups": [{"group_id": "g", "nodes": [{"host": "192.0.2.7"}]}]}
    assert "192.0.2.7: not this machine" in refused(objective={"per": "watt"}, parallel=parallel)
    said = refused(objective={"per": "watt"}, optimizer={"groups": 2}, loadgen={"gpu_telemetry": EXPORTER})
    assert "several groups share 127.0.0.1 without devices of their own" in said


def test_an_objective_among_several_counts_too() -> None:
    assert not plan(objective=TRADE).objective.needs_power
    made = plan(objective={**TRADE, "per": "watt"}, loadgen={"gpu_telemetry": EXPORTER})
    assert made.objective.needs_power


def test_all_mistakes_are_told_at_once() -> None:
    said = refused(
        objective={"per": "watt", "dollars_per_hour": 1, "pareto": ["nothing"]},
        optimizer={"earlier": ["no"], "benchmark": "aiperf"},
    )
    assert all(
        word in said
        for word in ("does not measure power", "no effect", "'nothing'", "two or three", "optimizer.earlier.1")
    )


@pytest.mark.parametrize(
    ("place", "word"),
    [
        ("x" * 5000, "too long"),
        ("~no-such-user/x", "home"),
        ("mysql://u:secret@h/db", "'mysql'"),
        ("://", "database URL"),
    ],
)
def test_an_earlier_study_that_cannot_be_is_named_and_its_password_is_not(place: str, word: str) -> None:
    said = refused(optimizer={"earlier": [place]})
    assert "optimizer.earlier.1" in said
    assert word in said
    assert "secret" not in said


def test_a_pareto_set_is_led_by_its_first() -> None:
    made = plan(objective=TRADE)
    assert isinstance(made.objective, Throughput)
    assert list(made.objective.several) == ["throughput", "p95_ttft_ms"]
    assert made.objective.several["p95_ttft_ms"].direction == "minimize"
    assert objective_text(made) == "maximize throughput (tok/s) against minimize p95_ttft_ms (ms)"
    assert any("[load_search] enabled = false" in n for n in made.notices)
    assert made.fingerprint() != plan(objective={"name": "throughput", "slo": TRADE["slo"]}).fingerprint()
    assert plan(objective={"pareto": ["weighted", "throughput"]}).load_search is None


def test_the_report_has_the_pareto_set_of_what_keeps_the_promises() -> None:
    several = {"throughput": Throughput(), "p95_ttft_ms": Latency(name="p95_ttft_ms")}
    objective = Throughput(limits={"p95_ttft_ms": 500.0}, several=several)
    found = [
        (100, 50),
        (200, 90),
        (150, 95),
        (300, 400),
        (900, 600),
    ]  # the third is beaten, the last breaks its promise
    trials = []
    for number, (speed, ttft) in enumerate(found):
        measurement = Measurement({"output_throughput": speed, "p95_ttft_ms": ttft, "success_rate": 1.0})
        setting = made_up().space.setting({"seqs": 2 + number})
        trials.append(Trial(number, setting, TrialState.COMPLETE, objective.score(measurement), measurement))
    data = pareto_set(objective, trials)
    assert data is not None
    assert [row["trial"] for row in data["set"]] == [3, 1, 0]
    assert data["set"][0]["values"] == {"throughput": 300.0, "p95_ttft_ms": 400.0}
    area = (100 / 200) * (310 / 350)  # of trial 1 alone: the two others lie on the border of the box
    assert data["hypervolume"] == pytest.approx(area)
    assert json.loads(json.dumps(data)) == data
    lines = pareto_lines(Result("s", made_up(objective=objective), tuple(trials), None, unproven(None, ""), {}, 1.0))
    assert lines[0].startswith("\nPareto set: 3 of 4 settings that keep the SLOs, hypervolume 0.443")
    assert lines[1].startswith("  trial   3  throughput 300 tok/s  p95_ttft_ms 400 ms")
    assert pareto_set(Throughput(), trials) is None
    assert pareto_set(objective, [trials[-1]]) == {**data, "hypervolume": 0.0, "of": 0, "set": []}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"optimizer": {"benchmark": "ais_bench"}, "objective": {"name": "goodput"}},
            "needs request_goodput, and the benchmark ais_bench does not give it",
        ),
        (
            {"optimizer": {"benchmark": "vllm_benchmark"}, "objective": {"slo": {"p95_tpot_ms": 9.0, "max_ttft_ms": 9.0}}},
            "objective.slo.max_ttft_ms: it needs max_ttft_ms",
        ),
        ({"loadgen": {"streaming": False}}, "slo.p95_ttft_ms: it needs p95_ttft_ms, and [loadgen] streaming = false"),
        (
            {"loadgen": {"streaming": False}, "objective": {"pareto": ["throughput", "p95_tpot_ms"], "slo": {}}},
            "objective: it needs p95_tpot_ms, and [loadgen] streaming = false",
        ),
    ],
)  # fmt: skip
def test_a_metric_that_no_measurement_will_have_is_a_mistake(given: dict[str, Any], words: str) -> None:
    assert words in refused(**given)


def test_metrics_that_a_tool_gives_are_none() -> None:
    tool = {"optimizer": {"benchmark": "ais_bench"}, "objective": {"name": "throughput", "slo": {"p95_ttft_ms": 9.0}}}
    assert "does not give" not in refused(**tool)  # other mistakes: no tokenizer
    whole = {"loadgen": {"streaming": False}, "objective": {"name": "throughput", "slo": {"p95_e2el_ms": 9.0}}}
    assert plan(**whole).objective.needs == ("output_throughput", "p95_e2el_ms")
