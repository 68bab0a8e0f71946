"""Frozen records that packages exchange. No behaviour beyond what follows from the values themselves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

from swarmtune.redaction import looks_secret

Value = bool | int | float | str
T = TypeVar("T")


def _frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))


@dataclass(frozen=True, eq=False)
class Setting:
    """One candidate: the value of every field of the space, searched and derived.

    Two settings with the same values are equal, whatever their ``origin``: the part that proposed them ("baseline",
    "user:2", "particle:3", "tpe").
    """

    values: Mapping[str, Value]
    origin: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _frozen(self.values))

    @property
    def key(self) -> str:
        """Canonical text of the values: equal for equal settings, in every process."""
        return json.dumps(dict(self.values), sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Setting) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class File:
    """A file that a command needs. With ``restore`` the previous content comes back when the command has ended."""

    path: str
    content: str
    restore: bool = False


@dataclass(frozen=True)
class Command:
    """What an executor runs: argv, never a shell line.

    ``env`` is added to the environment of the executor ("$PATH" in its PATH is the PATH there); names in ``secrets`` are
    redacted wherever the command is shown, and every name of ``env`` that looks secret is one of them.
    ``directory`` is where it runs and where its output goes ("" = the executor's choice), relative file paths included.
    With a ``cwd`` it runs there, and its relative file paths begin there; a relative one begins at ``directory``.
    ``lives_on``: when its first process ends with 0, the command has not ended; what that process started goes on until the
    stop. ``nice``: how far it gives way to others where CPUs are short, 0 (not at all) to 19, both as a process and as a
    session, since Linux may share the CPUs between sessions first.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    directory: str = ""
    memory_limit_bytes: int | None = None
    secrets: frozenset[str] = frozenset()
    lives_on: bool = False
    nice: int = 0
    cwd: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", _frozen(self.env))
        object.__setattr__(self, "secrets", self.secrets | {name for name in self.env if looks_secret(name)})

    @property
    def secret_values(self) -> tuple[str, ...]:
        """The values to redact: of the environment, and behind flags such as ``--api-key``."""
        values = [self.env[name] for name in self.secrets if name in self.env]
        for i, argument in enumerate(self.argv):
            name, equals, value = argument.partition("=")
            if equals and name.startswith("-") and looks_secret(name):
                values.append(value)
            elif (
                i and self.argv[i - 1].startswith("-") and "=" not in self.argv[i - 1] and not argument.startswith("--")
            ):
                values += [argument] if looks_secret(self.argv[i - 1]) else []
        return tuple(v for v in values if v and not (v.isdigit() and len(v) < 8))  # a number is a figure

    def same_process(self, other: Command | None) -> bool:
        """Would this command start the same process as ``other``? Then no restart is needed (C7)."""
        if other is None:
            return False
        mine, theirs = ((c.argv, dict(c.env), c.files, c.memory_limit_bytes, c.lives_on, c.cwd) for c in (self, other))
        return mine == theirs


def command_line(command: Command) -> str:
    """A command as a shell line, secrets of environment and flags redacted."""
    hidden = set(command.secret_values)
    variables = [f"{k}={'***' if k in command.secrets else _value(k, v)}" for k, v in sorted(command.env.items())]
    return " ".join([*variables, *(_shown(argument, hidden) for argument in command.argv)])


def _value(name: str, value: str) -> str:
    """A value for a shell, which expands $PATH in PATH as an executor does."""
    if name != "PATH":
        return shlex.quote(value)
    return '"$PATH"'.join(part and shlex.quote(part) for part in value.split("$PATH"))


def _shown(argument: str, hidden: set[str]) -> str:
    name, equals, value = argument.partition("=")
    if argument in hidden:
        return "***"
    return f"{name}=***" if equals and value in hidden else shlex.quote(argument)


@dataclass(frozen=True)
class Node:
    """A machine as a service sees it: its name or address, and the devices that the service may use there."""

    host: str = "127.0.0.1"
    devices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Group:
    """The nodes that serve one candidate at a time (the first is the master), and the port on which the master answers.

    ``rank`` says which of the nodes a command is for.
    """

    name: str = "local"
    nodes: tuple[Node, ...] = (Node(),)
    port: int = 0
    rank: int = 0

    @property
    def master(self) -> str:
        """The host that answers."""
        return self.nodes[0].host

    @property
    def accelerators(self) -> int:
        """Devices on all nodes; a group without any, which computes on CPUs, counts as one."""
        return max(1, sum(len(node.devices) for node in self.nodes))

    @property
    def url(self) -> str:
        """Where the service of this group answers."""
        host = f"[{self.master}]" if ":" in self.master else self.master  # IPv6
        return f"http://{host}:{self.port}"


@dataclass(frozen=True)
class EarlyStop:
    """An early decision on a measurement: after ``after_s`` seconds the rest could not matter; ``done``: it was ended.

    ``rule``: "promise_broken" or "over_saturated" (``of``: the SLO), or "cannot_win" (``of``: the objective's metric, with
    its upper bound ``most``, below ``to_beat``).
    """

    rule: Literal["promise_broken", "over_saturated", "cannot_win"]
    of: str
    after_s: float
    done: bool
    most: float | None = None
    to_beat: float | None = None


@dataclass(frozen=True)
class Measurement:
    """The result of one load on one running service.

    ``metrics`` has one meaning per name (loadgen/metrics.py): latencies in milliseconds (``p95_ttft_ms``), throughput in
    tokens or requests per second, rates between 0 and 1. An absent name was not measured; there are no NaNs.
    ``valid``: the load generator's own certificate, with ``reasons`` if it is False.
    ``load`` is the requested load, e.g. {"concurrency": 8} or {"request_rate": 2.5}.
    ``blocks`` are metrics in equal spans of the measured time, in order; empty if the load generator gives none.
    After an ``early_stop`` that was done, the metrics are those of a part: a bound, never a value.
    """

    metrics: Mapping[str, float]
    load: Mapping[str, float] = field(default_factory=dict)
    valid: bool = True
    reasons: tuple[str, ...] = ()
    source: str = "measured"  # or "predicted"; a predicted result is never stored as measured
    blocks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    early_stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", _frozen(self.metrics))
        object.__setattr__(self, "load", _frozen(self.load))
        object.__setattr__(self, "blocks", _frozen({name: tuple(values) for name, values in self.blocks.items()}))

    @property
    def stopped_early(self) -> bool:
        """Was it ended early?"""
        return self.early_stop is not None and self.early_stop.done


@dataclass(frozen=True)
class Score:
    """How good a setting is. ``loss`` is minimised by every search; ``value`` is the objective in its own unit.

    ``violations`` maps each hard SLO to how far it is broken, relative to its limit: <= 0 is kept, 0.2 is 20 % over.
    A setting that could not even start has ``value`` None and the single violation ``start_failure``.
    ``values`` are the losses of several objectives by name, all minimised, for a Pareto set.
    """

    value: float | None
    loss: float
    violations: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "violations", _frozen(self.violations))
        object.__setattr__(self, "values", _frozen(self.values))

    @property
    def feasible(self) -> bool:
        """Does it keep every SLO?"""
        return all(v <= 0 for v in self.violations.values())

    @property
    def total_violation(self) -> float:
        """Sum of the positive violations; 0 when feasible."""
        return sum(max(0.0, v) for v in self.violations.values())

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key by Deb's feasibility rules: feasible by loss, then infeasible by violation (Deb 2000)."""
        return (0, self.loss) if self.feasible else (1, self.total_violation)

    @classmethod
    def failed(cls, worst_loss: float = 1e9) -> Score:
        """The score of a setting that cannot work at all."""
        return cls(value=None, loss=worst_loss, violations={"start_failure": 10.0})


