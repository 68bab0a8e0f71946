"""From options to data: which sessions a run sends, and the digest that proves that two runs sent the same."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarmtune.loadgen.ask.public_data import fetch
from swarmtune.loadgen.endpoints import endpoint_class, make_endpoint
from swarmtune.loadgen.endpoints.base import ChatMessage, Endpoint
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.files import Contents, Mistakes
from swarmtune.workload.replay import ReplayDataset, ReplaySpec
from swarmtune.workload.session import Dataset, Session, Turn
from swarmtune.workload.synthetic import Lengths, SyntheticDataset, SyntheticSpec, parse_lengths
from swarmtune.workload.traces import BLOCKS, read_contents


def make_dataset(options: LoadgenOptions, seed: int) -> Dataset:
    """The data that the options ask for. ConfigPathError, ConfigValidationError: the file is missing or wrong;
    CommunicationError: a public data set cannot be fetched.
    """
    if options.input_file or options.public_dataset:
        return _replay(options, seed)
    return SyntheticDataset(synthetic_spec(options), seed)


def synthetic_spec(options: LoadgenOptions) -> SyntheticSpec:
    """The synthetic sessions that the options describe."""
    own = Lengths(options.isl, options.osl, options.isl_stddev, options.osl_stddev)
    return SyntheticSpec(
        parse_lengths(options.sequence_distribution) if options.sequence_distribution else (own,),
        options.isl_distribution,
        options.osl_distribution,
        options.shared_system_prompt_length,
        options.user_context_prompt_length,
        options.prompt_prefix_pool_size,
        options.prompt_prefix_length,
        texts=options.prompt_batch_size + endpoint_class(options).texts_before,
        answers=endpoint_class(options).produces_tokens,
        turns_mean=options.conversation_turn_mean,
        turns_stddev=options.conversation_turn_stddev,
        delay_mean_ms=options.conversation_turn_delay_mean,
        delay_stddev_ms=options.conversation_turn_delay_stddev,
        delay_ratio=options.conversation_turn_delay_ratio,
        users=options.num_users,
        user_rate=options.user_centric_rate or 0.0,
        entries=options.num_dataset_entries,
    )


def _replay(options: LoadgenOptions, seed: int) -> ReplayDataset:
    path = fetch(options.public_dataset) if options.public_dataset else Path(options.input_file).expanduser()
    asked = options.public_dataset or options.custom_dataset_type
    contents = read_contents(path, asked, max_turns=max(1, round(options.conversation_turn_mean)))
    _check(contents, make_endpoint("", options))
    kind = contents.kind
    given = options.model_fields_set
    spec = ReplaySpec(
        "random" if kind == "random_pool" else options.dataset_sampling_strategy,
        options.fixed_schedule,
        options.fixed_schedule_start_offset,
        options.fixed_schedule_end_offset,
        options.fixed_schedule_auto_offset,
        options.replay_speedup,
        options.isl_block_size or BLOCKS.get(kind, BLOCKS["mooncake_trace"]),
        options.max_isl,
        options.max_osl,
        osl=Lengths(options.isl, options.osl, 0, options.osl_stddev) if "osl" in given else None,
        osl_distribution=options.osl_distribution,
        answers=endpoint_class(options).produces_tokens,
        delay_ratio=options.conversation_turn_delay_ratio,
        users=options.num_users,
        user_rate=options.user_centric_rate or 0.0,
        streaming=endpoint_class(options).produces_tokens and options.streaming,
        extra=frozenset(options.extra_body()),
    )
    return ReplayDataset(contents, spec, seed)


def _check(contents: Contents, endpoint: Endpoint) -> None:
    """ConfigValidationError for what this endpoint cannot send."""
    mistakes = Mistakes(contents.path, contents.unit)
    for path, place in contents.paths.items():
        if path.startswith("/v1/") and path not in (endpoint.path, endpoint.default_path):
            mistakes.add(
                place, f"its url is {path[:60]!r}, and {endpoint.path!r} is called: give the endpoint_type of the file"
            )
    for entry in contents.entries:
        for part in entry:
            if part.payload is None:
                texts = part.texts if part.texts or part.messages else ("made",)
                turn = Turn(texts, 0, system=part.system, messages=part.messages, extra=part.extra)
                if reason := endpoint.refusal(turn):
                    mistakes.add(part.place, reason)
    mistakes.check()


def digest(dataset: Dataset, endpoint: Endpoint, n: int, arrivals: Iterable[NDArray[np.int64]] = ()) -> str:
    """SHA-256 over the first ``n`` request bodies, in order of sessions and turns, with all their times, and over
    ``arrivals``.

    A later turn's history holds empty answers, as the real ones are not known before the run.
    """
    total = sha256()
    missing = n
    for index in range(n if dataset.size is None else min(n, dataset.size)):
        missing -= _add(total.update, dataset.session(index), endpoint, missing)
        if missing <= 0:
            break
    for block in arrivals:
        total.update(block.astype("<i8").tobytes())
    return total.hexdigest()


def _add(update: Callable[[bytes], None], session: Session, endpoint: Endpoint, most: int) -> int:
    """Add a session's first ``most`` turns; how many there were."""
    history: Sequence[ChatMessage] = ()
    for turn in session.turns[:most]:
        interval = -1 if turn.interval_ns is None else turn.interval_ns
        start = -1 if session.start_ns is None else session.start_ns
        body = endpoint.body(turn, history)
        update(struct.pack("<4q", start, turn.delay_ns, interval, len(body)) + body)
        history = endpoint.continued(history, turn, "")
    return min(most, len(session.turns))
