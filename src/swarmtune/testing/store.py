"""What every Store must do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarmtune.records import AttemptResult, Event, Measurement, Score, Setting, TrialState
from swarmtune.space import Space
from swarmtune.study.store import Store
from swarmtune.testing.search import MIXED, RULES

MEASURED = Measurement({"completed": 10.0, "p95_ttft_ms": 12.5}, {"concurrency": 4})
GOOD = AttemptResult(Score(3.0, -3.0, {"p95_ttft_ms": -0.5}), MEASURED, facts={"load_points": 2})
BROKEN_PROMISE = AttemptResult(Score(9.0, -9.0, {"p95_ttft_ms": 0.25}), MEASURED)
FAILED_SETTING = AttemptResult(Score.failed(), None, "ran out of memory")
LOST = AttemptResult(None, None, "the port was taken")


def some_settings(count: int) -> list[Setting]:
    """Different legal settings of the space of the search contract."""
    space = Space(MIXED, RULES)
    return [space.setting({"seqs": 2 + i}, f"particle:{i}") for i in range(count)]


class StoreContract:
    """Inherit, and give a fixture ``store`` on the space of ``testing.search``."""

    @pytest.fixture
    def store(self) -> Store:
        """A new, empty store."""
        raise TypeError("give a fixture store in the subclass")

    def test_trials_are_numbered_and_keep_their_setting_and_origin(self, store: Store) -> None:
        settings = some_settings(3)
        opened = [store.open(s, "local", f"token-{i}") for i, s in enumerate(settings)]
        assert [a.trial_number for a in opened] == [0, 1, 2]
        trials = store.trials()
        assert [t.setting for t in trials] == settings
        assert [t.setting.origin for t in trials] == ["particle:0", "particle:1", "particle:2"]
        assert {t.state for t in trials} == {TrialState.RUNNING}

    def test_a_scored_attempt_finishes_the_trial(self, store: Store) -> None:
        for setting, outcome in zip(some_settings(3), (GOOD, BROKEN_PROMISE, FAILED_SETTING), strict=True):
            store.close(store.open(setting, "local", "t"), outcome)
        good, broken, failed = store.trials()
        assert {t.state for t in (good, broken, failed)} == {TrialState.COMPLETE}
        assert good.score == GOOD.score
        assert good.measurement == MEASURED
        assert broken.score is not None
        assert not broken.score.feasible
        assert failed.score is not None
        assert failed.score.value is None
        assert failed.failure == "ran out of memory"

    def test_what_is_predicted_is_no_result(self, store: Store) -> None:
        (setting,) = some_settings(1)
        attempt = store.open(setting, "local", "t")
        with pytest.raises(ValueError, match="predicted"):
            store.close(attempt, replace(GOOD, measurement=replace(MEASURED, source="predicted")))
        assert store.trials()[0].state is TrialState.RUNNING

    def test_an_attempt_without_score_leaves_the_trial_open(self, store: Store) -> None:
        (setting,) = some_settings(1)
        first = store.open(setting, "a", "t1")
        store.close(first, LOST)
        (trial,) = store.trials()
        assert (trial.state, trial.failure) == (TrialState.RUNNING, "the port was taken")
        second = store.open(setting, "b", "t2", number=first.trial_number)
        assert second.trial_number == first.trial_number
        store.close(second, GOOD)
        (trial,) = store.trials()
        assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)

    def test_giving_up_fails_the_trial(self, store: Store) -> None:
        (setting,) = some_settings(1)
        store.close(store.open(setting, "a", "t1"), AttemptResult(None, None, "no node", gave_up=True))
        (trial,) = store.trials()
        assert trial.state is TrialState.FAILED

    def test_a_confirmation_does_not_change_the_trial(self, store: Store) -> None:
        (setting,) = some_settings(1)
        store.close(store.open(setting, "a", "t1"), GOOD)
        store.close(store.open(setting, "a", "t2", number=0, kind="confirm"), BROKEN_PROMISE)
        (trial,) = store.trials()
        assert trial.score == GOOD.score

    def test_facts_are_added_to_attempts(self, store: Store) -> None:
        (setting,) = some_settings(1)
        attempt = store.open(setting, "a", "t1")
        store.append(MEASURED, attempt)
        store.append(("service log", "attempts/0000-1/service/output.log"), attempt)
        store.append(Event("trial_started", 1.0, {"trial": 0}))
        store.close(attempt, GOOD)
        assert store.trials()[0].state is TrialState.COMPLETE
