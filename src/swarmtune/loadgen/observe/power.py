"""``power_watts``: what the service's accelerators drew during the measurement, or why it is not known. Pure."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

import numpy as np

from swarmtune.devices.sources import POWER
from swarmtune.devices.spool import Key, Lines, Series
from swarmtune.loadgen.ask.spec import ServiceNode, Spec
from swarmtune.loadgen.observe.observing import exporter_urls

# What exporters call the power of a device, and the factor to watts; the first that is there counts.
EXPORTED: Mapping[str, float] = {
    "DCGM_FI_DEV_POWER_USAGE": 1.0,
    "npu_chip_info_power": 1.0,
    "nvidia_smi_power_draw_watts": 1.0,
    "nvidia_gpu_power_usage_milliwatts": 0.001,
    "gpu_package_power": 1.0,
    **dict.fromkeys(POWER, 1.0),
}
INDEX_LABELS = ("gpu", "device", "index", "id", "npu", "gpu_id", "minor_number")
HOST_LABELS = ("Hostname", "hostname", "host", "node", "instance")
MOST_WATTS = 100_000.0  # DCGM says 9223372036854775794 for "not supported"
NEAR_NS = 5_000_000_000  # a reading this long before or after the measurement still tells something about it
_INDEX = re.compile(r"^[a-z]*(\d+)$")


def power_watts(lines: Lines, spec: Spec, started_ns: int, ended_ns: int) -> tuple[float | None, str]:
    """The mean from ``started_ns`` to ``ended_ns`` over the sum of all devices of the service; or None, and the reason.

    Exporters of ``gpu_telemetry`` are believed before our own reader of this machine.
    """
    total = 0.0
    for node in spec.service_nodes:
        watts, reason = _of_node(lines, node, exporter_urls(spec), started_ns, ended_ns)
        if watts is None:
            return None, reason
        total += watts
    return total, ""


def _of_node(
    lines: Lines, node: ServiceNode, exporters: Collection[str], started_ns: int, ended_ns: int
) -> tuple[float | None, str]:
    series = _exported(lines, node, exporters)
    if not series and node.is_here:
        series = {key: one for key, one in lines.series.items() if key[1] in POWER and key[0] not in exporters}
    if not series:
        if exporters:
            told = f"no exporter of gpu_telemetry tells the power of a device of {node.host}"
            return None, "; ".join((told, *lines.notes))
        if node.is_here:
            why = "; ".join(lines.notes) or "it has no accelerator and no energy counters that can be read"
            return (
                None,
                f"this machine does not tell what the service draws ({why}), and gpu_telemetry names no exporter",
            )
        return None, f"{node.host} is another machine, and gpu_telemetry names no exporter there"
    devices: dict[str, list[float]] = {}
    for (source, name, labels), one in series.items():
        mean = mean_over(one, started_ns, ended_ns, EXPORTED.get(name, 1.0))
        index = index_of(dict(labels))
        if mean is not None and (index is None or not node.devices or index in node.devices):
            devices.setdefault(f"{source} {labels}" if index is None else str(index), []).append(mean)
    known = {int(device) for device in devices if device.isdecimal()}
    missing = [str(index) for index in node.devices if index not in known] if known or not devices else []
    if missing or not devices:
        which = f" of device {', '.join(missing)}" if missing else ""
        return None, "; ".join((f"no reading of the power{which} of {node.host} during the measurement", *lines.notes))
    return sum(sum(means) / len(means) for means in devices.values()), ""  # instances of a GPU repeat its power


def _exported(lines: Lines, node: ServiceNode, exporters: Collection[str]) -> dict[Key, Series]:
    ours = {
        key: one
        for key, one in lines.series.items()
        if key[0] in exporters and key[1] in EXPORTED and _belongs(key[0], dict(key[2]), node.host)
    }
    first = next((name for name in EXPORTED if any(key[1] == name for key in ours)), "")
    return {key: one for key, one in ours.items() if key[1] == first}


def _belongs(exporter: str, labels: Mapping[str, str], host: str) -> bool:
    """The exporter is on the node, or the labels name the node."""
    if same_host(urlsplit(exporter).hostname or "", host):
        return True
    named = (labels[label].rpartition(":")[0] or labels[label] for label in HOST_LABELS if label in labels)
    return any(host == name or host.partition(".")[0] == name.partition(".")[0] != "" for name in named)


def same_host(one: str, other: str) -> bool:
    """Do both names lead to the same address?"""
    if one.lower() == other.lower():
        return True
    return bool(_addresses(one) & _addresses(other))


def _addresses(host: str) -> set[str]:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return set()
    return {"127.0.0.1" if address == "::1" else address for address in found}


def index_of(labels: Mapping[str, str]) -> int | None:
    """The index of the device that an exporter's labels name ("0", "nvidia0"); None if they name none."""
    for label in INDEX_LABELS:
        if match := _INDEX.match(labels.get(label, "")):
            return int(match[1])
    return None


def mean_over(series: Series, started_ns: int, ended_ns: int, factor: float = 1.0) -> float | None:
    """The mean by time, linear between the readings; None without a reading within, or one shortly before and after."""
    at = np.frombuffer(series.ns, dtype=np.int64)
    values = np.frombuffer(series.values, dtype=np.float64) * factor
    good = np.isfinite(values) & (values >= 0) & (values < MOST_WATTS)
    at, values = at[good], values[good]
    near = (at >= started_ns - NEAR_NS) & (at <= ended_ns + NEAR_NS)
    at, values = at[near], values[near]
    within = (at > started_ns) & (at < ended_ns)
    if ended_ns <= started_ns or not (within.any() or ((at <= started_ns).any() and (at >= ended_ns).any())):
        return None
    points = np.concatenate(([started_ns], at[within], [ended_ns]))
    heights = np.interp((points - started_ns).astype(float), (at - started_ns).astype(float), values)
    return float(np.trapezoid(heights, (points - started_ns).astype(float)) / (ended_ns - started_ns))
