"""Continuous batching without I/O and without a clock: which sequences run in a step, and how long the step takes.

The rules are those of vLLM's V1 scheduler: running sequences first, then waiting ones in order of arrival; prompts are
computed in chunks within a token budget per step; KV memory is given out in blocks as tokens are computed; when no
block is left the youngest running sequence is preempted and computed anew later. The step time is linear in the work
of the step, as in Vidur (Agrawal et al., MLSys 2024), with a steeper part beyond a knee.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class BatchLimits:
    """The settings of the engine. Sizes in tokens, ``max_num_seqs`` in sequences."""

    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    kv_cache_tokens: int = 16384
    block_size: int = 16
    enable_chunked_prefill: bool = True

    @property
    def blocks(self) -> int:
        """KV blocks there are."""
        return self.kv_cache_tokens // self.block_size

    @property
    def longest_sequence(self) -> int:
        """Tokens (prompt + output) of the longest sequence that can ever run."""
        memory = self.blocks * self.block_size
        return memory if self.enable_chunked_prefill else min(memory, self.max_num_batched_tokens)


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step, by its work. Defaults: a decode step of 16 sequences takes about 4 ms."""

    base_s: float = 0.0025
    per_prefill_token_s: float = 10e-6
    per_decode_seq_s: float = 80e-6
    per_context_token_s: float = 1e-7
    knee_tokens: int = 1024
    per_token_above_knee_s: float = 10e-6

    def seconds(self, step: Step) -> float:
        """Time of one step, noise-free."""
        above = max(0, step.prefill_tokens + step.decodes - self.knee_tokens)
        return (
            self.base_s
            + self.per_prefill_token_s * step.prefill_tokens
            + self.per_decode_seq_s * step.decodes
            + self.per_context_token_s * step.context_tokens
            + self.per_token_above_knee_s * above
        )


class StepTimer:
    """Step times with multiplicative lognormal noise of mean 1; ``noise`` is the sigma of the logarithm, 0 = none."""

    def __init__(self, cost: StepCost, noise: float = 0.0, seed: int = 0) -> None:
        self.cost = cost
        self._noise = noise
        self._random = random.Random(seed)

    def seconds(self, step: Step) -> float:
        """Time of this step."""
        factor = math.exp(self._random.gauss(-(self._noise**2) / 2, self._noise)) if self._noise else 1.0
        return self.cost.seconds(step) * factor


@dataclass(eq=False)
class Sequence:
    """One request inside the engine: ``computed`` tokens have their KV entries, ``generated`` tokens were emitted."""

    prompt_tokens: int
    output_tokens: int
    computed: int = 0
    generated: int = 0
    blocks: int = 0

    @property
    def length(self) -> int:
        """Tokens known so far."""
        return self.prompt_tokens + self.generated

    @property
    def finished(self) -> bool:
        """Has it emitted all its tokens?"""
        return self.generated >= self.output_tokens


@dataclass(frozen=True)
class Step:
    """What one step computes: how many tokens of which sequence. A decode is one token of a complete sequence."""

    work: tuple[tuple[Sequence, int], ...] = ()
    preempted: tuple[Sequence, ...] = ()
    prefill_tokens: int = field(init=False)
    decodes: int = field(init=False)
    context_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        decodes = sum(1 for s, n in self.work if n == 1 and s.computed >= s.prompt_tokens and s.generated)
        object.__setattr__(self, "decodes", decodes)
        object.__setattr__(self, "prefill_tokens", sum(n for _, n in self.work) - decodes)
        object.__setattr__(self, "context_tokens", sum(s.computed + n for s, n in self.work))


class Scheduler:
    """Decides step by step. ``schedule`` and ``complete`` are called in turn."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.free_blocks = limits.blocks
        self.preemptions = 0

    def set_max_num_seqs(self, most: int) -> None:
        """Change how many sequences run at a time; those that run go on. ValueError if it does not suit the other limits."""
        if not 1 <= most <= self.limits.max_num_batched_tokens:
            raise ValueError(
                f"max_num_seqs must lie between 1 and max_num_batched_tokens ({self.limits.max_num_batched_tokens})"
            )
        self.limits = replace(self.limits, max_num_seqs=most)

    @property
    def busy(self) -> bool:
        """Is there anything to compute?"""
        return bool(self.running or self.waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        return 1 - self.free_blocks / self.limits.blocks if self.limits.blocks else 0.0

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; ValueError if it could never run."""
        longest = self.limits.longest_sequence
        if sequence.prompt_tokens + sequence.output_tokens > longest:
            raise ValueError(
                f"This model's maximum context length is {longest} tokens. However, you requested "
                f"{sequence.output_tokens} output tokens and your prompt contains {sequence.prompt_tokens} input tokens."
            )
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence whose client has gone; no harm if it is not there."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def schedule(self) -> Step:
        """The next step; empty if there is nothing to do."""
        budget = self.limits.max_num_batched_tokens
        work: list[tuple[Sequence, int]] = []
        preempted: list[Sequence] = []
        position = 0
        while position < len(self.running) and budget > 0:
            sequence = self.running[position]
            tokens = min(sequence.length - sequence.computed, budget)
            if not self._make_room(sequence, tokens, preempted):
                break
            work.append((sequence, tokens))
            budget -= tokens
            position += 1
        if not preempted:
            self._admit(budget, work)
        return Step(tuple(work), tuple(preempted))

    def complete(self, step: Step) -> list[Sequence]:
        """The step has run. Returned are the sequences that emitted a token; finished ones have left."""
        emitted = []
        for sequence, tokens in step.work:
            if sequence.blocks == 0:
                continue
            sequence.computed += tokens
            if sequence.computed == sequence.length:
                sequence.generated += 1
                emitted.append(sequence)
                if sequence.finished:
                    self.remove(sequence)
        return emitted

    def _admit(self, budget: int, work: list[tuple[Sequence, int]]) -> None:
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            sequence = self.waiting[0]
            tokens = min(sequence.length, budget)
            if tokens < sequence.length and not self.limits.enable_chunked_prefill:
                return
            if not self._allocate(sequence, tokens):
                return
            self.running.append(self.waiting.popleft())
            work.append((sequence, tokens))
            budget -= tokens

    def _make_room(self, sequence: Sequence, tokens: int, preempted: list[Sequence]) -> bool:
        """Blocks for these tokens, from younger sequences if need be; False if the sequence itself had to go."""
        while not self._allocate(sequence, tokens):
            victim = self.running.pop()
            self._release(victim)
            victim.computed = 0
            self.waiting.appendleft(victim)
            preempted.append(victim)
            self.preemptions += 1
            if victim is sequence:
                return False
        return True

    def _allocate(self, sequence: Sequence, tokens: int) -> bool:
        needed = math.ceil((sequence.computed + tokens) / self.limits.block_size) - sequence.blocks
        if needed > self.free_blocks:
            return False
        self.free_blocks -= needed
        sequence.blocks += needed
        return True

    def _release(self, sequence: Sequence) -> None:
        self.free_blocks += sequence.blocks
        sequence.blocks = 0
