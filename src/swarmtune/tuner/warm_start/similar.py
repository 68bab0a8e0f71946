"""Chooses the results of earlier studies that count in a new one, and their weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swarmtune.database.address import shown_url
from swarmtune.devices import hardware
from swarmtune.errors import ConfigValidationError, StoreError
from swarmtune.files import expanded
from swarmtune.records import Setting, Value
from swarmtune.space import Space
from swarmtune.study.place import DATABASE
from swarmtune.tuner.planning.plan import Plan
from swarmtune.tuner.warm_start.earlier import EarlierStudy, read_studies
from swarmtune.tuner.warm_start.record import Source, Taken, WarmStart

MUST_AGREE = ("engine", "model", "objective")
MAY_DIFFER = {
    "hardware": ("hardware",),
    "engine version": ("engine_version",),
    "workload": ("workload", "benchmark", "load_search"),
    "configuration": ("service",),
}
WEIGHT_PER_DIFFERENCE = 0.3  # a result of a study that differs in two of these counts 0.09
MOST_RESULTS = 200  # those of the highest weight, newest studies first: a model of thousands of results would be slow
FIRST = 2  # earlier settings that are measured right after the user's own


def circumstances(plan: Plan) -> dict[str, Any]:
    """The circumstances that later studies compare with theirs. Part of the fingerprint, but never a reason to refuse."""
    return {
        "hardware": hardware.fingerprint() if plan.parallel is None else _nodes(plan),
        "engine_version": plan.engine.version,
        "service": plan.service(),
    }


def _nodes(plan: Plan) -> dict[str, Any]:
    """Remote machines by host and device count: only the same machines count as the same hardware."""
    return {"nodes": sorted({f"{n.host}: {len(n.devices)} devices" for g in plan.groups for n in g.nodes})}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The differences of two studies' fingerprints; None if the results of one say nothing about the other."""
    ours = json.loads(json.dumps(ours))
    if any(ours.get(key) != theirs.get(key) for key in MUST_AGREE):
        return None
    return tuple(name for name, keys in MAY_DIFFER.items() if any(ours.get(k) != theirs.get(k) for k in keys))


def gather(plan: Plan, fingerprint: Mapping[str, Any], own_name: str, now: float) -> WarmStart:
    """The results of all earlier studies. ``own_name``: the new study, which is left out."""
    taken: list[tuple[float, float, list[Taken], Source]] = []
    notices = []
    for place, named in _places(plan):
        try:
            studies = read_studies(place, now)
        except StoreError as error:
            notices.append(f"earlier study {_shown(place)} is left out: {error.message}")
            continue
        for study in studies:
            differs = differences(fingerprint, study.fingerprint)
            if study.name == own_name or (differs is None and not named):
                continue
            results = [] if differs is None else _taken(plan, study, differs)
            if study.busy or differs is None or not results:
                notices.append(f"earlier study {study.name} is left out: {_reason(study, differs)}")
                continue
            source = Source(study.name, _shown(place), len(results), results[0].weight, differs)
            taken.append((source.weight, study.created_at, results, source))
    taken.sort(key=lambda entry: (-entry[0], -entry[1]))
    results = _different([result for _, _, some, _ in taken for result in some])[:MOST_RESULTS]
    return WarmStart(tuple(results), best(plan, results), tuple(source for *_, source in taken), tuple(notices))


def best(plan: Plan, results: Sequence[Taken]) -> tuple[Setting, ...]:
    """The settings worth a measurement here: the best that kept the SLOs, of the studies most alike first."""
    first_settings = {plan.baseline().key, *(s.key for s in plan.user_settings)}
    kept = [t for t in results if t.score.feasible and t.setting.key not in first_settings]
    kept.sort(key=lambda t: (-t.weight, t.score.loss / abs(t.anchor.loss) if t.anchor else t.score.loss))
    return tuple(replace(t.setting, origin=f"earlier:{i}") for i, t in enumerate(kept[:FIRST], 1))


def in_space(space: Space, values: Mapping[str, Value], their_baseline: Mapping[str, Value]) -> Setting | None:
    """The setting of this space that corresponds to a setting of another; None if there is no legal one.

    A field that exists only there must have its baseline value; one that exists only here gets our baseline value.
    """
    shared = {f.name for f in space.fields} & values.keys()
    if any(values[name] != their_baseline.get(name) for name in values.keys() - shared):
        return None
    try:
        made = space.setting({n: v for n, v in values.items() if n in shared}, "earlier")
    except (ConfigValidationError, ValueError, TypeError, ArithmeticError):
        return None
    return made if space.legal(made) and all(made.values[n] == values[n] for n in shared) else None


def _taken(plan: Plan, study: EarlierStudy, differs: tuple[str, ...]) -> list[Taken]:
    """The study's measured results in our space; none without the anchor that a different study needs."""
    theirs = next((t.setting.values for t in study.trials if t.setting.origin == "baseline"), {})
    mapped = [
        (setting, trial.score)
        for trial in study.trials
        if trial.score is not None
        and (trial.measurement is None or trial.measurement.source == "measured")
        and (setting := in_space(plan.space, trial.setting.values, theirs)) is not None
    ]
    weight = WEIGHT_PER_DIFFERENCE ** len(differs)
    baseline = plan.baseline()
    anchor = next((score for s, score in mapped if s == baseline and score.value is not None), None)
    if differs and (anchor is None or not anchor.loss):
        return []
    return [Taken(setting, score, weight, anchor if differs else None) for setting, score in mapped]


def _different(results: Sequence[Taken]) -> list[Taken]:
    """One result for each setting: the first."""
    by_key: dict[str, Taken] = {}
    for taken in results:
        by_key.setdefault(taken.setting.key, taken)
    return list(by_key.values())


def _places(plan: Plan) -> Iterator[tuple[str, bool]]:
    """The databases to search, and whether the user named them."""
    if plan.earlier is None:
        yield from ((str(path.resolve()), False) for path in sorted(plan.output.glob(f"*/{DATABASE}")))
        return
    for given in plan.earlier:
        path = Path(given) if "://" in given else expanded(given)
        if "://" not in given and path.is_dir():
            inside = [*path.glob(DATABASE), *sorted(path.glob(f"*/{DATABASE}"))]
            yield from ((str(file.resolve()), False) for file in inside)
        else:
            yield (given if "://" in given else str(path.resolve())), True


def _reason(study: EarlierStudy, differs: tuple[str, ...] | None) -> str:
    if differs is None:
        return "its engine, model or objective is another"
    if study.busy:
        return "a tuner is working on it"
    if not differs:
        return "it has no result that is a setting of this one"
    return f"its {' and '.join(differs)} differs, and it has not measured this study's baseline to compare by"


def _shown(place: str) -> str:
    """A place for messages, without a password."""
    return place if "://" not in place else shown_url(place)
