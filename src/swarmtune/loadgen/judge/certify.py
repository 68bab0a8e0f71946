"""Can this measurement be trusted? The load generator certifies it, from what it recorded about its own lateness.

A client that is starved of CPU sends late and reads late. With the kernel's receive stamps late reading does not falsify an
arrival, as long as each chunk was read by itself; when later bytes had come by then, the kernel kept only the last stamp. So
the questions are: was the load what was asked for (a rate: lateness of sending; a closed loop: the time in which a user had
its answer and had not sent again, because we had not read yet or were busy), and are the arrivals known (share of chunks
whose stamp may be wrong by more than a millisecond)?

A service that is starved by other programs is not itself: then the machine is to blame, neither load generator nor setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from swarmtune.devices.busiest import how_much
from swarmtune.loadgen.judge import prompts
from swarmtune.loadgen.judge.latencies import DOUBT_NS, columns, gaps_of
from swarmtune.loadgen.observe.contention import Contention, contention, other_device_share
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Outcome, Phase, Records
from swarmtune.loadgen.send.plan import concurrency_of, mode_of
from swarmtune.records import Measurement

Level = Literal["valid", "degraded", "invalid"]
DEGRADED = 0.2  # of the limit for "invalid"
IDLE_DEGRADED = 0.5  # the same for the idle share: a load that is 2 % too low changes little
SHOWN = 300  # characters of an error
DISTURBED = "other programs used "  # how a reason begins that blames the neighbours of the service
SOME = 0.05  # share of the answers that may come in one piece, and of the warm-up's requests that may fail
FEW_FAULTS = 20  # waits for the disk that code may cost a worker which it runs for the first time
MIN_CHUNKS = 200  # so few chunks are judged by their number, not their share


@dataclass(frozen=True)
class Certificate:
    """How far a measurement can be trusted. ``reasons``: why it is not valid. ``facts``: its figures, by metric name."""

    level: Level
    reasons: tuple[str, ...]
    facts: dict[str, float]


def certify(records: Records, options: LoadgenOptions) -> Certificate:
    """The certificate of a run. Degraded: usable, and less accurate than it should be. Invalid: not to be used."""
    facts = lateness(records)
    taken = contention(records.observed.devices, records.started_ns, records.ended_ns)
    facts |= taken.facts() if taken else {}
    device = other_device_share(records.observed.devices, records.started_ns, records.ended_ns)
    facts |= {} if device is None else {"other_device_share": device}
    invalid: list[str] = []
    degraded: list[str] = []
    _judge_neighbours(taken, options.max_contended_cpu_share, invalid, degraded)
    told = f"{DISTURBED}{device or 0:.0%} of the time of the service's accelerator"
    _judge(device or 0.0, options.max_other_device_share, told, invalid, degraded)
    starved = bool(invalid)
    waits = _waits(records, facts, options)
    if refused := nothing_completed(records):  # then its lateness tells nothing, and nothing is known of the service
        return Certificate("invalid", (refused, *_broken(records), *invalid, *waits), facts)
    invalid = [*_broken(records), *invalid]
    if mode_of(options) == "closed":
        idle = facts.get("client_idle_share", 0.0)
        told = f"{idle:.1%} of the users' time went by before their next request was sent: the load was too low"
        _judge(idle, options.max_idle_share, told, invalid, degraded, IDLE_DEGRADED)
    else:
        late = facts.get("client_send_lag_p99_ms", 0.0)
        told = f"requests were sent {late:.1f} ms late at p99: the load was not the one that was asked for"
        _judge(late, options.max_lag_ms, told, invalid, degraded)
    unsure = facts.get("client_unsure_share", 0.0)
    told = f"the stamps of {unsure:.1%} of the chunks are not certain to 1 ms"
    _judge(unsure, options.max_unsure_share, told, invalid, degraded)
    if facts["client_cpu_share_max"] > options.max_cpu_share:
        degraded.append(
            f"a worker used {facts['client_cpu_share_max']:.0%} of a core (limit {options.max_cpu_share:.0%}) in some second"
        )
    degraded += [
        f"{fact.worker}: the wall clock was set during the run" for fact in records.workers if fact.clock_steps
    ]
    offset = max((fact.clock_offset_error_ms for fact in records.workers), default=0.0)
    _judge(
        offset, options.max_lag_ms, f"the clocks of the workers are known to {offset:.1f} ms only", invalid, degraded
    )
    if invalid and not records.lost and not records.interrupted and not starved:
        degraded.append(_way_out(round(facts["client_page_fault_count"])))
    degraded += waits
    _judge_answers(records, options, degraded)
    if invalid:
        return Certificate("invalid", (*invalid, *degraded), facts)
    return Certificate("degraded" if degraded else "valid", tuple(degraded), facts)


def _judge(
    value: float, limit: float, told: str, invalid: list[str], degraded: list[str], part: float = DEGRADED
) -> None:
    if value > limit:
        invalid.append(f"{told} (limit {limit:g})")
    elif value > limit * part:
        degraded.append(f"{told} (degraded above {limit * part:g})")


def _judge_neighbours(taken: Contention | None, limit: float, invalid: list[str], degraded: list[str]) -> None:
    if taken is None:
        return
    share = taken.contended_cpu_share
    most = f", {how_much(taken.named_share, share)} {taken.busiest}" if taken.busiest else ""
    told = f"{DISTURBED}{share:.0%} of the service's CPUs while it waited for one and none was idle{most}: "
    way_out = "stop them, or measure again when they have ended"
    if 2 * taken.stolen_share > share:
        told = f"{DISTURBED}{share:.0%} of the service's CPUs, most of it outside this virtual machine (steal): "
        way_out = "measure on a machine whose CPUs are its own"
    if share > limit:
        invalid.append(f"{told}the service was starved (limit {limit:g}); {way_out}")
    elif share > limit * DEGRADED:
        degraded.append(f"{told}the service may have been slowed down (degraded above {limit * DEGRADED:g})")


def _judge_answers(records: Records, options: LoadgenOptions, degraded: list[str]) -> None:
    """What the service did to the figures: false counts, answers that did not stream, a warm-up that failed."""
    data = columns(records)
    answers = int(np.count_nonzero(data.outcome(Outcome.COMPLETED)))
    false = data.rows["false_usage"] & data.outcome(Outcome.COMPLETED)
    if false.any():
        told = (
            f"the service stated token counts that cannot be true in {np.count_nonzero(false):,} of {answers:,} answers"
        )
        guessed = "; output tokens are then estimated by the text and the events of an answer"
        degraded.append(f"{told}: they were left out{guessed if (false & ~data.rows['server_counted']).any() else ''}")
    mute = data.outcome(Outcome.COMPLETED) & (data.rows["chunks"] == 0) & (data.rows["output_tokens"] > 0)
    if mute.any():
        degraded.append(
            f"{np.count_nonzero(mute):,} of {answers:,} answers have tokens by their usage, and no text that is understood: "
            "they have no time to first token, and keep no SLO on it"
        )
    cut = prompts.shortened(records, options)
    if cut and options.endpoint_type not in prompts.WITHOUT_ANSWER:
        degraded.append(cut)
    asked = options.streaming and options.endpoint_type != "template"  # whose body says whether it streams
    gaps = gaps_of(data)
    whole = gaps.in_one_piece if asked else np.zeros(0, bool)
    if np.count_nonzero(whole) > SOME * answers:
        degraded.append(
            f"{np.count_nonzero(whole):,} of {answers:,} answers came in one piece and not as streams: the service, or "
            "something on the way to it (a proxy that buffers), holds them back; they have no time per output token, and "
            "keep no SLO on it (for a service that does not stream, say streaming = false)"
        )
    if np.count_nonzero(gaps.in_few_pieces) > SOME * answers:
        degraded.append(
            f"{np.count_nonzero(gaps.in_few_pieces):,} of {answers:,} answers came in few pieces, each of many events: the "
            "service, or something on the way to it, buffers; they have no time per output token, and keep no SLO on it"
        )
    hidden = (data.rows["hidden_tokens"] > 0) & data.outcome(Outcome.COMPLETED) & (asked | (data.rows["chunks"] > 1))
    if np.count_nonzero(hidden) > SOME * answers:
        more = round(100 * data.rows["hidden_tokens"][hidden].sum() / data.rows["output_tokens"][hidden].sum())
        degraded.append(
            f"in {np.count_nonzero(hidden):,} of {answers:,} answers {more} % of the tokens that the service states have "
            "neither text nor an event (reasoning that it does not show?): they count as output, and the time per output "
            "token is that of the others"
        )
    warm = records.requests[records.requests["phase"] == Phase.WARMUP]
    cold = warm[warm["outcome"] == Outcome.FAILED]
    if len(cold) > SOME * len(warm):
        told = f"{len(cold)} of {len(warm)} warm-up requests failed: {most_frequent(cold, records.errors)[0]}"
        degraded.append(f"{told}: the measurement did not begin warm")


def _waits(records: Records, facts: dict[str, float], options: LoadgenOptions) -> list[str]:
    """What to say of a closed loop whose users the service asked to wait, once that made the load too low."""
    share = facts.get("retry_after_share", 0.0)
    if share <= options.max_idle_share * IDLE_DEGRADED:
        return []
    rows = records.requests[records.requests["phase"] == Phase.MEASURED]
    length = max(1, int(rows["end_ns"].max()) - records.started_ns)
    flown = np.maximum(0, rows["end_ns"] - rows["sent_ns"])[rows["sent_ns"] > 0].sum() / length
    users = concurrency_of(options)
    times, longest = sum(fact.pauses for fact in records.workers), max(fact.longest_pause_s for fact in records.workers)
    told = (
        f"the service refuses load: it asked for up to {longest:.3g} s of waiting (Retry-After) {times:,} times, which took "
        f"{share:.0%} of the users' time, so {flown:.2g} requests{f' of {users:,}' if users else ''} were in flight on "
        "average; lower the load, or raise the service's limit"
    )
    return [told]


def _way_out(page_faults: int) -> str:
    if page_faults <= FEW_FAULTS:
        return "give the load generator a free core or more workers, or lower the load"
    return (
        f"memory is short on the load generator's machine: it had to read its own back from the disk {page_faults:,} times; "
        "give the service less memory, or end other programs"
    )


def disturbed(reasons: Iterable[str]) -> bool:
    """Do the reasons of a measurement that is not valid blame other programs on the service's machine?"""
    return any(reason.startswith(DISTURBED) for reason in reasons)


