"""Logs of requests with a stamp for each token: the steps that made the tokens are reconstructed.

Tokens of several requests that come within a moment were made by one step; its time is that from the tokens before. A
prompt is computed in the step that gives its first token, what exceeds the budget of a step in those before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigPathError, ConfigurationError, one_line
from swarmtune.files import opened
from swarmtune.simulator.latency.features import CONTEXT, DECODES, PREFILL_WORK, PREFILLS, TOKENS, piece_work
from swarmtune.simulator.latency.observed import Observed
from swarmtune.simulator.latency.readers.base import (
    FIRST_BYTES,
    Found,
    Reading,
    Source,
    parquet_columns,
    parquet_names,
    text,
)
from swarmtune.simulator.latency.rows import rows_of

MAGIC = b"PAR1"
MOMENT_S, MOMENT_SHARE = 2e-3, 0.25  # tokens of one step come within this, and within this share of the usual gap
MOST_FAILED = 0.1  # of the requests; beyond, the run tells how the service fails
MOST_JOINED = 0.05  # of the gaps: events with several tokens, or too few tokens
OURS = ("outcome", "sent_ns", "input_tokens", "cached_tokens", "output_tokens")  # columns of swarmtune bench
MOST_TOKENS = 10**8  # of a prompt
NOTES = (
    "requests: steps are reconstructed from stamps of the client; lateness of network and client is in them",
    "requests: tokens of prompts from the cache count as computed where the log does not tell them",
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Request:
    """One answered request. ``sent`` and ``stamps``, when each event with tokens came: seconds on the log's own axis."""

    sent: float
    prompt: int
    cached: int
    tokens: int
    stamps: Floats


SKIPPED = Request(0.0, 0, 0, 0, np.empty(0))  # never sent


def knows(source: Source) -> bool:
    """A log of requests, with or without stamps of tokens."""
    if source.first.startswith(MAGIC):
        return "first_chunk" in parquet_names(source.path)
    head = source.first.lstrip()
    if not head.startswith(b"{"):
        return False
    words = (
        b'"token_ns"',
        b'"sent_ns"',
        b'"request_start_ns"',
        b'"first_token_ts"',
        b'"itls"',
        b'"request_throughput"',
    )
    return any(word in head for word in words) or source.path.suffix == ".jsonl"


def read(source: Source, reading: Reading) -> Found:
    """The steps; ConfigurationError where the log has no stamps of tokens, or is of a run that failed."""
    path = source.path
    found = list(_parquet(path) if source.first.startswith(MAGIC) else _json(path))
    requests = [request for request in found if request is not None]
    failed = len(found) - len(requests)
    if failed > MOST_FAILED * len(found):
        raise ConfigurationError(
            f"{path}: {failed} of {len(found)} requests failed; nothing is learned from such a run."
        )
    gaps = sum(max(len(request.stamps), request.tokens) - 1 for request in requests if len(request.stamps))
    joined = sum(abs(len(request.stamps) - request.tokens) for request in requests if len(request.stamps))
    if not gaps:
        raise ConfigurationError(f"{path} holds no answers of several tokens.")
    if joined > MOST_JOINED * gaps:
        raise ConfigurationError(
            f"{path}: {joined:,} of {gaps:,} tokens did not come in an event of their own, so steps cannot be told apart."
        )
    features, seconds, left_out = _steps([request for request in requests if len(request.stamps)], reading.budget)
    notes = (
        (*NOTES, f"requests: {left_out:,} steps were left out of {path}, as it is not known when they began")
        if left_out
        else NOTES
    )
    return Found(rows_of(features, seconds, path.parent.name or path.stem), notes, unit_is_sure=True)


