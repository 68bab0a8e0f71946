"""Sentences about a study: its progress and its result. The same on a terminal, a page and in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence

from swarmtune.devices.busiest import how_much
from swarmtune.objective import Objective
from swarmtune.records import (
    GroupsFacts,
    LoadFacts,
    PredictedFacts,
    RemeasuredFacts,
    TrialFailedFacts,
    TrialFinishedFacts,
    TrialRetriedFacts,
)
from swarmtune.report.figures import (
    MOST_CONFIRM,
    answer_changes,
    at_ceiling,
    budget,
    no_difference,
    predicted_and_measured,
    rounds_to_tell,
)
from swarmtune.report.pareto import pareto_set
from swarmtune.report.times import clock_text
from swarmtune.tuner.proof.confirm import NO_GAIN
from swarmtune.tuner.result import Result

MOVES = "moves the prediction"  # tuner/simulation/fields.py
TELLS = "The line with the cause: "  # before it, in the diagnosis of an engine
MOST_TELLING = 300  # characters
TELLS_GAIN = 10  # percent: the gain that an open verdict says how to decide
FEW_ROUNDS = 5  # of a proof, where nothing is known of the noise

# --- before it runs ----------------------------------------------------------------------------------------------


def busy_text(share: float, busiest: Sequence[tuple[str, int, float]]) -> str:
    """The machine is not free: the share of its CPUs in use, and the programs (name, pid, share) that use most."""
    named = " and ".join(f"{name} (pid {pid}, {part:.0%})" for name, pid, part in busiest)
    most = f", {how_much(sum(part for _, _, part in busiest), share)} by {named}" if named else ""
    return (
        f"This machine is busy: {share:.0%} of its CPUs are in use before anything was started{most}. Results will be "
        "noisy, and measurements may be rejected; end these programs, or wait until they have ended."
    )


def occupied_text(device: str, used_bytes: float, total_bytes: float) -> str:
    """An accelerator is not free."""
    return (
        f"Accelerator {device} is in use: {used_bytes / 2**30:.1f} of its {total_bytes / 2**30:.1f} GiB are taken before "
        "anything was started. A service that needs it has less memory, and less of its time."
    )


# --- while it runs -----------------------------------------------------------------------------------------------


def predicted_text(facts: PredictedFacts) -> str:
    """What was predicted; nothing of it is measured."""
    moved = [f"{name} x {by:.3g}" for name, by in facts["multipliers"].items() if abs(by - 1) >= 0.005]
    trials = facts.get("trials", ())
    what = "the baseline" if len(trials) < 2 else f"{len(trials)} measured settings"
    anchor = f"anchored to {what}" + (f" ({', '.join(moved)})" if moved else "")
    how = anchor if facts["anchored"] else "as the model was given, because nothing of it is measured"
    stay = [name for name, effect in facts["effects"].items() if effect != MOVES]
    kept = f"; {', '.join(stay)} stay at their baseline, as they move no prediction" if stay else ""
    return f"{facts['predictions']} settings were predicted, {how}{kept}. Now the most promising are measured."


def foresight_text(result: Result) -> str:
    """How far predictions were off where they were measured; empty if nothing was predicted."""
    if not result.foresights:
        return ""
    pairs = predicted_and_measured(result)
    text = f"{len(result.foresights[-1].predictions)} settings were predicted; a prediction is no measurement"
    if not pairs:
        return f"{text}; none of them has a measured value."
    off = [100 * (measured / predicted - 1) for _, predicted, measured in pairs]
    return f"{text}; {len(pairs)} of them were measured, {min(off):+.0f} % to {max(off):+.0f} % from their prediction."


def trial_text(facts: TrialFinishedFacts, objective: Objective, best: bool) -> str:
    """The result of a trial; ``best``: it is the best so far."""
    value, load = facts["value"], " ".join(f"at {k} {v:g}" for k, v in facts["load"].items())
    if value is None:
        what = f"cannot run: {telling(facts['failure'])}"
    elif facts["feasible"]:
        what = f"{value:.4g} {objective.unit}" + ("  <- best so far" if best else "")
    else:
        broken = ", ".join(f"{k} {v:+.0%}" for k, v in facts["violations"].items())
        what = f"{value:.4g} {objective.unit}, breaks {broken}"
    return f"trial {facts['trial']}: {what} {load}"


def groups_now(facts: GroupsFacts) -> str:
    """How many groups get work; the others are held back after failures, and tried again later."""
    return f"{facts['healthy']} of {facts['healthy'] + facts['open']} groups healthy"


def retried_text(facts: TrialRetriedFacts) -> str:
    """An attempt failed; another one follows unless the run ends."""
    where = f" on {facts['group']}" if facts.get("group") else ""
    return f"trial {facts['trial']}: attempt {facts['attempt']}{where} failed: {telling(facts['failure'])}"


def failed_text(facts: TrialFailedFacts) -> str:
    """A trial could not be measured at all."""
    return f"trial {facts['trial']} given up: {telling(facts['failure'])}"


def remeasured_text(facts: RemeasuredFacts, objective: Objective) -> str:
    """A measurement of the proof."""
    value = "no result" if facts["value"] is None else f"{facts['value']:.4g} {objective.unit}"
    where = f"round {facts['round']}/{facts['of']}" if "round" in facts and "of" in facts else "at the winner's load"
    if facts.get("stage") == "qualify":
        where = "qualifying round"
    return f"proof, {where}: trial {facts['trial']} measured again: {value}"


def lost_text(facts: TrialFailedFacts) -> str:
    """A finalist leaves the proof."""
    return f"proof: trial {facts['trial']} could not be measured again: {telling(facts['failure'])}"


def load_text(facts: LoadFacts) -> str:
    """The load that is being measured."""
    parts = (("concurrency", facts.get("concurrency")), ("request_rate", facts.get("request_rate")))
    return " ".join(f"{name} {value:g}" for name, value in parts if value is not None)


# --- the result --------------------------------------------------------------------------------------------------


def nothing_lines(result: Result) -> list[str]:
    """The message and the ways out if no setting can be recommended; empty if one can."""
    if result.best is not None:
        return []
    if result.proof.candidate is not None:  # the search found settings that keep the SLOs, and the proof did not
        return [
            f"Nothing can be recommended: {result.verdict.reason}.",
            "Leave more room in [objective.slo], lower the load, or resume with more rounds on a quieter machine.",
        ]
    if _all_failed(result):
        last = next((trial.failure for trial in reversed(result.trials) if trial.failure), None)
        return [
            f"Not one of {result.failures} settings could be measured. The last failure: {telling(last)}",
            "Start the service by hand, with the command that `swarmtune check` shows, until it works.",
        ]
    return [
        f"Nothing feasible was found in {result.evaluations} evaluations: {result.verdict.reason}.",
        "Loosen [objective.slo], widen the ranges, or give more evaluations.",
    ]


def groups_text(result: Result) -> str:
    """How the groups differ in speed; empty with one group."""
    shown = ", ".join(f"{name} {effect:+.1f} %" for name, effect in result.proof.group_effects_percent.items())
    return f"The groups differ in speed: {shown}. Every gain is within a group." if shown else ""


def counts_text(result: Result) -> str:
    """How many settings were evaluated, and in what time."""
    return f"{result.evaluations} evaluations, {result.failures} failed, {clock_text(result.wall_seconds)}"


def verdict_text(result: Result) -> str:
    """The verdict in a sentence."""
    verdict = result.verdict
    if result.proof_failure is not None and result.best is not None:
        return f"Not proven: the search found trial {result.best.number} best, and the proof failed: {result.proof_failure}"
    if result.best is None:
        reason = "none could be measured" if _all_failed(result) else verdict.reason
        return f"No setting can be recommended: {reason}."
    if result.best is result.baseline:
        return f"No significant gain: keep the baseline; {verdict.reason}."
    if not verdict.rounds:
        return f"Not proven: {verdict.reason}."
    groups = f" on {result.proof.groups} groups" if result.proof.groups > 1 else ""
    rounds = "1 round" if verdict.rounds == 1 else f"{verdict.rounds} interleaved rounds"
    basis = f"({rounds}{groups})"
    if verdict.significant and (verdict.gain_percent or 0) < 0:
        return f"The winner is to be preferred: {verdict.reason} {basis}."
    if verdict.significant:
        gain = "" if verdict.gain_percent is None else f" by {verdict.gain_percent:.1f} %"
        return f"The winner is better{gain}: {verdict.reason} {basis}."
    gain = "" if verdict.gain_percent is None else f" (measured {verdict.gain_percent:+.1f} %)"
    why = "" if verdict.reason == NO_GAIN else f": {verdict.reason}"
    return f"No significant gain{gain}{why} {basis}."


def tied_lines(result: Result) -> list[str]:
    """The finalists that the qualifying round does not tell apart from the recommended one."""
    standings = {s.trial: s.against_best for s in result.proof.finalists}
    lines = []
    for trial in result.tied:
        changes = {k: v for k, v in trial.setting.values.items() if result.best and v != result.best.setting.values[k]}
        gain = standings[trial.number].gain_percent
        how = "" if gain is None else f" ({gain:+.1f} % in the qualifying round, which proves nothing)"
        lines.append(
            f"Not told apart from it: trial {trial.number}{how} " + ", ".join(f"{k} {v}" for k, v in changes.items())
        )
    matters = [f"{name} ({' or '.join(map(str, values))})" for name, values in no_difference(result).items()]
    return [*lines, f"No difference seen: {', '.join(matters)}"] if matters else lines


def proven(result: Result) -> bool:
    """Is the recommended setting proven to be better than the baseline?"""
    return result.best is not None and result.best is not result.baseline and result.verdict.significant


def run_text(result: Result) -> str:
    """The heading of the commands that run the recommended setting."""
    if result.best is result.baseline or result.best is None:
        return "Run the baseline:"
    if proven(result):
        return "Run the winner:"
    return f"Trial {result.best.number}, which is not proven to be better than the baseline, is run by:"


def open_text(result: Result, command: str) -> str:
    """What would decide a gain of ``TELLS_GAIN`` percent; empty if the verdict is not open, or there is nothing to compare
    the baseline with. ``command``: that resumes.
    """
    verdict = result.verdict
    if verdict.significant or result.proof_failure is not None or None in (result.best, result.baseline):
        return ""
    if verdict.noise_percent is None:
        undecided = verdict.rounds < 2 and result.compared is not None
        return f"What would decide: `{command} --confirm {FEW_ROUNDS}`." if undecided else ""
    rounds, seconds = rounds_to_tell(result, TELLS_GAIN)
    spread = f"the gain of a single round spreads by {verdict.noise_percent:.1f} %"
    if rounds is None:
        too_few = f"{spread}, and {MOST_CONFIRM} rounds are too few for that"
        return f"What would decide a gain of {TELLS_GAIN} %: longer measurements, on a quieter machine; {too_few}."
    if rounds <= verdict.rounds:
        return f"This proof finds a gain of {TELLS_GAIN} % in four of five cases ({spread})."
    time = "" if seconds is None else f", about {clock_text(seconds)}"
    return (
        f"What would decide a gain of {TELLS_GAIN} %: {rounds} rounds{time} ({spread}): `{command} --confirm {rounds}`."
    )


def answers_text(result: Result) -> str:
    """A warning if the best setting may change what the model answers; else empty."""
    changes = answer_changes(result)
    if not changes:
        return ""
    return (
        f"This setting may change what the model answers: {', '.join(changes)}. SwarmTune measures speed only: check the "
        "quality of the answers before you use it."
    )


def rejected_text(result: Result) -> str:
    """The finalists that were given up before the recommended one was judged; else empty."""
    trials = [f"trial {number}" for number in result.proof.rejected]
    if not trials:
        return ""
    return f"Left out, because the SLOs were broken when measured again: {', '.join(trials)}."


def ceiling_text(result: Result) -> str:
    """A warning if the load search ended at the highest load that it may try; else empty."""
    if not at_ceiling(result):
        return ""
    high = result.plan.load_search.high if result.plan.load_search else math.inf
    return (
        f"The load search ended at its ceiling ({result.plan.load_variable} {high:g}), and no SLO broke there: this setting "
        "may carry more. Raise load_search.high to learn how much."
    )


REMARKS = (answers_text, rejected_text, ceiling_text, groups_text)  # on the result, each a sentence or nothing


def pareto_lines(result: Result) -> list[str]:
    """The Pareto set as a table: a line for each setting that nothing beats in all objectives."""
    pareto = pareto_set(result.plan.objective, result.trials)
    if pareto is None:
        return []
    units = {o["name"]: o["unit"] for o in pareto["objectives"]}
    head = f"\nPareto set: {len(pareto['set'])} of {pareto['of']} settings that keep the SLOs, "
    lines = [f"{head}hypervolume {pareto['hypervolume']:.3f}"]
    for row in pareto["set"]:
        values = "  ".join(f"{name} {value:.4g} {units[name]}" for name, value in row["values"].items())
        lines.append(
            f"  trial {row['trial']:>3}  {values}  " + ", ".join(f"{k} {v}" for k, v in row["setting"].items())
        )
    return lines


def budget_text(result: Result) -> str:
    """The spending of each budget."""
    shown = []
    for name, row in budget(result).items():
        limit = "" if row["limit"] is None else f" of {row['limit']:g}"
        proof = f" (and {row['proof']:.0f} for the proof)" if row.get("proof") else ""
        shown.append(f"{row['spent']:.0f}{limit} {name.replace('_', ' ')}{proof}")
    return f"Spent: {', '.join(shown)}"


def _all_failed(result: Result) -> bool:
    return bool(result.trials) and result.failures == len(result.trials)


def telling(text: str | None) -> str:
    """A message as one line: its first line, followed by the most telling line of a log, or by its last line."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if len(lines) < 2:
        return "".join(lines)
    marked = next((line for line in lines if line.startswith(TELLS)), lines[-1])
    return f"{lines[0]} [{marked.removeprefix(TELLS)[:MOST_TELLING]}]"
