"""From a spec to the work of one worker: its sessions, their times, its phases. Every worker derives its part from the
same spec, so that nothing has to be sent to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from swarmtune.loadgen.ask.source import Block, Source
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Phase
from swarmtune.loadgen.send.sender import TimedPhase
from swarmtune.loadgen.send.steady import LONGEST_S, Steadiness
from swarmtune.loadgen.send.timing import FOREVER, Shape, Timing
from swarmtune.workload.arrivals import ArrivalProcess
from swarmtune.workload.session import Dataset

NS = 1_000_000_000
DEFAULT_REQUESTS = 100  # when nothing else ends the run
DEFAULT_CONCURRENCY = 8  # when no other load is given
LONGEST = 10  # durations: a run that waits for a number of answers ends then, however few have come
WARMUP_SESSIONS = 2**40  # numbers of the warm-up's sessions: far from those that are measured
Mode = Literal["closed", "rate", "scheduled"]


@dataclass(frozen=True)
class Share:
    """The number of this worker, and how many there are."""

    worker: int = 0
    workers: int = 1

    def of(self, total: int) -> int:
        """This worker's part of a whole that is split as evenly as can be."""
        return total // self.workers + (self.worker < total % self.workers)


def mode_of(options: LoadgenOptions) -> Mode:
    """What paces the run."""
    if options.fixed_schedule or options.user_centric_rate is not None:
        return "scheduled"
    if options.request_rate is not None and options.arrival_pattern != "concurrency_burst":
        return "rate"
    return "closed"


def concurrency_of(options: LoadgenOptions) -> int | None:
    """Sessions at a time, or the ceiling of a rate (None: no ceiling)."""
    if options.concurrency is None and mode_of(options) == "closed":
        return DEFAULT_CONCURRENCY
    return options.concurrency


def limit_of(options: LoadgenOptions, dataset: Dataset) -> tuple[int | None, int | None]:
    """How many sessions and how many requests are measured at most (None: no limit)."""
    sessions, requests = options.conversation_num, options.request_count
    if options.fixed_schedule and dataset.size is not None:
        sessions = dataset.size if sessions is None else min(sessions, dataset.size)
    elif sessions is None and requests is None and options.benchmark_duration is None:
        requests = DEFAULT_REQUESTS
    return sessions, requests


def least_requests_of(options: LoadgenOptions) -> int:
    """How many requests must have ended before a duration ends the run; 0: the duration alone counts."""
    if options.benchmark_duration is None:
        return 0
    users = (concurrency_of(options) or 0) if mode_of(options) == "closed" else 0
    return max(options.benchmark_min_requests, math.ceil(users * options.benchmark_min_requests_per_user))


def longest_s(options: LoadgenOptions) -> float | None:
    """The time in which requests may be sent, s; None: until their number is reached."""
    if options.benchmark_duration is None or not least_requests_of(options):
        return options.benchmark_duration
    return LONGEST * options.benchmark_duration


def all_credits(options: LoadgenOptions, dataset: Dataset) -> Block:
    """All sessions of the measurement; the last one may be cut so that the number of requests is kept exactly."""
    sessions, requests = limit_of(options, dataset)
    if requests is None:
        return Block(0, sessions)
    if _one_turn_each(options):
        return Block(0, requests if sessions is None else min(sessions, requests))
    counted = number = 0
    while counted < requests and (sessions is None or number < sessions):
        turns = len(dataset.session(number).turns)
        counted, number = counted + turns, number + 1
    cut = turns - (counted - requests) if counted > requests else None
    return Block(0, number, last_turns=cut)


def _one_turn_each(options: LoadgenOptions) -> bool:
    synthetic = not options.input_file and not options.public_dataset
    return synthetic and options.conversation_turn_mean == 1 and options.conversation_turn_stddev == 0