def observed(path: Path) -> Observed:
    """The requests of a log that were answered, by the time at which they were sent: for a calibration. ConfigurationError:
    no such log.
    """
    if path.exists() and not path.is_file():
        raise ConfigPathError(f"{path} is not a file.")
    try:
        with opened(path) as file:
            first = file.read(FIRST_BYTES)
    except OSError as error:
        raise ConfigPathError(f"{path} cannot be read: {error.strerror or error}.") from error
    found = [r for r in (_parquet(path) if first.startswith(MAGIC) else _json(path)) if r is not None and len(r.stamps)]
    if not found:
        raise ConfigurationError(f"{path} holds no answered requests.")
    found.sort(key=lambda request: request.sent)
    sent = np.array([request.sent for request in found])
    return Observed(
        sent,
        np.array([max(1, request.prompt) for request in found], np.int64),
        np.array([max(1, request.tokens) for request in found], np.int64),
        np.array([request.stamps[0] for request in found]) - sent,
        np.array([request.stamps[-1] for request in found]) - sent,
    )


def _parquet(path: Path) -> Iterator[Request | None]:
    """requests.parquet of swarmtune bench, with chunks.parquet beside it."""
    requests = parquet_columns(path, OURS)
    chunks = parquet_columns(path.with_name("chunks.parquet"), ("request", "ns", "tokens"))
    if len(requests) < len(OURS) or len(chunks) < 3:
        raise ConfigurationError(f"{path} and chunks.parquet beside it are not those of swarmtune bench.")
    owner, stamps = np.array(chunks["request"], np.int64), np.array(chunks["ns"], float)
    order = np.lexsort((stamps, owner))
    owner, stamps = owner[order], stamps[order]
    for number, row in enumerate(zip(*(requests[name] for name in OURS), strict=True)):
        here = slice(*np.searchsorted(owner, [number, number + 1]))
        if (request := _of_ours(row, stamps[here])) is not SKIPPED:
            yield request


def _json(path: Path) -> Iterator[Request | None]:
    """A line for each request, or one object for all; ConfigurationError names the line."""
    whole = text(path)
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        run = msgspec.json.decode(whole)
        if isinstance(run, dict) and "itls" in run:
            yield from _told(path, partial(list, _of_vllm(run)))
            return
    for number, line in enumerate(whole.splitlines(), 1):
        if line.strip() and (found := _told(f"{path}, line {number}", partial(_line, line))) is not SKIPPED:
            yield found


def _told(place: Any, make: Callable[[], Any]) -> Any:
    """What ``make`` gives; ConfigurationError if the place holds something else than a log of requests."""
    try:
        return make()
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        known = "a log of requests that is known and has a stamp for each token"
        raise ConfigurationError(f"{place} is not of {known} ({one_line(repr(error))[:100]}).") from error


def _line(line: str) -> Request | None:
    return _request(msgspec.json.decode(line))


def _of_vllm(run: dict[str, Any]) -> Iterator[Request | None]:
    """vllm bench serve --save-detailed."""
    names = ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors")
    for start, ttft, itls, prompt, tokens, error in zip(*(run[name] for name in names), strict=True):
        stamps = start + np.cumsum([ttft, *itls]) if tokens else np.empty(0)
        yield None if error else _made(start, prompt, 0, tokens, stamps)


def _of_ours(row: Sequence[Any], token_ns: Any) -> Request | None:
    """The values of OURS, and the stamps."""
    outcome, sent_ns, prompt, cached, tokens = row
    if outcome == "failed":
        return None
    return _made(sent_ns / 1e9, prompt, cached, tokens, np.array(token_ns, float) / 1e9) if sent_ns else SKIPPED


def _made(sent: float, prompt: int, cached: int, tokens: int, stamps: Floats) -> Request:
    """ValueError or TypeError if it cannot be one."""
    if not np.isfinite(stamps).all() or (np.diff(stamps) < 0).any() or not 0 <= prompt <= MOST_TOKENS:
        raise ValueError("stamps that go back, or an impossible prompt")
    return Request(float(sent), int(prompt), min(max(0, int(cached)), int(prompt)), int(tokens), stamps)


