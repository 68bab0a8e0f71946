"""Event streams (WHATWG, server-sent events) out of recorded reads, and what their events say. Pure functions."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from swarmtune.loadgen.endpoints.base import Answer, Piece
from swarmtune.redaction import ours

EXCERPT = 200  # characters of a strange body that an error shows
BOM = b"\xef\xbb\xbf"
FIELDS = (b":", b"data", b"event", b"id", b"retry")  # what a line of an event stream begins with
CUT_OFF = "the stream was cut off: its end did not come"
DONE = b"[DONE]"
LARGEST = 2**31  # no count of tokens is
NO_COUNT = -1  # stands for what a server gave as a count and is none
TRACEBACK = "Traceback (most recent call last)"
TAGS, HIDDEN_PARTS = re.compile(r"<[^>]*>"), re.compile(r"<(style|script|head)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
TITLE = re.compile(r"<title\b[^>]*>(.*?)</title\s*>", re.DOTALL | re.IGNORECASE)
ERROR_LINE = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)?\b.*:|[A-Za-z_][\w.]*(Error|Exception)$")
SHOWN = 1000  # characters of a server's message that are kept
COMPLAINTS = (  # names of an error's text, in small letters and without underscores: of FastAPI, gateways and clouds
    *("detail", "message", "msg", "errors", "errmsg", "errormsg", "errormessage", "statusmsg", "statusmessage"),
    *("errordescription",),
)
CODES = (
    "code",
    "statuscode",
    "errorcode",
    "errcode",
    "errno",
    "retcode",
    "ret",
)  # names of what tells whether it is one
FINE = (None, "", 0, "0", 200, "200", "ok", "OK", "success", "Success", "SUCCESS")
LEVELS = 3  # of an object that are looked through for an error

# (event name, its object, number of the read) -> nothing; fills the Answer it was made for
Take = Callable[[str, Mapping[str, Any], int], None]


def events(pieces: Sequence[Piece]) -> Iterator[tuple[int, str, bytes]]:
    """(number of the read, event name, data) of every event; lines end in LF, CRLF or CR.

    The number is that of the read that brought the last byte of the event's data (its JSON is whole then; the line
    ends behind it say nothing new). An event that the end of the stream left without its blank line counts, too. The
    field ``error`` is not of the standard: older llama.cpp servers write ``error: {...}``; it comes out as an event
    of that name.
    """
    blob = join(pieces)
    ends = list(itertools.accumulate([len(data) for _, data in pieces]))
    if b"\r" in blob:
        blob, ends = _line_feeds(blob, ends)
    name, data = "", None
    place = last = begin = 0  # of the piece, of the event's last byte of data, of the line
    if blob.startswith(BOM):
        blob, begin = blob[len(BOM) :], len(BOM)
    blob += b"\n\n"  # ends the last event, too
    for line in blob.split(b"\n"):
        if not line:
            if data is not None and data.strip():  # an empty event is a sign of life, and no news
                while ends[place] < last:
                    place += 1
                yield pieces[place][0], name, data
            name, data = "", None
        elif line[:6] == b"data: ":
            data = line[6:] if data is None else data + b"\n" + line[6:]
            last = begin + len(line)
        elif line.startswith(b"data:"):
            data = line[5:] if data is None else data + b"\n" + line[5:]
            last = begin + len(line)
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode(errors="replace")
        elif line.startswith(b"error:"):
            name, data, last = "error", line[6:].strip(), begin + len(line)
        begin += len(line) + 1


def _line_feeds(blob: bytes, ends: Sequence[int]) -> tuple[bytes, list[int]]:
    """The text with LF for CRLF and CR, and where its pieces end in it."""
    moved, begin, removed = [], 0, 0
    for end in ends:
        removed += blob.count(b"\r\n", max(0, begin - 1), end)  # from the byte before: a CRLF may be cut in two
        moved.append(end - removed)
        begin = end
    return blob.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), moved


def read_events(pieces: Sequence[Piece], answer: Answer, take: Take) -> None:
    """Hand every event's JSON object to ``take``; stops at [DONE], which finishes, and at the first mistake."""
    seen = False
    for read, name, data in events(pieces):
        seen = True
        if data.strip() == DONE:
            answer.finished = True
            return
        chunk = json_object(data)
        if chunk is None:
            answer.error = f"an event that is not a JSON object: {excerpt(data)}"
            return
        failure = failure_of(chunk, name)
        if failure is not None:
            answer.error = f"error in the stream: {failure}"
            return
        take(name, chunk, read)
        if answer.error is not None:
            return
    if not seen:
        answer.error = not_a_stream(pieces)


