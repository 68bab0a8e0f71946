"""Makes results of records: the verdict, the statistics, the files."""

from __future__ import annotations

from pathlib import Path

from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.service import Service
from swarmtune.loadgen.exports.report import Report, leave, report
from swarmtune.loadgen.records import Records


class PostProcessor(Service):
    """``process`` once, after the run."""

    def __init__(self, bus: Bus, spec: Spec) -> None:
        super().__init__(bus, "post-processor")
        self._spec = spec

    def process(self, records: Records, directory: Path, formats: tuple[str, ...], command: str = "") -> Report:
        """The report, and its files in ``directory``. ConfigPathError if they cannot be written."""
        made = report(self._spec, records, command)
        leave(made, directory, formats)
        return made
