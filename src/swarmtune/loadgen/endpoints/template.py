"""Any other API that takes JSON: the body is a template, a path says where the text of an answer is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.loadgen.endpoints.base import Answer, ChatMessage, Endpoint, Piece
from swarmtune.loadgen.endpoints.bodies import lost_as_text, plain_payload, prompt_of
from swarmtune.loadgen.endpoints.chunks import said
from swarmtune.loadgen.endpoints.sse import (
    excerpt,
    is_stream,
    join,
    joined,
    not_a_stream,
    read_events,
    shown,
    whole,
    whole_number,
)
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.files import check_file, wrong_byte
from swarmtune.workload.session import Turn

NAMES = ("prompt", "texts", "model", "output_tokens")
PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
STRING_OR_PLACE = re.compile(r'"(?:[^"\\]|\\.)*"|(\{\{\s*\w+\s*\}\})')


class Template(Endpoint):
    """``payload_template``: JSON in which {{prompt}}, {{texts}}, {{model}} and {{output_tokens}} stand for values.

    A place alone, with or without quotes around it, becomes the value as JSON; inside a longer text it becomes its
    text. Streamed or not is seen from the answer. A stream ends with [DONE] or with the connection: this reader
    cannot know whether it was cut off.
    """

    default_path = "/"

    def __init__(self, model: str, options: LoadgenOptions) -> None:
        super().__init__(model, options)
        self._tree, self._extra = parse_template(options.payload_template), options.extra_body()
        if self._extra and not isinstance(self._tree, dict):
            raise ConfigValidationError(["extra_inputs cannot be added to a payload_template that is no JSON object"])
        self._field = [part for part in options.response_field.split(".") if part]

    def refusal(self, turn: Turn) -> str:
        if turn.extra and not isinstance(self._tree, dict):
            return f"{next(iter(turn.extra))[:60]!r} cannot be added to a payload_template that is no JSON object"
        return lost_as_text(turn)

    def most_tokens(self, turn: Turn) -> int:
        """Only a template that names the length sets a limit."""
        named = turn.payload is None and "{{output_tokens}}" in self.options.payload_template
        return turn.output_tokens if named and turn.output_tokens is not None else -1

    def body(self, turn: Turn, history: Sequence[ChatMessage] = ()) -> bytes:
        if turn.payload is not None:
            return orjson.dumps(plain_payload(turn, self.model, self._extra))
        values = {
            "prompt": prompt_of(turn, history),
            "texts": list(turn.texts),
            "model": self.model,
            "output_tokens": turn.output_tokens,
        }
        body = _filled(self._tree, values)
        if isinstance(body, dict):
            body = body | self._extra | dict(turn.extra)
        return orjson.dumps(body)

    def read(self, pieces: Sequence[Piece], *, keep_text: bool = False) -> Answer:
        answer = Answer()
        texts: list[str] = []

        def take(_name: str, event: Mapping[str, Any], read: int) -> None:
            text = _at(event, self._field)
            if text:
                answer.chunks.append(read)
                texts.append(_text(text))
                answer.chunk_sizes.append(len(texts[-1]))
            elif text is not None and answer.chunks:
                answer.silent.append(read)
            elif text is not None:
                answer.silent_before += 1
            _take_usage(event.get("usage"), answer)

        if is_stream(pieces):
            read_events(pieces, answer, take)
        elif not join(pieces).strip():
            answer.error = not_a_stream(pieces)
        else:
            found = whole(pieces, answer)
            if found is not None:
                take("", found, pieces[-1][0])
        if answer.error is None and not answer.chunks:
            path = self.options.response_field
            answer.error = f"nothing at response_field {path!r} in {excerpt(join(pieces))}"
        answer.finished = answer.error is None
        answer.first_answer = 0 if answer.chunks else None
        answer.text = answer.content = joined(texts) if keep_text else ""
        return answer


def parse_template(text: str) -> Any:
    """The template as JSON with its places as texts; ConfigPathError or ConfigValidationError if that cannot be."""
    if not text.lstrip().startswith(("{", "[")):
        try:
            check_file(Path(text))
            content = Path(text).read_bytes()
        except (OSError, ValueError) as error:
            message = f"payload_template: {text!r} is neither JSON (it would begin with '{{') nor a file: {error}"
            raise ConfigPathError(message) from error
        if wrong := wrong_byte(content) if content.strip() else "it is empty":
            raise ConfigPathError(f"payload_template: {text!r} cannot be read: {wrong}")
        text = content.decode("utf-8-sig")
    unknown = sorted(set(PLACE.findall(text)) - set(NAMES))
    if unknown:
        known = ", ".join(f"{{{{{name}}}}}" for name in NAMES)
        raise ConfigValidationError(
            [f"payload_template: {{{{{name}}}}} is unknown; there are {known}" for name in unknown]
        )
    quoted = STRING_OR_PLACE.sub(lambda found: f'"{found[1]}"' if found[1] else found[0], text)
    try:
        tree = orjson.loads(quoted)
        orjson.dumps(tree)
    except (orjson.JSONDecodeError, TypeError) as error:  # TypeError: nested too deeply
        raise ConfigValidationError([f"payload_template is not JSON: {error}"]) from error
    return tree


def _filled(tree: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _filled(value, values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_filled(value, values) for value in tree]
    if not isinstance(tree, str):
        return tree
    alone = PLACE.fullmatch(tree)
    if alone:
        return values[alone[1]]
    return PLACE.sub(lambda found: _as_text(values[found[1]]), tree)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _at(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, list) and part.lstrip("-").isdigit() and -len(tree) <= int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return None
    return tree


def _text(found: Any) -> str:
    """What stands at the response field as text: several texts, such as those of a batch, by blanks; else as JSON."""
    parts = found if isinstance(found, list) else [found]
    return " ".join(filter(None, map(said, parts))) or shown(found)


def _take_usage(usage: Any, answer: Answer) -> None:
    if isinstance(usage, Mapping):
        answer.prompt_tokens = whole_number(usage.get("prompt_tokens"))
        answer.completion_tokens = whole_number(usage.get("completion_tokens"))
