"""Do the lengths of prompts that a service states fit the prompts that were sent? Seen over all requests of a run. Pure.

Our own count is exact to a few percent for prompts that are made here (workload/tokens.py); a quarter is allowed. Beside it
a service may add ``ADDED`` tokens without a word: chat templates have up to 100, the default system prompts of models up to
600. What is beyond that and the same in all requests (as a number: a longer system prompt, tools; or as a ratio: a
vocabulary of characters) can be true: it is counted, and noted. What differs from request to request is false: those prompts
are counted as asked. How much can be true of one request at all, read/counts.py says: the bytes that were sent and
``HIDDEN_TOKENS``.

Prompts of a file may hold what we do not count (pictures, tools, other languages), and embeddings and ranks count each text
with its own template, ranks the query again: there only counts that are too low are looked at, with half as the error where
the prompts come from a file. A count that is too low, and the same in all requests that have one, is that of a service that
cuts prompts off: it is believed, and told. Others are false.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from swarmtune.loadgen.judge.latencies import Bools, Ints
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Outcome, Phase, Records

ADDED = 1024
FEWER = 256  # tokens below the least: the difference tells something only of long prompts
LEAST_CUT = 128  # tokens that a service which cuts prompts off leaves of them
MADE_ERROR, READ_ERROR = 0.25, 0.5  # of our own count
SAME = 64  # tokens by which what a service adds may differ
WITHOUT_ANSWER = ("embeddings", "rankings")


def settled(records: Records, options: LoadgenOptions) -> Records:
    """The records with our own counts of prompts where the service's are false; those rows have ``false_usage``."""
    false = _false(records, options)
    if not false.any():
        return records
    rows = records.requests.copy()
    rows["input_tokens"][false] = rows["asked_input_tokens"][false]
    rows["false_usage"][false] = True
    rows["cached_tokens"][false & (rows["cached_tokens"] > rows["input_tokens"])] = -1
    return replace(records, requests=rows)


def added(records: Records, options: LoadgenOptions) -> str:
    """What to say of tokens that the service adds to the prompts, of settled records; empty: nothing."""
    own, stated, _, high = _compared(records, options)
    if not high.any():
        return ""
    more = int(np.median((stated - own)[high]))
    return (
        f"the service states about {more:,} prompt tokens more than were sent (prompt_tokens, in {np.count_nonzero(high):,} "
        f"of {len(own):,} answers): a system prompt, a template or tools of its own, or another vocabulary; they are counted"
    )


def shortened(records: Records, options: LoadgenOptions) -> str:
    """What to say of prompts that the service cuts off, of settled records; empty: nothing."""
    own, stated, low, _ = _compared(records, options)
    if not low.any():
        return ""
    return (
        f"the service states {int(stated[low].max()):,} prompt tokens where about {int(np.median(own[low])):,} were sent "
        f"(prompt_tokens, in {np.count_nonzero(low):,} of {len(own):,} answers): it cuts prompts off, or does not read them"
    )


def _false(records: Records, options: LoadgenOptions) -> Bools:
    rows = records.requests
    found = np.zeros(len(rows), bool)
    own, stated, low, high = _compared(records, options)
    if low.any() or high.any():
        cut = low & (stated == stated[low].max(initial=0)) & (stated >= LEAST_CUT)
        alone = high & ~_like_the_rest(own, stated, records.requests[_judged(records)]["turn"] == 0)
        found[_judged(records)] = (low & ~cut) | alone
    return found


def _like_the_rest(own: Ints, stated: Ints, first: Bools) -> Bools:
    """Which counts differ from our own as most of the ``first`` turns do, in number or in ratio?"""
    number = own + np.median((stated - own)[first])
    ratio = own * np.median((stated / np.maximum(1, own))[first])
    near: Bools = (np.abs(stated - number) <= MADE_ERROR * own + SAME) | (np.abs(stated - ratio) <= MADE_ERROR * ratio)
    return near


def _compared(records: Records, options: LoadgenOptions) -> tuple[Ints, Ints, Bools, Bools]:
    """Of the completed requests: our own count of the prompt, the one in the records, which of those are too low, and which
    too high for our own and ``ADDED``."""
    rows = records.requests[_judged(records)]
    own, stated = rows["asked_input_tokens"].astype(np.int64), rows["input_tokens"].astype(np.int64)
    made = not (options.input_file or options.public_dataset)
    low = stated + FEWER < own * (1 - (MADE_ERROR if made else READ_ERROR))
    known = made and options.endpoint_type not in WITHOUT_ANSWER
    high = (stated > own * (1 + MADE_ERROR) + ADDED) & (rows["turn"] == 0) & known
    return own, stated, low, high


def _judged(records: Records) -> Bools:
    rows = records.requests
    found: Bools = (rows["phase"] == Phase.MEASURED) & (rows["outcome"] == Outcome.COMPLETED)
    return found
