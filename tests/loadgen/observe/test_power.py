"""power_watts: only of the service's devices, during the measurement; or the reason why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarmtune.devices.readings import Reading
from swarmtune.devices.spool import Lines
from swarmtune.loadgen.ask.spec import ServiceNode, Spec
from swarmtune.loadgen.exports.report import report, write_files
from swarmtune.loadgen.observe.power import index_of, power_watts
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.testing.fake_records import fake_records

S = 1_000_000_000
HERE = "http://127.0.0.1:9400/metrics"
THERE = "http://192.0.2.7:9400/metrics"


def spec(*nodes: tuple[str, tuple[int, ...]], exporters: tuple[str, ...] = ()) -> Spec:
    listed = tuple(ServiceNode(host=host, devices=devices) for host, devices in nodes)
    options = LoadgenOptions(gpu_telemetry=exporters)
    return Spec(url=("http://127.0.0.1:8000",), model="m", nodes=listed, options=options)


def read(*rows: tuple[float, str, str, dict[str, str], float]) -> Lines:
    lines = Lines()
    for second, source, name, labels, value in rows:
        lines.add(int(second * S), source, [Reading(name, value, tuple(sorted(labels.items())))])
    return lines


def test_the_mean_by_time_over_the_measurement() -> None:
    """Linear between readings: from 100 W at 0 s to 300 W at 2 s, measured from 1 s to 2 s."""
    rows = [
        (0, "nvml", "gpu_power_watts", {"device": "0"}, 100.0),
        (2, "nvml", "gpu_power_watts", {"device": "0"}, 300.0),
    ]
    assert power_watts(read(*rows), spec(), S, 2 * S) == (250.0, "")


def test_only_the_devices_of_the_group() -> None:
    rows = [(s, "nvml", "gpu_power_watts", {"device": str(d)}, 10.0**d) for s in (0, 3) for d in range(4)]
    lines = read(*rows)
    assert power_watts(lines, spec(("127.0.0.1", (1, 2))), S, 2 * S)[0] == 110.0
    assert power_watts(lines, spec(("127.0.0.1", ())), S, 2 * S)[0] == 1111.0
    watts, reason = power_watts(lines, spec(("127.0.0.1", (3, 5))), S, 2 * S)
    assert watts is None
    assert "device 5 of 127.0.0.1" in reason


def dcgm(second: float, gpu: int, watts: float, **labels: str) -> tuple[float, str, str, dict[str, str], float]:
    named = {"gpu": str(gpu), "device": f"nvidia{gpu}", "UUID": f"GPU-{gpu}", **labels}
    return second, THERE, "DCGM_FI_DEV_POWER_USAGE", named, watts


def test_an_exporter_on_another_machine() -> None:
    """Instances of one GPU (MIG) repeat its power; DCGM says a huge number for what it cannot tell."""
    lines = read(
        *(dcgm(s, 0, 200.0, GPU_I_ID=instance) for s in (0, 3) for instance in ("1", "2")),
        *(dcgm(s, 1, 9.2e18) for s in (0, 3)), *(dcgm(s, 2, 70.0) for s in (0, 3)),
    )  # fmt: skip
    assert power_watts(lines, spec(("192.0.2.7", (0,)), exporters=(THERE,)), S, 2 * S) == (200.0, "")
    assert power_watts(lines, spec(("192.0.2.7", (0, 2)), exporters=(THERE,)), S, 2 * S)[0] == 270.0
    watts, reason = power_watts(lines, spec(("192.0.2.7", (0, 1)), exporters=(THERE,)), S, 2 * S)
    assert (watts, "device 1" in reason) == (None, True)


def test_an_exporter_for_several_machines_says_which_in_its_labels() -> None:
    lines = read(*(dcgm(s, 0, watts, Hostname=host) for s in (0, 3) for host, watts in (("n1", 100.0), ("n2.x", 7.0))))
    wanted = spec(("n1.cluster", (0,)), ("n2", (0,)), exporters=(THERE,))
    assert power_watts(lines, wanted, S, 2 * S)[0] == 107.0
    watts, reason = power_watts(lines, spec(("n3", (0,)), exporters=(THERE,)), S, 2 * S)
    assert (watts, "no exporter of gpu_telemetry tells the power of a device of n3" in reason) == (None, True)


def test_an_exporter_is_believed_before_our_own_reader() -> None:
    rows = [(s, HERE, "gpu_power_watts", {"device": "0"}, 40.0) for s in (0, 3)]
    rows += [(s, "rapl", "cpu_power_watts", {"device": "0"}, 90.0) for s in (0, 3)]
    assert power_watts(read(*rows), spec(exporters=(HERE,)), S, 2 * S)[0] == 40.0
    assert power_watts(read(*rows[2:]), spec(exporters=(HERE,)), S, 2 * S)[0] == 90.0
    unlabelled = read(*((s, HERE, "nvidia_smi_power_draw_watts", {"uuid": u}, 5.0) for s in (0, 3) for u in "ab"))
    assert power_watts(unlabelled, spec(("127.0.0.1", (0,)), exporters=(HERE,)), S, 2 * S)[0] == 10.0


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (spec(), ("this machine does not tell", "no driver", "gpu_telemetry names no exporter")),
        (spec(("192.0.2.7", ())), ("192.0.2.7 is another machine",)),
        (spec(("192.0.2.7", ()), exporters=(THERE,)), ("no exporter of gpu_telemetry", "192.0.2.7")),
    ],
)
def test_why_there_is_none(wanted: Spec, words: tuple[str, ...]) -> None:
    watts, reason = power_watts(Lines(notes=["this machine: no driver"]), wanted, S, 2 * S)
    assert watts is None
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize("seconds", [(0.0,), (2.5,), (-20.0, 2.5), (0.5, 30.0)])
def test_readings_that_say_nothing_about_the_measurement(seconds: tuple[float, ...]) -> None:
    lines = read(*((s, "nvml", "gpu_power_watts", {"device": "0"}, 1.0) for s in seconds))
    watts, reason = power_watts(lines, spec(), S, 2 * S)
    assert (watts, "during the measurement" in reason) == (None, True)


def test_indices_in_labels() -> None:
    assert [index_of(labels) for labels in ({"gpu": "3"}, {"device": "nvidia4"}, {"id": "5"}, {"uuid": "GPU-6"})] == [
        3, 4, 5, None
    ]  # fmt: skip


def test_it_is_a_metric_and_its_absence_a_reason_only_where_it_is_needed(tmp_path: Path) -> None:
    records = fake_records(50, seed=2)
    wanted = spec(("192.0.2.7", ()))
    made = report(wanted, records)
    assert "power_watts" not in made.results.scalars
    assert not any("power_watts" in reason for reason in made.facts.reasons)
    made = report(wanted.model_copy(update={"power_needed": True}), records)
    assert any(reason.startswith("power_watts is absent: 192.0.2.7") for reason in made.facts.reasons)
    for ns in (records.started_ns, records.ended_ns):
        records.observed.devices.add(ns, "nvml", [Reading("gpu_power_watts", 55.0, (("device", "0"),))])
    write_files(report(spec(), records), tmp_path)
    assert json.loads((tmp_path / "measurement.json").read_text())["metrics"]["power_watts"] == 55.0
