"""A bounded sample of measured steps that keeps the rare ones, for a model file that is updated later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from swarmtune.simulator.latency.features import CONTEXT, DECODES, PREFILLS, TOKENS
from swarmtune.simulator.latency.rows import Rows, joined

MOST_KEPT = 4000


def sample_of(rows: Rows, most: int = MOST_KEPT) -> Rows:
    """At most ``most`` of the rows: equally many, as far as they go, of each run and size of step (powers of two), and the
    ends of each feature. ``counts`` tell how many steps each stands for; their sum stays.
    """
    if len(rows) <= most:
        return rows
    sizes = np.log2(1 + rows.features[:, [TOKENS, DECODES, CONTEXT, PREFILLS]]).astype(np.int64)
    _, cell = np.unique(np.column_stack([rows.run, sizes]), axis=0, return_inverse=True)
    drawn = np.random.default_rng(0).permutation(len(rows))
    order = drawn[np.argsort(cell[drawn], kind="stable")]  # by cell, in random order within
    starts = np.searchsorted(cell[order], np.arange(cell.max() + 1))
    turn = np.empty(len(rows), np.int64)
    turn[order] = np.arange(len(rows)) - starts[cell[order]]
    turn[np.concatenate([rows.features.argmin(axis=0), rows.features.argmax(axis=0)])] = -1
    kept = np.sort(np.argsort(turn, kind="stable")[:most])
    stands_for = np.bincount(cell, rows.counts)
    in_sample = np.bincount(cell[kept], rows.counts[kept], minlength=stands_for.size)
    taken = rows.take(kept)
    counts = taken.counts * (stands_for[cell[kept]] / in_sample[cell[kept]])
    return replace(taken, counts=counts * (rows.counts.sum() / counts.sum()))


def together(old: Rows, new: Rows) -> Rows:
    """The rows of a model and new ones; the old ones count at least as much as the new, however few were kept."""
    share = max(1.0, new.counts.sum() / old.counts.sum())
    return joined([replace(old, counts=old.counts * share), new])
