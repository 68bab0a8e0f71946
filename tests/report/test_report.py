"""The report: tied settings, how sure it is; and what is shown of a command hides secrets, wherever they stand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tuner.loop.test_coordinator import Loop, plan

from swarmtune.engines.simulated import SimulatedEngine
from swarmtune.errors import CommunicationError, Culprit, FitnessCalculationError, SwarmTuneError
from swarmtune.fleet.job import RunResult, Stage
from swarmtune.records import AttemptResult, Command, Measurement, Score, Setting, Trial, TrialState, command_line
from swarmtune.report.document import document
from swarmtune.report.figures import at_ceiling, comparison
from swarmtune.report.sentences import (
    answers_text,
    ceiling_text,
    nothing_lines,
    open_text,
    run_text,
    tied_lines,
    verdict_text,
)
from swarmtune.search.load import LoadSearch
from swarmtune.study.place import Place
from swarmtune.tuner.loop.evaluation import Measured
from swarmtune.tuner.proof.confirm import ABOVE_ZERO, NO_GAIN, Proof, Significance, Standing, unproven
from swarmtune.tuner.proof.paired import Difference
from swarmtune.tuner.result import Result
from swarmtune.tuner.run import Session, _prove
from swarmtune.tuner.warm_start.record import NOTHING


def test_secrets_are_hidden_in_environment_and_flags() -> None:
    command = Command(
        ("vllm", "serve", "--api-key", "geheim1", "--hf-token=geheim2", "--max-num-seqs", "8", "a b"),
        env={"HF_TOKEN": "geheim3", "PLAIN": "x y"},
    )
    assert sorted(command.secret_values) == ["geheim1", "geheim2", "geheim3"]
    shown = command_line(command)
    assert "geheim" not in shown
    assert shown == "HF_TOKEN=*** PLAIN='x y' vllm serve --api-key *** --hf-token=*** --max-num-seqs 8 'a b'"


def trial(number: int, cache: str, batch: int) -> Trial:
    setting = Setting({"cache": cache, "batch": batch, "threads": 2}, "baseline" if number == 0 else "particle:1")
    score = Score(10.0 + number, -10.0 - number, {"p95_ttft_ms": -0.1})
    return Trial(number, setting, TrialState.COMPLETE, score, Measurement({}, {"concurrency": 4.0}))


def result() -> Result:
    """Trial 1 wins; 2 differs from it in cache and batch and ties, 3 is clearly worse."""
    gain, same = Difference(3, 40.0, (20.0, 60.0), 0.01), Difference(3, -1.0, (-5.0, 3.0), 0.4)
    standings = (
        Standing(1, True, gain, Difference(3, 0.0, (0.0, 0.0)), tied=False),
        Standing(2, True, gain, same, tied=True),
        Standing(3, True, same, Difference(3, -30.0, (-35.0, -25.0), 0.001), tied=False),
    )
    verdict = Significance(True, 40.0, (20.0, 60.0), 3, ABOVE_ZERO, 2.0)
    trials = (trial(0, "f16", 8), trial(1, "f16", 64), trial(2, "q8", 128), trial(3, "q4", 32))
    return Result("s", plan(), trials, trials[0], Proof(1, verdict, standings, groups=2), {}, 1.0)


def test_the_report_names_the_tied_settings_and_what_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedEngine, "command", lambda *_: Command(("serve",)))
    found = json.loads(json.dumps(document(result())))
    assert found["verdict"] == {
        "significant": True, "gain_percent": 40.0, "ci95_percent": [20.0, 60.0], "rounds": 3, "groups": 2,
        "group_effects_percent": {},
        "reason": ABOVE_ZERO,
        "proof_failure": None, "noise_percent": 2.0, "rounds_for_a_gain_of_10_percent": 3,
    }  # fmt: skip
    assert found["best"]["trial"] == 1
    assert found["tied"] == [2]
    assert found["no_difference"] == {"cache": ["f16", "q8"], "batch": [64, 128]}
    second = found["finalists"][1]
    assert (second["setting"]["cache"], second["tied"]) == ("q8", True)
    assert second["against_best"] == {"gain_percent": -1.0, "ci95_percent": [-5.0, 3.0], "p": 0.4, "rounds": 3}
    assert second["over_baseline"]["gain_percent"] == 40.0


def test_the_terminal_says_how_sure_it_is_and_what_is_tied() -> None:
    assert verdict_text(result()) == (
        "The winner is better by 40.0 %: the 95 % interval of the gain lies above zero "
        "(3 interleaved rounds on 2 groups)."
    )
    assert tied_lines(result()) == [
        "Not told apart from it: trial 2 (-1.0 % in the qualifying round, which proves nothing) cache q8, batch 128",
        "No difference seen: cache (f16 or q8), batch (64 or 128)",
    ]
    kept = replace(result(), proof=unproven(0, "the best finalist (trial 1) came out 3.0 % worse than the baseline"))
    assert verdict_text(kept) == (
        "No significant gain: keep the baseline; the best finalist (trial 1) came out 3.0 % worse than the baseline."
    )
    assert tied_lines(kept) == []


def opened(noise: float | None, rounds: int = 3) -> Result:
    """The gain of trial 1 lies near zero: nothing is decided."""
    verdict = Significance(False, 4.0, (-9.0, 18.0), rounds, NO_GAIN, noise)
    return replace(result(), proof=Proof(1, verdict, groups=2, round_s=60.0, candidate=1))


def test_an_open_verdict_says_what_would_decide_it_and_names_no_winner() -> None:
    assert open_text(result(), "tune -lb") == ""
    assert open_text(opened(5.0), "tune -lb") == (
        "What would decide a gain of 10 %: 5 rounds, about 3m00s (the gain of a single round spreads by 5.0 %): "
        "`tune -lb --confirm 5`."
    )
    assert open_text(opened(5.0, 5), "tune -lb") == (
        "This proof finds a gain of 10 % in four of five cases (the gain of a single round spreads by 5.0 %)."
    )
    assert open_text(opened(90.0), "tune -lb") == (
        "What would decide a gain of 10 %: longer measurements, on a quieter machine; the gain of a single round spreads by "
        "90.0 %, and 50 rounds are too few for that."
    )
    assert open_text(opened(None, 1), "tune -lb") == "What would decide: `tune -lb --confirm 5`."
    assert "winner" not in run_text(opened(5.0))
    assert run_text(result()) == "Run the winner:"


def test_without_rounds_or_rivals_nothing_is_said_to_be_insignificant() -> None:
    unmeasured = replace(result(), proof=unproven(1, "nothing was re-measured"))
    assert verdict_text(unmeasured) == "Not proven: nothing was re-measured."
    assert open_text(unmeasured, "tune -lb") == "What would decide: `tune -lb --confirm 5`."
    alone = replace(result(), proof=unproven(0, "the baseline is the best setting"))
    assert verdict_text(alone) == "No significant gain: keep the baseline; the baseline is the best setting."
    assert open_text(alone, "tune -lb") == ""


def test_the_table_judges_each_slo_and_shows_what_was_changed_first() -> None:
    blocks = {"request_goodput": (6.0, 6.0)}

    def measured(goodput: float, ttft: float) -> list[AttemptResult]:
        metrics = {"request_goodput": 5.0, "p95_ttft_ms": ttft, "success_rate": 1.0, "output_throughput": 80.0}
        score = Score(goodput, -goodput, {"p95_ttft_ms": ttft / 500 - 1})
        return [AttemptResult(score, Measurement(metrics, {"concurrency": 3.0}, blocks=blocks))] * 2

    rows = comparison(replace(result(), remeasured={0: measured(10.0, 620.0), 1: measured(14.0, 300.0)}))
    assert [(row.name, row.baseline, row.winner, row.difference) for row in rows] == [
        ("goodput (req/s)", "12", "16.8", "+40.0 % (+20.0 to +60.0)"),  # 1.2 times as fast under load
        ("p95_ttft_ms <= 500", "620 broken", "300 kept", ""),
        ("success_rate >= 0.99", "1 kept", "1 kept", ""),
        ("output_throughput", "80", "80", ""),
        ("load", "concurrency 3", "concurrency 3", ""),
        ("batch", "8", "64", "changed"),
        ("cache", "f16", "f16", ""),
        ("threads", "2", "2", ""),
    ]


def test_beside_a_baseline_that_is_kept_stands_the_finalist_that_was_no_better() -> None:
    kept = replace(result(), proof=Proof(0, Significance(False, -3.0, (-8.0, 2.0), 3, "no", 2.0), candidate=3))
    rows = {row.name: row for row in comparison(kept)}
    assert (rows["cache"].winner, rows["cache"].difference) == ("q4", "changed")
    assert rows["goodput (req/s)"].difference == "-3.0 % (-8.0 to +2.0)"


def test_a_finalist_that_breaks_its_slos_in_the_proof_is_shown_and_nothing_is_said_of_the_search() -> None:
    verdict = Significance(False, 84.0, (27.0, 165.0), 4, "the best finalist (trial 3) broke its SLOs", 20.0)
    broken = replace(result(), proof=Proof(None, verdict, candidate=3))
    assert {row.name: row.winner for row in comparison(broken)}["cache"] == "q4"
    first, second = nothing_lines(broken)
    assert first == "Nothing can be recommended: the best finalist (trial 3) broke its SLOs."
    assert "more rounds" in second
    none = replace(result(), proof=unproven(None, "no setting kept the SLOs"))
    assert nothing_lines(none)[0] == "Nothing feasible was found in 4 evaluations: no setting kept the SLOs."
    assert nothing_lines(result()) == []


@pytest.mark.parametrize(("high", "warned"), [(4, True), (5, False)])
def test_a_load_search_that_ended_at_its_ceiling_is_named(high: float, *, warned: bool) -> None:
    found = result()
    search = LoadSearch(low=1, high=high, start=2)
    found = replace(found, plan=replace(found.plan, load_search=search, load_variable="concurrency"))
    assert at_ceiling(found) is warned
    assert ("ended at its ceiling (concurrency 4)" in ceiling_text(found)) is warned


def test_where_no_setting_could_be_measured_the_last_failure_is_shown_and_no_advice_on_slos() -> None:
    failure = (
        "X did not serve: it crashed (exit code 1).\nThe line with the cause: KeyError: 1\nLast lines of its log:\nbye"
    )
    trials = tuple(replace(t, state=TrialState.FAILED, score=None, failure=failure) for t in result().trials)
    failed = replace(result(), trials=trials, proof=unproven(None, "no setting kept the SLOs"))
    first, second = nothing_lines(failed)
    assert first.endswith("The last failure: X did not serve: it crashed (exit code 1). [KeyError: 1]")
    assert "slo" not in (first + second).lower()
    assert verdict_text(failed) == "No setting can be recommended: none could be measured."


def test_a_number_format_that_may_change_the_answers_is_warned_of() -> None:
    values = {"cache": "f16", "--kv-cache-dtype": "auto", "threads": 2}
    before = replace(trial(0, "f16", 8), setting=Setting(values, "baseline"))
    after = replace(trial(1, "f16", 8), setting=Setting({**values, "--kv-cache-dtype": "fp8", "threads": 4}, ""))
    changed = replace(result(), trials=(before, after), baseline=before)
    assert answers_text(changed) == (
        "This setting may change what the model answers: --kv-cache-dtype auto -> fp8. SwarmTune measures speed only: "
        "check the quality of the answers before you use it."
    )
    assert answers_text(replace(changed, proof=unproven(0, "x"))) == ""


async def test_a_proof_that_failed_is_told_and_nothing_counts_as_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedEngine, "command", lambda *_: Command(("serve",)))
    made = plan(8)
    loop = Loop(made, lose=lambda attempt: attempt.kind != "trial")
    trials = await loop.coordinator.search()
    session = Session(loop.coordinator, loop.again, loop.store, NOTHING)  # type: ignore[arg-type]
    found = await _prove(made, Place("s", Path("s"), "s.db"), session, trials, 0.0, loop.clock)
    assert found.proof_failure is not None
    assert "could not be measured again" in found.proof_failure
    assert found.best is not None
    assert not found.verdict.significant
    assert verdict_text(found) == (
        f"Not proven: the search found trial {found.best.number} best, and the proof failed: {found.proof_failure}"
    )
    shown = document(found)
    assert shown["best"]["trial"] == found.best.number
    assert (shown["verdict"]["significant"], shown["verdict"]["proof_failure"]) == (False, found.proof_failure)


@pytest.mark.parametrize("error", [
    FitnessCalculationError("Nothing can be counted per watt: the driver does not answer."),
    CommunicationError("No group of nodes can be reached.", culprit=Culprit.USER),
])  # fmt: skip
async def test_what_a_measurement_of_the_proof_lacks_does_not_cost_the_report(
    error: SwarmTuneError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimulatedEngine, "command", lambda *_: Command(("serve",)))
    made = plan(6)
    loop = Loop(made)
    trials = await loop.coordinator.search()
    (group,) = loop.groups

    async def lacks(*_: object) -> RunResult[Measured]:
        return group.failed(error, Stage.USE)

    monkeypatch.setattr(group, "run", lacks)
    session = Session(loop.coordinator, loop.again, loop.store, NOTHING)  # type: ignore[arg-type]
    found = await _prove(made, Place("s", Path("s"), "s.db"), session, trials, 0.0, loop.clock)
    assert found.best is not None
    assert error.message in (found.proof_failure or "")
    assert document(found)["best"]["trial"] == found.best.number
