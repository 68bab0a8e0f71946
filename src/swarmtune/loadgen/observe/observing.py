"""Run with the reader of devices beside it, and get what it read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from swarmtune.devices.host import is_here
from swarmtune.devices.parties import ServiceMark
from swarmtune.devices.reader import Wanted, reading
from swarmtune.devices.spool import read_spool
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.ask.target import parse, proxy_for
from swarmtune.loadgen.records import Observed

SPOOL_FILE = "devices.spool"


@contextlib.contextmanager
def observing(spec: Spec, directory: Path) -> Iterator[None]:
    """While the body runs, devices and server metrics are read, into a spool in ``directory``; see ``observed``.

    Devices are read where the service runs, if that is this machine, and only those of ``spec.nodes``; Prometheus
    addresses as ``spec`` says. Trouble with either is a note. A body that fails or is cancelled leaves no reader, and no
    spool.
    """
    here = [node for node in spec.service_nodes if node.is_here and "off" not in spec.options.gpu_telemetry]
    devices = tuple(sorted({index for node in here for index in node.devices}))
    urls = tuple(dict.fromkeys((*exporter_urls(spec), *server_urls(spec))))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with reading(Wanted(bool(here), devices or None, urls, service_mark(spec)), directory / SPOOL_FILE):
            yield
    except BaseException:
        discard(directory)
        raise


def service_mark(spec: Spec) -> ServiceMark | None:
    """What the processes of the service are known by, if all of its addresses are this machine's and lead to it directly."""
    addresses = [parse(url) for url in spec.url]
    proxied = any(proxy_for(url, spec.options.proxy) for url in spec.url)
    if proxied or not all(is_here(host) for _, host, _, _ in addresses):
        return None
    return ServiceMark(tuple(dict.fromkeys(port for _, _, port, _ in addresses)), spec.service_token)


def observed(spec: Spec, directory: Path) -> Observed:
    """What the reader left in this folder; nothing, if there was none."""
    lines, servers = read_spool(directory / SPOOL_FILE), server_urls(spec)
    return Observed(devices=lines.without(set(servers) - set(exporter_urls(spec))), servers=lines.only(servers))


def discard(directory: Path) -> None:
    """Remove the spool, if there is one."""
    with contextlib.suppress(OSError):
        (directory / SPOOL_FILE).unlink(missing_ok=True)


def exporter_urls(spec: Spec) -> tuple[str, ...]:
    """Addresses of device exporters. ``pynvml`` is no address: NVIDIA's library is asked anyway."""
    return tuple(text for text in spec.options.gpu_telemetry if text not in ("off", "pynvml"))


def server_urls(spec: Spec) -> tuple[str, ...]:
    """Addresses of server metrics: ``auto`` is the engine's own, ``off`` none; the engine's own without an option."""
    own = [spec.metrics_url] if spec.metrics_url else []
    usual = own or [f"{url.partition('?')[0].rstrip('/').removesuffix('/v1')}/metrics" for url in spec.url]
    given = spec.options.server_metrics
    if not given:
        return tuple(own)
    return tuple(url for text in given if text != "off" for url in (usual if text == "auto" else [text]))
