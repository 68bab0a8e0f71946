"""No file raises anything but the errors of the contract, and none makes the memory grow."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import fuzz_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtune.workload.traces import KINDS


@settings(max_examples=400)
@given(st.sampled_from(KINDS), st.integers(0, 2**64))
def test_files_that_are_almost_right(tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int) -> None:
    chosen = random.Random(seed)
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(fuzz_files.almost(kind, chosen))
    fuzz_files.use(path, kind, chosen)


@settings(max_examples=400)
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_files_of_anything(tmp_path_factory: pytest.TempPathFactory, kind: str, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(content)
    fuzz_files.use(path, kind, random.Random(0))


def test_ten_thousand_files_of_each_kind_in_little_memory(tmp_path: Path) -> None:
    program = [sys.executable, fuzz_files.__file__, str(tmp_path), "10000", "14"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == list(KINDS)
    assert " 0 of 10000 refused" not in done.stdout
    assert "10000 of 10000 refused" not in done.stdout
