"""A file of ours is new, private, and where its name says, whatever lay there before."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmtune.devices.spool import SpoolWriter
from swarmtune.files import create, created
from swarmtune.loadgen.exports.facts import written
from swarmtune.loadgen.wire import make_wire
from swarmtune.study.place import write_private


def result(path: Path) -> None:
    with written(path) as file:
        file.write(b"ours")


def text(path: Path) -> None:
    with created(path, "w") as file:
        file.write("\u00e4")


WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "descriptor": (lambda path: os.close(create(path)), "{}"),
    "text": (text, "{}"),
    "result": (result, "{}"),
    "draft of a result": (result, "{}.part"),
    "configuration": (lambda path: write_private(path, "ours"), "{}"),
    "draft of a configuration": (lambda path: write_private(path, "ours"), f".{{}}.{os.getpid()}"),
    "spool of answers, in C": (lambda path: make_wire(path, kind="native").close(), "{}"),
    "spool of answers, in Python": (lambda path: make_wire(path, kind="python").close(), "{}"),
    "spool of devices": (lambda path: SpoolWriter(path).close(), "{}"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", ["link", "dangling link", "file of all", "fifo", "hard link"])
def test_nothing_planted_is_written(tmp_path: Path, name: str, kind: str) -> None:
    write, planted_name = WRITERS[name]
    mine = tmp_path / "mine"
    mine.write_text("precious")
    path = tmp_path / "shared" / "file"
    path.parent.mkdir()
    planted = path.with_name(planted_name.format(path.name))
    match kind:
        case "link":
            planted.symlink_to(mine)
        case "dangling link":
            planted.symlink_to(tmp_path / "new")
        case "hard link":
            planted.hardlink_to(mine)
        case "fifo":
            os.mkfifo(planted, 0o666)
        case _:
            planted.touch(0o666)
            reader = planted.open()
    write(path)
    if kind == "file of all":
        with reader:
            assert reader.read() == "", "whoever planted it reads nothing"
    assert mine.read_text() == "precious"
    assert not (tmp_path / "new").exists()
    facts = path.lstat()
    assert stat.S_ISREG(facts.st_mode)
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