def refused(measurement: Measurement) -> bool:
    """Has an undisturbed service answered, and not completed a single request?"""
    metrics = measurement.metrics
    answered = metrics.get("completed") == 0 and metrics.get("answered", 0) > metrics.get("cancelled", 0)
    return answered and not disturbed(measurement.reasons)


def _broken(records: Records) -> list[str]:
    found = []
    if records.interrupted:
        found.append("the run was interrupted; these are partial results")
    if records.lost:
        found.append("the endpoint was lost during the run; these are partial results")
    found += [f"{facts.worker}: {note}" for facts in records.workers for note in facts.notes]
    return found


def nothing_completed(records: Records) -> str:
    """That not a single measured request was completed, and why: most of them met this error, were not answered in time, or
    were cancelled as asked. Empty if one was.
    """
    measured = records.requests[records.requests["phase"] == Phase.MEASURED]
    if not len(measured) or (measured["outcome"] == Outcome.COMPLETED).any():
        return ""
    ended = {outcome: measured[measured["outcome"] == outcome] for outcome in Outcome}
    cancelled, waited = len(ended[Outcome.CANCELLED]), len(ended[Outcome.INCOMPLETE])
    if cancelled == len(measured):
        told = f"all {cancelled:,} requests were cancelled, as request_cancellation_rate asks"
        return f"{told}: no answer is whole, so there are no latencies"
    error, amount = most_frequent(ended[Outcome.FAILED], records.errors)
    why = (
        f"; {amount} of {len(measured)} failed with: {error}" if amount else "",
        f"; {waited} of {len(measured)} had no answer before the end" if waited and not amount else "",
        f"; {cancelled} of {len(measured)} were cancelled as asked" if cancelled else "",
    )
    return f"not a single request was completed{''.join(why)}"


