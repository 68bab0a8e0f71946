"""Rows in, metrics out. Pure; one meaning per name. Latencies in ms, throughputs per second, shares from 0 to 1.

Only completed requests count for latencies, tokens and throughputs, with one exception: a request that was sent and given
up on counts for ttft, with its own or, without a first token, with the time that it had waited. Otherwise a service that
answers few of many requests would look fast.

=========================  ==========================================================================================
completed                  requests whose answer ended well ([DONE] or a finish_reason, at least one token)
failed                     refused, cut off, error in the stream, not an event stream, timed out
incomplete                 still running when the measurement was ended: neither completed nor failed
success_rate               completed / (completed + failed); 0 when nothing completed
duration_s                 start of the measurement to the end of the last request, given-up ones included
request_throughput         completed / duration_s
output_throughput          total_output_tokens / duration_s
total_token_throughput     (total_input_tokens + total_output_tokens) / duration_s
total_input_tokens         sum of usage.prompt_tokens, where absent of the words asked
total_output_tokens        sum of usage.completion_tokens, where absent of the chunks with content
request_goodput            completed requests that keep every limit of request_slos, / duration_s; a request without a
                           first token time keeps no ttft or e2el limit; one with a single token keeps any tpot limit
mean_ std_ min_ max_       of ttft, e2el, tpot (one sample per request, see rows.Row) and itl (gaps between consecutive
p50_ p90_ p95_ p99_        chunks with content, pooled over all requests); std is the population's; percentile p is the
                           order statistic number ceil(p / 100 * n) (nearest rank): a value that really occurred
=========================  ==========================================================================================

A name without a sample is absent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from swarmtune.loadgen.rows import Outcome, Row

PERCENTILES = (50, 90, 95, 99)
NS_PER_S = 1e9


def nearest_rank(ordered: Sequence[float], percentile: float) -> float:
    """The order statistic number ceil(percentile / 100 * n) of sorted samples (n >= 1)."""
    return ordered[max(1, math.ceil(percentile / 100 * len(ordered))) - 1]


def summary(name: str, samples: Sequence[float]) -> dict[str, float]:
    """mean, std, min, max and percentiles of samples in ms as ``mean_{name}_ms`` and so on; empty without samples."""
    if not samples:
        return {}
    ordered = sorted(samples)
    mean = math.fsum(ordered) / len(ordered)
    values = {
        "mean": mean,
        "std": statistics.pstdev(ordered, mean) if len(ordered) > 1 else 0.0,
        "min": ordered[0],
        "max": ordered[-1],
        **{f"p{p}": nearest_rank(ordered, p) for p in PERCENTILES},
    }
    return {f"{statistic}_{name}_ms": float(value) for statistic, value in values.items()}


def keeps(row: Row, request_slos: Mapping[str, float]) -> bool:
    """Does this completed request keep every limit (ms)? What was not measured is not kept."""
    for name, limit in request_slos.items():
        value: float | None = getattr(row, name)
        if value is None and name == "tpot_ms" and row.output_tokens == 1:
            continue
        if value is None or value > limit:
            return False
    return True


def _least_ttft_ms(row: Row) -> float:
    """TTFT of a request that was sent and given up on: its own, or how long it had waited for a first token by then."""
    sent_ns = row.end_ns if row.sent_ns is None else row.sent_ns
    return ((row.token_ns[0] if row.token_ns else row.end_ns) - sent_ns) / 1e6


def metrics(rows: Sequence[Row], started_ns: int, request_slos: Mapping[str, float]) -> dict[str, float]:
    """All metrics of the module's table. ``started_ns`` is the start of the measurement."""
    completed = [row for row in rows if row.outcome is Outcome.COMPLETED]
    failed = sum(row.outcome is Outcome.FAILED for row in rows)
    ended = len(completed) + failed
    duration_s = max(0.0, (max((row.end_ns for row in rows), default=started_ns) - started_ns) / NS_PER_S)
    input_tokens = sum(row.input_tokens for row in completed)
    output_tokens = sum(row.output_tokens for row in completed)
    result: dict[str, float] = {
        "completed": len(completed),
        "failed": failed,
        "incomplete": len(rows) - ended,
        "success_rate": len(completed) / ended if ended else 0.0,
        "duration_s": duration_s,
        "total_input_tokens": input_tokens,
        "total_output_tokens": output_tokens,
    }
    if duration_s > 0:
        result["request_throughput"] = len(completed) / duration_s
        result["output_throughput"] = output_tokens / duration_s
        result["total_token_throughput"] = (input_tokens + output_tokens) / duration_s
        if request_slos:
            result["request_goodput"] = sum(keeps(row, request_slos) for row in completed) / duration_s
    waited = [_least_ttft_ms(row) for row in rows if row.outcome is Outcome.INCOMPLETE and row.sent_ns is not None]
    for name in ("ttft", "tpot", "e2el"):
        samples = (getattr(row, f"{name}_ms") for row in completed)
        more = waited if name == "ttft" else []
        result |= summary(name, [value for value in samples if value is not None] + more)
    result |= summary("itl", [(b - a) / 1e6 for row in completed for a, b in pairwise(row.token_ns)])
    return result
