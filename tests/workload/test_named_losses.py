"""What of a file is not sent as it stands there is named: pictures, halves of characters, other APIs, times out of order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.session import Dataset


def dataset(path: Path, text: str, **options: Any) -> Dataset:
    path.write_text(text, encoding="utf-8")
    return make_dataset(LoadgenOptions(input_file=str(path), **options), 0)


def notes(made: Dataset) -> str:
    return "; ".join(made.notes(made.size or 0, "m"))


def talk(said: str = "one two", **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": said, **more}, {"from": "gpt", "value": "three"}]}


def test_pictures_of_conversations_are_counted(tmp_path: Path) -> None:
    made = dataset(tmp_path / "s.json", json.dumps([talk(image="a.png"), {**talk(), "images": ["b.png"]}, talk()]))
    assert made.size == 3
    assert "fields not sent: image, images" in notes(made)
    made = dataset(tmp_path / "t.json", json.dumps([talk('an "image" of', image=None)]))
    assert "not sent" not in notes(made)


@pytest.mark.parametrize("kind", ["sharegpt", "lines"])
def test_half_a_character_costs_itself_only(tmp_path: Path, kind: str) -> None:
    lines = [{"text": "a\ud83d b"}, {"text": "c"}] if kind == "lines" else [talk("a\ud83d b"), talk("c")]
    made = dataset(tmp_path / "s.jsonl", "\n".join(map(json.dumps, lines)))
    assert made.size == 2
    assert made.session(0).turns[0].texts == ("a? b",)
    assert "half a character" in notes(made)
    whole = dataset(tmp_path / "w.jsonl", json.dumps({"text": "a\U0001f600"}))
    assert whole.session(0).turns[0].texts == ("a\U0001f600",)
    assert "half" not in notes(whole)


def batch(url: str) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    return json.dumps({"custom_id": "1", "method": "POST", "url": url, "body": body})


def test_batches_for_another_api_are_a_mistake(tmp_path: Path) -> None:
    text = batch("/v1/chat/completions") + "\n" + batch("/v1/embeddings")
    with pytest.raises(ConfigValidationError, match=r"line 2: its url is '/v1/embeddings'"):
        dataset(tmp_path / "b.jsonl", text, endpoint_type="chat")
    assert dataset(tmp_path / "b.jsonl", batch("/v1/chat/completions"), endpoint_type="chat").size == 1
    assert dataset(tmp_path / "b.jsonl", batch("https://docs/x"), endpoint_type="chat").size == 1
    with pytest.raises(ConfigValidationError, match="line 1: 'method' must be POST, not 'GET'"):
        dataset(tmp_path / "b.jsonl", batch("/v1/chat/completions").replace("POST", "GET"), endpoint_type="chat")


def test_a_schedule_out_of_order_is_sorted_and_named(tmp_path: Path) -> None:
    line = '{"timestamp": %d, "input_length": 8, "output_length": 4}\n'
    made = dataset(tmp_path / "t.jsonl", "".join(line % at for at in (200, 100, 300)), fixed_schedule=True)
    assert made.schedule == (0, 100_000_000, 200_000_000)
    assert "1 entry before the one above it in time: the schedule was sorted" in notes(made)
    made = dataset(tmp_path / "t.jsonl", "".join(line % at for at in (100, 100, 300)), fixed_schedule=True)
    assert "sorted" not in notes(made)
