"""A model finds the physics, sums right, says how sure it is, and forgets nothing when it learns more."""

from __future__ import annotations

import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.simulator.latency_cases import IDENTITY, measured, prompts, seconds_of, steps, trained

from swarmtune.errors import ConfigurationError, MissingExtraError
from swarmtune.simulator.latency import training
from swarmtune.simulator.latency.features import CONTEXT, DECODES, PREFILL_WORK, PREFILLS, TOKENS
from swarmtune.simulator.latency.file import fingerprint
from swarmtune.simulator.latency.model import Identity, LatencyModel
from swarmtune.simulator.latency.physics import columns_of, fit
from swarmtune.simulator.latency.rows import Rows, joined
from swarmtune.simulator.latency.sampling import MOST_KEPT, sample_of
from swarmtune.simulator.latency.tables import CostTables
from swarmtune.simulator.latency.training import (
    VALUES,
    bars_of,
    falls_of,
    fitted_to,
    folds_of,
    quantile,
    tick_of,
    train,
)

NONE = np.empty(0)


def off(model: LatencyModel, rows: Rows) -> float:
    """Mean relative error of the typical time."""
    return float(np.mean(np.abs(model.predict(rows.features)[0] / rows.seconds - 1)))


def test_unseen_steps_are_predicted() -> None:
    model, new = trained(), measured(2000, seed=9)
    typical, mean, low, high = model.predict(new.features)
    assert off(model, new) < 0.06  # the noise itself is 4 %
    assert abs(mean.sum() / new.seconds.sum() - 1) < 0.01
    assert 0.85 < np.mean((low <= new.seconds) & (new.seconds <= high)) < 0.95
    assert (low < typical).all()
    assert (typical < high).all()


def test_the_residual_learns_what_physics_has_no_term_for() -> None:
    report = trained().report
    assert set(report.residual) == {"mean", "typical"}
    assert report.both.mape < 0.95 * report.physics.mape  # and 0.04 is noise
    assert report.validation == "4 runs, each held out once, in 4 folds"


def test_a_careful_residual_is_used_where_it_is_as_good() -> None:
    rows = measured(800)
    physics = fitted_to(rows, [("mean", "physics")]).tables["mean", "physics"]
    exact = physics.physics_of(rows.features) * np.where(rows.features[:, DECODES] > 32, 1.3, 1.0)
    report = train(replace(rows, seconds=exact), IDENTITY).report
    assert report.residual["mean"] != "physics"
    assert report.both.mape < 0.3 * report.physics.mape


def test_falls_are_told_where_more_work_takes_less_time() -> None:
    cuts = tuple(np.array([0.0, 100.0, 1e6]) for _ in range(5))
    rows, domain = np.full((1, 5), 60.0), np.array([[0.0] * 5, [1e6] * 5])
    for factor, falls in ((0.9, 0.1), (1.1, 0.0)):
        table = np.array([[1.0], [1.0], [factor], [1.0]])
        tables = CostTables(np.array([1.0, 0, 0, 0, 0, 0]), NONE, cuts, ((0, 0, table),))
        assert falls_of(tables, rows, domain) == pytest.approx(falls)


def test_the_mean_is_the_mean_where_noise_is_lopsided() -> None:
    rows = measured(1500, noise=0.05)
    stalls = np.where(np.random.default_rng(1).random(1500) < 0.05, 5.0, 1.0)
    rows = replace(rows, seconds=rows.seconds * stalls)
    model = train(rows, IDENTITY)
    typical, mean, _, _ = model.predict(rows.features)
    assert mean.sum() == pytest.approx(rows.seconds.sum(), rel=1e-6)
    assert typical.sum() < 0.9 * mean.sum()
    usual = stalls == 1
    assert np.mean(np.abs(typical[usual] / rows.seconds[usual] - 1)) < 0.07


def test_physics_is_found_where_it_is_linear() -> None:
    rows = steps(3000)
    weights = np.array([4e-3, 1e-5, 5e-5, 8e-8, 3e-9, 4e-4])
    for value in ("typical", "mean"):
        found = fit(rows, columns_of(rows, NONE) @ weights, np.ones(3000), NONE, value)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, weights, rtol=1e-3)


@pytest.mark.parametrize("column", range(5))
def test_a_column_that_never_differs_is_borne(column: int) -> None:
    rows = steps(300)
    seconds = seconds_of(rows)
    rows[:, column] = rows[0, column]
    for value in ("typical", "mean"):
        weights = fit(rows, seconds, np.ones(300), NONE, value)  # type: ignore[arg-type]
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()
        assert np.median(np.abs(columns_of(rows, NONE) @ weights / seconds - 1)) < 0.5


