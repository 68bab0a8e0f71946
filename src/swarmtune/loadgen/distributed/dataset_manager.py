"""The data of a run: each worker makes its own replica from the spec, and must come to the same fingerprint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from swarmtune.loadgen.ask.dataset import digest, make_dataset
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed.lifecycle import on_configure
from swarmtune.loadgen.distributed.messages import Data
from swarmtune.loadgen.distributed.service import Service
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.endpoints.base import Endpoint
from swarmtune.loadgen.send.plan import all_credits
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
    """Reads the data before any worker is started, so that mistakes are found early, and tells all what they are."""

    @on_configure
    def read(self) -> None:
        """ConfigPathError, ConfigValidationError: see make_dataset."""
        spec = self.spec
        dataset = make_dataset(spec.options, spec.seed)
        found = fingerprint(dataset, make_endpoint(spec.model, spec.options), spec)
        self.channel.publish(Data(found, all_credits(spec.options, dataset)))
