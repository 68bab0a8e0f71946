"""Sentences about a study: its progress and its result. The same on a terminal, a page and in a file."""

from __future__ import annotations

from collections.abc import Sequence

from swarmtune.objective import Objective
from swarmtune.records import (
    GroupsFacts,
    LoadFacts,
    RemeasuredFacts,
    TrialFailedFacts,
    TrialFinishedFacts,
    TrialRetriedFacts,
)
from swarmtune.report.figures import budget, no_difference
from swarmtune.report.pareto import pareto_set
from swarmtune.tuner.proof.confirm import NO_GAIN
from swarmtune.tuner.result import Result

TELLS = "The line with the cause: "  # before it, in the diagnosis of an engine
MOST_TELLING = 200  # characters

# --- before it runs ----------------------------------------------------------------------------------------------


def busy_text(share: float, busiest: Sequence[tuple[str, int, float]]) -> str:
    """The machine is not free: the share of its CPUs in use, and the programs (name, pid, share) that use most."""
    named = " and ".join(f"{name} (pid {pid}, {part:.0%})" for name, pid, part in busiest)
    most = f", most of it by {named}" if named else ""
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
    """An attempt failed, and another one follows."""
    where = f" on {facts['group']}" if facts.get("group") else ""
    return f"trial {facts['trial']}: attempt {facts['attempt']}{where} failed, again: {telling(facts['failure'])}"


def failed_text(facts: TrialFailedFacts) -> str:
    """A trial could not be measured at all."""
    return f"trial {facts['trial']} given up: {telling(facts['failure'])}"


def remeasured_text(facts: RemeasuredFacts, objective: Objective) -> str:
    """A measurement of the proof."""
    value = "no result" if facts["value"] is None else f"{facts['value']:.4g} {objective.unit}"
    where = f"round {facts['round']}/{facts['of']}" if "round" in facts and "of" in facts else "at the winner's load"
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
    """The message and the ways out if no setting kept the SLOs; empty if one did."""
    if result.best is not None:
        return []
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
        return f"No setting can be recommended: {verdict.reason}."
    if result.best is result.baseline:
        return f"No significant gain: keep the baseline; {verdict.reason}."
    groups = f" on {result.proof.groups} groups" if result.proof.groups > 1 else ""
    basis = f"({verdict.rounds} interleaved rounds{groups})"
    if verdict.significant and (verdict.gain_percent or 0) < 0:
        return f"The winner is to be preferred: {verdict.reason} {basis}."
    if verdict.significant:
        gain = "" if verdict.gain_percent is None else f" by {verdict.gain_percent:.1f} %"
        return f"The winner is better{gain}: {verdict.reason} {basis}."
    gain = "" if verdict.gain_percent is None else f" (measured {verdict.gain_percent:+.1f} %)"
    why = "" if verdict.reason == NO_GAIN else f": {verdict.reason}"
    return f"No significant gain{gain}{why} {basis}."


def tied_lines(result: Result) -> list[str]:
    """The settings that are statistically tied with the recommended one, and the parameters without measurable effect."""
    standings = {s.trial: s.against_best for s in result.proof.finalists}
    lines = []
    for trial in result.tied:
        changes = {k: v for k, v in trial.setting.values.items() if result.best and v != result.best.setting.values[k]}
        interval = standings[trial.number].ci95_percent
        how = "too few rounds to tell" if interval is None else f"95 % CI {interval[0]:+.1f} to {interval[1]:+.1f} %"
        lines.append(
            f"Statistically tied with the winner: trial {trial.number} ({how}) "
            + ", ".join(f"{k} {v}" for k, v in changes.items())
        )
    matters = [f"{name} ({' or '.join(map(str, values))})" for name, values in no_difference(result).items()]
    return [*lines, f"No measurable difference: {', '.join(matters)}"] if matters else lines


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


def clock_text(seconds: float) -> str:
    """A time span for people: 42s, 3m05s, 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def telling(text: str | None) -> str:
    """A message as one line: its first line, followed by the most telling line of a log, or by its last line."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if len(lines) < 2:
        return "".join(lines)
    marked = next((line for line in lines if line.startswith(TELLS)), lines[-1])
    return f"{lines[0]} [{marked.removeprefix(TELLS)[:MOST_TELLING]}]"