def share_of(block: Block, share: Share) -> Block:
    """Every ``workers``-th session, for loads whose times belong to the sessions."""
    count = None if block.count is None else max(0, -(-(block.count - share.worker) // share.workers))
    last = block.count is not None and (block.count - 1) % share.workers == share.worker
    return Block(block.first + share.worker, count, share.workers, block.last_turns if last else None)


def arrivals(options: LoadgenOptions, dataset: Dataset, seed: int) -> Iterator[int]:
    """Intended starts of all sessions, ns after the start of the measurement, for a mode that is not closed."""
    longest = longest_s(options)
    limit_ns = FOREVER if longest is None else round(longest * NS)
    if mode_of(options) == "rate":
        rate = options.request_rate or 0.0
        process = ArrivalProcess(
            options.arrival_pattern, rate, seed, options.arrival_smoothness, options.request_rate_ramp_duration
        )
        for block in process.blocks(None, longest):
            yield from block.tolist()
        return
    for number in itertools.count():
        start_ns = dataset.schedule[number] if dataset.schedule and number < len(dataset.schedule) else None
        if start_ns is None and not dataset.schedule:
            start_ns = dataset.session(number).start_ns
        if start_ns is None or start_ns >= limit_ns:
            return
        yield start_ns


def measured(
    options: LoadgenOptions,
    dataset: Dataset,
    source: Source,
    seed: int,
    share: Share,
    started_ns: int,
    before: Timing | None = None,
) -> TimedPhase:
    """The measurement. ``before``: the warm-up."""
    shape = _shape(options, seed, share, Phase.MEASURED, concurrency_of(options))
    times = None
    if not shape.closed:
        times = itertools.islice(arrivals(options, dataset, seed), share.worker, None, share.workers)
    until = FOREVER if options.benchmark_duration is None else started_ns + round(options.benchmark_duration * NS)
    grace = None if options.benchmark_duration is None else round(options.benchmark_grace_period * NS)
    least, longest = share.of(least_requests_of(options)), longest_s(options)
    latest = FOREVER if longest is None else started_ns + round(longest * NS)
    return TimedPhase(Timing(shape, source, started_ns, times, before), until, grace, least, latest)


def warm_up(options: LoadgenOptions, source: Source, seed: int, share: Share, started_ns: int) -> TimedPhase | None:
    """The warm-up; None if the options ask for none."""
    count, duration = options.warmup_request_count, options.warmup_duration
    if not count and duration is None and not options.warmup_until_steady:
        return None
    rate = options.warmup_request_rate
    concurrency = options.warmup_concurrency or concurrency_of(options) or DEFAULT_CONCURRENCY
    shape = _shape(options, seed, share, Phase.WARMUP, concurrency)
    times = None
    if rate is not None:
        process = ArrivalProcess("poisson", rate, seed)
        every = itertools.chain.from_iterable(block.tolist() for block in process.blocks(count or None, duration))
        times = itertools.islice(every, share.worker, None, share.workers)
    steady = Steadiness(shape.concurrency or DEFAULT_CONCURRENCY) if options.warmup_until_steady else None
    if steady:
        count, duration = count or steady.most * share.workers, duration or LONGEST_S
    source.grant(share_of(Block(WARMUP_SESSIONS, count or None), share))
    until = FOREVER if duration is None else started_ns + round(duration * NS)
    grace = None if options.warmup_grace_period is None else round(options.warmup_grace_period * NS)
    return TimedPhase(Timing(shape, source, started_ns, times, steady=steady), until, grace)


def _shape(options: LoadgenOptions, seed: int, share: Share, phase: Phase, concurrency: int | None) -> Shape:
    """This worker's part of the load. A ceiling below the number of workers leaves some of them without a slot."""
    warming = phase is Phase.WARMUP
    prefill = options.prefill_concurrency
    return Shape(
        phase=phase,
        closed=options.warmup_request_rate is None if warming else mode_of(options) == "closed",
        concurrency=None if concurrency is None else share.of(concurrency),
        prefill_concurrency=None if prefill is None else share.of(prefill),
        concurrency_ramp_ns=0 if warming else round(options.concurrency_ramp_duration * NS),
        prefill_ramp_ns=0 if warming else round(options.prefill_concurrency_ramp_duration * NS),
        cancel_share=0.0 if warming else options.request_cancellation_rate / 100,
        cancel_delay_ns=round(options.request_cancellation_delay * NS),
        seed=seed,
    )
