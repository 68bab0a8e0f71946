"""What is wrong with the files of a model on this machine: what no engine can load, named before a service is started.

A folder may be written before its weights are fetched, or be another one on the node, so these are notices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmtune.engines.document import read_text
from swarmtune.files import opened

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz")
POINTER = b"version https://git-lfs"
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
OLD = (b"ggml", b"lmgg", b"ggjt", b"tjgg", b"ggla", b"algg")  # magic numbers before GGUF, in both orders
SILENT = re.compile(r"(XLM)?(Roberta|ModernBert|Bert|DistilBert|Electra)\w*|\w+For(Sequence|Token)Classification")
POOLED = re.compile(  # architectures that vLLM serves as models of embeddings or rewards unless --runner is given
    r"(Llama|LlamaBidirectional|Mistral|Qwen2|Gemma2|Gemma3Text|NomicBert|Gte|GteNew|CLIP|Siglip)Model$"
    r"|\w+(For(Process)?RewardModel|EmbeddingModel|ForTextEncoding)$"
)
TRANSCRIBING = r"(Whisper|CohereAsr|FireRedASR2|FunASR|MossTranscribeDiarize)ForConditionalGeneration$"  # vLLM
READ_FORMATS = frozenset(  # values of --load-format with which an engine reads the weights in the folder
    ("auto", "hf", "safetensors", "pt", "npcache", "bitsandbytes", "fastsafetensors", "instanttensor", "mistral")
)
POOLING = {  # types of modules in modules.json that make one vector of a text
    "sentence_transformers.models.Pooling",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
}
MOST_ENTRIES = 10_000  # of a folder that are looked at
MOST_NAMED = 3


@dataclass(frozen=True)
class Reader:
    """What a service does with its model's folder. ``weights``: it reads them; ``pools``: it embeds texts where the folder
    looks like that of such a model; ``silent``: architectures of which it never serves completions, None: not known.
    """

    weights: bool = True
    pools: bool = False
    silent: re.Pattern[str] | None = SILENT


ENGINE = Reader()  # what is sure of every engine


def model_troubles(path: str, reader: Reader = ENGINE) -> list[str]:
    """Sentences about the folder or file at this path; empty where nothing is there, or nothing is wrong."""
    place = Path(path).expanduser() if path else Path()
    try:
        if not path or not place.exists():
            return _dangling([place]) if path else []
        return list(_folder(place, reader) if place.is_dir() else _file(place))
    except OSError as error:
        return [f"{error.filename or place} cannot be read: {error.strerror}"]


def _folder(folder: Path, reader: Reader) -> Iterator[str]:
    names = {entry.name for entry, _ in zip(folder.iterdir(), range(MOST_ENTRIES), strict=False)}
    files = sorted(name for name in names if name.endswith(WEIGHTS) and not name.startswith("adapter_model"))
    wanted = sorted(name for name in names if name.endswith((".json", ".model")) or (reader.weights and name in files))
    lost = _dangling([folder / name for name in wanted])
    yield from lost
    if not names:
        yield f"{folder} is empty"
    elif "config.json" not in names and "params.json" not in names:
        yield f"{folder} {_without_config(folder, names, files)}"
    elif reader.weights and not files:
        yield f"{folder} holds no weights ({', '.join(WEIGHTS[:2])}, ...)"
    elif reader.weights and not lost:
        yield from _weights(folder, files, names)
    if "config.json" in names and "params.json" not in names:
        yield from _unreadable(folder / "config.json")
    if silent := _silent(folder, reader):
        yield (
            f"{folder} holds {silent}, which generates no text: a service of it is never ready here, as a "
            "completion is asked for first"
        )


def _dangling(files: list[Path]) -> list[str]:
    """A sentence for the first of these that is a link to nothing."""
    lost = [file for file in files if file.is_symlink() and not file.exists()]
    more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    return [f"{file} is a link to {file.readlink()}, and that is not there{more}" for file in lost[:1]]


def _unreadable(file: Path) -> Iterator[str]:
    """What Hugging Face's transformers, by which engines read it, refuses of a JSON file."""
    try:
        text = read_text(file)
        if text.startswith("\ufeff"):
            yield f"{file} begins with a byte order mark, with which no engine reads it; save it as UTF-8 without one"
        elif not isinstance(json.loads(text), dict):
            yield f"{file} is not a JSON object"
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        yield f"{file} is not a valid JSON file: {error}"
    except (OSError, ValueError, RecursionError):
        return