@dataclass(frozen=True)
class Prediction:
    """What a model says of a setting at its best load. It is no result: the store takes it for no trial.

    ``low``, ``high``: limits of the value, between which it is expected with 90 %. ``within``: share of the simulated steps
    inside of what the model was trained on; None: it was not trained.
    """

    setting: Setting
    score: Score
    load: Mapping[str, float]
    low: float | None
    high: float | None
    within: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "load", _frozen(self.load))


class TrialState(StrEnum):
    """Where a trial stands. A failed setting is COMPLETE with a violated SLO; FAILED means infrastructure."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """One row of the study: a setting and its result."""

    number: int
    setting: Setting
    state: TrialState
    score: Score | None = None
    measurement: Measurement | None = None
    failure: str | None = None
    attempts: int = 1
    times: tuple[float, float] | None = None  # start and end of the last attempt, wall clock


@dataclass(frozen=True)
class Attempt:
    """One try to measure a trial on one group; ``token`` marks its processes."""

    id: int
    trial_number: int
    setting: Setting
    group: str
    token: str
    kind: str = "trial"


@dataclass(frozen=True)
class AttemptResult:
    """The end of an attempt. Without a score the infrastructure or the user is to blame, and the trial is tried again."""

    score: Score | None = None
    measurement: Measurement | None = None
    failure: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    gave_up: bool = False  # no further attempt follows: the trial has failed


def to_plain(fact: Any) -> Any:
    """A record as JSON types: tables, lists, texts, numbers. Infinite numbers stay infinite."""
    import msgspec  # takes a while to import, and `swarmtune --help` does without

    return msgspec.to_builtins(fact, enc_hook=lambda value: dict(value) if isinstance(value, Mapping) else float(value))


def from_plain(data: Any, kind: type[T]) -> T:
    """Inverse of ``to_plain``. Missing keys get their defaults; unknown keys are ignored.

    ValueError names the value that does not fit.
    """
    import msgspec

    return msgspec.convert(data, kind)


@dataclass(frozen=True)
class Event:
    """Something that happened, for the terminal, the log and the dashboard."""

    kind: str
    at: float  # wall clock, seconds since the epoch
    facts: Mapping[str, Any] = field(default_factory=dict)


# The facts of a run's events, by kind. ``trial`` is a trial's number, ``group`` a group's name.


class MessageFacts(TypedDict):
    """``exhausted`` (why the search ends early) and ``notice`` (what was left out): a sentence for people."""

    message: str


class WarmStartFacts(TypedDict):
    """``warm_start``: what was taken from earlier studies, and what could not be used."""

    message: str
    notices: list[str]


class PredictingFacts(TypedDict):
    """``predicting``: how many of the settings are predicted so far; the listener alone hears of it."""

    done: int
    of: int


class PredictedFacts(TypedDict):
    """``predicted``: a model has predicted so many settings. ``request`` and ``model`` name what it was made of (hashes);
    ``multipliers``, ``front_s``: how the baseline's measurement has moved the model; ``spread``: the standard deviation of
    the logarithm of measured over predicted values that is assumed; ``effects``: what a field does to a prediction;
    ``trials``: those whose measurements have moved the model.
    """

    predictions: int
    request: str
    model: str
    multipliers: dict[str, float]
    front_s: float
    spread: float
    effects: dict[str, str]
    anchored: bool
    trials: NotRequired[list[int]]


class GroupsFacts(TypedDict, total=False):
    """``groups``: a sentence about one group, or how many are healthy and held back, and the names of all."""

    message: str
    healthy: int
    open: int
    names: list[str]


class ResumedFacts(TypedDict):
    """``resumed``: how many trials the study has, and how many of them have ended."""

    trials: int
    finished: int


class TrialStartedFacts(TypedDict):
    """``trial_started``: an attempt (counted from 1) begins."""

    trial: int
    origin: str
    group: str
    setting: dict[str, Value]
    attempt: int


class PhaseFacts(TypedDict):
    """``starting`` (the service), ``ready``, ``waiting`` (for its turn): where an attempt stands."""

    trial: int
    group: str
    setting: NotRequired[dict[str, Value]]


class LoadFacts(TypedDict):
    """``load``: a measurement at this load begins."""

    trial: int
    group: str
    concurrency: NotRequired[float]
    request_rate: NotRequired[float]


class LoadPointFacts(TypedDict):
    """``load_point``: the measurement at this load has ended."""

    trial: int
    load: dict[str, float]


class TrialRetriedFacts(TypedDict):
    """``trial_retried``: this attempt failed on this group without a fault of the setting."""

    trial: int
    attempt: int
    failure: str | None
    group: NotRequired[str]  # absent in studies of earlier versions


class TrialFailedFacts(TypedDict):
    """``trial_failed``: it could not be measured at all; ``finalist_lost``: nor again in the proof, on ``group``."""

    trial: int
    failure: str | None
    group: NotRequired[str]


class TrialFinishedFacts(TypedDict):
    """``trial_finished``: its result; ``value`` None: the setting cannot run. Accelerator-seconds are of the search."""

    trial: int
    value: float | None
    feasible: bool
    violations: dict[str, float]  # of the broken SLOs only
    failure: str | None
    load: dict[str, float]
    accelerator_seconds: NotRequired[float]


class RemeasuredFacts(TypedDict):
    """``remeasured``: a value of the proof, in a round (from 1) of so many of its stage ("qualify" or "prove"), or at the
    winner's load.
    """

    trial: int
    value: float | None
    round: NotRequired[int]
    of: NotRequired[int]
    stage: NotRequired[str]


class BackupFullFacts(TypedDict):
    """``backup_full``: the backups of a study have reached their limit; no further one is kept."""

    trial: int
    group: str
    limit_bytes: int
