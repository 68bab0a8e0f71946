"""Makes results of records: the certificate, the statistics, the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from swarmtune.loadgen.distributed.messages import Process, Processed
from swarmtune.loadgen.distributed.records_manager import records_of
from swarmtune.loadgen.distributed.service import Service, on_message
from swarmtune.loadgen.exports.report import report, write_files
from swarmtune.loadgen.observe.observing import observed


class PostProcessor(Service):
    """Works on the files of the records manager, after the run."""

    @on_message(Process)
    def process(self, _: str, message: Process) -> Processed:
        """Write the files; what stands in them. ConfigPathError if they cannot be written."""
        directory = Path(message.directory)
        records = records_of(message.records, interrupted=message.interrupted)
        made = report(self.spec, replace(records, observed=observed(self.spec, directory)), message.command)
        write_files(made, directory, message.formats)
        return Processed(made.results, made.certificate, made.facts.inputs_sha256)
