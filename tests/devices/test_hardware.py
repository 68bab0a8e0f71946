"""The fingerprint of a machine, from files as the kernel and the drivers write them."""

from __future__ import annotations

from pathlib import Path

from swarmtune.devices.hardware import fingerprint


def test_this_machine_has_a_processor_and_memory() -> None:
    found = fingerprint()
    assert found["cores"] >= 1
    assert found["memory_gib"] >= 1
    assert found == fingerprint()


def test_accelerators_are_counted_by_model(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2.5GHz\nmodel name\t: Some CPU @ 2.5GHz\n",
        "proc/meminfo": "MemTotal:       263829120 kB\nMemFree: 1 kB\n",
        "proc/driver/nvidia/gpus/0000:17:00.0/information": "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n",
        "proc/driver/nvidia/gpus/0000:2a:00.0/information": "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 2\n",
        "sys/class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 8\ngfx_target_version 0\n",
        "sys/class/kfd/kfd/topology/nodes/1/properties": "simd_count 304\ngfx_target_version 90402\n",
        "dev/davinci0": "", "dev/davinci1": "", "dev/davinci_manager": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = fingerprint(tmp_path)
    assert (found["cpu"], found["memory_gib"]) == ("Some CPU @ 2.5GHz", 252)
    assert found["accelerators"] == {"AMD gfx 90402": 1, "Ascend": 2, "NVIDIA H100 80GB HBM3": 2}


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    found = fingerprint(tmp_path)
    assert (found["cpu"], found["memory_gib"], found["accelerators"]) == ("", 0, {})
