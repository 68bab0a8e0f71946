"""Causes from logs that real engines wrote (data/*.log; paths shortened)."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmtune.engines.diagnosis import TAIL_LINES, Cause, classify, diagnose
from swarmtune.engines.llamacpp import PATTERNS as LLAMACPP
from swarmtune.engines.vllm import PATTERNS as VLLM
from swarmtune.errors import Culprit

DATA = Path(__file__).parent / "data"
OWN = {"vllm": VLLM, "llamacpp": LLAMACPP}


@pytest.mark.parametrize(
    ("file", "exit_code", "cause"),
    [
        ("vllm_port_taken", 1, Cause.PORT_TAKEN),
        ("vllm_bad_argument", 2, Cause.BAD_ARGUMENT),
        ("vllm_bad_value", 1, Cause.BAD_ARGUMENT),
        ("vllm_missing_model", 1, Cause.MISSING_MODEL),
        ("vllm_out_of_memory", 1, Cause.OUT_OF_MEMORY),
        ("vllm_memory_in_use", 1, Cause.OUT_OF_MEMORY),
        ("llamacpp_port_taken", 1, Cause.PORT_TAKEN),
        ("llamacpp_out_of_memory", 1, Cause.OUT_OF_MEMORY),
        ("llamacpp_missing_model", 1, Cause.MISSING_MODEL),
    ],
)
def test_real_logs(file: str, exit_code: int, cause: Cause) -> None:
    log = (DATA / f"{file}.log").read_text()
    assert classify(exit_code, log, OWN[file.partition("_")[0]]) is cause


def test_the_line_that_tells_is_shown_even_when_it_is_far_up() -> None:
    log = "x\nRuntimeError: NPU out of memory, 3 GiB\n" + "\n".join(f"frame {i}" for i in range(60))
    error = diagnose("X", 1, log)
    assert "The line with the cause: RuntimeError: NPU out of memory, 3 GiB" in error.message
    assert error.details["log_tail"].splitlines()[0] == f"frame {60 - TAIL_LINES}"


@pytest.mark.parametrize(
    "line",
    [
        "WARNING Found ulimit of 20000 ... errors like `OSError: [Errno 24] Too many open files`.",
        "INFO Maximum concurrency for 4096 tokens per request: 8.0x",
        "WARNING libtcmalloc is not found in LD_PRELOAD",
        "INFO Loading model from scratch...",
        "Triton is installed, but doesn't include CPU backend.",
    ],
)
def test_harmless_lines_tell_nothing(line: str) -> None:
    assert classify(1, line, VLLM) is Cause.CRASHED


def test_a_running_process_is_judged_by_memory_and_device_only() -> None:
    assert classify(None, "ValueError: retrying", {}) is Cause.HANG
    assert classify(None, "torch.OutOfMemoryError", {}) is Cause.OUT_OF_MEMORY


@pytest.mark.parametrize(("code", "words"), [(-15, "SIGTERM"), (143, "SIGTERM"), (-9, "SIGKILL"), (-40, "signal 40")])
def test_signals_have_names(code: int, words: str) -> None:
    error = diagnose("X", code, "serving")
    assert f"ended by {words}" in error.message
    assert (error.culprit is Culprit.INFRASTRUCTURE) == (code != -40)


def test_port_and_device_come_before_the_arguments_that_follow_from_them() -> None:
    assert classify(1, "ValueError: bad\nOSError: [Errno 98] Address already in use", {}) is Cause.PORT_TAKEN