def whole(pieces: Sequence[Piece], answer: Answer) -> Mapping[str, Any] | None:
    """The JSON object that a not streamed answer is; None: ``answer.error`` says why not."""
    body = join(pieces)
    chunk = json_object(body)
    if chunk is not None:
        failure = failure_of(chunk)
        if failure is None:
            return chunk
        answer.error = f"error in the answer: {failure}"
    elif not body.strip():
        answer.error = "an empty answer"
    elif body.lstrip().startswith((b"data:", b"event:")):
        answer.error = "an event stream, where a whole answer was asked for"
    else:
        answer.error = f"no JSON object but {excerpt(body)}"
    return None


def is_stream(pieces: Sequence[Piece]) -> bool:
    """Does this look like an event stream?"""
    return join(pieces).removeprefix(BOM).lstrip().startswith(FIELDS)


def not_a_stream(pieces: Sequence[Piece]) -> str:
    """Why there was no event in this body."""
    body = join(pieces)
    if not body.strip():
        return "an empty answer"
    if is_stream(pieces):
        return CUT_OFF
    chunk = json_object(body)
    failure = None if chunk is None else message_of(chunk)
    if failure is not None:
        return f"error in the answer: {failure}"
    hint = "" if chunk is None else " (for a server that does not stream, say streaming = false)"
    return f"no event stream but {excerpt(body)}{hint}"


def _last_said(pieces: Sequence[Piece]) -> str | None:
    """What the last event says of an error."""
    last = deque(events(pieces), maxlen=1)
    chunk = json_object(last[0][2]) if last else None
    return None if chunk is None else message_of(chunk)


def cut_off(pieces: Sequence[Piece]) -> str:
    """That the end of a stream did not come, and the last that came if it is an error: an event, or a line of text."""
    if said := _last_said(pieces):
        return f"{CUT_OFF}; the last event says: {said}"
    lines = (line.strip() for line in join(pieces).removeprefix(BOM).splitlines())
    stray = [line for line in lines if line and not line.startswith((*FIELDS, b"error"))]
    return f"{CUT_OFF}; the last that came is {excerpt(stray[-1])}" if stray else CUT_OFF


