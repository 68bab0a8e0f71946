"""MindIE's scheduler parameters. Source: the ranges that the older tuner shipped, and MindIE's documentation."""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from typing import Any

from swarmtune.engines.document import read_or
from swarmtune.engines.schema import Parameter, Schema
from swarmtune.space import Field

SELECTED = "{supportselectbatch}"  # these times are costs by which batches are selected
WHOLE = ("worldSize", "tp", "dp", "pp", "cp", "npuMemSize", "cpuMemSize")
_S = "BackendConfig.ScheduleConfig."
SCHEMA = Schema(
    "MindIE",
    "2",
    (
        Parameter(_S + "maxBatchSize", default=200, min=10, max=1000),
        Parameter(_S + "maxPrefillBatchSize", "ratio", 50, min=0.1, max=0.7, dtype_param="max_batch_size"),
        Parameter(_S + "maxPrefillTokens", default=8192, min=4096, max=409600, log=True),
        Parameter(_S + "prefillTimeMsPerReq", "range", 150, min=0, max=1000, dtype_param=10, when=SELECTED),
        Parameter(_S + "decodeTimeMsPerReq", "range", 50, min=0, max=1000, dtype_param=10, when=SELECTED),
        Parameter(_S + "supportSelectBatch", "bool", False),
        Parameter(_S + "maxQueueDelayMicroseconds", "range", 5000, min=500, max=1_000_000, dtype_param=100),
        Parameter(_S + "maxPreemptCount", "ratio", 0, min=0, max=1, dtype_param="max_batch_size"),
        Parameter(_S + "prefillPolicyType", "enum", 0, dtype_param=[0, 1, 3]),
        Parameter(_S + "decodePolicyType", "enum", 0, dtype_param=[0, 1, 3]),
    ),
    rules=("{maxprefillbatchsize} <= {maxbatchsize}",),
    ranks=("tp", "pp", "dp", "cp"),
)
_DEFAULT_FIELDS = {
    "max_batch_size": "maxBatchSize",
    "max_prefill_batch_size": "maxPrefillBatchSize",
    "prefill_time_ms_per_req": "prefillTimeMsPerReq",
    "decode_time_ms_per_req": "decodeTimeMsPerReq",
    "support_select_batch": "supportSelectBatch",
    "max_queue_delay_microseconds": "maxQueueDelayMicroseconds",
    "max_preempt_count": "maxPreemptCount",
}


def default_fields() -> tuple[Field, ...]:
    """The fields that the older tuner searched by default, without values: the daemon's file has them."""
    return tuple(_field(name, parameter) for name, parameter in _DEFAULT_FIELDS.items())


def more_fields() -> tuple[Field, ...]:
    """The others that the schema knows, without values."""
    names = {"prefill_policy_type": "prefillPolicyType", "decode_policy_type": "decodePolicyType"}
    return tuple(
        _field(name, parameter) for name, parameter in {**names, "max_prefill_tokens": "maxPrefillTokens"}.items()
    )


def number_mistakes(file: Any, model: str, where: str, written: Collection[str]) -> list[str]:
    """A sentence for each size of the first model that is no whole number. ``written``: paths that fields set."""
    values = {path: read_or(file, path, 0) for path in (f"{model}.{key}" for key in WHOLE) if path not in written}
    return [
        f"{where}: {path} is {reprlib.repr(value)}, not a whole number"
        for path, value in values.items()
        if isinstance(value, bool) or not isinstance(value, int)
    ]


def _field(name: str, parameter: str) -> Field:
    known = next(p for p in SCHEMA.parameters if p.name == _S + parameter)
    return Field(name, known.name, known.min, known.max, known.dtype, dtype_param=known.dtype_param, log=known.log)
