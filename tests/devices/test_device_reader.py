"""The reader: a real process, its spool, and its end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
from test_exporter import says, serving

from swarmtune.devices import reader, sources
from swarmtune.devices.host import HostSource, is_here
from swarmtune.devices.reader import Wanted, reading
from swarmtune.devices.readings import ReadError, Reading, of_device
from swarmtune.devices.spool import Lines, SpoolWriter, read_spool

others: set[int] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    others.clear()
    others.update(process.pid for process in psutil.Process().children())


def readers() -> list[psutil.Process]:
    """The processes of this test that still run; other tests may have servers, whose parent is pytest too."""
    return [process for process in psutil.Process().children() if process.pid not in others]


def test_the_host_and_an_exporter_are_read_and_a_dead_source_is_a_note(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    dead = "http://127.0.0.1:1/metrics"
    with serving(says(b'power{gpu="0"} 7\nnonsense\n')) as url:
        with reading(Wanted(here=True, urls=(url, dead)), spool):
            began = {key[1] for key in read_spool(spool).series}
        lines = read_spool(spool)
    assert {"power", "host_memory_used_bytes"} <= began, "each source is read before the body begins"
    power = lines.series[(url, "power", (("gpu", "0"),))]
    assert (set(power.values), power.kind) == ({7.0}, "gauge")
    assert len(power.values) >= 2, "and once more after it"
    assert list(power.ns) == sorted(power.ns)
    assert [note for note in lines.notes if note.startswith(dead)] == [
        f"{dead}: not read: [Errno 111] Connection refused"
    ]
    assert any("lines were not understood" in note for note in lines.notes)
    assert not readers()


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-P', '-m', 'swarmtune.devices'], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE)\n"
        f"child.stdin.write({json.dumps({'spool': str(tmp_path / 's'), 'here': True}).encode()!r} + b'\\n')\n"
        "child.stdin.flush()\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(20)
    assert done.returncode == -9
    assert read_spool(tmp_path / "s").series


@pytest.mark.parametrize("first", [b"", b"nonsense\n", b"[]\n", b'{"spool": "/nowhere/at/all"}\n'])
def test_a_bad_first_line_is_an_exit_code(first: bytes) -> None:
    command = [sys.executable, "-P", "-m", "swarmtune.devices"]
    done = subprocess.run(command, input=first, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_nothing_wanted_starts_nothing(tmp_path: Path) -> None:
    with reading(Wanted(), tmp_path / "spool"):
        assert not readers()
    assert read_spool(tmp_path / "spool") == Lines()


def test_a_reader_that_cannot_start_or_does_not_end_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(sys, "executable", "/nowhere/python")
        with reading(Wanted(here=True), tmp_path / "spool"):
            pass
    stubborn = tmp_path / "python"
    stubborn.write_text("#!/bin/sh\necho ready\ntrap '' TERM\nexec sleep 60 <&- >&-\n")
    stubborn.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stubborn))
    monkeypatch.setattr(reader, "END_S", 0.1)
    with pytest.raises(KeyError), reading(Wanted(here=True), tmp_path / "spool"):
        raise KeyError
    assert not readers()


def test_a_spool_is_bounded_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool = SpoolWriter(path, limit_bytes=200)
    for ns in range(100):
        spool.add(ns, "s", [Reading("x", float("nan")), Reading("y", float("inf"), (("odd\n", '"'),))])
    spool.close()
    lines = read_spool(path)
    assert lines.notes == ["s: the spool is full; further readings are not kept"]
    assert 0 < len(lines.series[("s", "y", (("odd\n", '"'),))].ns) < 100
    assert path.stat().st_size < 400


def test_a_spool_that_was_cut_off_gives_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool = SpoolWriter(path)
    spool.add(1, "s", [Reading("x", 1.0)])
    spool.add(2, "s", [Reading("x", 2.0)])
    spool.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + b'\n["at", 3, [7], [1.0]]\n["series"]\n\xff{}\n')
    assert list(read_spool(path).series[("s", "x", ())].values) == [1.0]
    assert read_spool(tmp_path / "none") == Lines()


def test_names_of_this_machine() -> None:
    assert is_here("127.0.0.1")
    assert is_here("::1")
    assert is_here("localhost")
    assert not is_here("192.0.2.1")
    assert not is_here("gpu-17.example")


def test_the_host_has_no_cpu_use_before_there_is_something_to_compare_with() -> None:
    source = HostSource()
    assert "host_cpu_percent" not in {r.name for r in source.read()}
    assert {"host_cpu_percent", "host_memory_used_bytes"} <= {r.name for r in source.read()}
    source.close()


class Fixed:
    """A source that tells one thing, or fails."""

    name, interval_s = "fixed", 1.0

    def __init__(self, told: Reading | ReadError) -> None:
        self.told, self.closed = told, False

    def read(self) -> list[Reading]:
        if isinstance(self.told, ReadError):
            raise self.told
        return [self.told]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("told", "notes", "reason"),
    [
        (Reading("gpu_power_watts", 1.0), ["x"], ""),
        (Reading("gpu_utilization_percent", 1.0), [], "it has neither"),
        (ReadError("asleep"), ["no library"], "no library; asleep"),
    ],
)
def test_why_a_machine_does_not_tell_its_power(
    told: Reading | ReadError, notes: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Fixed(told)
    monkeypatch.setattr(sources, "open_sources", lambda devices: ([source], list(notes)))
    said = sources.no_power((0,))
    assert said.startswith(reason)
    assert bool(said) == bool(reason)
    assert source.closed


def test_memory_of_accelerators_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"gpu_memory_used_bytes": 3.0, "gpu_memory_total_bytes": 8.0, "gpu_power_watts": 70.0}

    class Gpus(Fixed):
        def read(self) -> list[Reading]:
            return [of_device(name, value + 100 * gpu, gpu) for name, value in told.items() for gpu in (0, 1)]

    found = [Gpus(Reading("x", 1.0)), Fixed(ReadError("asleep")), Fixed(of_device("npu_memory_used_bytes", 1.0, 9))]
    monkeypatch.setattr(sources, "open_sources", lambda devices: (list(found), ["no library"]))
    assert sources.memory_in_use(None) == {"0": (3.0, 8.0), "1": (103.0, 108.0)}
    assert all(source.closed for source in found)


def test_the_sources_of_this_machine_can_be_opened() -> None:
    found, _ = sources.open_sources(None)
    assert found[-1].name == "host"
    for source in found:
        source.close()


def test_an_exporter_that_does_not_end_is_a_note_when_the_run_does(tmp_path: Path) -> None:
    gone = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not gone.wait(0.05):
            handler.wfile.write(b"a 1\n")

    html = says(b"<html>no</html>")
    with serving(trickle) as slow, serving(html) as page:
        with reading(Wanted(urls=(slow, page)), tmp_path / "spool"):
            pass
        gone.set()
    notes = read_spool(tmp_path / "spool").notes
    assert [note for note in notes if note.startswith(f"{slow}: not read: no whole answer within ")]
    assert f"{page}: not read: not Prometheus text" in notes
