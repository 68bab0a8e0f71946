"""Rows and dicts become settings with everything that follows from them."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from swarmtune.engines.target_field import TargetField
from swarmtune.errors import ConfigValidationError
from swarmtune.fleet.particle_values import ParticleResult, ParticleResults, decode, space_of
from swarmtune.fleet.pool import PoolCounts
from swarmtune.fleet.progress import Progress
from swarmtune.space import Field

FIELDS: list[Field | TargetField | dict[str, Any]] = [
    Field("batch", min=10, max=1000),
    Field("prefill", min=0.1, max=0.7, dtype="ratio", dtype_param="batch"),
    TargetField(name="tp", dtype="enum", dtype_param=[1, 2, 4, 8, 16], value=1),
    {"name": "dp", "dtype": "factories", "dtype_param": {"target_name": "tp", "product": 16}},
    Field("select", dtype="bool", min=0, max=1),
    Field("wait", dtype="range", min=0, max=1000, dtype_param=10),
    Field("policy", dtype="enum", dtype_param=["fcfs", "lof"], min=0, max=1),
    Field("fixed", min=5, max=5),
]
WHOLE = {
    "batch": 200,
    "prefill": 50,
    "tp": 4,
    "dp": 4,
    "select": True,
    "wait": 120,
    "policy": "lof",
    "fixed": 5,
}


def test_rows_of_all_fields_and_of_the_searched_ones_and_dicts_say_the_same() -> None:
    space = space_of(FIELDS)
    full = np.array([[200.2, 0.253, 0.5, 99.0, 0.8, 123.0, 1.0, 0.0]])
    searched = [[200.2, 0.253, 0.5, 0.8, 123.0, 1.0]]
    named = [{"batch": 200, "prefill": 50, "tp": 4, "select": True, "wait": 120, "policy": "lof"}]
    for particles in (full, searched, named, [WHOLE]):
        (setting,) = decode(space, particles)
        assert dict(setting.values) == WHOLE
        assert type(setting.values["batch"]) is int


def test_places_share_the_values_equally_and_bounds_hold() -> None:
    space = space_of([Field("tp", dtype="enum", dtype_param=[1, 2, 4]), Field("n", min=1, max=9)])
    settings = decode(space, [[0.0, -5], [0.34, 3.4], [0.99, 100]])
    assert [(s.values["tp"], s.values["n"]) for s in settings] == [(1, 1), (2, 3), (4, 9)]


def test_all_wrong_particles_are_named() -> None:
    space = space_of([Field("n", min=1, max=9), Field("tp", dtype="enum", dtype_param=[1, 2, 4])])
    with pytest.raises(ConfigValidationError) as caught:
        decode(space, [[1, 0.5], [1, 2, 3], [float("nan"), 0], [1, 4], {"m": 3}, {"n": 10}, [1, "x"]])
    assert caught.value.mistakes == [
        "particle 1: a row of 2 numbers (all fields) or 2 (the searched ones) is needed, not shape (3,)",
        "particle 2: not a finite number: n",
        "particle 3: tp = 4 is not between 0 and 1; give values by name: {'tp': ...}",
        "particle 4: 'm' is not a field; fields: n, tp",
        "particle 5: n = 10 is outside its range",
        "particle 6: could not convert string to float: 'x'",
    ]


def test_results_are_costs_and_more() -> None:
    values = [{"max_batch_size": size, "tp": 2, "cost": 9, "real": 7} for size in (8, 16, 32)]
    costs = (3.0, 1.5, math.inf)
    results = ParticleResults(
        ParticleResult(cost, v, "a", 1.0, 1, "it failed" if cost == math.inf else None)
        for cost, v in zip(costs, values, strict=True)
    )
    assert np.asarray(results, dtype=float).tolist() == list(costs)
    assert np.asarray(results).dtype == float
    assert (min(results), np.min(results), results.min(), float(results[1])) == (1.5,) * 4
    assert (np.argmin(results), results.argmin(), int(np.argsort(results)[0]), results.shape) == (1, 1, 1, (3,))
    assert np.isinf(results).tolist() == [False, False, True]
    assert (results < np.array([3.0, 2.0, 5.0])).tolist() == [False, True, False]
    assert (results[0].cost, results[0].max_batch_size, results[0].tp, results[0].values["cost"]) == (3.0, 8, 2, 9)
    assert f"{results[0]:.2f}" == "3.00"
    for copied in (copy.deepcopy(results[2]), pickle.loads(pickle.dumps(results[2])), replace(results[2], attempts=2)):
        assert (float(copied), copied.failure, copied.max_batch_size) == (math.inf, "it failed", 32)
    with pytest.raises(AttributeError, match="no attribute 'max_num_seqs'; the fields are: max_batch_size, tp, cost"):
        _ = results[0].max_num_seqs


def test_wrong_fields_are_told() -> None:
    with pytest.raises(ConfigValidationError, match=r"target_field 0: .*nme"):
        space_of([{"nme": "x"}])
    with pytest.raises(ConfigValidationError, match="given more than once"):
        space_of([Field("x", min=1, max=2), Field("x", min=1, max=2)])


def test_progress_knows_when_it_will_be_over() -> None:
    progress = Progress(total=10)
    assert (progress.facts(PoolCounts(4, 0, 0, 0))["average_s"], progress.facts(PoolCounts(4, 0, 0, 0))["eta_s"]) == (
        None,
        None,
    )
    progress.add(10.0, failed=False)
    progress.add(20.0, failed=True)
    facts = progress.facts(PoolCounts(healthy=4, busy=4, open=1, gone=2))
    assert facts == {
        "evaluated": 2,
        "failed": 1,
        "total": 10,
        "average_s": 15.0,
        "eta_s": 30.0,  # 8 particles of 15 s on 4 groups
        "healthy_groups": 4,
        "busy_groups": 4,
        "open_groups": 1,
        "gone_groups": 2,
    }
    assert progress.facts(PoolCounts(0, 0, 5, 0))["eta_s"] is None
