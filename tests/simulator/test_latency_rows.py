"""Rows that nothing can be learned from are refused with row and reason, and near ones that can be are not."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from tests.simulator.latency_cases import measured

from swarmtune.errors import MOST_LISTED
from swarmtune.simulator.latency.features import CONTEXT, DECODES, FEATURES, PREFILL_WORK, PREFILLS, TOKENS
from swarmtune.simulator.latency.rows import Rows, accepted, joined


def changed(rows: Rows, index: int, seconds: float | None = None, **features: float) -> Rows:
    """The rows, one of them changed."""
    table, times = rows.features.copy(), rows.seconds.copy()
    for name, value in features.items():
        table[index, FEATURES.index(name)] = value
    if seconds is not None:
        times[index] = seconds
    return replace(rows, features=table, seconds=times)


ROWS = measured(400)
DECODING = int(np.flatnonzero(ROWS.features[:, PREFILLS] == 0)[0])
FILLING = int(np.flatnonzero(ROWS.features[:, PREFILLS] > 0)[0])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (changed(ROWS, 7, seconds=np.nan), "no number: seconds is nan"),
        (changed(ROWS, 7, context=np.inf), "no number: context is inf"),
        (changed(ROWS, 7, seconds=-1.0), "below 0: seconds is -1"),
        (changed(ROWS, 7, prefill_work=-1.0), "below 0: prefill_work is -1"),
        (changed(ROWS, 7, seconds=0.0), "no time"),
        (changed(ROWS, 7, tokens=0.0, decodes=0, context=0, prefill_work=0, prefills=0), "an empty step: 0 tokens"),
        (changed(ROWS, 7, decodes=ROWS.features[7, TOKENS] + 1, context=1e6), "contradict each other: .* tokens for"),
        (changed(ROWS, 7, context=ROWS.features[7, DECODES] - 1), "contradict each other: a context of"),
        (changed(ROWS, DECODING, prefill_work=5.0), "contradict each other: prefill work of 5 for 0"),
        (changed(ROWS, FILLING, prefill_work=0.0), "contradict each other: prefill work of 0"),
        (changed(ROWS, 7, seconds=1.5), "an idle gap: 1.5 s, where such a step takes 0.0"),
    ],
)
def test_one_row_is_refused(rows: Rows, reason: str) -> None:
    kept, refusals = accepted(rows)
    assert (len(kept), len(refusals)) == (399, 1)
    assert re.search(reason, refusals.listed[0]), refusals.listed
    assert refusals.listed[0].startswith("run 0, row ")


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        changed(ROWS, DECODING, tokens=4 * ROWS.features[DECODING, TOKENS]),  # tokens of drafts
        changed(ROWS, DECODING, context=ROWS.features[DECODING, DECODES]),  # the first token of each
        changed(ROWS, FILLING, tokens=1, decodes=0, context=0, prefill_work=0.5, prefills=1),  # the last of a prompt
        changed(ROWS, 7, seconds=5 * ROWS.seconds[7]),  # a stall is part of what a service does
        changed(ROWS, 7, seconds=ROWS.seconds[7] / 3),
    ],
)
def test_a_near_row_that_is_right_is_kept(rows: Rows) -> None:
    kept, refusals = accepted(rows)
    assert len(kept) == 400, refusals.listed
    assert not refusals.listed


@pytest.mark.parametrize("factor", [1e3, 1e6, 1e-4, 1e-6])
def test_another_unit_is_refused(factor: float) -> None:
    rows = replace(ROWS, seconds=ROWS.seconds * factor)
    kept, refusals = accepted(rows)
    assert not len(kept)
    assert set(refusals.reasons) == {"another unit"}
    assert "--unit" in refusals.listed[0]
    assert len(refusals.listed) == MOST_LISTED


def test_slow_steps_are_kept_where_the_unit_is_sure() -> None:
    slow = replace(ROWS, seconds=ROWS.seconds * 500)  # a large model on a small CPU
    assert not len(accepted(slow)[0])
    assert len(accepted(slow, unit_is_sure=True)[0]) == 400


def test_one_run_in_another_unit_leaves_the_others() -> None:
    seconds = np.where(ROWS.run == 2, ROWS.seconds * 1e3, ROWS.seconds)
    kept, refusals = accepted(replace(ROWS, seconds=seconds))
    assert set(kept.run.tolist()) == {0, 1, 3}
    assert refusals.reasons == {"another unit": 100}


def test_a_step_under_the_floor_is_refused_and_one_on_it_is_not() -> None:
    rows = changed(changed(ROWS, 7, seconds=0.004), 8, seconds=0.0039)
    kept, refusals = accepted(rows, floor_s=0.004)
    assert len(kept) == 399
    assert refusals.listed == ["run 0, row 8: below the floor: 0.0039 s; reading the weights takes 0.004 s"]


def test_swapped_columns_are_refused() -> None:
    features = ROWS.features.copy()
    features[:, [TOKENS, CONTEXT]] = features[:, [CONTEXT, TOKENS]]
    features[:, [PREFILL_WORK, DECODES]] = features[:, [DECODES, PREFILL_WORK]]
    kept, refusals = accepted(replace(ROWS, features=features))
    assert len(kept) < 40
    assert "columns that contradict each other" in refusals.text


def test_runs_of_one_name_stay_apart() -> None:
    both = joined([ROWS, ROWS])
    assert len(both) == 800
    assert both.runs == ROWS.runs * 2
    assert set(both.run[400:].tolist()) == {4, 5, 6, 7}