def test_steps_that_are_all_alike_are_borne() -> None:
    rows = measured(40, runs=1)
    model = train(replace(rows, features=np.repeat(rows.features[:1], 40, axis=0), seconds=np.full(40, 0.01)), IDENTITY)
    assert model.predict(rows.features[:1])[0][0] == pytest.approx(0.01, rel=1e-3)


def test_beyond_the_domain_only_physics_is_left_and_the_bars_are_wider() -> None:
    model = trained()
    inside = steps(200, 5)
    inside = inside[model.within(inside)]
    beyond = (inside + 1) * 10_000
    assert not model.within(beyond).any()
    for tables in (model.typical, model.mean):
        np.testing.assert_array_equal(tables.seconds_of(beyond), tables.physics_of(beyond))
        assert (tables.seconds_of(inside) != tables.physics_of(inside)).any()
        kept = replace(tables, pairs=tuple(p for p in tables.pairs if DECODES not in p[:2]))
        half = np.where(np.arange(5) == DECODES, beyond, inside)
        np.testing.assert_array_equal(tables.seconds_of(half), kept.seconds_of(half))
    widths = [np.log(high / low) for _, _, low, high in (model.predict(inside), model.predict(beyond))]
    assert widths[1].min() > widths[0].max()


def test_one_feature_beyond_the_domain_takes_its_factors_away() -> None:
    model = trained()
    row = steps(1, 3)
    assert model.within(row).all()
    row[0, DECODES] = model.domain[1, DECODES] + 1
    row[0, TOKENS] += row[0, DECODES]
    assert not model.within(row).any()
    _, _, low, high = model.predict(row)
    assert high[0] / low[0] == pytest.approx(model.bars.outside[1] / model.bars.outside[0])


def test_a_load_that_was_never_measured_follows_physics() -> None:
    light = measured(1000, most_decodes=24)
    heavy = measured(1000, seed=7)
    model = train(light, IDENTITY)
    heavy = heavy.take(np.flatnonzero(heavy.features[:, DECODES] > 40))
    typical, _, low, high = model.predict(heavy.features)
    assert np.mean(np.abs(typical / heavy.seconds - 1)) < 0.15  # of a bend that nobody could know
    assert np.mean((low <= heavy.seconds) & (heavy.seconds <= high)) > 0.85


def test_runs_are_never_divided() -> None:
    fold, told = folds_of(measured(1000, runs=9))
    run = measured(1000, runs=9).run
    assert all(len(set(fold[run == number])) == 1 for number in range(9))
    assert set(fold) == set(range(5))
    assert told == "9 runs, each held out once, in 5 folds"


@pytest.mark.parametrize("few", [0, 3])
def test_one_run_is_divided_into_blocks_and_the_report_says_so(few: int) -> None:
    rows = measured(1000, runs=1)
    rows = replace(rows, run=np.where(np.arange(1000) < few, 1, 0), runs=("a", "b"))
    fold, told = folds_of(rows)
    assert (np.diff(fold) >= 0).all()
    assert told.startswith("one run only: 5 blocks")


@pytest.mark.parametrize("count", [1, 19])
def test_too_few_steps_are_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match=f"^{count} steps are too few"):
        train(measured(count, runs=1), IDENTITY)


def test_twenty_steps_are_enough() -> None:
    model = train(measured(20, runs=1), IDENTITY)
    assert model.report.residual == {}
    assert off(model, measured(500, seed=3)) < 0.5


def test_the_same_rows_give_the_same_model() -> None:
    first = fingerprint(train(measured(150), IDENTITY))
    assert first == fingerprint(train(measured(150), IDENTITY)) != fingerprint(trained())


def test_without_xgboost_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'swarmtune\[simulate\]'"):
        train(measured(200), IDENTITY)


def test_an_update_learns_the_new_and_forgets_nothing() -> None:
    light, heavy = measured(1000, most_decodes=16), measured(2500, seed=2)
    heavy = heavy.take(np.flatnonzero(heavy.features[:, DECODES] > 32))
    first = train(light, IDENTITY)
    second = train(heavy, IDENTITY, earlier=first)
    alone = train(heavy, IDENTITY)
    assert off(second, heavy) < 1.1 * off(alone, heavy)
    assert off(second, light) < 1.15 * off(first, light)
    assert off(first, heavy) > 1.3 * off(second, heavy)
    assert (second.domain[0] <= first.domain[0]).all()
    assert (second.domain[1] >= first.domain[1]).all()
    assert len(second.sample) == len(light) + len(heavy) < MOST_KEPT


