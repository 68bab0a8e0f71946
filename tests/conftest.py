"""What all tests share."""

import pytest

from swarmtune import registry


@pytest.fixture(autouse=True, scope="session")
def _built_in_parts() -> None:
    """Engines, benchmarks and searches are known, as after the command line has started."""
    assert registry.load_plugins() == []
