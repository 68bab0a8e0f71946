"""The attacks of benchmarks/adversary.py, a few of each kind: they find nothing, and they are what they say."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import adversary  # noqa: E402
import hostile_service  # noqa: E402

pytestmark = pytest.mark.e2e
TEXT = adversary.STUDY.format(engine="simulated", evaluations=4)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_malformed_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversary, "INPUTS", 30)
    found = adversary.inputs(tmp_path, random.Random(7), float("inf"))
    assert found.tried >= 40 * len(adversary.READERS)
    assert not found.bad, found.examples


@pytest.mark.parametrize(
    "what", ["the database is removed", "the database is cut off", "another tuner takes the study"]
)
def test_a_database_that_fails_in_the_middle(tmp_path: Path, what: str) -> None:
    place, found = adversary.Place(tmp_path / "study", TEXT), adversary.Found("faults")
    ended = adversary._harmed(place, adversary.DURING[what])
    adversary.judge(found, what, place, ended, (0, 1, 3))
    assert not found.bad, found.examples


@pytest.mark.parametrize("what", ["a configuration that is a pipe", "a study without end", "2^60 hosts"])
def test_files_and_words_without_end(tmp_path: Path, what: str) -> None:
    place, found = adversary.Place(tmp_path / "study", TEXT), adversary.Found("faults")
    ended = place.run(*adversary.BEFORE[what](place), limit_s=60)
    adversary.judge(found, what, place, ended, (1, 2))
    assert not found.bad, found.examples
    assert len(ended.shown.splitlines()) < 12


def test_the_study_over_a_node_agent_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversary, "KILLS", 0)
    place, found = adversary.Place(tmp_path / "study", TEXT), adversary.Found("kills")
    adversary._shot_study(found, "a study", place, random.Random(5), {}, shared=True)
    assert not found.bad, found.examples
    assert len(place.finished()) == 4


def test_there_are_fifty_hostile_services() -> None:
    pairs = {(place, name) for place, known in hostile_service.BEHAVIOURS.items() for name in known}
    assert len(pairs) >= 50
    assert set(hostile_service.BEHAVIOURS) == set(hostile_service.PLACES)
