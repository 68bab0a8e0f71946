"""The part of a new config.toml that describes the users: what they send, for how long, and how many of them there are."""

from __future__ import annotations

import json
from typing import Any

from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.settings import LoadSearchSection

# What a service of real users is measured with, unless they are described better. The lengths are those of a chat with some
# context; a load lasts until it is steady, and until a percentile of 95 rests on five answers.
LOADGEN: dict[str, Any] = {
    "isl": 512,
    "isl_stddev": 128,
    "osl": 128,
    "osl_stddev": 32,
    "benchmark_duration": 30,
    "benchmark_min_requests": 100,
    "benchmark_min_requests_per_user": 3,
    "warmup_until_steady": True,
}
CHOICES: dict[str, Any] = {
    "input_file": "requests.jsonl",
    "public_dataset": "sharegpt",
    "shared_system_prompt_length": 256,
    "conversation_turn_mean": 3,
    "endpoint_type": "chat",
}
LOAD_SEARCH: dict[str, Any] = {"variable": "concurrency", "low": 1, "high": 1024, "start": 8, "points": 4}


def load_lines(options: type) -> list[str]:
    """The tables ``[loadgen]`` and ``[load_search]``; of a load generator with other ``options`` than ours the second."""
    lines = ["", "# The highest load that keeps the SLOs is found for each setting."]
    lines += ["[load_search]", *_keys(LoadSearchSection, LOAD_SEARCH)]
    if not issubclass(options, LoadgenOptions):
        return lines
    own = [
        "",
        "# What your users send. The settings found fit this load and no other: describe yours as well as you can.",
    ]
    own += ["[loadgen]", *_keys(LoadgenOptions, LOADGEN)]
    own += ["# Instead of drawn lengths, or beside them:", *_keys(LoadgenOptions, CHOICES, "# ")]
    return [*own, *lines]


def _keys(model: Any, values: dict[str, Any], before: str = "") -> list[str]:
    """A line a key, with what it means behind it."""
    shown = {name: f"{before}{name} = {json.dumps(value)}" for name, value in values.items()}
    width = max(len(text) for text in shown.values())
    return [f"{text:<{width}}  # {model.model_fields[name].description}" for name, text in shown.items()]
