"""Every error that SwarmTune raises on purpose, and its culprit.

Foreign errors (subprocess, HTTP, SQL, TOML) are translated into one of these at the border, once, with ``raise ... from``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


def one_line(text: str) -> str:
    """A text without line breaks, control characters and other characters that do not show, each of which becomes its
    escape: what a message quotes may come from anywhere, and must neither move a cursor nor turn the words around.
    """
    return "".join(c if c.isprintable() else " " if c == "\n" else repr(c)[1:-1] for c in text)


def shown(text: str) -> str:
    """The same with its line breaks and tabs: a text as it can go to a terminal, whoever wrote what it quotes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


MOST_SHOWN = 2000  # characters of one sentence, which may quote anything


MOST_LISTED = 200  # mistakes


def bounded(text: str, most: int = MOST_SHOWN) -> str:
    """The text, without its middle if it is longer."""
    return text if len(text) <= most else f"{text[: most - most // 4]} ... {text[-most // 4 :]}"


class Culprit(StrEnum):
    """The party that must act so that the error does not come back."""

    USER = "user"  # fix the configuration, the command line or the machine
    SETTING = "setting"  # this candidate cannot work: the search learns from it, the run goes on
    INFRASTRUCTURE = "infrastructure"  # a port, node or process was lost: try again, the search learns nothing
    BUG = "bug"  # SwarmTune itself is wrong


class SwarmTuneError(Exception):
    """Base of all errors. ``details`` holds the facts for programs; the message is for people."""

    culprit: Culprit = Culprit.BUG

    def __init__(
        self, message: str, *, details: Mapping[str, Any] | None = None, culprit: Culprit | None = None
    ) -> None:
        self.message = "\n".join(map(bounded, message.split("\n")))
        super().__init__(self.message)
        self.details: dict[str, Any] = dict(details or {})
        if culprit is not None:
            self.culprit = culprit

    def __str__(self) -> str:
        return self.message


class ConfigurationError(SwarmTuneError):
    """The settings are wrong; nothing was started."""

    culprit = Culprit.USER


class ConfigPathError(ConfigurationError):
    """A file that the settings name cannot be read or written."""


class ConfigValidationError(ConfigurationError):
    """One or more settings are wrong. ``mistakes`` lists all of them, each a full sentence with file and key."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = list(dict.fromkeys(map(bounded, mistakes)))
        count = len(self.mistakes)
        lines = [f"{count} mistake{'s' if count > 1 else ''} in the configuration:"]
        lines += [f"  - {mistake}" for mistake in self.mistakes[:MOST_LISTED]]
        lines += [f"  and {count - MOST_LISTED:,} more"] if count > MOST_LISTED else []
        super().__init__("\n".join(lines), details={"mistakes": self.mistakes})


class MissingExtraError(ConfigurationError):
    """An optional part is not installed; the message holds the command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an extra that is not installed: pip install 'swarmtune[{extra}]'",
            details={"extra": extra},
        )


class PluginError(ConfigurationError):
    """A part of a plugin raised, or returned, what its contract does not allow; the message names the place. It may show
    only while a service runs.
    """


class OptimizationError(SwarmTuneError):
    """The search could not do its work."""


class PSOConvergenceError(OptimizationError):
    """The search found no new legal setting to try."""

    culprit = Culprit.USER


class FitnessCalculationError(OptimizationError):
    """A measurement lacks what the objective needs; a missing metric is never a bonus."""

    culprit = Culprit.USER


class StudyBusyError(OptimizationError):
    """Another live tuner owns the study."""

    culprit = Culprit.USER


class StoreError(OptimizationError):
    """The study database cannot be read or written (disk full, server gone)."""

    culprit = Culprit.USER


class SimulatorError(SwarmTuneError):
    """The service under tune misbehaved (the older tuner called services simulators, and so do its plugins)."""

    culprit = Culprit.SETTING


class SimulatorStartError(SimulatorError):
    """The service did not become ready. ``details``: cause, exit_code, log_tail."""


class SimulatorStopError(SimulatorError):
    """The service did not stop."""

    culprit = Culprit.INFRASTRUCTURE


class SimulatorHealthCheckError(SimulatorError):
    """The service was ready and then died or stopped answering. ``details`` as for SimulatorStartError."""


class BenchmarkError(SwarmTuneError):
    """The load generator failed."""

    culprit = Culprit.INFRASTRUCTURE


class BenchmarkExecutionError(BenchmarkError):
    """The load generator could not run or ended with an error."""


class BenchmarkParseError(BenchmarkError):
    """The load generator left no result file that can be read."""


class CommunicationError(SwarmTuneError):
    """A process or node of ours cannot be reached."""

    culprit = Culprit.INFRASTRUCTURE


class IPCTimeoutError(CommunicationError):
    """No answer in time."""


class IPCCommandError(CommunicationError):
    """The other side refused or failed a command."""
