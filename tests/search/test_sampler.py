"""The swarm in a stranger's Optuna study."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from swarmtune.search import SwarmSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    count = trial.suggest_int("count", 1, 64, log=True)
    step = trial.suggest_int("step", 0, 100, step=10)
    kind = trial.suggest_categorical("kind", [None, "a", True])
    trial.set_constraint("sum", x + step / 50 - 2)
    penalty = {None: 1.0, "a": 0.0}.get(kind, 2.0)
    return (x - 1) ** 2 + (math.log10(rate) + 2) ** 2 + abs(math.log2(count) - 3) / 3 + penalty + step / 100


def regret(sampler: optuna.samplers.BaseSampler, trials: int, jobs: int = 1) -> float:
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=trials, n_jobs=jobs)
    return study.best_value


def test_it_beats_random_search() -> None:
    ours = sorted(regret(SwarmSampler(seed=s, n_trials=40), 40) for s in range(3))[1]
    random = sorted(regret(optuna.samplers.RandomSampler(seed=s), 40) for s in range(3))[1]
    assert ours < random / 2


def test_eight_jobs_ask_for_different_settings() -> None:
    study = optuna.create_study(sampler=SwarmSampler(seed=1, n_trials=40))
    study.optimize(objective, n_trials=40, n_jobs=8)
    assert len(study.trials) == 40
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    asked = [tuple(t.params.items()) for t in study.trials if "swarmtune:origin" in t.system_attrs]
    assert len(asked) > 20
    assert len(set(asked)) == len(asked)


@contextlib.contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    """A storage as a process has it, closed in the end."""
    storage = RDBStorage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_another_process_goes_on_with_the_same_question(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    with opened(url) as one, opened(url) as other:
        study = optuna.create_study(storage=one, study_name="s", sampler=SwarmSampler(seed=3, n_trials=30))
        study.optimize(objective, n_trials=15)
        resumed = optuna.load_study(storage=other, study_name="s", sampler=SwarmSampler(seed=3, n_trials=30))
        space = dict(study.trials[-1].distributions)
        params = resumed.ask(space).params
        resumed.tell(15, state=TrialState.FAIL)
        assert study.ask(space).params == params


def test_it_maximises_and_learns_nothing_from_infrastructure() -> None:
    study = optuna.create_study(direction="maximize", sampler=SwarmSampler(seed=2, n_trials=30))

    def flaky(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        if trial.number % 5 == 4:
            raise ConnectionError("the node is gone")
        return -((x - 0.3) ** 2) - (y - 0.7) ** 2

    study.optimize(flaky, n_trials=30, catch=(ConnectionError,))
    assert study.best_value > -0.01


def test_pruned_trials_count_with_what_they_had() -> None:
    study = optuna.create_study(sampler=SwarmSampler(seed=2, n_trials=25))

    def pruning(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, 1)
        if x > 0.5:
            raise optuna.TrialPruned
        return x

    study.optimize(pruning, n_trials=25)
    assert study.best_value < 0.05


def test_a_given_space_is_used_from_the_first_trial() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1), "one": optuna.distributions.IntDistribution(3, 3)}
    study = optuna.create_study(sampler=SwarmSampler(space, seed=2))
    trial = study.ask()
    assert 0 <= trial.suggest_float("x", 0, 1) <= 1
    assert trial.suggest_int("one", 3, 3) == 3
    assert "swarmtune:origin" in study.trials[0].system_attrs


def test_any_name_and_any_range_will_do() -> None:
    study = optuna.create_study(sampler=SwarmSampler(seed=2, n_trials=12))

    def odd(trial: optuna.Trial) -> float:
        huge = trial.suggest_float("huge", 0, 1e20)
        many = trial.suggest_int("many steps/of 2", 0, 10**6, step=2)
        fine = trial.suggest_float("learning rate", 0.0, 1.0, step=0.25)
        assert many % 2 == 0
        return huge / 1e20 + many / 10**6 + fine

    study.optimize(odd, n_trials=12)
    assert sum("swarmtune:origin" in t.system_attrs for t in study.trials) >= 10


def test_several_objectives_are_refused_with_a_way_out() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    study = optuna.create_study(directions=["minimize"] * 2, sampler=SwarmSampler(space, seed=1))
    with pytest.raises(ValueError, match="NSGAIISampler"):
        study.ask(space)
