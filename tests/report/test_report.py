"""The report: tied settings, how sure it is; and what is shown of a command hides secrets, wherever they stand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tuner.loop.test_coordinator import Loop, plan

from swarmtune.engines.simulated import SimulatedEngine
from swarmtune.records import Command, Measurement, Score, Setting, Trial, TrialState, command_line
from swarmtune.report.document import document
from swarmtune.report.sentences import tied_lines, verdict_text
from swarmtune.study.place import Place
from swarmtune.tuner.proof.confirm import ABOVE_ZERO, Proof, Significance, Standing, unproven
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
    verdict = Significance(True, 40.0, (20.0, 60.0), 3, ABOVE_ZERO)
    trials = (trial(0, "f16", 8), trial(1, "f16", 64), trial(2, "q8", 128), trial(3, "q4", 32))
    return Result("s", plan(), trials, trials[0], Proof(1, verdict, standings, groups=2), {}, 1.0)


def test_the_report_names_the_tied_settings_and_what_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedEngine, "command", lambda *_: Command(("serve",)))
    found = json.loads(json.dumps(document(result())))
    assert found["verdict"] == {
        "significant": True, "gain_percent": 40.0, "ci95_percent": [20.0, 60.0], "rounds": 3, "groups": 2,
        "group_effects_percent": {},
        "reason": ABOVE_ZERO,
        "proof_failure": None,
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
        "Statistically tied with the winner: trial 2 (95 % CI -5.0 to +3.0 %) cache q8, batch 128",
        "No measurable difference: cache (f16 or q8), batch (64 or 128)",
    ]
    kept = replace(result(), proof=unproven(0, "the best finalist (trial 1) came out 3.0 % worse than the baseline"))
    assert verdict_text(kept) == (
        "No significant gain: keep the baseline; the best finalist (trial 1) came out 3.0 % worse than the baseline."
    )
    assert tied_lines(kept) == []


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