def telling(text: str) -> str:
    """What of a page or a text says what is wrong, in one line: no markup, and of a traceback its last line."""
    if "<" in text and ("</" in text or "<!" in text):
        page, title = TAGS.sub(" ", HIDDEN_PARTS.sub(" ", text)), TITLE.search(text)
        text = html.unescape(page if page.strip() or title is None else title[1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if TRACEBACK in text:
        return next((line for line in reversed(lines) if ERROR_LINE.match(line)), lines[-1])
    return " ".join(" ".join(lines).split())


def message_of(chunk: Mapping[str, Any]) -> str | None:
    """What an object says of an error, whatever its form; None: nothing."""
    found = failure_of(chunk)
    return complaint_of(chunk) if found is None else found


def failure_of(chunk: Mapping[str, Any], name: str = "") -> str | None:
    """The message of an error object in any form that servers use; None: it is not an error.

    OpenAI, vLLM, SGLang, llama.cpp: {"error": {"message"}}; older vLLM and SGLang: {"object": "error", "message"}; TGI:
    {"error": text, "error_type"}; Responses API: {"type": "error", "message"} or {"response": {"error": {"message"}}}.
    """
    error = chunk.get("error") or _coded(chunk)
    if not error:
        response = chunk.get("response")
        error = response.get("error") if isinstance(response, Mapping) else None
    if not error:
        if name != "error" and chunk.get("object") != "error" and chunk.get("type") != "error":
            return None
        error = chunk
    message = error.get("message") or error if isinstance(error, Mapping) else error
    if isinstance(message, str) and TRACEBACK in message:
        message = telling(message)
    kind = chunk.get("error_type")
    return f"{shown(message)} ({shown(kind)})" if kind else shown(message)


def _coded(chunk: Mapping[str, Any]) -> str:
    """The error of clouds whose code tells whether there is one: {"error_code": 336003, "error_msg": ...}."""
    code, message = chunk.get("error_code"), chunk.get("error_msg")
    if code in (0, "0", "") or (code is None and not message):
        return ""
    return f"{shown(message or 'an error without a message')}{'' if code is None else f' (error_code {shown(code)})'}"


def complaint_of(chunk: Mapping[str, Any]) -> str | None:
    """What an object says that holds nothing of an answer: {"detail": ...}, {"code": ..., "message": ...}, {"error": ""},
    {"base_resp": {"status_code": 1004, "status_msg": ...}}. A code that tells of success makes it no complaint.
    """
    if chunk.get("choices") or chunk.get("usage"):
        return None
    told = _complaint(chunk, LEVELS)
    return "an error without a message" if told is None and chunk.get("error") is not None else told


def _complaint(part: Mapping[str, Any], levels: int, *, inner: bool = False) -> str | None:
    """The text of an error at this level, or further down, where a code must stand beside it."""
    names = {str(name).lower().replace("_", ""): value for name, value in part.items()}
    codes = [names[name] for name in CODES if name in names]
    if any(code not in FINE for code in codes) or not (codes or inner):
        for name in COMPLAINTS:
            if names.get(name):
                return shown(names[name])
    parts = [value for value in part.values() if isinstance(value, dict)] if levels else []
    return next((told for one in parts if (told := _complaint(one, levels - 1, inner=True))), None)


def json_object(data: bytes) -> dict[str, Any] | None:
    """This text as a JSON object; None if it is none. What is not UTF-8 in it becomes a replacement character; half a
    surrogate pair, which the grammar allows as an escape, stays what it is (``joined`` puts halves together)."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            chunk = json.loads(data.decode(errors="replace"))
        except (ValueError, RecursionError):
            return None
    return chunk if isinstance(chunk, dict) else None


def joined(texts: Sequence[str]) -> str:
    """One text of these; halves of a character that came in two of them become one, others a replacement character."""
    text = "".join(texts)
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def join(pieces: Sequence[Piece]) -> bytes:
    """The whole body."""
    return b"".join([data for _, data in pieces])


def excerpt(data: bytes) -> str:
    """The beginning of a body, or what a page says, for an error message."""
    text = data.decode(errors="replace").strip()
    page = telling(text) if text[:1] == "<" else ""
    return f"a page: {page[:EXCERPT]!r}" if page not in ("", text) else repr(text[:EXCERPT])


def whole_number(value: Any) -> int | None:
    """A count that a server gave; None if it gave none, NO_COUNT for what cannot be a count."""
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if number and 0 <= value < LARGEST and value == int(value) else NO_COUNT  # NaN is not below


def prompt_tokens(usage: Any) -> int | None:
    """The length of the prompt in the usage of an API without output tokens; as ``whole_number``."""
    if not isinstance(usage, Mapping):
        return None
    return whole_number(usage.get("total_tokens") if usage.get("prompt_tokens") is None else usage["prompt_tokens"])


def shown(value: Any) -> str:
    """Any JSON as a text of bounded length, for an error message."""
    try:
        return ours.hide(str(value)[: 4 * SHOWN])[:SHOWN]  # first: half a key is not known any more
    except RecursionError:
        return "a message that is nested too deeply to be shown"
