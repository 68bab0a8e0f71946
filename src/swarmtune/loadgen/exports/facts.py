"""What the exports know of a run besides its records and results, and how they write files."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from swarmtune.errors import ConfigPathError, MissingExtraError
from swarmtune.files import created
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.records import EarlyStop

EXTRA = "export"


@dataclass(frozen=True)
class RunFacts:
    """What was run, and the level and reasons of its certificate. ``command``: the command line, without secrets."""

    model: str
    url: str
    options: LoadgenOptions
    verdict: Literal["valid", "degraded", "invalid", "predicted"] = "valid"
    reasons: tuple[str, ...] = ()
    command: str = ""
    label: str = ""
    inputs_sha256: str = ""  # of the first requests that the seed gives: equal for equal inputs
    early_stop: EarlyStop | None = None
    seed: int = 0
    inputs: Mapping[str, Any] = field(default_factory=dict)  # of a file: what of it was sent and left out

    @property
    def load(self) -> dict[str, float]:
        """What was asked for, as a Measurement records it."""
        asked = {"concurrency": self.options.concurrency, "request_rate": self.options.request_rate}
        return {name: float(value) for name, value in asked.items() if value is not None}


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there whole or not at all: written as ``NAME.part``, then renamed. ConfigPathError if it cannot be."""
    draft = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with created(draft) as stream:
            yield stream
        draft.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigPathError(f"{path} cannot be written: {reason}. Choose another --artifact-dir.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def optional(module: str, feature: str) -> Any:
    """An optional library; MissingExtraError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(feature, EXTRA) from error
