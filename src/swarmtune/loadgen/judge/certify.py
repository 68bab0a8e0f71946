"""Can this measurement be trusted? The load generator certifies it, from what it recorded about its own lateness.

A client that is starved of CPU sends late and reads late. With the kernel's receive stamps late reading does not falsify an
arrival, as long as each chunk was read by itself; when later bytes had come by then, the kernel kept only the last stamp. So
the questions are: was the load what was asked for (a rate: lateness of sending; a closed loop: the time in which a user had
its answer and had not sent again, because we had not read yet or were busy), and are the arrivals known (share of chunks
whose stamp may be wrong by more than a millisecond)?

A service that is starved by other programs is not itself: then the machine is to blame, neither load generator nor setting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarmtune.devices.busiest import how_much
from swarmtune.loadgen.observe.contention import Contention, contention, other_device_share
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Outcome, Phase, Records
from swarmtune.loadgen.send.plan import mode_of
from swarmtune.records import Measurement

Level = Literal["valid", "degraded", "invalid"]
DEGRADED = 0.2  # of the limit for "invalid"
IDLE_DEGRADED = 0.5  # the same for the idle share: a load that is 2 % too low changes little
DOUBT_NS = 1_000_000  # a stamp that may be wrong by more is counted
SHOWN = 300  # characters of an error
DISTURBED = "other programs used "  # how a reason begins that blames the neighbours of the service
FALSE_USAGE = 0.05  # share of answers without a count of tokens above which the token metrics are of no use
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
    if refused := nothing_completed(records):  # then its lateness tells nothing, and nothing is known of the service
        return Certificate("invalid", (refused, *_broken(records), *invalid), facts)
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
    _judge_usage(records, invalid, degraded)
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


def _judge_usage(records: Records, invalid: list[str], degraded: list[str]) -> None:
    """Token counts of the service that cannot be true were left out: do the stream's own stand in for them?"""
    done = records.requests["outcome"] == Outcome.COMPLETED
    answers = records.requests[done & (records.requests["phase"] == Phase.MEASURED)]
    false = answers["false_usage"]
    if not false.any():
        return
    told = f"the service stated token counts that cannot be true in {np.count_nonzero(false):,} of {len(answers):,} answers"
    uncounted = false & ~answers["server_counted"] & (answers["chunks"] <= 1) & (answers["asked_output_tokens"] != 1)
    if np.count_nonzero(uncounted) > FALSE_USAGE * len(answers):
        invalid.append(
            f"{told}, and the answers came in one piece, so that their tokens cannot be counted: mend its usage"
        )
    else:
        degraded.append(f"{told}: they were left out, and output tokens counted by the chunks of the stream")


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
    answered = metrics.get("completed") == 0 and metrics.get("answered", 0) > 0
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
    """That not a single measured request was completed, and the error that most of them met; empty if one was."""
    measured = records.requests[records.requests["phase"] == Phase.MEASURED]
    if not len(measured) or (measured["outcome"] == Outcome.COMPLETED).any():
        return ""
    index = measured["error"][measured["error"] >= 0]
    if not len(index):
        return "not a single request was completed"
    amounts = np.bincount(index, minlength=len(records.errors))
    error = records.errors[int(amounts.argmax())][:SHOWN]
    return f"not a single request was completed; {amounts.max()} of {len(measured)} failed with: {error}"


def lateness(records: Records) -> dict[str, float]:
    """The figures that the certificate rests on.

    client_send_lag_p99_ms, client_send_lag_max_ms: sent - connect - ready, see records.REQUEST. client_idle_share:
    those lags as a share of the slots' time (lags and requests together). client_read_lag_p99_ms: a worker's read
    after the kernel's stamp. client_unsure_share: of chunks, those whose stamp may be wrong by more than 1 ms.
    client_kernel_stamp_share: of chunks. client_cpu_share, client_cpu_share_max: of the busiest worker, over the
    measurement and in its busiest second. client_page_fault_count: how often a worker waited for the disk, because
    memory of it was not there: the most of one.
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
        facts["client_idle_share"] = float(late.sum()) / max(1.0, float(late.sum()) + busy)
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
