"""The file of a model: read as it was written, and refused in one sentence when it is not one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.simulator.latency_cases import IDENTITY, measured, steps, trained

from swarmtune.errors import ConfigPathError, ConfigurationError
from swarmtune.simulator.latency.file import decoded, encoded, fingerprint, load, save
from swarmtune.simulator.latency.training import train

DAMAGES = 3000


@pytest.fixture(scope="module")
def text() -> str:
    return encoded(train(measured(120), IDENTITY)).decode()


def sentence(message: str) -> str:
    """The message, if it is one sentence."""
    assert message.isprintable()
    assert message.endswith(".")
    return message


def refused(text: str) -> str | None:
    """The sentence with which a text is refused; None if it is read. Anything else than a ConfigurationError fails."""
    try:
        model = decoded(text)
    except ConfigurationError as error:
        return sentence(error.message)
    encoded(model)
    assert np.isfinite(model.predict(steps(20))[1]).all()
    return None


@pytest.mark.parametrize("scaled", [False, True])
def test_what_is_written_is_read(tmp_path: Path, scaled: bool) -> None:
    model = trained().scaled({"kv": 1.2}) if scaled else trained()
    save(model, tmp_path / "m.json")
    again = load(tmp_path / "m.json")
    assert fingerprint(again) == fingerprint(model)
    assert (tmp_path / "m.json").stat().st_size < 2**20
    rows = steps(300, 8)
    for before, after in zip(model.predict(rows), again.predict(rows), strict=True):
        assert before.tobytes() == after.tobytes()
    assert again.identity == model.identity
    assert dict(again.multipliers) == dict(model.multipliers)


def test_a_file_is_read_in_20_ms(tmp_path: Path) -> None:
    save(replace(trained(), sample=measured(4000)), tmp_path / "m.json")
    times = []
    for _ in range(5):
        began = time.perf_counter()
        load(tmp_path / "m.json")
        times.append(time.perf_counter() - began)
    assert min(times) < 0.02


def test_a_file_that_was_read_can_be_updated(tmp_path: Path) -> None:
    save(train(measured(90), IDENTITY), tmp_path / "m.json")
    model = train(measured(60, seed=5), IDENTITY, earlier=load(tmp_path / "m.json"))
    assert len(model.sample) == 150


def test_truncated_files_are_refused(text: str) -> None:
    for end in random.Random(0).sample(range(len(text) - 2), 300):
        assert refused(text[:end])


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values, those of lists and objects as well."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value, list) else ()
    return [path, *(found for key, below in inner for found in leaves(below, (*path, key)))]


WRONG = (None, True, -1, 0, 1e308, 10**30, "x", "", [], {}, [[]], [None], -1e-9, 2**63, "\x1b[2J", [1e308] * 7)


def test_damaged_files_are_refused_or_read(text: str) -> None:
    """A value in any place becomes another: each is refused in one sentence, or is a model that predicts."""
    rng = random.Random(1)
    whole = json.loads(text)
    places = leaves(whole)
    told = []
    for _ in range(DAMAGES):
        path = rng.choice(places[1:])
        kept: Any = None
        holder = whole
        for key in path[:-1]:
            holder = holder[key]
        kept = holder[path[-1]]
        if rng.random() < 0.2:
            del holder[path[-1]]
            told.append(refused(json.dumps(whole)))
            holder.insert(path[-1], kept) if isinstance(holder, list) else holder.__setitem__(path[-1], kept)
        else:
            holder[path[-1]] = rng.choice(WRONG)
            told.append(refused(json.dumps(whole)))
            holder[path[-1]] = kept
    assert refused(json.dumps(whole)) is None
    assert sum(sentence is not None for sentence in told) > 0.6 * DAMAGES


def test_flipped_bytes_are_refused_or_read(tmp_path: Path, text: str) -> None:
    rng = random.Random(2)
    raw = text.encode()
    for _ in range(500):
        place = rng.randrange(len(raw))
        damaged = raw[:place] + bytes([rng.randrange(256)]) + raw[place + 1 :]
        (tmp_path / "m").write_bytes(damaged)
        try:
            load(tmp_path / "m")
        except ConfigurationError as error:
            sentence(error.message)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a whole model"),
        (b"[]", "not a whole model"),
        (b"{}", "missing required field"),
        (b'{"format": "other", "version": 1}', "not a model of step times"),
        (b'{"format": "swarmtune latency model", "version": 2}', "a newer SwarmTune"),
        (b'{"format": "swarmtune latency model", "version": 0}', "an unknown SwarmTune"),
        (b"\x80\x04\x95\x10", "not a text"),
        (b"[" * 200_000, "not a whole model"),
        (b" " * (17 * 2**20), "larger than 16 MiB"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ConfigurationError, match=told) as error:
        load(tmp_path / "m")
    assert "\n" not in error.value.message
    assert str(tmp_path / "m") in error.value.message


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "none" / "m"):
        with pytest.raises(ConfigPathError, match="cannot be read"):
            load(path)
        if path != tmp_path / "none":
            with pytest.raises(ConfigPathError, match=r"no file that a model could replace|cannot be written"):
                save(trained(), path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigPathError, match="no file that a model could replace"):
        save(trained(), tmp_path / "pipe")


def test_a_link_keeps_leading_to_the_model(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "real" / "m")
    save(trained(), tmp_path / "m")
    save(trained(), tmp_path / "m")
    assert (tmp_path / "m").is_symlink()
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["m"]


def test_a_kill_while_it_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    save(trained(), path)
    before = path.read_bytes()
    program = """
        import os, signal, sys
        from pathlib import Path
        from swarmtune.simulator.latency import file
        model = file.load(Path(sys.argv[1]))
        whole = file.encoded(model)
        file.encoded = lambda _: whole[: len(whole) // 2]
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        file.save(model.scaled({"kv": 2.0}), Path(sys.argv[1]))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(path)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    load(path)


@pytest.mark.parametrize("multipliers", [{"kv": 1e300}, {"kv": 0.0}, {"kv": -1.0}, {"another": 1.0}, {"\x1b[2J": 1.0}])
def test_impossible_multipliers_are_refused(text: str, multipliers: dict[str, float]) -> None:
    whole = json.loads(text)
    assert not refused(json.dumps({**whole, "multipliers": {"kv": 2.0}}))
    told = refused(json.dumps({**whole, "multipliers": multipliers}))
    assert told.startswith("The multipliers of the model are wrong")
    assert "\x1b" not in told