def _request(row: dict[str, Any]) -> Request | None:
    """A line of swarmtune bench or of AIPerf."""
    if "token_ns" in row:
        return _of_ours([row[name] for name in OURS], row["token_ns"])
    if "first_token_ts" in row:  # LLMServingSim, whose stamps are the engine's
        stamps = np.array([row["first_token_ts"], row["last_token_ts"]][: 1 + (row["output_toks"] > 1)])
        return _made(row["queued_ts"], row["input_toks"], 0, row["output_toks"], stamps)
    if "metadata" not in row:
        raise LookupError("neither token_ns nor metadata")
    metadata, metrics = row["metadata"], row["metrics"]
    if metadata.get("was_cancelled"):
        return SKIPPED  # its tokens are not told
    if row.get("error"):
        return None
    value = {
        name: metrics[name]["value"]
        for name in ("time_to_first_token", "input_sequence_length", "output_sequence_length")
    }
    gaps = metrics.get("inter_chunk_latency", {"value": []})["value"]
    sent = metadata["request_start_ns"] / 1e9
    stamps = sent + np.cumsum([value["time_to_first_token"], *gaps]) / 1e3
    return _made(sent, value["input_sequence_length"], 0, value["output_sequence_length"], stamps)


def _steps(requests: list[Request], budget: int) -> tuple[Floats, Floats, int]:
    """Features (n, 5) and seconds of the steps between whose ends the engine surely worked, and how many were left out."""
    stamps = np.concatenate([request.stamps for request in requests])
    owner = np.repeat(np.arange(len(requests)), [len(request.stamps) for request in requests])
    place = np.concatenate([np.arange(len(request.stamps)) for request in requests])
    order = np.argsort(stamps, kind="stable")
    stamps, owner, place = stamps[order], owner[order], place[order]
    step, ends = _divided(stamps, owner, requests)
    prompt = np.array([request.prompt for request in requests], float)
    decoding = place > 0
    features = np.zeros((len(ends), 5))
    np.add.at(features[:, DECODES], step[decoding], 1.0)
    np.add.at(features[:, CONTEXT], step[decoding], prompt[owner[decoding]] + place[decoding])
    features[:, TOKENS] = features[:, DECODES]
    began = np.concatenate([[-np.inf], ends[:-1]])
    busy = np.zeros(len(ends), bool)
    busy[step[decoding]] = True
    for number, at in zip(owner[~decoding].tolist(), step[~decoding].tolist(), strict=True):
        request = requests[number]
        busy[at] |= request.sent <= began[at]
        _fill(features, began, at, request, budget)
    known = busy & np.isfinite(began)
    return features[known], (ends - began)[known], int((~known).sum())


def _divided(stamps: Floats, owner: NDArray[np.int64], requests: list[Request]) -> tuple[NDArray[np.int64], Floats]:
    """The step of each token, and when the first token of each step came. No request gets two tokens of one step."""
    gaps = np.concatenate([np.diff(request.stamps) for request in requests])
    moment = min(MOMENT_S, MOMENT_SHARE * float(np.median(gaps))) if gaps.size else MOMENT_S
    step = np.empty(len(stamps), np.int64)
    ends: list[float] = []
    latest = np.full(len(requests), -1, np.int64)
    before = -np.inf
    for index, (stamp, number) in enumerate(zip(stamps.tolist(), owner.tolist(), strict=True)):
        if stamp - before > moment or latest[number] == len(ends) - 1:
            ends.append(stamp)
        step[index] = latest[number] = len(ends) - 1
        before = stamp
    return step, np.array(ends)


def _fill(features: Floats, began: Floats, at: int, request: Request, budget: int) -> None:
    """Add the pieces of a prompt to the step of its first token and, as far as they exceed the budget, to those before."""
    left = max(1, request.prompt - request.cached)
    while left > 0:
        room = max(1, int(budget - features[at, TOKENS]))
        first = at == 0 or began[at] < request.sent or began[at - 1] < request.sent
        piece = left if first else min(left, room)
        left -= piece
        features[at, TOKENS] += piece
        features[at, PREFILLS] += 1
        features[at, PREFILL_WORK] += piece_work(piece, request.cached + left)
        at -= 1
