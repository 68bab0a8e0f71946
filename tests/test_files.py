"""Files of ours in others' folders, and files of users that are none."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from swarmtune import files


def test_a_pipe_is_read_once_somebody_writes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"a = 1\n"))
    writer.start()
    with files.opened(path) as file:
        assert file.read() == b"a = 1\n"
    writer.join()


def test_a_pipe_to_which_nobody_writes_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIPE_S", 0.01)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(TimeoutError, match="nothing is written to it"):
        files.opened(path)


def test_a_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        files.opened(tmp_path)


def test_json_shows_all_that_it_holds() -> None:
    data = {"name": "\x9b31m\u202egnp\u2066\u200b\x7f", "model": "通义千问 é €"}
    text = files.escaped(json.dumps(data, ensure_ascii=False).encode())
    assert json.loads(text) == data
    assert text.decode().isprintable()
    assert "通义千问 é €" in text.decode()
