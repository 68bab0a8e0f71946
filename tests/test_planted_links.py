"""A file of ours is new, private, and where its name says, whatever lay there before."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from swarmtune.apps.cli.bench_folder import Place
from swarmtune.database.connection import open_database
from swarmtune.devices.spool import SpoolWriter
from swarmtune.errors import ConfigPathError, SwarmTuneError
from swarmtune.files import appended, create, created, refuse_planted
from swarmtune.loadgen.exports.facts import written
from swarmtune.loadgen.wire import make_wire
from swarmtune.study.place import last_place, new_place, write_private
from swarmtune.study.tables import metadata


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


NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def bench(folder: Path) -> None:
    with closing(Place(folder, overwrite=False)) as place:
        place.folder()


PLACES: dict[str, Callable[[Path], object]] = {
    "bench": bench,
    "new study": lambda path: new_place(path, "x", None, 0.0),
    "last study": lambda path: last_place(path, None),
    "database": lambda path: open_database(f"sqlite:///{path}/s.db", metadata).dispose(),
    "file": lambda path: os.close(create(path / "file")),
    "log": lambda path: appended(path / "file").close(),
}


@needs_root
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("way", ["link", "link/inner", "mine/inner"])
def test_no_link_of_another_user_leads_to_results(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / "target" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("target")
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    (tmp_path / "mine").symlink_to(tmp_path / "link")
    with pytest.raises((SwarmTuneError, PermissionError), match="is a link made by another user"):
        PLACES[name](tmp_path / way)
    assert [path.name for path in (tmp_path / "target").rglob("*")] == ["inner"]


@needs_root
@pytest.mark.parametrize(("folder", "above", "refused"), [
    (0o777, 0o755, True), (0o1777, 0o755, True), (0o755, 0o1777, True), (0o755, 0o755, False), (0o775, 0o775, False),
])  # fmt: skip
def test_a_folder_of_another_user_holds_no_results_where_all_can_write(
    tmp_path: Path, folder: int, above: int, refused: bool
) -> None:
    """Where nobody else can, it is as the user wants it: root's container writes in a folder of its user."""
    base = tmp_path / "above" / "out"
    base.mkdir(parents=True)
    os.chown(base, NOBODY, NOBODY)
    base.chmod(folder)
    base.parent.chmod(above)
    for name in ("bench", "new study"):
        if refused:
            with pytest.raises(ConfigPathError, match="is a folder of another user"):
                PLACES[name](base)
        else:
            PLACES[name](base)


def test_links_and_folders_of_ones_own_lead_anywhere(tmp_path: Path) -> None:
    (tmp_path / "disk" / "inner").mkdir(parents=True)
    (tmp_path / "disk").chmod(0o777)
    (tmp_path / "far").symlink_to(tmp_path / "disk")
    (tmp_path / "mine").symlink_to("far/../far/inner")
    for name in ("bench", "new study", "database", "file", "log"):
        PLACES[name](tmp_path / "mine")
    assert (tmp_path / "disk" / "inner" / "s.db").exists()
    (tmp_path / "round").symlink_to("round")
    refuse_planted(tmp_path / "round", folder=True)  # it will not open