def most_frequent(requests: NDArray[Any], errors: Sequence[str]) -> tuple[str, int]:
    """The error that most of these requests met, its beginning, and how many did; 0: none met one."""
    index = requests["error"][requests["error"] >= 0]
    if not len(index):
        return "", 0
    amounts = np.bincount(index, minlength=len(errors))
    return errors[int(amounts.argmax())][:SHOWN], int(amounts.max())


def lateness(records: Records) -> dict[str, float]:
    """The figures that the certificate rests on.

    client_send_lag_p99_ms, client_send_lag_max_ms: sent - connect - ready, see records.REQUEST. client_idle_share:
    those lags as a share of the slots' time (lags, requests, and waits that the service asked for). retry_after_share: those
    waits as a share of it; absent if it never asked. client_read_lag_p99_ms: a worker's read after the kernel's stamp.
    client_unsure_share: of chunks, those whose stamp may be wrong by more than 1 ms. client_kernel_stamp_share: of chunks.
    client_cpu_share, client_cpu_share_max: of the busiest worker, over the measurement and in its busiest second.
    client_page_fault_count: how often a worker waited for the disk, because memory of it was not there: the most of one.
    """
    measured = records.requests[records.requests["phase"] == Phase.MEASURED]
    sent = measured[(measured["sent_ns"] > 0) & (measured["outcome"] != Outcome.DROPPED)]
    shares = [(worker.cpu_share, max(worker.cpu_share, worker.cpu_share_max)) for worker in records.workers]
    facts = {
        "client_cpu_share": max((mean for mean, _ in shares), default=0.0),
        "client_cpu_share_max": max((most for _, most in shares), default=0.0),
        "client_page_fault_count": float(max((worker.page_faults for worker in records.workers), default=0)),
    }
    if len(sent):
        late = np.maximum(0, sent["sent_ns"] - sent["connect_ns"] - sent["ready_ns"])
        facts |= {"client_send_lag_p99_ms": _p99(late) / 1e6, "client_send_lag_max_ms": float(late.max()) / 1e6}
        busy = float(np.maximum(0, sent["end_ns"] - sent["sent_ns"]).sum())
        paused = 1e9 * sum(worker.paused_s for worker in records.workers)
        whole = max(1.0, float(late.sum()) + busy + paused)
        facts["client_idle_share"] = float(late.sum()) / whole
        facts |= {"retry_after_share": paused / whole} if paused else {}
    chunks = records.chunks
    if len(chunks):
        stamped = chunks["lag_ns"] >= 0
        unsure = int((chunks["doubt_ns"] > DOUBT_NS).sum())
        facts["client_unsure_share"] = unsure / max(MIN_CHUNKS, len(chunks))
        facts["client_kernel_stamp_share"] = float(stamped.mean())
        if stamped.any():
            facts["client_read_lag_p99_ms"] = _p99(chunks["lag_ns"][stamped]) / 1e6
    return facts


def _p99(values: NDArray[np.integer]) -> float:
    """Nearest rank."""
    rank = max(0, -(-99 * len(values) // 100) - 1)
    return float(np.partition(values, rank)[rank])
