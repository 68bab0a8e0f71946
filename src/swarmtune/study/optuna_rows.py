"""Finds our trials among Optuna's. Optuna's own tables are read directly: opening its storage would write to them.

Anybody may add to a study with Optuna (``ask``, ``enqueue_trial``, ``add_trial``). A trial is ours if it carries a
setting, and either we tried to measure it or it waits for that. All else is foreign: it is left out and never changed.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, String, case, cast, column, func, inspect, literal, select, table

from swarmtune.records import Setting

MOST_TEXT = 2**24  # characters of one JSON text; a longer one is damaged
SHOWN = 10  # numbers in a note

_studies = table("studies", column("study_id"), column("study_name"))
_trials = table("trials", column("trial_id"), column("number"), column("study_id"), column("state"))
_attributes = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))


@dataclass(frozen=True)
class OwnTrial:
    """A trial of ours as Optuna stores it; ``id`` is Optuna's key."""

    id: int
    number: int
    setting: Setting


@dataclass(frozen=True)
class OptunaTrials:
    """Our trials by number, every number that is taken, and what was left out, as sentences."""

    own: dict[int, OwnTrial]
    numbers: frozenset[int]
    notes: tuple[str, ...] = ()


def optuna_trials(db: Connection, study: str, attempted: Collection[int]) -> OptunaTrials:
    """The trials of a study; ``attempted``: the numbers of those that we tried to measure."""
    if not all(inspect(db).has_table(t.name) for t in (_studies, _trials, _attributes)):
        return OptunaTrials({}, frozenset(attempted))
    of_study = _trials.c.study_id == select(_studies.c.study_id).where(_studies.c.study_name == study).scalar_subquery()
    state = cast(_trials.c.state, String)  # PostgreSQL has a type of its own for it
    rows = db.execute(
        select(_trials.c.trial_id, _trials.c.number, state.label("state")).where(of_study).order_by(_trials.c.trial_id)
    ).all()
    attributes: dict[int, dict[str, Any]] = {}
    text = bounded(_attributes.c.value_json)
    trials = db.execute(
        select(_attributes.c.trial_id, _attributes.c.key, text.label("text"))
        .join(_trials, _trials.c.trial_id == _attributes.c.trial_id)
        .where(of_study, _attributes.c.key.in_(("setting", "origin")))
    )
    for row in trials:
        attributes.setdefault(row.trial_id, {})[row.key] = _parsed(row.text)
    own: dict[int, OwnTrial] = {}
    foreign = []
    notes = []
    if any(not isinstance(row.number, int) for row in rows):
        notes.append("left out, because their number is damaged: trials of the study")
        rows = [row for row in rows if isinstance(row.number, int)]
    for row in rows:
        setting = _setting(attributes.get(row.trial_id, {}))
        waits = row.state == "RUNNING" and setting is not None and setting.origin != ""
        if setting is None or row.number in own or not (row.number in attempted or waits):
            foreign.append(row.number)
        else:
            own[row.number] = OwnTrial(row.trial_id, row.number, setting)
    if others := sorted({*foreign} - own.keys() - {*attempted}):
        notes.append(f"left out, because SwarmTune did not make them: {_listed(others)} of the study")
    if lost := sorted({*attempted} - own.keys()):
        notes.append(f"left out, because another program removed or changed them: {_listed(lost)} of the study")
    return OptunaTrials(own, frozenset({*attempted, *(row.number for row in rows)}), tuple(notes))


def is_finished(db: Connection, trial_id: int) -> bool:
    """Has the trial of this key of Optuna's ended, or been deleted? Nothing else of it is read, which may be damaged."""
    state = db.execute(select(cast(_trials.c.state, String)).where(_trials.c.trial_id == trial_id)).scalar()
    return state in (None, "COMPLETE", "PRUNED", "FAIL")


def bounded(text: Any) -> Any:
    """A text column, NULL where it is longer than any text that we write."""
    return case((func.length(text) <= literal(MOST_TEXT), text))


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
    return f"trial{'s' if len(numbers) > 1 else ''} {shown}"


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def _setting(attributes: dict[str, Any]) -> Setting | None:
    values, origin = attributes.get("setting"), attributes.get("origin", "")
    if not isinstance(values, dict) or not values or not isinstance(origin, str):
        return None
    if not all(isinstance(value, (bool, int, float, str)) for value in values.values()):
        return None
    return Setting(values, origin)
