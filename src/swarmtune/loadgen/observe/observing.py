"""Run with the reader of devices beside it; what it read becomes part of the records."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from swarmtune.devices.reader import Wanted, reading
from swarmtune.devices.spool import read_spool
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.records import Observed, Records

SPOOL_FILE = "devices.spool"


def observed(spec: Spec, directory: Path, run: Callable[[], Records]) -> Records:
    """The records of ``run``, with what was read in the meantime.

    Devices are read where the service runs, if that is this machine, and only those of ``spec.nodes``; Prometheus
    addresses as ``spec`` says. Trouble with either is a note. A run that fails or is cancelled leaves no reader.
    """
    servers = server_urls(spec)
    here = [node for node in spec.service_nodes if node.is_here]
    devices = tuple(sorted({index for node in here for index in node.devices}))
    urls = tuple(dict.fromkeys((*spec.options.gpu_telemetry, *servers)))
    directory.mkdir(parents=True, exist_ok=True)
    spool = directory / SPOOL_FILE
    try:
        with reading(Wanted(bool(here), devices or None, urls), spool):
            records = run()
        lines = read_spool(spool)
    finally:
        with contextlib.suppress(OSError):
            spool.unlink(missing_ok=True)
    records.observed = Observed(
        devices=lines.without(set(servers) - set(spec.options.gpu_telemetry)), servers=lines.only(servers)
    )
    return records


def server_urls(spec: Spec) -> tuple[str, ...]:
    """Addresses of server metrics: ``auto`` is the engine's own, ``off`` none; the engine's own without an option."""
    own = [spec.metrics_url] if spec.metrics_url else []
    usual = own or [f"{url.rstrip('/').removesuffix('/v1')}/metrics" for url in spec.url]
    given = spec.options.server_metrics
    if not given:
        return tuple(own)
    return tuple(url for text in given if text != "off" for url in (usual if text == "auto" else [text]))
