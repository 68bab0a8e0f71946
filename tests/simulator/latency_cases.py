"""Made-up engines whose step times are known, and rows and models of them."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from swarmtune.simulator.latency.features import PREFILLS, Steps, piece_work
from swarmtune.simulator.latency.model import Identity, LatencyModel
from swarmtune.simulator.latency.rows import Rows
from swarmtune.simulator.latency.training import train

Floats = NDArray[np.float64]
IDENTITY = Identity(engine="vllm", version="0.32.0", model="m", tp=1, device="d", date="2026-11-27")


def steps(count: int, seed: int = 0, most_decodes: int = 64, most_prompt: int = 1024) -> Steps:
    """Steps of an engine that decodes and fills prompts at the same time; one in three has pieces of prompts."""
    rng = np.random.default_rng(seed)
    decodes = rng.integers(1, most_decodes + 1, count)
    context = decodes * rng.integers(16, 2000, count)
    prefills = np.where(rng.random(count) < 1 / 3, rng.integers(1, 4, count), 0)
    each = rng.integers(8, most_prompt // 3, count)
    work = prefills * piece_work(each, rng.integers(0, 500, count))
    return np.column_stack([decodes + prefills * each, decodes, context, work, prefills]).astype(float)


def seconds_of(rows: Steps, seed: int = 0, noise: float = 0.05, knee: float = 256.0) -> Floats:
    """What the engine takes: a roofline with a bend that hinges alone do not have, and noise around it."""
    tokens, decodes, context, work, prefills = rows.T
    exact = 4e-3 + 2e-5 * np.maximum(tokens, knee) + 5e-5 * decodes + 8e-8 * context + 3e-9 * work + 4e-4 * prefills
    exact = exact * np.where(decodes > 32, 1.15, 1.0)
    return exact * np.exp(np.random.default_rng(seed).normal(0, noise, len(rows)))


def measured(count: int, seed: int = 0, runs: int = 4, **kwargs: float) -> Rows:
    """The rows of some runs."""
    features = steps(count, seed, int(kwargs.pop("most_decodes", 64)))
    names = tuple(f"run {number}" for number in range(runs))
    return Rows(
        features,
        seconds_of(features, seed, **kwargs),
        np.arange(count) * runs // count,
        names,
        np.ones(count),
        np.arange(count),
    )


@functools.cache
def trained(count: int = 1500) -> LatencyModel:
    """A model of some steps of the engine."""
    return train(measured(count), IDENTITY)


def prompts(rows: Steps) -> NDArray[np.bool_]:
    """Which steps have pieces of prompts."""
    return np.asarray(rows[:, PREFILLS] > 0)
