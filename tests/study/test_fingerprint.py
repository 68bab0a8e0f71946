"""What must not change while a study goes on: pinned by golden files, of today and of the first format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmtune.settings import read_settings
from swarmtune.study.fingerprint import changes, upgraded
from swarmtune.tuner.planning.make import make_plan
from swarmtune.tuner.planning.plan import Plan
from swarmtune.workload import StopRules

DATA = Path(__file__).parent.parent / "data"
FIRST = json.loads((DATA / "golden-study" / "fingerprints.json").read_text())
TODAY = json.loads((DATA / "fingerprints.json").read_text())


def plan_of(settings: dict[str, Any]) -> Plan:
    return make_plan(read_settings(None, settings))


@pytest.mark.parametrize("case", TODAY, ids=lambda case: json.dumps(case["settings"])[:60])
def test_the_identity_of_a_study_is_pinned(case: dict[str, Any]) -> None:
    """If this fails, studies that people have cannot go on: keep the identity, or raise SCHEMA_VERSION and upgrade."""
    assert json.loads(json.dumps(plan_of(case["settings"]).fingerprint())) == case["fingerprint"]


@pytest.mark.parametrize("number", range(len(FIRST)))
def test_a_fingerprint_of_the_first_format_agrees_with_its_own_settings_only(number: int) -> None:
    for other, case in enumerate(FIRST):
        found = changes(FIRST[number]["fingerprint"], plan_of(case["settings"]).fingerprint())
        assert (found == []) is (other == number), (number, other, found)


def test_what_changed_since_the_first_format_is_named() -> None:
    plan = plan_of(FIRST[0]["settings"])
    old = FIRST[0]["fingerprint"]
    faster = replace(plan.objective, limits={"p95_ttft_ms": 1.0, "p95_tpot_ms": 50.0})
    assert plan.load_search is not None
    for key, changed in (
        ("objective", replace(plan, objective=faster)),
        ("workload", replace(plan, workload=replace(plan.workload, requests=7))),
        ("load_search", replace(plan, load_search=replace(plan.load_search, points=9))),
        ("load_search", replace(plan, load_search=None)),
    ):
        assert changes(old, changed.fingerprint()) == [key]


def test_what_is_not_measured_is_not_part_of_it() -> None:
    plan = plan_of(FIRST[0]["settings"])
    other = replace(plan.workload, seed=9, early_stop=StopRules(act=True))
    assert replace(plan, workload=other).fingerprint() == plan.fingerprint()


@pytest.mark.parametrize(
    "text",
    ["", "Goodput(", "__import__('os').system('x')", "Goodput(limits=f())", "[" * 99, "Other(limits={})", "1", "x" * 10**6],
    ids=range(8),
)  # fmt: skip
def test_texts_that_cannot_be_read_stay_and_differ(text: str) -> None:
    old = {**FIRST[0]["fingerprint"], "objective": text}
    assert upgraded(old) == old
    assert "objective" in changes(old, plan_of(FIRST[0]["settings"]).fingerprint())
