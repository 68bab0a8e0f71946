"""What an engine's setting means for its scheduler: engines say it, simulated ones keep to it."""

from __future__ import annotations

from dataclasses import dataclass

VLLM = (0, 32)  # whose rules hold unless another version is given


@dataclass(frozen=True)
class Rules:
    """Limits, and the habits of a version of vLLM's scheduler. Sizes in tokens, blocks of ``block_size`` tokens.

    ``blocks``: as the engine's log counts them; one of them is never given out. ``max_model_len``: prompt and output of the
    longest request; None: what the memory holds. ``asynchronous``: a step is planned while the one before runs.
    ``pipeline``: stages, each of which has a batch.
    ``whole_prompt``: a request is let in only if the memory has room for all of its prompt
    (``scheduler_reserve_full_isl``). ``watermark``: share of the blocks that stay free when a request is let in while
    others run (since vLLM 0.30). ``adaptive_threshold``: a long prompt gets its share of the budget at least (since 0.31).
    """

    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    blocks: int = 1025
    block_size: int = 16
    max_model_len: int | None = None
    chunked_prefill: bool = True
    prefix_caching: bool = False
    by_priority: bool = False
    long_prefill_token_threshold: int = 0
    adaptive_threshold: bool = False
    whole_prompt: bool = True
    watermark: float = 0.0
    asynchronous: bool = False
    pipeline: int = 1
    version: tuple[int, int] = VLLM

    @property
    def batches(self) -> int:
        """Batches in flight at a time."""
        ahead = self.asynchronous and (self.pipeline == 1 or self.version >= (0, 30))
        return self.pipeline + ahead

    @property
    def rest(self) -> int:
        """Steps from one token of a request to its next, if planned before the token is known."""
        return self.pipeline if self.version >= (0, 30) else 1

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can have."""
        return max(0, self.blocks - 1)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.usable_blocks * self.block_size

    @property
    def longest(self) -> int:
        """Tokens (prompt and output) of the longest request that can ever run."""
        longest = self.kv_tokens if self.max_model_len is None else min(self.kv_tokens, self.max_model_len)
        return longest if self.chunked_prefill else min(longest, self.max_num_batched_tokens)

    @property
    def blocks_kept_free(self) -> int:
        """Blocks of the watermark."""
        return int(self.watermark * self.blocks) if self.version >= (0, 30) else 0

    def threshold(self, requests: int) -> int:
        """Tokens of a prompt that are computed in a step at most, with so many requests that run or wait; 0: no limit."""
        limit = self.long_prefill_token_threshold
        if self.version < (0, 31) or not limit:
            return limit
        if requests <= 1:
            return 0
        return max(limit, self.max_num_batched_tokens // requests) if self.adaptive_threshold else limit