def _silent(folder: Path, reader: Reader) -> str:
    """What this reader takes for a model without completions; empty: nothing."""
    architectures, modules = _json(folder / "config.json").get("architectures"), _content(folder / "modules.json")
    named = [one for one in architectures if isinstance(one, str)] if isinstance(architectures, list) else []
    patterns = (*([reader.silent] if reader.silent else []), *([POOLED] if reader.silent and reader.pools else []))
    silent = [one[:80] for one in named if any(pattern.match(one) for pattern in patterns)]
    types = [one.get("type") for one in modules if isinstance(one, dict)] if isinstance(modules, list) else []
    if reader.pools and any(isinstance(kind, str) and kind in POOLING for kind in types):
        silent.append("a model of embeddings (the pooling layer in its modules.json)")
    return silent[0] if silent else ""


def _without_config(folder: Path, names: set[str], files: list[str]) -> str:
    if "adapter_config.json" in names:
        base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
        return f"holds an adapter and no model; name its base model{f' {base}' if isinstance(base, str) else ''}"[:400]
    if {"snapshots", "refs"} <= names:
        found = sorted(entry.name for entry in (folder / "snapshots").iterdir())[:MOST_NAMED]
        return f"is a folder of the hub's cache; name a snapshot in it{f', snapshots/{found[0]}' if found else ''}"
    if any(name.endswith(".gguf") for name in files):
        return f"holds GGUF files and no config.json; name the file, {folder / files[0]}"
    return "holds no config.json"


def _weights(folder: Path, files: list[str], names: set[str]) -> Iterator[str]:
    if odd := [name for name in files if not (folder / name).is_file()]:
        yield f"{folder / odd[0]} is no file of weights but a folder, a pipe or a device"
    pointers = [name for name in files if _begins(folder / name, len(POINTER)) == POINTER]
    if pointers:
        yield f"{folder / pointers[0]} is a pointer of Git LFS and not the weights; git lfs pull fetches them"
    for index in sorted(name for name in names if name.endswith(".index.json")):
        parts = _json(folder / index).get("weight_map")
        wanted = {part for part in parts.values() if isinstance(part, str)} if isinstance(parts, dict) else set()
        if absent := sorted(part for part in wanted if part not in names):
            more = f" and {len(absent) - MOST_NAMED} more" if len(absent) > MOST_NAMED else ""
            yield f"{folder} lacks {', '.join(absent[:MOST_NAMED])}{more}, which {index} names"


def _file(file: Path) -> Iterator[str]:
    if not file.is_file() and not file.is_dir() and file.exists():
        yield f"{file} is a pipe or a device, and not a file of weights"
        return
    begin = _begins(file, 24)
    if begin[: len(POINTER)] == POINTER:
        yield f"{file} is a pointer of Git LFS and not the model; git lfs pull fetches it"
    elif begin[:4] in OLD:
        yield f"{file} is of a format before GGUF, which is no longer read"
    elif file.suffix == ".gguf" and (begin[:4] != b"GGUF" or len(begin) < 24):
        yield f"{file} is no GGUF file" if begin[:4] != b"GGUF" else f"{file} is cut off in its head"
    if match := PART.fullmatch(file.name):
        stem, part, parts = match[1], int(match[2]), int(match[3])
        if part != 1:
            yield f"{file} is part {part} of {parts}; name the first one, {stem}-00001-of-{match[3]}.gguf"
        of = (file.with_name(f"{stem}-{number:05}-of-{match[3]}.gguf") for number in range(1, min(parts, 999) + 1))
        if absent := [one.name for one in of if not one.exists()]:
            yield f"{file.parent} lacks {', '.join(absent[:MOST_NAMED])} of the {parts} parts of {stem}"


def _begins(file: Path, size: int) -> bytes:
    if not file.is_file():  # a pipe would be waited for
        return b""
    with opened(file) as begin:
        return begin.read(size)


def _json(file: Path) -> dict[str, Any]:
    read = _content(file)
    return read if isinstance(read, dict) else {}


def _content(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return None
