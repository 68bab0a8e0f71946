"""vLLM's V1 scheduler: which tokens of which request are computed in a step.

After ``vllm/v1/core/sched/scheduler.py`` and ``async_scheduler.py`` of vLLM 0.19 and 0.30 to 0.33 (Apache-2.0), by their
rules and without their code: running requests first, then waiting ones in order of arrival or priority; prompts in chunks
within a token budget; KV blocks as tokens are computed; without a free one the youngest, or least important, request is
preempted and computed anew. With several batches in flight a request is scheduled on before its last token is known.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from swarmtune.scheduling import Rules
from swarmtune.simulator.scheduling.blocks import UNKNOWN, Blocks


class State(IntEnum):
    """Of a request."""

    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2
    FINISHED = 3


@dataclass(eq=False, slots=True)
class Request:
    """``computed`` tokens are scheduled or have their KV entries; ``generated`` tokens came out; ``expected`` ones are being
    computed; ``in_flight`` tokens are part of batches that run, ``stale`` ones of them from before a preemption.

    ``arrival``: in any unit; requests of one priority are let in by it. ``contents``: what the full blocks of prompt and
    output hold, as far as other requests may have the same. ``cached``: tokens of the prompt that were found in the KV
    cache when it was first let in.
    """

    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    contents: tuple[int, ...] = ()
    arrival: float = 0.0
    number: int = 0
    state: State = State.WAITING
    computed: int = 0
    generated: int = 0
    expected: int = 0
    in_flight: int = 0
    stale: int = 0
    cached: int = -1
    preemptions: int = 0
    filled: int = 0
    resting_until: int = 0
    blocks: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens known so far."""
        return self.prompt_tokens + self.generated

    @property
    def finished(self) -> bool:
        """Has it emitted all its tokens?"""
        return self.generated >= self.output_tokens

    def __lt__(self, other: Request) -> bool:
        return (self.priority, self.arrival, self.number) < (other.priority, other.arrival, other.number)


@dataclass(frozen=True)
class Step:
    """A batch: how many tokens of which request. A decode is one token of a request whose prompt is complete.

    ``answers``: the requests of which a token comes out. ``tokens``: of all; ``context``: tokens to which the decodes
    attend, their own among them; ``prefills``: pieces of prompts; ``prefill_work``: the sum of q * (c + q / 2) over these,
    for q tokens behind c.
    """

    work: tuple[tuple[Request, int], ...] = ()
    answers: frozenset[Request] = frozenset()
    preempted: tuple[Request, ...] = ()
    tokens: int = 0
    decodes: int = 0
    context: int = 0
    prefills: int = 0
    prefill_work: float = 0.0

    @property
    def features(self) -> tuple[float, float, float, float, float]:
        """What decides how long it takes, in the order of ``latency.features``."""
        return float(self.tokens), float(self.decodes), float(self.context), self.prefill_work, float(self.prefills)


