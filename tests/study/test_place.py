"""Where a study is: the newest one with something in it, in a folder of its own, with a command line only if it is ours."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from sqlalchemy import update

from swarmtune.clock import VirtualClock
from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.space import Space
from swarmtune.study.place import Place, keep_request, last_place, new_place
from swarmtune.study.reader import StudyHead, lost_tokens
from swarmtune.study.tables import attempts
from swarmtune.study.writer import StudyWriter
from swarmtune.testing.search import MIXED, RULES
from swarmtune.testing.store import some_settings


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of these tests is their own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


REQUEST = {"overrides": {"optimizer": {"evaluations": 3}}, "config": "/etc/other.toml"}


def study_at(url: str, name: str) -> None:
    StudyWriter(
        url, StudyHead(name, REQUEST, {"engine": "x"}), Space(MIXED, RULES), "maximize", VirtualClock()
    ).dispose()


def started(output: Path, database: str | None = None) -> Place:
    place = new_place(output, "simulated", database, 0.0)
    keep_request(place, REQUEST)
    study_at(place.url, place.name)
    return place


def test_a_study_of_ones_own_is_known_again(tmp_path: Path) -> None:
    place = started(tmp_path / "out")
    assert last_place(tmp_path / "out", None).ours
    assert (place.folder / "request.json").stat().st_mode & 0o777 == 0o600
    elsewhere = str(tmp_path / "x.db")
    started(tmp_path / "out", elsewhere)
    assert last_place(tmp_path / "out", elsewhere).ours


@pytest.mark.parametrize("by", ["copied into our folder", "a folder with its command line", "without a key"])
def test_a_folder_from_elsewhere_is_not_ours(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = started(tmp_path / "out")
    if by == "copied into our folder":
        (place.folder / "request.json").unlink()
    else:  # as another user, or another machine, has left it
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
        if by == "without a key":
            (tmp_path / "theirs").write_text("no folder")
    assert not last_place(tmp_path / "out", None).ours


def test_a_database_from_elsewhere_is_not_ours(tmp_path: Path) -> None:
    database = str(tmp_path / "x.db")
    study_at(database, "study")
    found = last_place(tmp_path / "out", database)
    assert (found.ours, found.folder) == (False, tmp_path / "out" / "study")
    (found.folder / "request.json").write_text('{"overrides": {}, "config": null}')  # another study of that name
    assert not last_place(tmp_path / "out", database).ours
    for content in ("[", "[" * 100_000, "\xff", "null"):
        (found.folder / "request.json").write_text(content)
        assert not last_place(tmp_path / "out", database).ours


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write_holds_no_command_line(tmp_path: Path, mode: int) -> None:
    place = started(tmp_path / "out")
    place.folder.chmod(mode)
    assert not last_place(tmp_path / "out", None).ours


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/b", "..", ".", "", "x" * 250, "a\x1b[2J", "a\u202eb", "a\nb"]
)
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    database = str(tmp_path / "x.db")
    study_at(database, "study")
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE swarmtune_studies SET name = ?", (name,))
    with pytest.raises(ConfigurationError, match=r"cannot be resumed: no folder can have this name") as raised:
        last_place(tmp_path / "out", database)
    assert raised.value.message.isprintable()
    assert not (tmp_path / "evil").exists()


def test_a_run_that_was_killed_before_it_began_hides_no_study(tmp_path: Path) -> None:
    place = started(tmp_path / "out")
    os.utime(place.url, (1, 1))
    empty = new_place(tmp_path / "out", "simulated", None, 100.0)
    Path(empty.url).touch()
    assert last_place(tmp_path / "out", None).folder == place.folder
    with pytest.raises(ConfigurationError, match="No study to resume"):
        last_place(tmp_path / "none", None)


def test_only_a_token_of_ours_is_swept(tmp_path: Path) -> None:
    """Files are put back by the journal of a token: one with a path in it would name any file."""
    database, clock = str(tmp_path / "x.db"), VirtualClock()
    writer = StudyWriter(database, StudyHead("study", {}, {"engine": "x"}), Space(MIXED, RULES), "maximize", clock)
    good, *others = ("0" * 32, "../../evil", "0" * 31 + "/", "short", "", "0" * 65, "x" * 100_000)
    for token in (good, *others):
        writer.open(some_settings(1)[0], "local", "t", number=0)
        with writer._database.begin() as db:
            db.execute(update(attempts).where(attempts.c.token == "t").values(token=token))
    writer.dispose()
    assert lost_tokens(database, "study", clock.wall()) == [good]


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user, and may write everywhere itself")
@pytest.mark.parametrize(("umask", "writable"), [(0o777, False), (0o277, False), (0o077, True), (0, True)])
def test_a_folder_that_its_maker_cannot_use_is_one_sentence(umask: int, writable: bool) -> None:
    with tempfile.TemporaryDirectory() as parent:
        output = Path(parent) / "out"
        output.mkdir()
        for folder in (parent, output):
            os.chown(folder, 65534, 65534)
        before = os.umask(umask)
        os.seteuid(65534)
        try:
            with (
                nullcontext() if writable else pytest.raises(ConfigPathError, match=r"request\.json: cannot be written")
            ):
                keep_request(new_place(output, "simulated", None, 0.0), REQUEST)
        finally:
            os.seteuid(0)
            os.umask(before)
