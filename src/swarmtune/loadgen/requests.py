"""Request bodies and arrival times, all from the workload's seed: the same seed gives the same bytes and schedule.

Every request has a random generator of its own, seeded by the text ``seed:index``, so that its body does not depend on
how many others were made. Prompts are random common words: about one token each, different from the first word on, so
that prefix caching cannot help.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from swarmtune.workload import Workload

COMMON_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face others level office door health person art war history party result change morning reason research girl guy
moment air teacher force education foot boy age policy process music market sense nation plan college interest death
experience effect use class control field development role effort rate heart drug show leader light voice wife whole
police mind price report decision son view relationship town road arm difference value building action season
society tax director position player record paper space ground form event official matter center couple site project
base activity star table court produce oil half situation cost industry figure street image phone data picture
practice piece land product doctor wall patient worker news test movie north love support technology step baby
computer type attention film tree source
"""
WORDS = tuple(COMMON_WORDS.split())
NS = 1_000_000_000


@dataclass(frozen=True)
class Request:
    """One request, ready to send. Token counts are those asked for."""

    id: str
    body: bytes
    input_tokens: int
    output_tokens: int


def _length(generator: random.Random, mean: float, stddev: float) -> int:
    return max(1, round(generator.gauss(mean, stddev)))


def request(workload: Workload, index: int, *, warmup: bool = False) -> Request:
    """Request number ``index`` (from 0) of the workload, or of its warm-up."""
    name = f"{'warmup-' if warmup else ''}{workload.seed}-{index}"
    generator = random.Random(name)
    input_tokens = _length(generator, workload.input_tokens_mean, workload.input_tokens_stddev)
    output_tokens = _length(generator, workload.output_tokens_mean, workload.output_tokens_stddev)
    prompt = " ".join(generator.choices(WORDS, k=input_tokens))
    body: dict[str, Any] = {"model": workload.model}
    if workload.endpoint == "chat":
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    body |= {"max_tokens": output_tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    if workload.ignore_eos:
        body["ignore_eos"] = True
    return Request(name, orjson.dumps(body), input_tokens, output_tokens)


def requests(workload: Workload, prepared: int) -> Iterator[Request]:
    """The measured requests in order; the first ``prepared`` are made now, the others when they are taken."""
    ready = [request(workload, index) for index in range(prepared)]

    def remaining() -> Iterator[Request]:
        yield from ready
        index = len(ready)
        while workload.requests is None or index < workload.requests:
            yield request(workload, index)
            index += 1

    return remaining()


def schedule(workload: Workload) -> list[int]:
    """Intended send times in ns after the start, for a workload with a rate.

    Poisson: independent exponential gaps of mean 1/rate, never rescaled, so that the count over a duration varies as it
    does for a Poisson process. Constant: one request every 1/rate seconds, the first at 0.
    """
    rate = workload.load.request_rate
    if rate is None:
        raise ValueError("a closed loop has no schedule")
    limit_s = float("inf") if workload.duration_s is None else workload.duration_s
    limit_count = float("inf") if workload.requests is None else workload.requests
    generator = random.Random(f"{workload.seed}-arrivals")
    poisson = workload.load.arrivals == "poisson"
    offsets: list[int] = []
    at_s = generator.expovariate(rate) if poisson else 0.0
    while at_s < limit_s and len(offsets) < limit_count:
        offsets.append(round(at_s * NS))
        at_s = at_s + generator.expovariate(rate) if poisson else len(offsets) / rate
    return offsets
