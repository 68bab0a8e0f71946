"""What no engine can load is named before a service is started."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_engine_contract import make

from swarmtune.engines.gguf_model import gguf_config
from swarmtune.engines.model_files import Reader, model_troubles

CONFIG = {"config.json": "{}"}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
INDEX = json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}})


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "m" / name).write_text(text)
        (tmp_path / "m").mkdir(exist_ok=True)
        return tmp_path / "m"

    return make


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is empty"),
        ({"README.md": ""}, "holds no config.json"),
        (CONFIG, "holds no weights"),
        ({"adapter_config.json": '{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": ""},
         "holds an adapter and no model; name its base model org/base"),
        ({"adapter_config.json": "no JSON", "adapter_model.safetensors": ""}, "name its base model"),
        ({"refs/main": "", "snapshots/abc/config.json": "{}"}, "name a snapshot in it, snapshots/abc"),
        ({"q4.gguf": "GGUF"}, "holds GGUF files and no config.json; name the file"),
        (CONFIG | {"model.safetensors": LFS}, "is a pointer of Git LFS"),
        (CONFIG | {"m-1.safetensors": "x", "model.safetensors.index.json": INDEX}, "lacks m-2.safetensors, which"),
        ({"config.json": '{"architectures": ["BertModel"]}', "model.safetensors": "x"}, "generates no text"),
        ({"config.json": '{"architectures": ["XLMRobertaForSequenceClassification"]}', "a.bin": "x"}, "generates no text"),
    ],
)  # fmt: skip
def test_folders(folder: Callable[[dict[str, str]], Path], files: dict[str, str], words: str) -> None:
    (trouble,) = model_troubles(str(folder(files)))
    assert words in trouble


@pytest.mark.parametrize(
    "files",
    [
        CONFIG | {"model.safetensors": "x"},
        CONFIG | {"pytorch_model.bin": "x"},
        {"params.json": "{}", "consolidated.safetensors": "x"},
        CONFIG | {"m-1.safetensors": "x", "m-2.safetensors": "x", "model.safetensors.index.json": INDEX},
        CONFIG | {"model.safetensors": "x", "odd.index.json": '{"weight_map": [1]}'},
        {"config.json": '{"architectures": ["LlamaForCausalLM", 5]}', "model.safetensors": "x"},
    ],
)
def test_folders_that_are_fine(folder: Callable[[dict[str, str]], Path], files: dict[str, str]) -> None:
    assert model_troubles(str(folder(files))) == []


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.gguf", LFS.encode(), ["a pointer of Git LFS"]),
        ("m.gguf", b"ggjt" + bytes(40), ["a format before GGUF"]),
        ("m.gguf", b"", ["is no GGUF file"]),
        ("m.gguf", b"GGUF\3\0\0\0", ["cut off in its head"]),
        ("m-00002-of-00003.gguf", b"GGUF" + bytes(40), ["name the first one", "lacks m-00001-of-00003.gguf, m-00003"]),
        ("m-00001-of-00002.gguf", b"GGUF" + bytes(40), ["lacks m-00002-of-00002.gguf"]),
        ("m.gguf", b"GGUF" + bytes(40), []),
        ("m-00001-of-00001.gguf", b"GGUF" + bytes(40), []),
    ],
)
def test_files(tmp_path: Path, name: str, data: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(data)
    found = model_troubles(str(tmp_path / name))
    assert len(found) == len(words)
    assert all(word in trouble for word, trouble in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"architectures": ["LlamaForCausalLM"],}', "is not a valid JSON file: "),
        (b"", "is not a valid JSON file: "),
        (b'{"model_type": "llama"', "is not a valid JSON file: "),
        (b"{'model_type': 'llama'}", "is not a valid JSON file: "),
        (b'{"model_type": "\xff"}', "is not a valid JSON file: "),
        (LFS.encode(), "is not a valid JSON file: "),
        (b"[]", "is not a JSON object"),
        (b'\xef\xbb\xbf{"model_type": "llama"}', "begins with a byte order mark"),
    ],
)
def test_a_configuration_that_no_engine_reads(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    (tmp_path / "model.safetensors").write_text("x")
    (trouble,) = model_troubles(str(tmp_path))
    assert trouble.startswith(f"{tmp_path / 'config.json'} {words}")
    (tmp_path / "params.json").write_text("{}")  # of Mistral's format, which is read instead
    assert model_troubles(str(tmp_path)) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model", "m.index.json"])
def test_a_link_to_nothing_is_named_with_its_target(folder: Callable[[dict[str, str]], Path], name: str) -> None:
    place = folder(CONFIG | {"model.safetensors": "x"})
    (place / name).unlink(missing_ok=True)
    (place / name).symlink_to("../blobs/nosuch")
    assert model_troubles(str(place)) == [f"{place / name} is a link to ../blobs/nosuch, and that is not there"]


def test_links(folder: Callable[[dict[str, str]], Path], tmp_path: Path) -> None:
    place = folder(CONFIG | {"model.safetensors": "x"})
    (place / "README.md").symlink_to("nowhere")  # nothing that is loaded
    (tmp_path / "whole").symlink_to(place)
    (tmp_path / "lost").symlink_to("nowhere")
    assert model_troubles(str(tmp_path / "whole")) == []
    assert "lost is a link to nowhere, and that is not there" in model_troubles(str(tmp_path / "lost"))[0]
    for name in ("m-1.safetensors", "m-2.safetensors"):
        (place / name).symlink_to("gone")
    (trouble,) = model_troubles(str(place))
    assert trouble.endswith("m-1.safetensors is a link to gone, and that is not there (and 1 more)")
    assert model_troubles(str(place), Reader(weights=False)) == []


def tuned(engine: str, place: Path, others: str = "", *fields: dict[str, object]) -> list[str]:
    made = make(engine, command={"model": str(place), "others": others}, target_field=list(fields))
    assert made.mistakes() == []
    return model_troubles(made.model_folder, made.model_reader)


DUMMY = {"name": "LOAD", "config_position": "--load-format", "constant": "dummy", "dtype": "enum"}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_no_weights_are_needed_where_they_are_made_up(engine: str, folder: Callable[[dict[str, str]], Path]) -> None:
    place = folder(CONFIG)
    for others in ("", "--load-format auto", "--load-format dummy --load-format safetensors"):
        assert "holds no weights" in tuned(engine, place, others)[0]
    for others in ("--load-format dummy", "--load-format=dummy", "--load-form dummy", "--load-format runai_streamer"):
        assert tuned(engine, place, others) == []
    assert tuned(engine, place, "", DUMMY) == []
    assert tuned(engine, place, "--load-format $LOAD", DUMMY | {"config_position": "env"}) == []


MODULES = '[{"type": "sentence_transformers.models.Transformer"}, {"type": "%s"}]'
NEWER = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"


@pytest.mark.parametrize("kind", ["sentence_transformers.models.Pooling", NEWER])
def test_the_layout_of_a_model_of_embeddings(kind: str, folder: Callable[[dict[str, str]], Path]) -> None:
    config = {"config.json": '{"architectures": ["Qwen3ForCausalLM"]}', "model.safetensors": "x"}
    place = folder(config | {"modules.json": MODULES % kind, "1_Pooling/config.json": "{}"})
    for others in ("", "--runner auto", "--max-num-seqs 8"):
        (trouble,) = tuned("vllm", place, others)
        assert "holds a model of embeddings (the pooling layer in its modules.json), which generates no text" in trouble
    assert tuned("vllm", place, "--runner generate") == []
    assert tuned("sglang", place) == []  # it takes --is-embedding


@pytest.mark.parametrize(
    "text", [MODULES % "x.Normalize", "{}", "no JSON", "[1, {}]", '[{"type": [1]}]', "[" * 100_000]
)
def test_modules_that_are_not_understood(text: str, folder: Callable[[dict[str, str]], Path]) -> None:
    assert tuned("vllm", folder(CONFIG | {"modules.json": text, "model.safetensors": "x"})) == []


@pytest.mark.parametrize(
    ("architecture", "others", "silent"),
    [
        ("WhisperForConditionalGeneration", "", True),
        ("WhisperForConditionalGeneration", "--runner generate", True),
        ("CohereAsrForConditionalGeneration", "", True),
        ("Qwen2Model", "", True),
        ("LlamaModel", "--runner generate", False),
        ("Qwen2ForRewardModel", "", True),
        ("BertModel", "", True),
        ("BertModel", '--hf-overrides \'{"architectures": ["X"]}\'', False),
        ("ChatGLMModel", "", False),
        ("InternVLChatModel", "", False),
        ("GPT2LMHeadModel", "", False),
        ("Qwen2AudioForConditionalGeneration", "", False),
        ("LlavaForConditionalGeneration", "", False),
    ],
)
def test_architectures_of_which_vllm_serves_no_completions(
    folder: Callable[[dict[str, str]], Path], architecture: str, others: str, silent: bool
) -> None:
    place = folder({"config.json": json.dumps({"architectures": [architecture]}), "model.safetensors": "x"})
    assert ["generates no text" in trouble for trouble in tuned("vllm", place, others)] == [True] * silent


@pytest.mark.parametrize("path", ["", "org/model", "/nowhere/at/all", "x" * 5000])
def test_nothing_is_said_of_what_is_not_here(path: str) -> None:
    assert all("cannot be read" in trouble for trouble in model_troubles(path))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model-00001-of-00002.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_weights_that_are_no_file_are_told_and_not_waited_for(
    folder: Callable[[dict[str, str]], Path], name: str, make: Callable[[Path], None]
) -> None:
    made = folder(CONFIG)
    make(made / name)
    (trouble,) = model_troubles(str(made))
    assert "is no file of weights but a folder, a pipe or a device" in trouble
    assert name in trouble


@pytest.mark.parametrize("name", ["m.gguf", "m.bin", "m"])
def test_a_pipe_in_place_of_a_model_is_told_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (trouble,) = model_troubles(str(tmp_path / name))
    assert "is a pipe or a device" in trouble
    with pytest.raises(OSError, match="it is a pipe or a device"):
        gguf_config(tmp_path / name)
