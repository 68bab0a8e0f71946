"""Each row of the blame table, and that some row always decides."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from swarmtune.errors import Culprit
from swarmtune.fleet.blame import TABLE, Evidence, blame
from swarmtune.fleet.job import Stage

BUG, USER, SETTING, INFRASTRUCTURE = Culprit.BUG, Culprit.USER, Culprit.SETTING, Culprit.INFRASTRUCTURE
FIRST = {"stage": Stage.READY, "diagnosis": SETTING}  # a start that failed, the setting suspected

CASES: list[tuple[str, dict[str, Any], Culprit, dict[str, Any]]] = [
    ("bug", {"diagnosis": BUG}, BUG, {}),
    ("nodes gone", {"nodes_answer": False, "group_served": True}, INFRASTRUCTURE, {"counts": True, "group_ok": False}),
    ("nothing works anywhere", {"hopeless": True}, USER, {"counts": False}),
    ("user, but the group serves others", {"diagnosis": USER, "group_served": True}, SETTING, {}),
    ("user", {"diagnosis": USER, "stage": Stage.START}, USER, {"counts": False}),
    ("user", {"diagnosis": USER, "stage": Stage.USE, "group_served": True, "of_service": False}, USER, {}),
    (
        "infrastructure of a group that never served",
        {"diagnosis": INFRASTRUCTURE, "stage": Stage.START},
        INFRASTRUCTURE,
        {"counts": False, "group_ok": False},
    ),
    ("infrastructure", {"diagnosis": INFRASTRUCTURE, "alone": True}, INFRASTRUCTURE, {"counts": True}),
    (
        "infrastructure",
        {"diagnosis": INFRASTRUCTURE, "stage": Stage.USE, "group_served": True},
        INFRASTRUCTURE,
        {"counts": True, "group_ok": False},
    ),
    (
        "start failed on a group that never served, while another has",
        {"others_served": True},
        INFRASTRUCTURE,
        {"counts": False, "group_ok": False, "holds_back": False},
    ),
    (
        "start failed before any service became ready",
        {},
        INFRASTRUCTURE,
        {"counts": False, "group_ok": False, "holds_back": True},
    ),
    ("start failed before any service became ready", {"diagnosis": USER}, INFRASTRUCTURE, {"holds_back": True}),
    (
        "start failed on a group that never served, while another has",
        {"diagnosis": USER, "others_served": True},
        INFRASTRUCTURE,
        {"holds_back": False, "group_ok": False},
    ),
    ("user", {"diagnosis": USER, "alone": True}, USER, {"counts": False}),
    ("start failed again", {"group_served": True, "failed_before": True, "failures_in_a_row": 9}, SETTING, {}),
    (
        "start failed on a group that keeps failing",
        {"group_served": True, "failures_in_a_row": 3},
        INFRASTRUCTURE,
        {"counts": False, "group_ok": None, "asks_another": True},
    ),
    (
        "a service that spans nodes crashed for the first time",
        {"stage": Stage.USE, "group_served": True, "several_crashed": True},
        INFRASTRUCTURE,
        {"counts": True, "group_ok": None},
    ),
    (
        "setting",
        {"stage": Stage.USE, "group_served": True, "several_crashed": True, "crashed_before": True},
        SETTING,
        {},
    ),
    ("setting", {"group_served": True, "others_served": True}, SETTING, {"group_ok": None}),
    (
        "setting",
        {"group_served": True, "alone": True, "failures_in_a_row": 9},
        SETTING,
        {},
    ),  # nobody else to ask
    ("setting", {"stage": Stage.USE, "group_served": True, "failures_in_a_row": 0}, SETTING, {}),
]


@pytest.mark.parametrize(("name", "known", "culprit", "more"), CASES)
def test_each_row(name: str, known: dict[str, Any], culprit: Culprit, more: dict[str, Any]) -> None:
    evidence = Evidence(**{**FIRST, **known})
    row = next(row for row in TABLE if row.holds(evidence))
    assert row.name == name
    verdict = blame(evidence)
    assert verdict is row.blame
    assert verdict.culprit is culprit
    assert {key: getattr(verdict, key) for key in more} == more


def test_no_row_is_forgotten() -> None:
    assert {name for name, *_ in CASES} == {row.name for row in TABLE}


def test_some_row_always_decides() -> None:
    flags = [name for name, kind in Evidence.__annotations__.items() if kind == "bool"]
    assert len(flags) == 8
    for stage, culprit, answer, failures in itertools.product(Stage, Culprit, (None, False, True), (0, 1, 3)):
        for values in itertools.product((False, True), repeat=len(flags)):
            known: dict[str, Any] = dict(zip(flags, values, strict=True))
            evidence = Evidence(stage, culprit, nodes_answer=answer, failures_in_a_row=failures, **known)
            assert blame(evidence).because
