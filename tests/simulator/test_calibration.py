"""A model is anchored by a few requests: what it lacks is found, and what it knows is kept."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.simulator.latency_cases import trained

from swarmtune.errors import ConfigurationError
from swarmtune.scheduling import Rules
from swarmtune.simulator.calibration import Observed, calibrated, replayed
from swarmtune.simulator.latency.model import LatencyModel
from swarmtune.simulator.latency.readers.requests import observed

RULES = Rules(32, 2048, 20_000, 16, asynchronous=True)


def service(
    model: LatencyModel, rules: Rules = RULES, *, count: int = 120, front_s: float = 0.0, **by: float
) -> Observed:
    """What a service answers whose steps are those of the model, times ``by``."""
    draw = np.random.default_rng(3)
    sent = np.cumsum(draw.exponential(0.08, count))
    prompt, output = draw.integers(50, 900, count), draw.integers(20, 200, count)
    nothing = Observed(sent, prompt, output, np.zeros(count), np.zeros(count))
    found = replayed(model.scaled(by).tables(), nothing, rules, front_s=front_s)
    return replace(nothing, ttft=found["ttft"], e2e=found["e2e"])


def off(model: LatencyModel, seen: Observed, front_s: float = 0.0) -> dict[str, float]:
    """Relative error of the means over the requests behind the first 60."""
    found = replayed(model.tables(), seen, RULES, front_s=front_s)
    rest = slice(60, None)
    return {name: float(np.nanmean(found[name][rest]) / np.nanmean(getattr(seen, name)[rest]) - 1) for name in found}


@pytest.mark.parametrize(
    "by",
    [
        {},
        {"weights": 1.3},
        dict.fromkeys(("weights", "tokens", "attention", "kv", "requests"), 1.4),
        dict.fromkeys(("weights", "tokens", "attention", "kv", "requests"), 0.7),
        {"weights": 1.2, "requests": 1.5},
    ],
)
def test_what_the_model_lacks_is_found(by: dict[str, float]) -> None:
    model = trained()
    seen = service(model, **by)
    found = calibrated(model, seen, RULES)
    errors = off(found.model, seen, found.fit.front_s)
    assert max(abs(errors["tpot"]), abs(errors["e2e"])) < 0.03, (errors, found.fit.multipliers)
    assert abs(errors["ttft"]) < 0.08, (errors, found.fit.multipliers)
    if not by:
        assert all(abs(one - 1) < 0.02 for one in found.fit.multipliers.values())


def test_the_front_end_is_no_part_of_the_steps() -> None:
    model = trained()
    seen = service(model, front_s=0.02)
    found = calibrated(model, seen, RULES)
    assert found.fit.front_s == pytest.approx(0.02, rel=0.3)
    assert abs(off(found.model, seen, found.fit.front_s)["tpot"]) < 0.02


def test_one_outlier_moves_nothing() -> None:
    model = trained()
    seen = service(model)
    e2e = seen.e2e.copy()
    e2e[7] *= 20
    found = calibrated(model, replace(seen, e2e=e2e), RULES)
    assert all(abs(one - 1) < 0.05 for one in found.fit.multipliers.values())


def test_a_log_of_another_service_is_refused() -> None:
    model = trained()
    seen = service(model)
    with pytest.raises(ConfigurationError, match="No calibration explains this log"):
        calibrated(model, replace(seen, ttft=seen.ttft * 60, e2e=seen.e2e * 60), RULES)
    with pytest.raises(ConfigurationError, match="9 requests are too few"):
        calibrated(model, service(model, count=9), RULES)


def test_requests_that_the_engine_refuses_are_left_out() -> None:
    model = trained()
    seen = service(model)
    found = replayed(model.tables(), seen, replace(RULES, max_model_len=500))
    beyond = seen.prompt + seen.output > 500
    assert np.isnan(found["e2e"][beyond]).all()
    assert np.isfinite(found["e2e"][~beyond]).all()


LOGS: list[tuple[str, list[dict[str, Any]]]] = [
    ("LLMServingSim", [{"input_toks": 9, "output_toks": 3, "queued_ts": 5.0, "first_token_ts": 5.2, "last_token_ts": 5.6}]),
    (
        "ours",
        [
            {"outcome": "completed", "sent_ns": 5_000_000_000, "input_tokens": 9, "cached_tokens": -1, "output_tokens": 3,
             "token_ns": [5_200_000_000, 5_400_000_000, 5_600_000_000]},
            {"outcome": "failed", "sent_ns": 1, "input_tokens": 9, "cached_tokens": -1, "output_tokens": 0, "token_ns": []},
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "lines"), LOGS)
def test_logs_of_every_kind(tmp_path: Path, name: str, lines: list[dict[str, Any]]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen = observed(path)
    assert (seen.prompt.tolist(), seen.output.tolist()) == ([9], [3]), name
    assert seen.ttft.tolist() == pytest.approx([0.2])
    assert seen.e2e.tolist() == pytest.approx([0.6])
    assert seen.tpot.tolist() == pytest.approx([0.2])


DATA = Path(os.environ.get("SWARMTUNE_DATA", Path(__file__).parents[3] / "shared" / "data"))
RUN = DATA / "llmservingsim" / "run_RTXPRO6000_Llama-3.1-8B" / "requests.jsonl"


@pytest.mark.skipif(not RUN.is_file(), reason="the measured run is not here (SWARMTUNE_DATA)")
def test_a_log_of_a_real_run_is_read() -> None:
    seen = observed(RUN)
    assert len(seen.sent) == 300
    assert (np.diff(seen.sent) >= 0).all()
    assert 0 < np.median(seen.ttft) < np.median(seen.e2e)
