"""A measurement that ends early, with the real load generator and a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import QUICK, Workplace

pytestmark = pytest.mark.e2e


def measurements(study: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(study.glob("attempts/*/load-*/measurement.json"))]


@pytest.mark.parametrize(
    ("more", "acts"),
    [
        ('[early_stop]\nmode = "on"', True),
        ('[early_stop]\nmode = "report"', False),
        ("", False),  # without a warm-up
        ("workers_max = 2\n# warm", True),
    ],
)
def test_a_broken_promise(workplace: Workplace, more: str, acts: bool) -> None:
    changed = QUICK.replace("p95_tpot_ms = 500", "p95_tpot_ms = 0.5").replace(
        "request_count = 12", "request_count = 2000"
    )
    one_load = changed.replace("confirm = 1", "confirm = 0")
    if "# warm" in more:
        one_load = one_load.replace("warmup_request_count = 0", "warmup_request_count = 4")
    workplace.config(f"{one_load}\n{more}\n")
    _, out, _ = workplace.run("--json", "--evaluations", "1")
    told = json.loads(out)["early_stop"]
    (measured,) = measurements(workplace.study)
    stop = measured["early_stop"]
    assert isinstance(stop, dict)
    assert (stop["rule"], stop["of"]) == ("promise_broken", "p95_tpot_ms")
    completed = measured["metrics"]["completed"]  # type: ignore[index]
    if acts:
        assert stop["done"]
        assert completed < 2000
        assert (told["stopped"], told["decided"]) == (1, 0)
    else:
        assert not stop["done"]
        assert completed == 2000
        assert (told["stopped"], told["decided"], told["wrong"]) == (0, 1, 0)
        assert told["seconds_saved"] > 0
