"""The search among predicted settings: it starts from predictions, learns how far they are off, and knows when to end."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from swarmtune.errors import PSOConvergenceError
from swarmtune.records import Score, Setting
from swarmtune.search.predicted import LEAST_MEASURED, Predicted, PredictedSearch
from swarmtune.space import Field, Space

SPACE = Space(
    [Field("x", dtype="int", min=0, max=99, value=10), Field("kind", dtype="enum", dtype_param=["a", "b"], value="a")],
    [],
)
LIMIT = "p95_ttft_ms"
Truth = Callable[[Setting], Score]


def score(value: float, slo: float = -0.5) -> Score:
    return Score(value, -value, {LIMIT: slo})


def hill(setting: Setting, top: float = 60.0) -> float:
    """100 at the top, falling to both sides; kind b has 80 % of it."""
    value = 100.0 * math.exp(-(((setting.values["x"] - top) / 30.0) ** 2))  # type: ignore[operator]
    return value * (0.8 if setting.values["kind"] == "b" else 1.0)


def every(predict: Truth) -> list[Predicted]:
    settings = [SPACE.setting({"x": x, "kind": kind}) for x in (10, *range(0, 100, 3)) for kind in ("a", "b")]
    return [Predicted(setting, predict(setting)) for setting in settings]


def run(predict: Truth, truth: Truth, count: int = 12, spread: float = 0.1) -> list[tuple[Setting, Score]]:
    """What is measured, the baseline first; it ends where the search does."""
    search = PredictedSearch(SPACE, 1, count, every(predict), spread)
    told = [(SPACE.default(), truth(SPACE.default()))]
    search.tell(*told[0])
    while len(told) < count:
        try:
            asked = search.ask([])
        except PSOConvergenceError:
            break
        told.append((asked, truth(asked)))
        search.tell(*told[-1])
    return told


def best(told: list[tuple[Setting, Score]]) -> float:
    return max(s.value for _, s in told if s.value is not None and s.feasible)


def test_the_best_prediction_is_measured_first() -> None:
    told = run(lambda s: score(hill(s)), lambda s: score(hill(s)))
    assert told[1][0].values == {"x": 60, "kind": "a"}
    assert told[1][0].origin == "predicted"


def test_it_ends_once_predictions_and_measurements_agree() -> None:
    told = run(lambda s: score(hill(s)), lambda s: score(hill(s)), 60)
    assert LEAST_MEASURED <= len(told) < 20
    assert best(told) == pytest.approx(100.0)


def test_a_factor_on_all_predictions_changes_nothing() -> None:
    told = run(lambda s: score(hill(s)), lambda s: score(1.7 * hill(s)))
    assert best(told) == pytest.approx(170.0)


@pytest.mark.parametrize("top", [35.0, 85.0])
def test_it_finds_the_best_where_the_model_is_wrong_about_it(top: float) -> None:
    """The model puts the top elsewhere: what is measured there has to say so."""
    told = run(lambda s: score(hill(s)), lambda s: score(hill(s, top)), 14, spread=0.3)
    assert best(told) > 95.0, [dict(s.values) for s, _ in told]


def test_a_kind_that_the_model_underestimates_is_found() -> None:
    def truth(setting: Setting) -> Score:
        return score(hill(setting) * (2.0 if setting.values["kind"] == "b" else 1.0))

    assert best(run(lambda s: score(hill(s)), truth, 14, spread=0.3)) > 150.0


def test_slos_are_learned_too() -> None:
    """All above x = 40 break an SLO that the model believes to be kept up to 70."""

    def at(limit: float) -> Truth:
        return lambda s: score(float(s.values["x"]), (float(s.values["x"]) - limit) / limit)

    told = run(at(70.0), at(40.0), 14)
    assert best(told) >= 36.0, [dict(s.values) for s, _ in told]


def test_settings_that_cannot_start_are_avoided() -> None:
    def truth(setting: Setting) -> Score:
        return Score.failed() if setting.values["x"] > 50 else score(hill(setting))  # type: ignore[operator]

    told = run(lambda s: score(hill(s)), truth, 14)
    assert best(told) > 80.0, [dict(s.values) for s, _ in told]
    assert sum(s.value is None for _, s in told) <= 7


def test_what_is_being_measured_is_not_asked_for_again() -> None:
    search = PredictedSearch(SPACE, 1, 12, every(lambda s: score(hill(s))))
    pending: list[Setting] = []
    for _ in range(8):
        pending.append(search.ask(pending))
    assert len({one.key for one in pending}) == 8


def test_it_is_a_function_of_what_it_was_told() -> None:
    pool, rng = every(lambda s: score(hill(s))), np.random.default_rng(1)
    told = [(one.setting, score(hill(one.setting) * rng.uniform(0.5, 2.0))) for one in pool[::20]]
    asked = []
    for _ in range(2):
        search = PredictedSearch(SPACE, 1, 12, pool)
        for row in told:
            search.tell(*row)
        asked.append(search.ask([]))
        search.ask([asked[-1]])
        assert search.ask([]) == asked[-1], "a question changes nothing"
    assert asked[0] == asked[1]


def test_it_ends_when_all_are_measured() -> None:
    pool = every(lambda s: score(hill(s)))[:3]
    search = PredictedSearch(SPACE, 1, 12, pool)
    for one in pool:
        search.tell(one.setting, one.score)
    with pytest.raises(PSOConvergenceError, match="all 3 predicted settings are measured"):
        search.ask([])


def test_where_no_result_keeps_the_slos_the_likeliest_is_asked_for() -> None:
    search = PredictedSearch(SPACE, 1, 12, every(lambda s: score(hill(s), (float(s.values["x"]) - 40.0) / 40.0)))
    search.tell(SPACE.default(), score(5.0, 0.5))
    assert float(search.ask([]).values["x"]) < 40


def test_the_model_is_to_learn_once_two_results_disagree() -> None:
    pool = every(lambda s: score(hill(s)))
    baseline, others = SPACE.default(), [one.setting for one in pool if one.setting.values["kind"] == "a"][1:9]

    def made(learned: list[Setting], off: float, slo: float = -0.5) -> PredictedSearch:
        search = PredictedSearch(SPACE, 1, 12, pool, learned=[one.key for one in learned])
        search.tell(baseline, score(hill(baseline) * off, slo))
        return search

    agreeing, wrong, late = made([baseline], 3.0), made([baseline], 3.0), made([baseline], 3.0)
    for one in others[:2]:
        assert not wrong.outdated, "one result may be chance"
        agreeing.tell(one, score(hill(one) * 1.05))
        wrong.tell(one, score(hill(one) * 1.4))
        late.tell(one, score(hill(one), 0.1))
    assert not agreeing.outdated, "the baseline is known to the model, and the others are near their predictions"
    assert wrong.outdated
    assert late.outdated, "an SLO that was predicted to be kept is broken"
    again = made([baseline, *others[:2]], 1.0)
    for number, one in enumerate(others[2:5]):
        assert not again.outdated, number
        again.tell(one, score(hill(one) * 1.4))
    assert again.outdated, "as many as it has learned from"


def test_settings_that_cannot_run_ask_for_no_other_model() -> None:
    pool = every(lambda s: score(hill(s)))
    search = PredictedSearch(SPACE, 1, 12, pool)
    for one in pool[:8]:
        search.tell(one.setting, Score.failed())
    assert not search.outdated