def test_many_updates_keep_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "sample_of", lambda rows, most=400: sample_of(rows, min(most, 400)))
    model = train(measured(400, most_decodes=16), IDENTITY)
    for seed in range(1, 4):
        model = train(measured(400, seed=seed, most_decodes=64), IDENTITY, earlier=model)
    light = measured(1000, seed=20, most_decodes=16)
    assert off(model, light) < 0.08
    assert len(model.sample) == 400


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"engine": "sglang"}, "engine vllm and sglang"),
        ({"tp": 2}, "tp 1 and 2"),
        ({"version": "0.33.0"}, "version 0.32.0 and 0.33.0"),
        ({"model": "other"}, "model m and other"),
    ],
)
def test_rows_of_something_else_do_not_update_a_model(change: dict[str, object], told: str) -> None:
    other = msgspec.structs.replace(IDENTITY, **change)
    with pytest.raises(ConfigurationError, match=told):
        train(measured(200), other, earlier=trained())


def test_what_is_not_known_does_not_contradict() -> None:
    model = train(measured(99, seed=4), Identity(engine="vllm", kv_dtype="fp8"), earlier=train(measured(99), IDENTITY))
    assert (model.identity.model, model.identity.tp, model.identity.kv_dtype) == ("m", 1, "fp8")


def test_a_calibrated_model_is_not_updated() -> None:
    with pytest.raises(ConfigurationError, match="was calibrated"):
        train(measured(200), IDENTITY, earlier=trained().scaled({"kv": 1.1}))


def test_scaling_multiplies_a_group_of_terms() -> None:
    model = trained()
    decoding = steps(50, 3)
    decoding = decoding[~prompts(decoding)]
    more = model.scaled({"kv": 2.0}).scaled({"kv": 1.5})
    for before, after in ((model.typical, more.typical), (model.mean, more.mean)):
        np.testing.assert_allclose(after.weights[1 + CONTEXT], 3 * before.weights[1 + CONTEXT])
        np.testing.assert_array_equal(np.delete(after.weights, 1 + CONTEXT), np.delete(before.weights, 1 + CONTEXT))
    assert more.multipliers["kv"] == 3.0
    all_of_it = model.scaled(dict.fromkeys(("weights", "tokens", "attention", "kv", "requests"), 1.25))
    np.testing.assert_allclose(all_of_it.mean.seconds_of(decoding), 1.25 * model.mean.seconds_of(decoding))


@pytest.mark.parametrize(("multipliers", "told"), [({"gpu": 1.0}, "no such group"), ({"kv": 0.0}, "above 0")])
def test_what_cannot_scale(multipliers: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        trained().scaled(multipliers)


def test_a_sample_keeps_the_rare_the_ends_and_the_sum() -> None:
    usual, rare = measured(20_000, most_decodes=8), measured(50, seed=1, most_decodes=64)
    rare = rare.take(np.flatnonzero(rare.features[:, DECODES] > 32))
    rows = joined([usual, rare])
    kept = sample_of(rows, 1000)
    assert len(kept) == 1000
    assert kept.counts.sum() == pytest.approx(len(rows))
    assert (kept.features[:, DECODES] > 32).sum() > len(rare) / 2  # by chance it were one
    np.testing.assert_array_equal(kept.features.max(axis=0), rows.features.max(axis=0))
    np.testing.assert_array_equal(kept.features.min(axis=0), rows.features.min(axis=0))
    assert np.average(kept.seconds, weights=kept.counts) == pytest.approx(rows.seconds.mean(), rel=0.1)


def test_a_coarse_clock_widens_the_bars_and_a_fine_one_does_not() -> None:
    rows = measured(2000, noise=0.01)
    coarse = np.maximum(np.round(rows.seconds, 3), 1e-3)
    assert tick_of(coarse) == pytest.approx(1e-3)
    assert tick_of(rows.seconds) == 0.0
    assert tick_of(np.array([0.01, 0.02])) == 0.0
    typical = seconds_of(rows.features, noise=0.0)
    bars = bars_of(replace(rows, seconds=coarse), typical, np.ones(2000, bool))
    low, high = (typical[:, None] * bars.of(rows.features, typical, np.ones(2000, bool))).T
    assert np.mean((low <= rows.seconds) & (rows.seconds <= high)) > 0.88


def test_a_weighted_quantile() -> None:
    values, counts = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 8.0])
    assert [quantile(values, counts, level) for level in (0.0, 0.1, 0.5, 0.9, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]


def test_steps_that_only_decode_teach_nothing_of_prompts() -> None:
    """One request at a time, and no piece of a prompt in any step: rounding must make no weight of nothing."""
    count, nothing = 400, np.zeros(400)
    for seed in range(32):
        rng = np.random.default_rng(seed)
        context = rng.integers(8, 946, count).astype(float)
        rows = np.column_stack([np.ones(count), np.ones(count), context, nothing, nothing])
        seconds = (0.0186 + 1e-6 * context) * np.exp(rng.normal(0, 0.05, count))
        for value in VALUES:
            weights = fit(rows, seconds, np.ones(count), np.empty(0), value)
            assert weights[1 + PREFILL_WORK] == weights[1 + PREFILLS] == 0, seed
            assert weights.max() < 0.05
