"""Conversations that people had with a model: ShareGPT, and files of its form under other key names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from swarmtune.workload.files import Contents, Mistakes, Part, documents, whole_characters
from swarmtune.workload.tokens import count

CONVERSATIONS = ("conversations", "conversation", "items")
HUMANS = frozenset({"human", "user", "prompter"})
MODELS = frozenset({"gpt", "assistant", "chatgpt", "bot", "model", "bing", "bard", "claude", "gpt4"})
MEDIA = re.compile(rb'"((?:image|audio|video)s?)"\s*:\s*(?!\s|null|""|\[\])')
SYSTEMS = frozenset({"system"})


class _Message(msgspec.Struct, gc=False):
    value: str | None = None
    content: str | None = None
    text: str | None = None
    speaker: str | None = msgspec.field(name="from", default=None)
    role: str | None = None

    @property
    def said(self) -> str | None:
        """Its text, under whatever name."""
        return next((text for text in (self.value, self.content, self.text) if text is not None), None)


class _Conversation(msgspec.Struct):
    conversations: list[_Message] | None = None
    conversation: list[_Message] | None = None
    items: list[_Message] | None = None

    @property
    def messages(self) -> list[_Message]:
        """Its messages, under whatever name."""
        return self.conversations or self.conversation or self.items or []


def read_sharegpt(contents: Contents, max_turns: int = 1) -> None:
    """A JSON list (or lines) of {"conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, ...]}.

    The human messages are the prompts; the lengths of the answers in the file are requested. Conversations without a
    whole first exchange are left out, and counted; so are exchanges beyond ``max_turns``.
    """
    contents.noun = "conversations"
    contents.unit, items = documents(contents.path)
    mistakes = Mistakes(contents.path, contents.unit)
    decode = msgspec.json.Decoder(_Conversation).decode
    for place, text in items:
        contents.total += 1
        try:
            messages = _decoded(text, decode, contents)
            parts, reason = _exchanges(messages, contents, max_turns)
        except (ValueError, RecursionError) as error:  # ValueError: of msgspec, and for what is not UTF-8
            mistakes.add(place, f"not a ShareGPT conversation: {error}")
            continue
        if not parts:
            contents.left_out[reason] += 1
            continue
        if reason:
            contents.changes[f"conversation cut after an exchange: {reason}"] += 1
        for part in parts:
            part.place = place
        contents.entries.append(tuple(parts))
    mistakes.check()


def _decoded(text: Any, decode: Callable[[Any], _Conversation], contents: Contents) -> list[_Message]:
    """The messages; fields with pictures and sound are counted as not sent."""
    try:
        found = decode(text).messages
    except msgspec.MsgspecError:
        if (mended := whole_characters(text, contents)) is None:
            raise
        found = decode(mended).messages
    if MEDIA.search(text):
        for name in {found.group(1).decode() for found in MEDIA.finditer(text)}:
            contents.count(contents.unsent, name)
    return found


def _exchanges(messages: list[_Message], contents: Contents, max_turns: int) -> tuple[list[Part], str]:
    """The exchanges up to the first one that cannot be used, and why that is so. ValueError: a message without a text."""
    system, turns = "", list[tuple[str, list[str]]]()
    for number, message in enumerate(messages):
        said, speaker = message.said, (message.speaker or message.role or "").strip().lower()
        if said is None:
            raise ValueError("a message without 'value', 'content' or 'text'")
        if not speaker:
            speaker = "human" if number % 2 == 0 else "gpt"
        if speaker in SYSTEMS and number == 0:
            system = said
            continue
        kind = (
            "human" if speaker in HUMANS else "gpt" if speaker in MODELS else f"speaker {speaker[:30]!r} is not known"
        )
        if turns and turns[-1][0] == kind:
            turns[-1][1].append(said)
        else:
            turns.append((kind, [said]))
    if not turns:
        return [], "empty"
    return _parts(turns, system, contents, max_turns)


def _parts(
    turns: list[tuple[str, list[str]]], system: str, contents: Contents, max_turns: int
) -> tuple[list[Part], str]:
    parts: list[Part] = []
    for place in range(0, len(turns), 2):
        asked, answered = turns[place], turns[place + 1] if place + 1 < len(turns) else ("", [""])
        reason = _unusable(asked, answered)
        if reason:
            return parts, reason
        if len(parts) == max_turns:
            contents.changes["exchange beyond conversation_turn_mean left out"] += (len(turns) - place) // 2
            break
        if len(asked[1]) > 1:
            contents.changes["group of prompts in a row sent as one"] += 1
        prompt = "\n".join(asked[1])
        own = system if not parts else ""
        parts.append(Part(count(prompt) + count(own), count("\n".join(answered[1])), (prompt,), system=own))
    return parts, ""


def _unusable(asked: tuple[str, list[str]], answered: tuple[str, list[str]]) -> str:
    """Why this exchange cannot be sent; empty: it can."""
    if asked[0] == "gpt":
        return "begins with an answer"
    for kind, _ in (asked, answered):
        if kind not in ("human", "gpt", ""):
            return kind
    if not any(asked[1]):
        return "an empty prompt"
    return "" if any(answered[1]) else "a prompt without an answer"


def is_sharegpt(line: dict[str, Any]) -> bool:
    """Is this a conversation of such a file?"""
    return any(isinstance(line.get(key), list) for key in CONVERSATIONS)
