"""The folder of a run's results: taken by one run, and never by a second one."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from swarmtune.apps.cli.bench import SWEPT
from swarmtune.apps.cli.bench_folder import MARK, SELF_TEST_FILE, SWEEP, Place
from swarmtune.errors import ConfigPathError
from swarmtune.loadgen.exports.report import FILES


def run(base: Path, *names: str, overwrite: bool = False, file: str = "results.json") -> Path:
    """A run, or a sweep over ``names``, that leaves one file each; the folder of the last one."""
    with closing(Place(base, overwrite=overwrite)) as place:
        for name in names or ("",):
            folder = place.folder(name)
            (folder / file).write_text("x")
    return folder


def test_each_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    base = tmp_path / "a" / "out"
    assert [run(base).name for _ in range(3)] == ["out", "out-2", "out-3"]
    assert sorted(path.name for path in base.parent.iterdir()) == ["out", "out-2", "out-3"]
    assert [path.name for path in base.iterdir()] == ["results.json"]


@pytest.mark.parametrize("file", sorted({*FILES, SELF_TEST_FILE, MARK}))
def test_any_file_of_a_run_takes_a_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).write_text("")
    assert run(tmp_path / "out").name == "out-2"


def test_files_of_others_take_none_and_are_never_removed(tmp_path: Path) -> None:
    for name in ("notes.txt", "inner/results.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert run(tmp_path) == run(tmp_path, overwrite=True) == tmp_path
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "inner/results.json").read_text() == "mine"


def test_a_sweep_takes_its_folder_as_a_whole(tmp_path: Path) -> None:
    base = tmp_path / "out"
    assert run(base, "concurrency1", "concurrency2") == base / "concurrency2"
    assert run(base, "isl5").parent.name == "out-2"
    assert run(base).name == "out-3"
    assert run(base, "isl5", "isl5") == tmp_path / "out-4" / "isl5-2"
    assert (*SWEPT, "run") == SWEEP


def test_overwriting_removes_all_files_of_the_earlier_run(tmp_path: Path) -> None:
    base = tmp_path / "out"
    run(base, "concurrency1", "concurrency2", file="requests.parquet")
    (base / "concurrency2" / "mine").write_text("")
    assert run(base, overwrite=True) == base
    assert sorted(str(path.relative_to(base)) for path in base.rglob("*")) == [
        "concurrency2", "concurrency2/mine", "results.json",
    ]  # fmt: skip


def test_two_runs_at_a_time_have_two_folders(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        closing(Place(tmp_path / "out", overwrite=False)) as one,
        closing(Place(tmp_path / "out", overwrite=False)) as two,
    ):
        assert (one.folder().name, two.folder().name) == ("out", "out-2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what was made here and stayed empty is gone


def test_a_run_that_goes_on_is_never_overwritten(tmp_path: Path) -> None:
    """Nor is the result of an earlier run in a folder with a number, which nobody has named."""
    base = tmp_path / "out"
    run(base)
    earlier = run(base) / "results.json"
    with closing(Place(base, overwrite=True)) as place:
        (place.folder() / "results.json").write_text("running")
        assert run(base, overwrite=True).name == "out-3"
    assert (base / "results.json").read_text() == "running"
    assert earlier.exists()
    (base / MARK).write_text("1\n")  # of a run that was killed
    assert run(base, overwrite=True) == base
    assert not (base / MARK).exists()


def test_the_current_folder_has_numbered_ones_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [run(Path()), run(Path()), run(Path())] == [Path(), Path("run-2"), Path("run-3")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for base in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(ConfigPathError, match="--artifact-dir: "):
            Place(base, overwrite=False).folder()
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if not os.access(locked, os.W_OK):  # root may write anywhere
        with pytest.raises(ConfigPathError, match="cannot be made"):
            Place(locked, overwrite=False).folder()
