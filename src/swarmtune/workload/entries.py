"""Lines of requests and conversations: what each of their fields becomes.

A field that is not known here is one of the service's API, so it is sent; fields that only describe an entry are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import orjson

from swarmtune.workload.draws import LONGEST
from swarmtune.workload.files import (
    Contents,
    Entry,
    Mistakes,
    Part,
    documents,
    is_message,
    milliseconds,
    shown,
    whole,
    whole_characters,
)
from swarmtune.workload.tokens import count

OUTPUTS = (
    *("output_length", "output_tokens", "max_tokens", "max_completion_tokens"),
    *("max_output_tokens", "max_new_tokens"),
)
PROMPTS = ("text", "prompt", "text_input")
BODIES = ("messages", "prompt", "input")  # with "model": a whole body
TIMES = ("timestamp", "delay", "session_id")
OWN = frozenset((*OUTPUTS, *PROMPTS, *TIMES, "texts", "messages", "payload", "system", "extra", "role"))
MEDIA = tuple(f"{name}{ending}" for name in ("image", "audio", "video") for ending in ("", "s", "_url", "_urls"))
DESCRIPTIONS = """
id _id idx index uuid hash type name custom_id method url conversation_id request_id question_id prompt_id task_id item_id
sample_id doc_id chat_id parent_chat_id turn source dataset subset split language lang domain subject topic label labels
tags tag difficulty level category categories answer answers reference references target targets expected expected_output
ground_truth solution solutions response responses completion completions output outputs score title meta info comment
comments hash_ids input_length input_tokens prompt_tokens prompt_len total_tokens created created_at date weight
"""
PARAMETERS = """
temperature top_p top_k min_p seed stop stop_token_ids n best_of presence_penalty frequency_penalty repetition_penalty
logprobs top_logprobs logit_bias min_tokens ignore_eos tools tool_choice response_format reasoning_effort
thinking_token_budget chat_template_kwargs priority user guided_json guided_regex guided_choice guided_grammar
"""
DESCRIBING = frozenset(DESCRIPTIONS.split())
API = frozenset(PARAMETERS.split())  # of these a line that has only lengths may have some, beside columns of its trace
HALF = b"\\ud"  # how the escape of half a character begins
NEST = 4  # levels that a body may put around a value of the file

Line = Mapping[str, Any]
Parse = Callable[[Line, Contents], Entry]


def json_entries(contents: Contents, parse: Parse) -> None:
    """Fill in the entries of a file; ``parse`` raises ValueError for what is wrong with a line."""
    contents.unit, items = documents(contents.path)
    contents.noun = "lines" if contents.unit == "line" else "entries"
    mistakes = Mistakes(contents.path, contents.unit)
    for place, text in items:
        try:
            line = _object(_decoded(text, contents))
            entry = parse(line, contents)
        except orjson.JSONDecodeError as error:
            mistakes.add(place, f"not JSON: {error}")
        except ValueError as error:
            mistakes.add(place, str(error))
        except RecursionError:
            mistakes.add(place, "its values are nested too deeply")
        else:
            contents.total += 1
            if "custom_id" in line and isinstance(line.get("url"), str):
                contents.paths.setdefault(line["url"], place)
            for part in entry:
                part.place = place
            contents.entries.append(entry)
    mistakes.check()


def _decoded(text: Any, contents: Contents) -> Any:
    try:
        return orjson.loads(memoryview(text))
    except orjson.JSONDecodeError:
        if HALF not in bytes(text).lower() or (mended := whole_characters(text, contents)) is None:
            raise
        return orjson.loads(mended)


def _object(line: Any) -> Line:
    """The line as an object: a text is a prompt, a list of messages a conversation."""
    if isinstance(line, str):
        return {"text": line}
    if isinstance(line, list) and line and all(map(is_message, line)):
        return {"messages": line}
    if not isinstance(line, dict):
        raise ValueError("not a JSON object, nor a text or a list of messages")  # noqa: TRY004  a file is wrong
    return line


def in_sessions(contents: Contents) -> None:
    """Bring the entries of the same session together, as its turns, in order of time."""
    sessions: dict[object, list[Part]] = {}
    for number, entry in enumerate(contents.entries):
        session = entry[0].session
        sessions.setdefault(number if session is None else session, []).extend(entry)
    mistakes = Mistakes(contents.path, contents.unit)
    contents.entries = [_in_order(parts, contents, mistakes) for parts in sessions.values()]
    for entry in contents.entries:
        _check_turns(entry, contents, mistakes)
    mistakes.check()
    if delayed := sum(entry[0].delay_ns > 0 for entry in contents.entries):
        contents.changes["delay before a first turn not used"] += delayed


def _in_order(parts: list[Part], contents: Contents, mistakes: Mistakes) -> Entry:
    latest = -1
    for part in parts:
        stamp = latest if part.timestamp_ns is None else part.timestamp_ns
        if stamp < latest:
            break
        latest = stamp
    else:
        return tuple(parts)
    if any(part.timestamp_ns is None for part in parts):
        mistakes.add(
            part.place, "a timestamp before that of an earlier turn of its session, of which other turns have none"
        )
    contents.changes["session out of order of time: its turns were sorted"] += 1
    return tuple(sorted(parts, key=lambda part: part.timestamp_ns or 0))


def _check_turns(entry: Entry, contents: Contents, mistakes: Mistakes) -> None:
    """What a turn has that cannot be sent because of the turns before it."""
    for before, part in pairwise(entry):
        if before.payload is not None and part.payload is None:
            mistakes.add(part.place, "a turn after a whole body must be a whole body, too: it has no history else")
        if not part.system:
            continue
        if part.system != entry[0].system:
            mistakes.add(part.place, "a later turn with another 'system': write it as one of 'messages', with its role")
        part.input_tokens -= count(part.system)
        part.system = ""
        contents.changes["repetition of a system prompt in a later turn not sent"] += 1


def single_turn(line: Line, contents: Contents) -> Entry:
    """{"text" | "prompt" | "texts" | "messages" | "payload", "output_length", "timestamp" (ms), "delay" (ms),
    "system", "image" ..., "extra"}, and any field of the service's API.

    A line with "model" and "messages", "prompt" or "input" is a whole body, sent as it is; so is a line of OpenAI's batches.
    """
    return (_part(line, contents),)


def multi_turn(line: Line, contents: Contents) -> Entry:
    """{"session_id", "turns": [{"text" ..., "delay" (ms)}, ...]}; the turns as in ``single_turn``, and further fields for
    all of them.
    """
    turns = line.get("turns")
    if not isinstance(turns, list) or not turns:
        raise ValueError("'turns' must be a list with at least one turn")
    if not all(isinstance(turn, dict | str) for turn in turns):
        raise ValueError("each of 'turns' must be a JSON object")
    answers = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "assistant"]
    if answers and len(answers) < len(turns):
        contents.changes["recorded answer in 'turns' not sent: the service gives its own"] += len(answers)
        turns = [turn for turn in turns if turn not in answers]
    parts = tuple(_part(_object(turn), contents) for turn in turns)
    first = parts[0]
    if first.timestamp_ns is None and line.get("timestamp") is not None:
        first.timestamp_ns = milliseconds(line, "timestamp")
    first.session = _session(line)
    first.system = first.system or _system(line)
    if any(line.get(name) is not None for name in ("delay", *PROMPTS, "texts", "messages", "payload")):
        raise ValueError("beside 'turns' there may be no text, messages, payload or delay: they belong into a turn")
    output = _output(line)
    extra = _further(line, contents, OWN | {"turns"})
    for part in parts:
        if (extra or output) and part.payload is not None:
            raise ValueError("the further fields of a session cannot be sent in turns that are whole bodies")
        part.output_tokens = output if part.output_tokens is None else part.output_tokens
        part.extra = {**extra, **part.extra}
    _check_times(parts)
    return parts


def _check_times(parts: Entry) -> None:
    stamps = [part.timestamp_ns for part in parts if part.timestamp_ns is not None]
    if stamps != sorted(stamps):
        raise ValueError("the timestamps of 'turns' are not in order of time")


def _part(line: Line, contents: Contents) -> Part:
    stamp = None if line.get("timestamp") is None else milliseconds(line, "timestamp")
    delay = 0 if line.get("delay") is None else milliseconds(line, "delay")
    payload = _payload(line, contents)
    if payload is not None:
        return Part(
            spoken(payload),
            _limit(payload),
            payload=payload,
            timestamp_ns=stamp,
            delay_ns=delay,
            session=_session(line),
        )
    system, messages, media = _system(line), line.get("messages"), _media(line)
    if messages is not None:
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            raise ValueError("'messages' must be a list of JSON objects with role and content")
        if media or any(line.get(key) is not None for key in (*PROMPTS, "texts", "role")):
            raise ValueError("beside 'messages' there may be no other text, role, image, audio or video")
        texts: tuple[str, ...] = ()
    else:
        texts = _texts(line, needed=not media)
        role = line.get("role") or "user"
        if not isinstance(role, str):
            raise ValueError("'role' must be a text")
        if media or role != "user":
            content = [{"type": "text", "text": text} for text in texts]
            messages = [{"role": role, "content": [*content, *media] if media else "\n".join(texts)}]
            texts = ()
    extra = _further(line, contents, OWN | frozenset(MEDIA))
    check_sendable([messages, extra])
    tokens = spoken(messages) + sum(map(count, texts)) + count(system)
    return Part(
        tokens, _output(line), texts, tuple(messages or ()), None, system, (), stamp, delay, extra, _session(line)
    )


def _payload(line: Line, contents: Contents) -> Mapping[str, Any] | None:
    """The whole body that the line is or has."""
    name = next((name for name in ("payload", "body") if line.get(name) is not None), "")
    if name == "body" and "custom_id" not in line:
        name = ""
    if name:
        payload, allowed = line[name], DESCRIBING.union(TIMES, (name,))
        beside = [key for key in line if key not in allowed and line[key] is not None]
        if line.get("method", "POST") != "POST":
            raise ValueError(f"'method' must be POST, not {shown(line['method'])}")
        if beside:
            raise ValueError(f"beside {name!r}, a whole body, {beside[0][:60]!r} is not sent: write it into the body")
    elif "model" in line and any(key in line for key in BODIES):
        payload = {key: value for key, value in line.items() if key not in TIMES}
        if payload.get("output_length") is not None:
            raise ValueError("a line with 'model' is a whole body: write 'max_tokens' for 'output_length'")
    else:
        return None
    if not isinstance(payload, dict):
        raise ValueError(f"{name!r} must be a JSON object")  # noqa: TRY004  a file is wrong
    check_sendable(payload)
    for key in payload:
        contents.count(contents.bodies, key)
    if "model" in payload:
        contents.count(contents.models, str(payload["model"]))
    if "stream" in payload:
        contents.streams[payload["stream"] is True] += 1
    return payload


def _further(line: Line, contents: Contents, known: frozenset[str]) -> dict[str, Any]:
    """The fields that are sent as they are: "extra", and all that are neither known nor descriptions."""
    given = line.get("extra")
    if given is not None and not isinstance(given, dict):
        raise ValueError("'extra' must be a JSON object")
    extra = dict(given or {})
    for key, value in line.items():
        if key in known:
            continue
        if key in DESCRIBING:
            contents.count(contents.unsent, key)
        elif key in extra:
            raise ValueError(f"{key[:60]!r} is given twice, once under 'extra'")
        else:
            extra[key] = value
    for key in extra:
        contents.count(contents.sent, key)
    if taken := sorted({"stream", "stream_options"} & set(extra)):
        raise ValueError(f"{taken[0]!r} follows from the option streaming: leave it out")
    return extra


def lengths(line: Line, contents: Contents, ns: int) -> Entry:
    """A line of a trace that has lengths, and of the API's fields those of API. ``ns``: unit of its timestamps."""
    ids = line.get("hash_ids") or ()
    if not isinstance(ids, list | tuple) or not all(isinstance(one, int) and one >= 0 for one in ids):
        raise ValueError("'hash_ids' must be a list of whole numbers that are not negative")
    known = OWN | {"input_length", "hash_ids", "type", "chat_id", "parent_chat_id", "turn"}
    for key in line.keys() - known - API:
        contents.count(contents.unsent, key)
    extra = _further({key: line[key] for key in ("extra", *API) if key in line}, contents, OWN)
    check_sendable(extra)
    output = _output(line, 0)
    if output == 0:
        contents.changes["answer of 0 tokens asked for as 1"] += 1
    part = Part(
        whole(line, "input_length", 1), None if output is None else max(1, output), hash_ids=tuple(ids), extra=extra
    )
    part.timestamp_ns = None if line.get("timestamp") is None else milliseconds(line, "timestamp", ns)
    part.delay_ns = 0 if line.get("delay") is None else milliseconds(line, "delay")
    part.system = _system(line)
    part.input_tokens += count(part.system)
    part.session = _session(line)
    return (part,)


