"""Why a service did not start or ended early, from its exit code and the last lines of its log."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from enum import StrEnum

from swarmtune.errors import Culprit, SimulatorStartError

TAIL_LINES = 15  # of the log, shown in the message
SHELL_SIGNAL_BASE = 128  # a shell reports a child ended by signal n as exit code 128 + n


class Cause(StrEnum):
    """Causes of failure, in the order in which their patterns are tried."""

    PORT_TAKEN = "port_taken"
    OUT_OF_MEMORY = "out_of_memory"
    MISSING_MODEL = "missing_model"
    DEVICE_ERROR = "device_error"
    BAD_ARGUMENT = "bad_argument"
    CRASHED = "crashed"
    HANG = "hang"
    KILLED = "killed"


Patterns = Mapping[Cause, Sequence[str]]

# Regular expressions, matched line by line without regard to case.
COMMON: Patterns = {
    Cause.PORT_TAKEN: (
        r"address already in use",
        r"\[Errno 98\]",
        r"EADDRINUSE",
        r"port \d+ is (already )?(in use|taken|occupied)",
        r"couldn't bind .*socket",
    ),
    Cause.OUT_OF_MEMORY: (
        r"out of memory",
        r"OutOfMemoryError",
        r"\bMemoryError\b",
        r"std::bad_alloc",
        r"cannot allocate memory",
        r"\[Errno 12\]",
        r"failed to allocate",
        r"failed to map segment from shared object",
        r"unable to mmap",
        r"oom[-_ ]?kill",
    ),
    Cause.MISSING_MODEL: (
        r"is not a local folder and is not a valid model identifier",
        r"does not appear to have (a file named|files named)",
        r"repository not found",
        r"RepositoryNotFoundError",
        r"HFValidationError",
        r"no such model",
        r"model (file|path|directory)?\b.{0,200}(not found|does not exist|no such file)",
        r"(not found|does not exist|no such file).{0,40}\bmodel\b",
    ),
    Cause.DEVICE_ERROR: (
        r"CUDA (driver )?error",
        r"no CUDA-capable device",
        r"no CUDA GPUs are available",
        r"NCCL (error|failure)",
        r"uncorrectable ECC",
        r"\bXid\b",
        r"device-side assert",
        r"HIP error",
        r"Failed to infer device type",
        r"aclrt\w* failed|ACL_ERROR|HCCL.{0,40}error",
        r"NPU (error|fault)",
    ),
    Cause.BAD_ARGUMENT: (
        r"unrecognized arguments?",
        r"error: argument ",
        r"invalid choice",
        r"unknown (argument|option|flag)",
        r"ValidationError",
        r"\bValueError: ",
        r"AssertionError: ",
        r"error: the following arguments are required",
    ),
}
CULPRITS = {
    Cause.PORT_TAKEN: Culprit.INFRASTRUCTURE,
    Cause.DEVICE_ERROR: Culprit.INFRASTRUCTURE,
    Cause.KILLED: Culprit.INFRASTRUCTURE,
    Cause.MISSING_MODEL: Culprit.USER,
}
_WHAT = {
    Cause.PORT_TAKEN: "its port is taken by another process",
    Cause.OUT_OF_MEMORY: "it ran out of memory",
    Cause.MISSING_MODEL: "its model cannot be found",
    Cause.DEVICE_ERROR: "a device failed",
    Cause.BAD_ARGUMENT: "it refused its arguments",
    Cause.CRASHED: "it crashed",
    Cause.HANG: "it still runs but did not become ready in time",
    Cause.KILLED: "it was killed from outside",
}
_WAY_OUT = {
    Cause.PORT_TAKEN: "It is tried again; if it stays so, choose another port or stop what holds it (ss -ltnp).",
    Cause.OUT_OF_MEMORY: "The search avoids such settings; lower batch sizes, context or cache, or provide more memory.",
    Cause.MISSING_MODEL: "Correct the model's path or name in the engine's section.",
    Cause.DEVICE_ERROR: "It is tried again; if it stays so, check the device and its driver.",
    Cause.BAD_ARGUMENT: "Correct the field or flag that the lines below name, or add a constraint that excludes it.",
    Cause.CRASHED: "The lines below are the last that it wrote; the whole log is in the trial's folder.",
    Cause.HANG: "Raise the start timeout if the lines below show progress.",
    Cause.KILLED: "It is tried again; the lines below are its last.",
}
_WHILE_RUNNING = (Cause.OUT_OF_MEMORY, Cause.DEVICE_ERROR)  # a worker died of it; the front end still waits for it


def diagnose(engine: str, exit_code: int | None, log: str, own: Patterns | None = None) -> SimulatorStartError:
    """The error for a service that ended this way. The engine's ``own`` patterns are tried before the common ones;
    exit_code None: it still runs.

    ``details``: cause, exit_code, log_tail. SIGKILL and SIGTERM are blamed on the infrastructure, not on the setting, unless
    the log shows that memory ran out.
    """
    cause = classify(exit_code, log, own or {})
    tail = "\n".join(log.rstrip().splitlines()[-TAIL_LINES:])
    evidence = _evidence(cause, log, own or {})
    message = f"{engine} did not serve: {_WHAT[cause]} ({_ended(exit_code)}). {_WAY_OUT[cause]}"
    if evidence and evidence not in tail:
        message += f"\nThe line with the cause: {evidence}"
    message += f"\nLast lines of its log:\n{tail}" if tail else "\nIts log is empty."
    details = {"cause": cause.value, "exit_code": exit_code, "log_tail": tail}
    return SimulatorStartError(message, details=details, culprit=CULPRITS.get(cause, Culprit.SETTING))


def classify(exit_code: int | None, log: str, own: Patterns) -> Cause:
    """The cause alone. The engine's own patterns are tried first, then the common ones, each in the order of Cause."""
    candidates = _WHILE_RUNNING if exit_code is None else tuple(Cause)
    if _signal(exit_code) in (signal.SIGKILL, signal.SIGTERM):
        candidates = (Cause.OUT_OF_MEMORY,)
    for table in (own, COMMON):
        for cause in candidates:
            if _find(table.get(cause, ()), log):
                return cause
    if exit_code is None:
        return Cause.HANG
    return Cause.KILLED if _signal(exit_code) in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) else Cause.CRASHED


def _find(patterns: Sequence[str], log: str) -> str:
    for pattern in patterns:
        match = re.search(rf"^.*(?:{pattern}).*$", log, re.IGNORECASE | re.MULTILINE)
        if match:
            return match[0].strip()
    return ""


def _evidence(cause: Cause, log: str, own: Patterns) -> str:
    return (_find(own.get(cause, ()), log) or _find(COMMON.get(cause, ()), log))[:500]


def _signal(exit_code: int | None) -> int | None:
    if exit_code is None:
        return None
    if exit_code < 0:
        return -exit_code
    return exit_code - SHELL_SIGNAL_BASE if SHELL_SIGNAL_BASE < exit_code <= SHELL_SIGNAL_BASE + signal.NSIG else None


def _ended(exit_code: int | None) -> str:
    number = _signal(exit_code)
    if number is not None:
        known = number in signal.valid_signals()
        return f"ended by {signal.Signals(number).name if known and number < signal.SIGRTMIN else f'signal {number}'}"
    return "no exit" if exit_code is None else f"exit code {exit_code}"
