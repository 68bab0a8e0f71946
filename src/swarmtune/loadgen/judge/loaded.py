"""How fast a service works while its load is on, in equal stretches of that time: what the proof compares.

Answers over the whole time of a run depend on where its end cuts a wave: in a closed loop all users begin together, and
the last answers come while most users have already left. So each answer's credit (1, or its tokens) is spread evenly over
its own lifetime, and only the time counts in which every user has a request in flight. In a stationary loop the mean of
that rate is exactly users / mean lifetime, because a random moment meets a lifetime L in proportion to L, and
E[L * 1 / L] / E[L] = 1 / E[L] (Cox 1962, Renewal Theory, chapter 5). A common start adds half the squared variation of the
lifetimes, by the number of waves: the same on both sides of a comparison, nearly. Of an answer that was not ready in time
its share counts, so little of a short run is lost to chance.

With a rate, requests come when they come, and a service that keeps up answers all of them: each counts when it was sent. If
the answers take ever longer, the service does not keep up, and only the whole run tells how fast it works.
"""

from __future__ import annotations

import numpy as np

from swarmtune.loadgen.judge.latencies import NS_PER_S, Bools, Columns, Floats, Ints
from swarmtune.loadgen.judge.series import steps
from swarmtune.loadgen.records import Outcome

STRETCHES = 10
GROWN = 2.0  # times longer than in the first quarter of the requests, answers in the last one show a queue that grows
FEW = 8  # requests; among fewer no growth shows


def loaded_rates(
    data: Columns, kept: Bools | None, started_ns: int, users: float | None, offered_s: float | None
) -> dict[str, tuple[float, ...]]:
    """Goodput (of the requests that ``kept`` their limits) and output throughput per second, in ``STRETCHES`` equal
    stretches of the time in which the load was on; empty if nothing was sent.

    ``users``: of a closed loop; None: a rate was asked for. ``offered_s``: the time in which requests were to be sent, s;
    None: until their number was reached.
    """
    counted = (data.rows["sent_ns"] > 0) & (data.rows["outcome"] != Outcome.DROPPED)
    if not counted.any():
        return {}
    rows = data.rows[counted]
    sent, ended = rows["sent_ns"], np.maximum(rows["end_ns"], rows["sent_ns"] + 1)
    until = _until(rows["turn"], sent, int(ended.max()), started_ns, offered_s)
    if users is not None:
        there = max(0, min(int(users), len(sent)) - 1)
        first = int(np.partition(sent, there)[there])  # now all users are there
        starts, ends = sent, ended
    else:
        first = started_ns
        starts, ends = sent, sent + 1
        if _grows(sent, ended):
            until = first
    if until <= first:  # a single wave, everything at once, or a queue that grows: the whole run
        first, until, starts, ends = started_ns, int(ended.max()), sent, ended
    edges = np.linspace(first, until, STRETCHES + 1).round().astype(np.int64)
    if (np.diff(edges) <= 0).any():
        return {}
    done = data.outcome(Outcome.COMPLETED)[counted]
    credit_of = {"output_throughput": np.where(done, rows["output_tokens"], 0).astype(np.float64)}
    if kept is not None:
        credit_of["request_goodput"] = kept[counted].astype(np.float64)
    return {name: tuple(_rates(starts, ends, credit, edges).tolist()) for name, credit in credit_of.items()}


def _rates(starts: Ints, ends: Ints, credit: Floats, edges: Ints) -> Floats:
    """Credit per second between consecutive edges."""
    return steps(starts, ends, credit * NS_PER_S / (ends - starts)).means(edges)


def _until(turns: Ints, sent: Ints, last_ns: int, started_ns: int, offered_s: float | None) -> int:
    """When the load ceased: the end of the time for sending, or the start of the last session, whichever ended the run."""
    if offered_s is not None and started_ns + offered_s * NS_PER_S <= last_ns:
        return started_ns + round(offered_s * NS_PER_S)
    return int(sent[turns == 0].max(initial=int(sent.min())))


def _grows(sent: Ints, ended: Ints) -> bool:
    """Do the answers to the last quarter of the requests take much longer than those to the first?"""
    if len(sent) < FEW:
        return False
    taken = (ended - sent)[np.argsort(sent, kind="stable")]
    quarter = len(taken) // 4
    return bool(np.median(taken[-quarter:]) > GROWN * np.median(taken[:quarter]))