def _output(line: Line, least: int = 1) -> int | None:
    found = {key: whole(line, key, least) for key in OUTPUTS if line.get(key) is not None}
    if len(set(found.values())) > 1:
        raise ValueError(f"{' and '.join(map(repr, found))} contradict each other")
    return next(iter(found.values()), None)


def _limit(payload: Line) -> int | None:
    """The answer length that a whole body asks for; None: none, or several."""
    given = {value for key in OUTPUTS if isinstance(value := payload.get(key), int) and 1 <= value <= LONGEST}
    return given.pop() if len(given) == 1 else None


def _system(line: Line) -> str:
    system = line.get("system") or ""
    if not isinstance(system, str):
        raise ValueError("'system' must be a text")  # noqa: TRY004  a file is wrong
    return system


def _session(line: Line) -> str | None:
    session = line.get("session_id")
    if session is not None and not isinstance(session, str | int):
        raise ValueError("'session_id' must be a text or a whole number")
    return None if session is None else str(session)


def _texts(line: Line, *, needed: bool) -> tuple[str, ...]:
    given = [key for key in (*PROMPTS, "texts") if line.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"{given[0]!r} and {given[1]!r} are both given: one of them would not be sent")
    if not given:
        if needed:
            raise ValueError("one of 'text', 'prompt', 'texts', 'messages' or 'payload' is needed")
        return ()
    texts = _flat(line[given[0]]) if given == ["texts"] else [line[given[0]]]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("the prompt must be a text that is not empty, 'texts' a list of such")
    return tuple(texts)