class Scheduler:
    """Decides step by step. ``complete`` follows ``schedule`` in order; at most ``rules.batches`` steps are between them."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.running: list[Request] = []
        self.waiting: _ByPriority | _InOrder = _ByPriority() if rules.by_priority else _InOrder()
        self.blocks = Blocks(rules.blocks, caching=rules.prefix_caching, recent_first=rules.version >= (0, 30))
        self.preemptions = 0
        self._added = self._steps = 0

    def set_max_num_seqs(self, most: int) -> None:
        """Change how many requests run at a time; those that run go on. ValueError if it does not suit the other limits."""
        if not 1 <= most <= self.rules.max_num_batched_tokens:
            raise ValueError(
                f"max_num_seqs must lie between 1 and max_num_batched_tokens ({self.rules.max_num_batched_tokens})"
            )
        self.rules = replace(self.rules, max_num_seqs=most)

    @property
    def busy(self) -> bool:
        """Is there anything to compute?"""
        return bool(self.running or len(self.waiting))

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        return 1 - self.blocks.free / self.blocks.total if self.blocks.total else 0.0

    def add(self, request: Request) -> None:
        """Queue a new request; ValueError if it could never run."""
        longest = self.rules.longest
        if request.prompt_tokens + request.output_tokens > longest:
            raise ValueError(
                f"This model's maximum context length is {longest} tokens. However, you requested "
                f"{request.output_tokens} output tokens and your prompt contains {request.prompt_tokens} input tokens."
            )
        self._added += 1
        request.number = self._added
        self.waiting.add(request)

    def remove(self, request: Request) -> None:
        """Forget a request whose client has gone; nothing if it has left already."""
        if request.state == State.RUNNING:
            self.running.remove(request)
        elif request.state != State.FINISHED:
            self.waiting.remove(request)
        else:
            return
        request.state = State.FINISHED
        self.blocks.give_back(request.blocks)
        request.blocks = []

    def schedule(self) -> Step:
        """The next step; empty if there is nothing to do."""
        self._steps += 1
        plan = _Plan(self.rules, len(self.running) + len(self.waiting))
        self._continue(plan)
        if not plan.preempted:
            self._admit(plan)
        return self._started(plan)

    def complete(self, step: Step) -> list[Request]:
        """The step has run. Returned are the requests of which a token came out; finished ones have left."""
        emitted = []
        for request, tokens in step.work:
            request.in_flight -= tokens
            stale = request.stale > 0
            if stale:
                request.stale -= tokens
            if request.state == State.FINISHED or request not in step.answers:
                continue
            request.generated += 1
            emitted.append(request)
            if self.rules.asynchronous:
                request.expected -= not stale
                if request.state == State.RUNNING:
                    self._fill(request, request.computed - request.expected)
            if request.finished:
                self.remove(request)
        return emitted

    def _continue(self, plan: _Plan) -> None:
        """Plan the requests that run."""
        position = 0
        while position < len(self.running) and plan.budget > 0:
            request = self.running[position]
            tokens = plan.tokens(request, request.length + request.expected - request.computed)
            if (
                request.expected
                and request.computed + 2 - request.expected >= request.prompt_tokens + request.output_tokens
            ):
                tokens = 0  # its last token is being computed
            if self._steps < request.resting_until:
                tokens = 0  # its token of a step before is on its way through the pipeline
            if tokens and not self._has_room(request, tokens):
                position = self._make_room(request, tokens, plan, position)
                if request.state != State.RUNNING:
                    if self.rules.by_priority and self.rules.version >= (0, 33):
                        continue
                    return
            if tokens:
                self._give(request, tokens)
                plan.add(request, tokens)
            position += 1

    def _make_room(self, request: Request, tokens: int, plan: _Plan, position: int) -> int:
        """Preempt others until this request has room, or it itself; its place among those that run now."""
        while request.state == State.RUNNING and not self._has_room(request, tokens):
            at = len(self.running) - 1
            if self.rules.by_priority:
                at = self.running.index(max(self.running, key=self._behind))
            victim = self.running.pop(at)
            planned = plan.drop(victim)
            position -= at < position if self.rules.version >= (0, 30) else planned
            self._preempt(victim)
            plan.preempted.append(victim)
        return position

    @staticmethod
    def _behind(request: Request) -> tuple[float, ...]:
        """Of these the largest gives way. vLLM has no number here, and never two requests of one moment: without it, equals
        could preempt each other for ever.
        """
        return request.priority, request.arrival, request.number

    def _preempt(self, request: Request) -> None:
        self.blocks.give_back(request.blocks)
        request.blocks, request.filled, request.computed = [], 0, 0
        request.stale, request.expected = request.in_flight, 0
        request.state = State.PREEMPTED
        request.preemptions += 1
        self.preemptions += 1
        self.waiting.put_back([request])

    def _admit(self, plan: _Plan) -> None:
        """Plan requests that wait."""
        skipped = []
        while len(self.waiting) and plan.budget > 0 and len(self.running) < self.rules.max_num_seqs:
            request = self.waiting.first()
            if request.stale:  # what was computed before its preemption comes first
                skipped.append(self.waiting.pop())
                continue
            hits = self.blocks.found(request.contents, (request.length - 1) // self.rules.block_size)
            cached = len(hits) * self.rules.block_size
            tokens = plan.tokens(request, request.length - cached, cut=self.rules.chunked_prefill)
            if not tokens or not self._may_enter(request, tokens, hits):
                break
            self.waiting.pop()
            self.running.append(request)
            request.state = State.RUNNING
            request.cached = cached if request.cached < 0 else request.cached
            request.computed, request.filled, request.blocks = cached, len(hits), hits
            self.blocks.share(hits)
            self._give(request, tokens)
            plan.add(request, tokens)
        self.waiting.put_back(skipped)

    def _may_enter(self, request: Request, tokens: int, hits: list[int]) -> bool:
        """Is there room for its first tokens, and, where the rule holds, for all of its prompt?"""
        size = self.rules.block_size
        whole = request.length if self.rules.whole_prompt else 0
        needed = -(-max(whole, len(hits) * size + tokens) // size) - len(hits) + self.blocks.unused(hits)
        kept = self.rules.blocks_kept_free if self.running else 0
        return needed + kept <= self.blocks.free

    def _needed(self, request: Request, tokens: int) -> int:
        return -(-(request.computed + tokens) // self.rules.block_size) - len(request.blocks)

    def _has_room(self, request: Request, tokens: int) -> bool:
        return self._needed(request, tokens) <= self.blocks.free

    def _give(self, request: Request, tokens: int) -> None:
        """Blocks for these tokens; what is full now is known."""
        request.blocks += self.blocks.take(self._needed(request, tokens))
        self._fill(request, min(request.computed + tokens, request.length))

    def _fill(self, request: Request, tokens: int) -> None:
        if not self.rules.prefix_caching:
            return
        for place in range(request.filled, tokens // self.rules.block_size):
            content = request.contents[place] if place < len(request.contents) else UNKNOWN
            self.blocks.fill(request.blocks[place], content)
            request.filled = place + 1

    def _started(self, plan: _Plan) -> Step:
        answers, decodes, context, prefills, prefill_work = [], 0, 0, 0, 0.0
        for request, tokens in plan.work.items():
            started = request.computed >= request.prompt_tokens and request.generated + request.expected > 0
            if tokens == 1 and started:
                decodes += 1
                context += request.computed + 1
            else:
                prefills += 1
                prefill_work += float(tokens) * (float(request.computed) + 0.5 * float(tokens))
            request.computed += tokens
            request.in_flight += tokens
            if request.computed >= request.length + request.expected:
                answers.append(request)
                if self.rules.asynchronous:
                    request.expected += 1
                    request.resting_until = self._steps + self.rules.rest
        counts = (sum(plan.work.values()), decodes, context, prefills, prefill_work)
        return Step(tuple(plan.work.items()), frozenset(answers), tuple(plan.preempted), *counts)


class _Plan:
    """A step that is being planned."""

    def __init__(self, rules: Rules, requests: int) -> None:
        self.budget = rules.max_num_batched_tokens
        self.work: dict[Request, int] = {}
        self.preempted: list[Request] = []
        self._threshold = rules.threshold(requests)
        self._longest = rules.max_model_len

    def tokens(self, request: Request, wanted: int, *, cut: bool = True) -> int:
        """How many of the wanted tokens fit; ``cut`` False: all or none."""
        if 0 < self._threshold < wanted:
            wanted = self._threshold
        if wanted > self.budget and not cut:
            return 0
        most = self.budget if self._longest is None else min(self.budget, self._longest - request.computed - 1)
        return min(wanted, most)

    def add(self, request: Request, tokens: int) -> None:
        """Compute these tokens."""
        self.work[request] = tokens
        self.budget -= tokens

    def drop(self, request: Request) -> bool:
        """Do not compute this one; was it planned?"""
        tokens = self.work.pop(request, 0)
        self.budget += tokens
        return tokens > 0


class _InOrder:
    """Requests that wait, in order of arrival; those that ran before are in front."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """One more, behind all others."""
        self._requests.append(request)

    def first(self) -> Request:
        """The next one."""
        return self._requests[0]

    def pop(self) -> Request:
        """Take the next one."""
        return self._requests.popleft()

    def put_back(self, requests: Sequence[Request]) -> None:
        """In front, in this order."""
        self._requests.extendleft(reversed(requests))

    def remove(self, request: Request) -> None:
        """No more."""
        self._requests.remove(request)


class _ByPriority:
    """Requests that wait: a heap by priority, then arrival."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """One more."""
        heapq.heappush(self._requests, request)

    def first(self) -> Request:
        """The next one."""
        return self._requests[0]

    def pop(self) -> Request:
        """Take the next one."""
        return heapq.heappop(self._requests)

    def put_back(self, requests: Sequence[Request]) -> None:
        """These wait again."""
        for request in requests:
            self.add(request)

    def remove(self, request: Request) -> None:
        """No more."""
        self._requests.remove(request)
        heapq.heapify(self._requests)
