"""What a step of an engine computes, as five numbers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FEATURES = ("tokens", "decodes", "context", "prefill_work", "prefills")
TOKENS, DECODES, CONTEXT, PREFILL_WORK, PREFILLS = range(5)
"""tokens: of all requests in the step. decodes: requests of which one token is decoded. context: sum over the decodes of
the tokens that they attend to. prefill_work: sum over the pieces of prompts of q * (c + q / 2), for q tokens that are
computed behind c tokens in the KV cache. prefills: pieces of prompts.
"""

Steps: TypeAlias = NDArray[np.float64]
"""Shape (n, 5): a row for each step, columns in the order of FEATURES."""


def piece_work(computed: Any, cached: Any) -> Any:
    """The prefill work of a piece of a prompt: ``computed`` tokens behind ``cached`` ones; numbers or arrays."""
    return computed * (cached + computed / 2)
