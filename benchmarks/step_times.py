"""The model of step times beside plain XGBoost, on the measured iterations of LLM-Pilot (TGIS; A100 and H100).

    SWARMTUNE_DATA=DIR python benchmarks/step_times.py [--seeds 3] [--json FILE]

Four pairs of model and GPU. For each pair and seed, three tasks: 80 % of 7,000 iterations are learned and the other 20 %
predicted ("inside"); 200 are learned and 6,800 predicted; those at 16 users or fewer are learned and those at 32 to 128
users predicted ("load beyond"). A run is what was measured at one number of users. The typical time is judged by its mean
absolute relative error (MAPE), the mean time by the bias of its sum; XGBoost has one prediction for both, from the same
five features. Intervals are nominal 90 %: the model's own, and split conformal around XGBoost (a quarter of the rows kept
to calibrate).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet  # type: ignore[import-untyped]
import xgboost
from numpy.typing import NDArray

from swarmtune.simulator.latency.features import Steps
from swarmtune.simulator.latency.model import Identity
from swarmtune.simulator.latency.rows import Rows
from swarmtune.simulator.latency.training import train

Floats = NDArray[np.float64]
DATA = Path(os.environ.get("SWARMTUNE_DATA") or Path(__file__).parents[2] / "shared" / "data")
ITERATIONS = "llmpilot/iterations_reconstructed_4of6.parquet"
PER_PAIR, FEW = 7000, 200
KNOWN_USERS = 16
GOALS = {"inside": (8.5, 3.0), "200 rows": (10.0, 5.0), "load beyond": (25.0, 15.0)}  # MAPE and bias, %
COVERED = 0.9
Predicted = tuple[Floats, Floats, Floats, Floats]  # typical, mean, low, high


def pairs() -> Iterator[tuple[str, Rows]]:
    """The iterations of each pair of model and GPU, a run for each number of users."""
    table = parquet.read_table(DATA / ITERATIONS).to_pydict()
    names = np.array(table["combo"])
    column = {name: np.array(table[name], float) for name in ("dt", "n_new", "P", "P2", "n_dec", "ctx", "users")}
    context = np.maximum(column["ctx"], column["n_dec"])
    features = np.column_stack(
        [column["P"] + column["n_dec"], column["n_dec"], context, column["P2"] / 2, column["n_new"]]
    )
    for name in sorted(set(names)):
        here = np.flatnonzero(names == name)
        users, run = np.unique(column["users"][here], return_inverse=True)
        runs = tuple(f"{count:g}" for count in users)
        yield name, Rows(features[here], column["dt"][here] / 1e3, run, runs, np.ones(here.size), here)


def tasks(rows: Rows, seed: int) -> Iterator[tuple[str, Rows, Rows]]:
    """What is learned and what is predicted, of one pair."""
    drawn = np.random.default_rng(seed).permutation(len(rows))
    some = drawn[:PER_PAIR]
    bound = len(some) * 4 // 5
    users = np.array([float(run) for run in rows.runs])[rows.run[drawn]]
    yield "inside", rows.take(np.sort(some[:bound])), rows.take(some[bound:])
    yield "200 rows", rows.take(np.sort(some[:FEW])), rows.take(some[FEW:])
    known, beyond = drawn[users <= KNOWN_USERS][:PER_PAIR], drawn[users > KNOWN_USERS][:PER_PAIR]
    yield "load beyond", rows.take(np.sort(known)), rows.take(beyond)


def ours(learned: Rows, steps: Steps) -> Predicted:
    """The model as `swarmtune train` makes it."""
    return train(learned, Identity(engine="tgis")).predict(steps)


def plain(rounds: int) -> Callable[[Rows, Steps], Predicted]:
    """XGBoost on the times themselves, with the interval of split conformal."""

    def predict(learned: Rows, steps: Steps) -> Predicted:
        mean = _boosted(learned, rounds).predict(xgboost.DMatrix(steps))
        mixed = np.random.default_rng(0).permutation(len(learned))
        quarter = len(learned) // 4
        kept = learned.take(mixed[:quarter])
        split = _boosted(learned.take(mixed[quarter:]), rounds)
        off = np.abs(kept.seconds / split.predict(xgboost.DMatrix(kept.features)) - 1)
        width = np.quantile(off, min(1.0, COVERED * (quarter + 1) / quarter), method="higher")
        centre = split.predict(xgboost.DMatrix(steps))
        return mean, mean, centre * (1 - width), centre * (1 + width)

    return predict


def _boosted(rows: Rows, rounds: int) -> Any:
    return xgboost.train({"nthread": 1}, xgboost.DMatrix(rows.features, label=rows.seconds), rounds)


def judged(predicted: Predicted, seconds: Floats) -> list[float]:
    """In %: MAPE of the typical and of the mean time, bias of the sum of the mean, coverage, median half-width."""
    typical, mean, low, high = predicted
    off = [float(np.mean(np.abs(value / seconds - 1))) for value in (typical, mean)]
    bias = float(mean.sum() / seconds.sum() - 1)
    covered = float(np.mean((low <= seconds) & (seconds <= high)))
    return [100 * value for value in (*off, bias, covered, float(np.median((high - low) / 2 / typical)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (DATA / ITERATIONS).is_file():
        raise SystemExit(f"{DATA / ITERATIONS} is not there; SWARMTUNE_DATA names the folder of measured data")
    models = {"XGBoost, 10 rounds": plain(10), "XGBoost, 200 rounds": plain(200), "swarmtune": ours}
    found: dict[tuple[str, str], list[tuple[str, list[float]]]] = {}
    began = time.monotonic()
    for pair, rows in pairs():
        for seed in range(arguments.seeds):
            for task, learned, judge in tasks(rows, seed):
                for name, predict in models.items():
                    values = judged(predict(learned, judge.features), judge.seconds)
                    found.setdefault((task, name), []).append((pair, values))
    print("| task | model | MAPE typical | MAPE mean | bias of the sum | covered, by pair | half-width | goals |")
    print("|---|---|---|---|---|---|---|---|")
    for (task, name), results in found.items():
        typical, mean, _, covered, half = np.mean([values for _, values in results], axis=0)
        bias = np.mean([abs(values[2]) for _, values in results])
        by_pair = [np.mean([v[3] for p, v in results if p == pair]) for pair in dict.fromkeys(p for p, _ in results)]
        goal = f"{GOALS[task][0]:g} / {GOALS[task][1]:g}" if name == "swarmtune" else ""
        print(
            f"| {task} | {name} | {typical:.1f} % | {mean:.1f} % | {bias:.1f} % "
            f"| {covered:.1f} % ({min(by_pair):.1f}-{max(by_pair):.1f}) | {half:.1f} % | {goal} |"
        )
    print(f"\n{arguments.seeds} seeds, {time.monotonic() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({f"{task}: {name}": r for (task, name), r in found.items()}, indent=1))


if __name__ == "__main__":
    main()
