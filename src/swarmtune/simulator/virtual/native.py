"""A replica in C (native.c), loaded by ctypes. It is built when the package is installed and a C compiler is there."""

from __future__ import annotations

import ctypes
import functools
import math
from array import array
from collections.abc import Sequence
from ctypes import POINTER, byref, c_double, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.scheduling import Rules
from swarmtune.simulator.latency.tables import CostTables
from swarmtune.simulator.virtual.requests import STEP, Answers, Reason, Requests

LIBRARY = Path(__file__).with_name("_native.so")
VERSION = 1  # of native.c
NO_MEMORY = 4


class _Rules(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in (
            "max_num_seqs", "max_num_batched_tokens", "blocks", "block_size", "max_model_len", "threshold", "kept_free",
            "batches", "rest", "pipeline",
        )),
        *((name, c_int32) for name in (
            "chunked_prefill", "prefix_caching", "by_priority", "adaptive_threshold", "whole_prompt", "asynchronous",
            "recent_first", "skip_self", "lone_threshold", "shift_always",
        )),
    )  # fmt: skip


class _Pair(ctypes.Structure):
    _fields_ = (("first", c_int32), ("second", c_int32), ("factors", c_void_p))


class _Cost(ctypes.Structure):
    _fields_ = (
        ("hinges", c_int32),
        ("pairs", c_int32),
        ("weights", c_void_p),
        ("knots", c_void_p),
        ("cut_counts", c_int32 * 5),
        ("padding", c_int32),
        ("cuts", c_void_p * 5),
        ("pair", c_void_p),
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if library.sim_version() != VERSION:
            return None
    except (OSError, AttributeError):  # not built: no compiler, another system, or from an older source
        return None
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "sim_new": (c_void_p, [POINTER(_Rules), POINTER(_Cost), c_int32, c_int32, c_int32]),
        "sim_free": (None, [c_void_p]),
        "sim_add": (c_int32, [c_void_p, c_int32, *[c_void_p] * 6, c_int64]),
        "sim_remove": (None, [c_void_p, c_int32]),
        "sim_run": (c_int32, [c_void_p, c_double, c_int32]),
        "sim_now": (c_double, [c_void_p]),
        "sim_next": (c_double, [c_void_p]),
        "sim_busy": (c_double, [c_void_p]),
        "sim_preemptions": (c_int64, [c_void_p]),
        "sim_in_engine": (c_int32, [c_void_p]),
        "sim_blocks_used": (c_int64, [c_void_p]),
        "sim_ended": (c_void_p, [c_void_p, POINTER(c_int32)]),
        "sim_rows": (c_void_p, [c_void_p, POINTER(c_int64)]),
        "sim_log": (c_void_p, [c_void_p, POINTER(c_int64)]),
        "sim_stamps": (c_void_p, [c_void_p, POINTER(c_int64)]),
        "sim_requests": (None, [c_void_p, c_int32, c_int32, *[c_void_p] * 4]),
        "sim_seconds": (c_double, [POINTER(_Cost), POINTER(c_double)]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def available() -> bool:
    """Was native.c compiled for this machine?"""
    return _library() is not None


class NativeReplica:
    """``PlainReplica``, with the same bytes. RuntimeError where it was not compiled (``available``)."""

    def __init__(
        self, rules: Rules, cost: CostTables, *, rows: bool = False, work: bool = False, firsts: bool = False
    ) -> None:
        self._state = None
        library = _library()
        if library is None:
            raise RuntimeError(f"{LIBRARY.name} was not built")
        self._library = library
        self._cost, self._kept = _cost_of(cost)
        self._outputs = array("q")
        self._state = library.sim_new(byref(_rules_of(rules)), byref(self._cost), rows, work, firsts)
        if not self._state:
            raise MemoryError(f"no memory for {rules.blocks} KV blocks")

    def __del__(self) -> None:
        if self._state:
            self._library.sim_free(self._state)

    @property
    def now(self) -> float:
        """Seconds."""
        return float(self._library.sim_now(self._state))

    @property
    def next(self) -> float:
        """When something happens next, s; infinity: nothing will."""
        return float(self._library.sim_next(self._state))

    @property
    def busy(self) -> float:
        """Seconds in which the device computed."""
        return float(self._library.sim_busy(self._state))

    @property
    def preemptions(self) -> int:
        """Requests that had to give way."""
        return int(self._library.sim_preemptions(self._state))

    @property
    def in_engine(self) -> int:
        """Requests that run or wait."""
        return int(self._library.sim_in_engine(self._state))

    @property
    def blocks_used(self) -> int:
        """KV blocks."""
        return int(self._library.sim_blocks_used(self._state))

    @property
    def rows(self) -> NDArray[np.void]:
        """The steps (STEP), if they are kept."""
        return self._array("sim_rows", STEP)

    @property
    def work(self) -> list[dict[int, int]]:
        """Of each step, how many tokens of which request, if that is kept."""
        log, steps, at = self._array("sim_log", np.dtype(np.int64)).tolist(), [], 0
        while at < len(log):
            end = at + 1 + 2 * log[at]
            steps.append(dict(zip(log[at + 1 : end : 2], log[at + 2 : end : 2], strict=True)))
            at = end
        return steps

    def add(self, requests: Requests) -> int:
        """These arrive later, none before one that was added already; the number of the first."""
        columns = (
            requests.arrival, requests.prompt, requests.output, requests.priority, requests.ends, requests.contents,
        )  # fmt: skip
        pointers = [column.ctypes.data for column in columns]
        first = self._library.sim_add(self._state, len(requests), *pointers, requests.kinds)
        if first < 0:
            raise MemoryError(f"no memory for {len(requests)} requests")
        self._outputs.extend(requests.output.tolist())
        return int(first)

    def add_one(self, arrival: float, prompt: int, output: int, contents: Sequence[int] = (), priority: int = 0) -> int:
        """One request; its number."""
        count = len(contents)
        first = self._library.sim_add(
            self._state, 1, byref(c_double(arrival)), byref(c_int64(prompt)), byref(c_int64(output)),
            byref(c_int32(priority)), byref(c_int64(count)), (c_int64 * count)(*contents), max(contents, default=-1) + 1,
        )  # fmt: skip
        if first < 0:
            raise MemoryError("no memory for a request")
        self._outputs.append(output)
        return int(first)

    def remove(self, number: int) -> None:
        """The client of this request has gone."""
        self._library.sim_remove(self._state, number)

    def ended(self) -> list[int]:
        """See ``PlainReplica``."""
        count = c_int32()
        address = self._library.sim_ended(self._state, byref(count))
        return (c_int32 * count.value).from_address(address)[:] if count.value else []

    def run(self, limit: float = math.inf, *, stop: bool = False) -> Reason:
        """As ``PlainReplica.run``; other threads run meanwhile."""
        reason = self._library.sim_run(self._state, limit, stop)
        if reason == NO_MEMORY:
            raise MemoryError("no memory for the simulation")
        return Reason(reason)

    def answers(self, first: int = 0) -> Answers:
        """What became of the requests from this number on."""
        count = len(self._outputs) - first
        scheduled, preemptions = np.empty(count, np.float64), np.empty(count, np.int32)
        generated, cached = np.empty(count, np.int64), np.empty(count, np.int64)
        pointers = [column.ctypes.data for column in (scheduled, generated, cached, preemptions)]
        self._library.sim_requests(self._state, first, count, *pointers)
        outputs = np.array(self._outputs, np.int64)
        skipped = int(outputs[:first].sum())
        outputs = outputs[first:]
        stamps = self._array("sim_stamps", np.dtype(np.int64))[skipped:]
        return Answers(scheduled, generated, cached, preemptions, np.cumsum(outputs) - outputs, stamps)

    def _array(self, function: str, kind: np.dtype[Any]) -> NDArray[Any]:
        """A copy of what the library holds."""
        count = c_int64()
        address = getattr(self._library, function)(self._state, byref(count))
        if not count.value:
            return np.zeros(0, kind)
        return np.frombuffer(ctypes.string_at(address, count.value * kind.itemsize), kind).copy()


def seconds(cost: CostTables, row: tuple[float, ...]) -> float:
    """``cost.seconds`` in C."""
    library = _library()
    if library is None:
        raise RuntimeError(f"{LIBRARY.name} was not built")
    made, kept = _cost_of(cost)
    found = float(library.sim_seconds(byref(made), (c_double * 5)(*row)))
    del kept
    return found


def _rules_of(rules: Rules) -> _Rules:
    version = rules.version
    return _Rules(
        max_num_seqs=rules.max_num_seqs,
        max_num_batched_tokens=rules.max_num_batched_tokens,
        blocks=rules.blocks,
        block_size=rules.block_size,
        max_model_len=-1 if rules.max_model_len is None else rules.max_model_len,
        threshold=rules.long_prefill_token_threshold,
        kept_free=rules.blocks_kept_free,
        batches=rules.batches,
        rest=rules.rest,
        pipeline=rules.pipeline,
        chunked_prefill=rules.chunked_prefill,
        prefix_caching=rules.prefix_caching,
        by_priority=rules.by_priority,
        adaptive_threshold=rules.adaptive_threshold,
        whole_prompt=rules.whole_prompt,
        asynchronous=rules.asynchronous,
        recent_first=version >= (0, 30),
        skip_self=version >= (0, 33),
        lone_threshold=version >= (0, 31),
        shift_always=version >= (0, 30),
    )


def _cost_of(cost: CostTables) -> tuple[_Cost, list[Any]]:
    """The structure, and what it points to."""
    cuts = [np.ascontiguousarray(one, np.float64) for one in cost.cuts]
    factors = [np.ascontiguousarray(one, np.float64) for _, _, one in cost.pairs]
    weights, knots = (np.ascontiguousarray(one, np.float64) for one in (cost.weights, cost.knots))
    pairs = (_Pair * len(factors))(
        *(_Pair(first, second, made.ctypes.data) for (first, second, _), made in zip(cost.pairs, factors, strict=True))
    )
    made = _Cost(
        hinges=len(knots),
        pairs=len(factors),
        weights=weights.ctypes.data,
        knots=knots.ctypes.data,
        cut_counts=(c_int32 * 5)(*map(len, cuts)),
        cuts=(c_void_p * 5)(*(one.ctypes.data for one in cuts)),
        pair=ctypes.addressof(pairs),
    )
    return made, [cuts, factors, weights, knots, pairs]