def _media(line: Line) -> list[dict[str, Any]]:
    """The images, audio and videos of a line, as parts of a chat message."""
    parts: list[dict[str, Any]] = []
    for name in MEDIA:
        given = line.get(name)
        if given is None:
            continue
        parts += [_medium(name.partition("_")[0].removesuffix("s"), value) for value in _flat(given)]
    return parts


def _flat(given: Any) -> list[Any]:
    """A value or a list of them; AIPerf's {"name", "contents": [...]} among them stand for their contents."""
    values: list[Any] = []
    for value in given if isinstance(given, list) else [given]:
        named = isinstance(value, dict) and value.keys() <= {"name", "contents"}
        values += value["contents"] if named and isinstance(value.get("contents"), list) else [value]
    return values


def _medium(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value.keys() == {"url"}:  # as in a part of OpenAI's
        value = value["url"]
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be a text, or a list of texts, not {shown(value)}")  # noqa: TRY004
    if name == "audio":
        begin, comma, data = value.partition(",")
        form = begin.removeprefix("data:audio/").removesuffix(";base64")
        if comma and form.isalnum():  # data:audio/wav;base64,... or AIPerf's wav,...
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
    if not value.startswith(("data:", "http://", "https://")):
        raise ValueError(
            f"{name!r} must be an address that begins with http:, https: or data: (a file's content: "
            f"data:TYPE;base64,...), not {shown(value)}"
        )
    return {"type": f"{name}_url", f"{name}_url": {"url": value}}


def check_sendable(value: Any) -> None:
    """ValueError for what cannot be written as JSON again."""
    for _ in range(NEST):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ValueError(f"it cannot be sent: {error}") from error
    if _has_large(value):
        raise ValueError("a whole number beyond 64 bits, which cannot be sent as it is")


def _has_large(value: Any) -> bool:
    """Was there a whole number that the reader could only keep as a float?"""
    if isinstance(value, float):
        return abs(value) >= 2**63 and value.is_integer()
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(_has_large, inner))


def spoken(tree: Any) -> int:
    """About the tokens of all texts in messages, prompts and inputs of a body."""
    if isinstance(tree, str):
        return count(tree)
    if isinstance(tree, list):
        return sum(map(spoken, tree))
    if isinstance(tree, Mapping):
        return sum(spoken(tree.get(key)) for key in ("messages", "prompt", "input", "inputs", "content", "text"))
    return 0
