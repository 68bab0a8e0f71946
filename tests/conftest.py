"""What all tests share."""

import os
import signal

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does: many small matrices, few cores
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would ours


@pytest.fixture(autouse=True, scope="session")
def _built_in_parts() -> None:
    """Engines, benchmarks and searches are known, as after the command line has started."""
    from swarmtune import registry

    assert registry.load_plugins() == []
