"""The data of a run: each worker makes its own replica from the spec, and must come to the same fingerprint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.ask.dataset import digest, make_dataset
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.lifecycle import on_configure
from swarmtune.loadgen.distributed.messages import Data
from swarmtune.loadgen.distributed.service import Service
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.endpoints.base import Endpoint
from swarmtune.workload.session import Dataset

REQUESTS = 32  # whose bodies are compared; the rest follows from the same seed, options and file


def fingerprint(dataset: Dataset, endpoint: Endpoint, spec: Spec) -> str:
    """SHA-256 over the size, the schedule, the file if there is one, and the first requests byte for byte."""
    schedule = np.asarray([] if dataset.schedule is None else dataset.schedule, "<i8")
    total = hashlib.sha256(f"{dataset.size} {digest(dataset, endpoint, REQUESTS)}".encode() + schedule.tobytes())
    if spec.options.input_file:
        with Path(spec.options.input_file).expanduser().open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


class DatasetManager(Service):
    """Reads the data once, so that mistakes are found before anything is started."""

    def __init__(self, bus: Bus, spec: Spec) -> None:
        super().__init__(bus, "dataset-manager")
        self._spec = spec
        self.digest = ""

    @on_configure
    def read(self) -> None:
        """ConfigPathError, ConfigValidationError: see make_dataset."""
        options = self._spec.options
        self.dataset = make_dataset(options, self._spec.seed)
        self.digest = fingerprint(self.dataset, make_endpoint(self._spec.model, options), self._spec)
        self.publish(Data(self.digest, -1 if self.dataset.size is None else self.dataset.size))

    def check(self, digests: dict[str, str]) -> None:
        """ConfigValidationError if a worker has other data."""
        other = [worker for worker, found in digests.items() if found != self.digest]
        if other:
            told = f"{', '.join(other)} would send other requests than the controller: the input files differ, or the"
            way_out = "versions of swarmtune. Copy the same file to all hosts and install the same version"
            raise ConfigValidationError([f"{told} {way_out}"])
