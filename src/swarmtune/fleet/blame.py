"""Blame: which party must act when a run gave no result. One pure function over one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarmtune.errors import Culprit
from swarmtune.fleet.job import Stage

DOUBTFUL_FAILURES = 3  # failed starts in a row that make a group that has served before suspect


@dataclass(frozen=True)
class Evidence:
    """The facts about a failed run."""

    stage: Stage
    diagnosis: Culprit
    """The error's own culprit, guessed by the engine (from exit code and log), the executor or the load generator."""
    of_service: bool = True
    """Is the error about the service (it did not become ready, or it died), and not about the load generator?"""
    nodes_answer: bool | None = None
    """Do all nodes of the group start commands? None: not checked."""
    group_served: bool = False
    """Has any service ever become ready on this group?"""
    others_served: bool = False
    """Has any service ever become ready on another group of the run?"""
    failures_in_a_row: int = 1
    """Failed starts on this group since its last successful one, this one included."""
    failed_before: bool = False
    """Has this work failed to start before, on a group that had served?"""
    several_crashed: bool = False
    """Did a service on several nodes crash during use, without a cause that names the setting?"""
    crashed_before: bool = False
    """Has this work crashed in that way before?"""
    alone: bool = False
    """Is there no other group?"""
    hopeless: bool = False
    """Has every group failed in the same way since the run began?"""


@dataclass(frozen=True)
class Blame:
    """The party that must act. ``counts``: the failure uses up one of the work's tries. ``group_ok``: reported to the
    group's breaker; None: the failure says nothing about the group. ``holds_back``: the work is not tried on this group
    again before a service has become ready somewhere. ``asks_another``: if another group serves this work, this group
    is to blame.
    """

    culprit: Culprit
    because: str
    counts: bool = True
    group_ok: bool | None = None
    holds_back: bool = False
    asks_another: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the table: the blame for evidence on which ``holds`` is true."""

    name: str
    holds: Callable[[Evidence], bool]
    blame: Blame


def _start_failed(e: Evidence) -> bool:
    """The service was started and did not become ready, and the diagnosis blames the setting."""
    return e.stage is Stage.READY and e.diagnosis is Culprit.SETTING


def _group_suspected(e: Evidence) -> bool:
    """The same, or something of the user's is missing, which another group may have."""
    missing = e.stage is Stage.READY and e.diagnosis is Culprit.USER and e.of_service and not e.alone
    return _start_failed(e) or missing


_INFRASTRUCTURE, _SETTING, _USER, _BUG = Culprit.INFRASTRUCTURE, Culprit.SETTING, Culprit.USER, Culprit.BUG

TABLE = (
    Row("bug", lambda e: e.diagnosis is _BUG, Blame(_BUG, "SwarmTune itself is wrong")),
    Row(
        "nodes gone",
        lambda e: e.nodes_answer is False,
        Blame(_INFRASTRUCTURE, "a node of the group does not answer", group_ok=False),
    ),
    Row(
        "nothing works anywhere",
        lambda e: e.hopeless,
        Blame(_USER, "no service has become ready on any group, from the first setting on", counts=False),
    ),
    Row(
        "user, but the group serves others",
        lambda e: e.diagnosis is _USER and e.of_service and e.group_served,
        Blame(_SETTING, "the group has served other settings, so the machine is set up correctly"),
    ),
    Row(
        "start failed on a group that never served, while another has",
        lambda e: _group_suspected(e) and not e.group_served and e.others_served,
        Blame(_INFRASTRUCTURE, "the group has never served, and another one has", counts=False, group_ok=False),
    ),
    Row(
        "start failed before any service became ready",
        lambda e: _group_suspected(e) and not e.group_served,
        Blame(_INFRASTRUCTURE, "no service has become ready yet", counts=False, group_ok=False, holds_back=True),
    ),
    Row("user", lambda e: e.diagnosis is _USER, Blame(_USER, "the error says so", counts=False)),
    Row(
        "infrastructure of a group that never served",
        lambda e: e.diagnosis is _INFRASTRUCTURE and not e.group_served and not e.alone,
        Blame(_INFRASTRUCTURE, "the group has never served", counts=False, group_ok=False),
    ),
    Row(
        "infrastructure",
        lambda e: e.diagnosis is _INFRASTRUCTURE,
        Blame(_INFRASTRUCTURE, "the error says so", group_ok=False),
    ),
    Row(
        "start failed again",
        lambda e: _start_failed(e) and e.failed_before,
        Blame(_SETTING, "it failed to start twice where other settings are served"),
    ),
    Row(
        "start failed on a group that keeps failing",
        lambda e: _start_failed(e) and not e.alone and e.failures_in_a_row >= DOUBTFUL_FAILURES,
        Blame(
            _INFRASTRUCTURE,
            "the group keeps failing, so the work is tried on another one",
            counts=False,
            asks_another=True,
        ),
    ),
    Row(
        "a service that spans nodes crashed for the first time",
        lambda e: e.diagnosis is _SETTING and e.several_crashed and not e.crashed_before,
        Blame(_INFRASTRUCTURE, "a lost rank ends the others, so only a second crash is charged to the setting"),
    ),
    Row("setting", lambda e: e.diagnosis is _SETTING, Blame(_SETTING, "the group serves other settings")),
)
"""The first row that holds decides. Each culprit has a row without further conditions, so one always holds."""


def blame(evidence: Evidence) -> Blame:
    """Setting, infrastructure or user (or a bug of SwarmTune), from the evidence. Pure."""
    return next(row.blame for row in TABLE if row.holds(evidence))
