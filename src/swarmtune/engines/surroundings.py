"""Tables of the older tuner about the surroundings of services and load generators: [health_check] and [deploy]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic import Field as Option

from swarmtune.errors import Culprit, SwarmTuneError
from swarmtune.records import Command

_FROZEN = ConfigDict(frozen=True, extra="forbid")
_Pattern = Annotated[str, Option(min_length=1, max_length=1000)]
_Patterns = Annotated[tuple[_Pattern, ...], Option(max_length=1000)]
BLAME: Mapping[str, Culprit] = {
    "out_of_memory": Culprit.SETTING,
    "device_error": Culprit.INFRASTRUCTURE,
    "network_error": Culprit.INFRASTRUCTURE,
    "io_error": Culprit.INFRASTRUCTURE,
}
"""The party that must act, by cause."""


class CauseTexts(BaseModel):
    """Texts in a log that show a cause."""

    model_config = _FROZEN

    out_of_memory: _Patterns = Option((), description="the setting needs too much memory")
    device_error: _Patterns = Option((), description="a device failed; tried again")
    network_error: _Patterns = Option((), description="the network failed; tried again")
    io_error: _Patterns = Option((), description="a disk or file failed; tried again")


class ErrorPatterns(BaseModel):
    """Causes by texts in a log. Both tables mean the same: the cause says who must act, and whether it is tried again."""

    model_config = _FROZEN

    fatal_patterns: CauseTexts = CauseTexts()
    retryable_patterns: CauseTexts = CauseTexts()

    def cause(self, log: str) -> tuple[str, str] | None:
        """The cause that the last line with one of these texts shows, and that line; None if no line has one."""
        for line in reversed(log.splitlines()):
            for cause, patterns in (*self.fatal_patterns, *self.retryable_patterns):
                if any(pattern in line for pattern in patterns):
                    return cause, line.strip()
        return None


class HealthCheck(BaseModel):
    """[health_check]: your own texts that show in a log why a service or a load generator failed."""

    model_config = _FROZEN

    service_errors: ErrorPatterns = Option(ErrorPatterns(), description="in the log of a service that failed")
    benchmark_errors: ErrorPatterns = Option(ErrorPatterns(), description="in that of a load generator that failed")
    log_snippet_length: int = Option(400, ge=1, description="last lines of a log that are searched, at most 4000")

    def of_service(self, error: SwarmTuneError, log: str) -> SwarmTuneError:
        """The error of a service that failed with this log; changed if a text shows another cause."""
        return self._seen(self.service_errors, error, log)

    def of_benchmark(self, error: SwarmTuneError, log: str) -> SwarmTuneError:
        """The error of a load generator that failed with this log; changed if a text shows another cause."""
        return self._seen(self.benchmark_errors, error, log)

    def _seen(self, patterns: ErrorPatterns, error: SwarmTuneError, log: str) -> SwarmTuneError:
        seen = patterns.cause("\n".join(log.splitlines()[-self.log_snippet_length :]))
        if seen is None:
            return error
        cause, line = seen
        error.message = f"{cause.replace('_', ' ')}, by a text of [health_check]: {line[:500]}\n{error.message}"
        error.details["cause"] = cause
        error.culprit = BLAME[cause]
        return error


class Deploy(BaseModel):
    """[deploy]: where the programs of a service are."""

    model_config = _FROZEN

    path_prefix: str = Option(
        "", description="folder whose programs, and those of bin in it, come first in the PATH of a service's commands"
    )

    @field_validator("path_prefix")
    @classmethod
    def _whole(cls, path: str) -> str:
        if path and not path.startswith("/"):
            raise ValueError("give the whole path, from / on: no shell replaces ~, and nodes have other folders")
        return path

    def on_path(self, command: Command) -> Command:
        """The command, with this folder first in its PATH: on each node before that node's own."""
        if not self.path_prefix:
            return command
        folder = self.path_prefix.rstrip("/") or "/"
        path = ":".join((folder, f"{folder}/bin", command.env.get("PATH", "$PATH")))
        return replace(command, env={**command.env, "PATH": path})
