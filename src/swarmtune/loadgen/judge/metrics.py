"""The names. One meaning each; a name without a sample is absent. Only requests of the measured phase count.

==========================  =========================================================================================
completed                   requests whose answer ended well
failed                      refused, cut off, error in the stream, not an event stream, timed out
incomplete                  still running when the measurement was ended: neither completed nor failed
cancelled                   given up on purpose (request_cancellation_rate)
dropped                     scheduled and never sent, because no slot came free before the end
late                        sent more than 1 ms after the scheduled time
false_usage_count           the service stated token counts that cannot be true; they were left out (read/counts.py)
estimated_count             completed requests whose output tokens were estimated, as the service stated no count that can be
                            true (read/counts.py)
answered                    got an HTTP status, whatever it was
retried                     sent twice, because the server had closed an idle connection
success_rate                completed / (completed + failed); 0 when nothing completed
duration_s                  start of the measurement to the end of the last request, given-up ones included
request_throughput          completed / duration_s
output_throughput           total_output_tokens / duration_s
total_token_throughput      (total_input_tokens + total_output_tokens) / duration_s
total_input_tokens          of completed requests; server's usage, else as asked
total_output_tokens         of completed requests; server's usage, else an estimate by the text and its events
total_reasoning_tokens      of completed requests, where the server said so
total_cached_tokens         prompt tokens from the server's cache, where it said so
cached_share                total_cached_tokens / prompt tokens of the requests where it said so
osl_mismatch_count          completed requests whose answer has not the length asked for (of several choices, in the mean)
request_goodput             completed requests that keep every limit of request_slos, / duration_s
good_request_share          those / (completed + failed)
scheduled_request_goodput   as request_goodput with the latencies from the scheduled time
scheduled_good_..._share    those / (completed + failed + dropped)
mean_concurrency            requests in flight, mean over the measurement by time (peak_concurrency: the most)
power_watts                 mean power of all devices of the service during the measurement (observe/power.py)
other_cpu_share             share of the CPUs that the service may use, used by neither the service nor the load generator
contended_cpu_share         the same, counted only while none was idle and the service waited for one, or the hypervisor took
                            it (observe/contention.py)
other_device_share          share of the time in which others computed on the service's accelerator, the most of several
little_concurrency          request_throughput * mean e2el: Little's law; below mean_concurrency by the share of the slots'
                            time that went to requests without a whole answer
==========================  =========================================================================================

Statistics (mean_ std_ min_ max_ p1_ p5_ p10_ p25_ p50_ p75_ p90_ p95_ p99_ p99.9_, see statistics.py) of these samples:

=============================  ======================================================================================
ttft_ms                        time to first token: first chunk - send; of incomplete requests, too (latencies.py)
ttst_ms                        time to second token: second chunk - first chunk, where they did not come together
ttfo_ms                        time to first output: first chunk that is not reasoning - send
icl_ms                         inter-chunk latency: gaps between consecutive arrivals of one answer (what came in one read
                               came together; each of several choices by itself), all requests together
itl_ms                         inter-token latency: a gap that brought k tokens is k samples of gap / k
tpot_ms                        time per output token: (last - first arrival) / (tokens after the first arrival), one sample
                               per request; none where the answer came in one or few pieces
e2el_ms                        end-to-end latency: last event with content or the end (finish_reason) - send (without
                               chunks: end of the answer - send)
scheduled_ttft_ms, _ttfo_ms,   the same latencies from the scheduled time: what a user felt when the load generator or a
scheduled_e2el_ms              full concurrency held the request back (coordinated omission)
send_lag_ms                    send - scheduled, of all requests that were sent
connect_ms                     duration of connecting (and TLS), of requests that had to
output_throughput_per_user     1 / tpot, tokens per second
prefill_throughput_per_user    input tokens / ttft, tokens per second
isl, osl, reasoning_tokens     lengths of prompt, answer and reasoning, tokens
osl_mismatch_pct               (answer length - length asked) / length asked, percent
=============================  ======================================================================================

``adj_p99_ttft_ms`` and so on, of ttft, e2el and their scheduled twins: failed requests count as +inf (nearest rank; it may
be inf). A request_slos limit is an upper one in ms by ttft_ms, ttst_ms, ttfo_ms, tpot_ms or e2el_ms, or a lower one by
output_throughput_per_user; what was not measured keeps no limit, except that an answer of a single token keeps those that
need a second one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.judge.latencies import NS_PER_S, Bools, Columns, Floats
from swarmtune.loadgen.records import Outcome

LATE_MS = 1.0
BASIC_STATISTICS = ("mean", "std", "min", "max")
ADJUSTED = ("ttft_ms", "e2el_ms", "scheduled_ttft_ms", "scheduled_e2el_ms")
UPPER_LIMITS = ("ttft_ms", "ttst_ms", "ttfo_ms", "tpot_ms", "e2el_ms")
LOWER_LIMITS = ("output_throughput_per_user",)
NEED_A_SECOND_TOKEN = ("ttst_ms", "tpot_ms", "output_throughput_per_user")
SCHEDULED_TWIN = {"ttft_ms": "scheduled_ttft_ms", "ttfo_ms": "scheduled_ttfo_ms", "e2el_ms": "scheduled_e2el_ms"}


def check_limits(request_slos: Mapping[str, float]) -> None:
    """ConfigValidationError if a limit has an unknown name."""
    known = (*UPPER_LIMITS, *LOWER_LIMITS)
    if wrong := [name for name in request_slos if name not in known]:
        raise ConfigValidationError([f"goodput: unknown limit {n!r}; the limits are {', '.join(known)}" for n in wrong])


def keeps(
    data: Columns, samples: Mapping[str, Floats], request_slos: Mapping[str, float], *, scheduled: bool = False
) -> Bools:
    """Which completed requests keep every limit? ``scheduled``: by the latencies from the scheduled time."""
    check_limits(request_slos)
    kept = data.outcome(Outcome.COMPLETED)
    for name, limit in request_slos.items():
        values = _judged(data, samples, name, scheduled=scheduled)
        kept &= values >= limit if name in LOWER_LIMITS else values <= limit
    return kept


def unmeasured(data: Columns, samples: Mapping[str, Floats], request_slos: Mapping[str, float]) -> dict[str, int]:
    """By limit, how many completed requests have nothing that could keep it; only limits with such requests."""
    completed = data.outcome(Outcome.COMPLETED)
    amounts = {name: int(np.isnan(_judged(data, samples, name)[completed]).sum()) for name in request_slos}
    return {name: amount for name, amount in amounts.items() if amount}


def _judged(data: Columns, samples: Mapping[str, Floats], name: str, *, scheduled: bool = False) -> Floats:
    """What each request is judged by for a limit: NaN where it was not measured, what keeps any limit where there is nothing
    to measure, as in an answer of one token there is no second one."""
    absent = np.full(len(data.rows), np.nan)
    values = samples.get(SCHEDULED_TWIN.get(name, name) if scheduled else name, absent)
    if name not in NEED_A_SECOND_TOKEN:
        return values
    single = (data.rows["output_tokens"] == 1) & (data.rows["chunks"] <= 1)
    return np.where(np.isnan(values) & single, np.inf if name in LOWER_LIMITS else -np.inf, values)


def counts(data: Columns, samples: Mapping[str, Floats]) -> dict[str, float]:
    """How many requests ended in which way."""
    found = {outcome.name.lower(): float(np.count_nonzero(data.outcome(outcome))) for outcome in Outcome}
    ended = found["completed"] + found["failed"]
    return found | {
        "late": float(np.count_nonzero(samples["send_lag_ms"] > LATE_MS)),
        "retried": float(np.count_nonzero(data.rows["retried"])),
        "false_usage_count": float(np.count_nonzero(data.rows["false_usage"])),
        "estimated_count": float(np.count_nonzero(estimated(data))),
        "answered": float(np.count_nonzero(data.rows["status"] > 0)),
        "success_rate": found["completed"] / ended if ended else 0.0,
    }


def estimated(data: Columns) -> Bools:
    """Completed requests whose output tokens are no count of the service."""
    found: Bools = data.outcome(Outcome.COMPLETED) & ~data.rows["server_counted"]
    return found


def totals(data: Columns, started_ns: int) -> dict[str, float]:
    """Duration, tokens and throughputs."""
    rows, completed = data.rows, data.outcome(Outcome.COMPLETED)

    def of_completed(name: str) -> NDArray[Any]:
        column: NDArray[Any] = rows[name][completed].astype(np.int64)
        return column

    duration_s = max(0.0, (int(rows["end_ns"].max(initial=started_ns)) - started_ns) / NS_PER_S)
    prompts, answers, asked = (of_completed(name) for name in ("input_tokens", "output_tokens", "asked_output_tokens"))
    asked = asked * np.maximum(1, of_completed("choices"))
    reasoning, cached = of_completed("reasoning_tokens"), of_completed("cached_tokens")
    inputs, outputs = float(prompts.sum()), float(answers.sum())
    found = {"duration_s": duration_s, "total_input_tokens": inputs, "total_output_tokens": outputs}
    if (reasoning >= 0).any():
        found["total_reasoning_tokens"] = float(np.maximum(reasoning, 0).sum())
    if (cached >= 0).any():
        found["total_cached_tokens"] = float(np.maximum(cached, 0).sum())
        found["cached_share"] = found["total_cached_tokens"] / max(1.0, float(prompts[cached >= 0].sum()))
    if (asked > 0).any():
        found["osl_mismatch_count"] = float(np.count_nonzero((asked > 0) & (answers != asked)))
    if duration_s > 0:
        found["request_throughput"] = len(prompts) / duration_s
        found["output_throughput"] = outputs / duration_s
        found["total_token_throughput"] = (inputs + outputs) / duration_s
    return found


def goodput(
    data: Columns, samples: Mapping[str, Floats], request_slos: Mapping[str, float], duration_s: float
) -> dict[str, float]:
    """Goodput from the send time and from the scheduled time; empty without limits."""
    if not request_slos:
        return {}
    found: dict[str, float] = {}
    failed = int(np.count_nonzero(data.outcome(Outcome.COMPLETED, Outcome.FAILED)))
    dropped = int(np.count_nonzero(data.outcome(Outcome.DROPPED)))
    for prefix, scheduled, judged in (("", False, failed), ("scheduled_", True, failed + dropped)):
        good = int(np.count_nonzero(keeps(data, samples, request_slos, scheduled=scheduled)))
        if duration_s > 0:
            found[f"{prefix}request_goodput"] = good / duration_s
        if judged:
            found[f"{prefix}good_request_share"] = good / judged
    return found
