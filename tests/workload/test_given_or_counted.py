"""What a file gives is sent, refused with its line, or counted: nothing is lost without a word."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.loadgen.ask.dataset import make_dataset
from swarmtune.loadgen.endpoints import make_endpoint
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.workload.entries import API, DESCRIBING, MEDIA, OUTPUTS, OWN
from swarmtune.workload.session import Dataset
from swarmtune.workload.traces import read_contents

IMAGE = "data:image/png;base64,iVBORw0KGgo="
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
HELLO = [{"role": "user", "content": "hello there"}]
BURST_HEAD = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=12).filter(
    lambda name: name not in OWN | DESCRIBING | {*MEDIA, "model", "stream", "stream_options", "turns", "body", "input"}
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def dataset(folder: Path, text: str | list[Any], **options: Any) -> Dataset:
    path = folder / "data"
    lines = text if isinstance(text, str) else "\n".join(json.dumps(line) for line in text)
    path.write_bytes(lines.encode())
    return make_dataset(LoadgenOptions(input_file=str(path), **{"endpoint_type": "chat", **options}), 1)


def sent(folder: Path, *lines: Any, **options: Any) -> list[dict[str, Any]]:
    """The bodies of the first session of each line."""
    chosen = {"endpoint_type": "chat", **options}
    made, endpoint = dataset(folder, list(lines), **chosen), make_endpoint("m", LoadgenOptions(**chosen))
    sessions = [made.session(index) for index in range(made.size or 0)]
    return [orjson.loads(endpoint.body(turn)) for session in sessions for turn in session.turns]


def refused(folder: Path, text: str | list[Any], **options: Any) -> str:
    with pytest.raises(ConfigValidationError) as caught:
        dataset(folder, text, **options)
    return "\n".join(caught.value.mistakes)


def notes(folder: Path, text: str | list[Any], sessions: int = 3, **options: Any) -> str:
    return "; ".join(dataset(folder, text, **options).notes(sessions, "m"))


def test_fields_of_the_api_are_sent(tmp_path: Path) -> None:
    asked = {"tools": TOOLS, "tool_choice": "required", "temperature": 0.7}
    (body,) = sent(tmp_path, {"messages": HELLO, **asked, "output_length": 4})
    assert {name: body[name] for name in asked} == asked
    assert body["max_tokens"] == 4
    (one, two) = sent(
        tmp_path, {"tools": TOOLS, "turns": [{"text": "one", "thinking_token_budget": 200}, {"text": "two"}]}
    )
    assert (one["thinking_token_budget"], one["tools"], two["tools"]) == (200, TOOLS, TOOLS)
    assert "thinking_token_budget" not in two
    (timed,) = sent(tmp_path, {"input_length": 4, "output_length": 2, "temperature": 0.5, "color": "red"})
    assert timed["temperature"] == 0.5
    assert "fields not sent: color" in notes(tmp_path, [{"input_length": 4, "color": "red"}])
    assert "further fields sent: tools" in notes(tmp_path, [{"text": "a", "tools": []}])


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from(["text", "messages", "turns"]))
def test_any_further_field_is_sent(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any], form: str) -> None:
    content: Any = {"text": "a", "messages": HELLO, "turns": [{"text": "a", **fields}]}[form]
    line = {form: content, **(fields if form != "turns" else {})}
    (body,) = sent(tmp_path_factory.getbasetemp(), line)
    assert {name: body[name] for name in fields} == fields


def test_fields_that_only_describe_an_entry_are_counted(tmp_path: Path) -> None:
    lines = [{"text": "a", "id": 1, "category": "math"}, {"text": "b", "id": 2}]
    made = dataset(tmp_path, lines)
    assert made.counts["unsent"] == {"id": 2, "category": 1}
    assert "fields not sent: category, id" in "; ".join(made.notes(2, "m"))
    assert not {"id", "category"} & sent(tmp_path, lines[0])[0].keys()


def test_images_audio_and_videos_are_sent_to_chat(tmp_path: Path) -> None:
    line = {"text": "what is this", "image": IMAGE, "images": ["https://x/a.png"], "output_length": 4}
    (body,) = sent(tmp_path, line)
    assert body["messages"] == [{"role": "user", "content": [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": IMAGE}},
        {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
    ]}]  # fmt: skip
    (heard,) = sent(tmp_path, {"audios": ["wav,QUJD", "data:audio/mp3;base64,QUJD"], "video": "http://x/v.mp4"})
    assert [part.get("input_audio") or part["video_url"] for part in heard["messages"][0]["content"]] == [
        {"data": "QUJD", "format": "wav"}, {"data": "QUJD", "format": "mp3"}, {"url": "http://x/v.mp4"},
    ]  # fmt: skip
    (named,) = sent(tmp_path, {"texts": [{"name": "text", "contents": ["a", "b"]}], "images": [{"contents": [IMAGE]}]})
    assert [part["type"] for part in named["messages"][0]["content"]] == ["text", "text", "image_url"]
    for kind in ("completions", "embeddings", "responses", "tgi"):
        assert "line 1: " in refused(tmp_path, [line], endpoint_type=kind)
    assert "begins with http:, https: or data:" in refused(tmp_path, [{"text": "a", "image": "cat.png"}])
    assert "'image' must be a text" in refused(tmp_path, [{"text": "a", "images": [{"name": "x"}]}])


def test_what_an_endpoint_cannot_send_is_refused_with_its_line(tmp_path: Path) -> None:
    seen = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": IMAGE}}],
    }
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    for message in (seen, call):
        lines = [{"text": "a"}, {"messages": [message]}]
        assert "line 2: " in refused(tmp_path, lines, endpoint_type="completions")
        assert dataset(tmp_path, lines).size == 2
    assert "no messages" in refused(tmp_path, [{"messages": HELLO}], endpoint_type="embeddings")
    assert "its passages" in refused(tmp_path, [{"text": "only a query"}], endpoint_type="rankings")
    ranked = {"texts": [{"name": "query", "contents": ["q"]}, {"name": "passages", "contents": ["a", "b"]}]}
    assert sent(tmp_path, ranked, endpoint_type="rankings")[0]["passages"] == [{"text": "a"}, {"text": "b"}]
    assert dataset(tmp_path, [{"texts": ["q", "a"]}], endpoint_type="rankings").size == 1
    listed = {"endpoint_type": "template", "payload_template": '["{{prompt}}"]'}
    assert "'top_k' cannot be added" in refused(tmp_path, [{"text": "a", "top_k": 1}], **listed)
    with pytest.raises(ConfigValidationError, match="extra_inputs cannot be added"):
        dataset(tmp_path, [{"text": "a"}], **listed, extra_inputs="a:1")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"text": "a", "prompt": "b"}, "'text' and 'prompt' are both given"),
        ({"messages": HELLO, "text": "a"}, "beside 'messages'"),
        ({"messages": HELLO, "image": IMAGE}, "beside 'messages'"),
        ({"payload": {"prompt": "a"}, "output_length": 4}, "'output_length' is not sent"),
        ({"payload": {"prompt": "a"}, "temperature": 1}, "'temperature' is not sent"),
        ({"model": "m", "prompt": "a", "output_length": 4}, "write 'max_tokens'"),
        ({"text": "a", "output_length": 4, "max_tokens": 5}, "contradict each other"),
        ({"text": "a", "stream": False}, "'stream' follows from the option"),
        ({"text": "a", "top_k": 1, "extra": {"top_k": 2}}, "'top_k' is given twice"),
        ({"text": "a", "extra": [1]}, "'extra' must be a JSON object"),
        ({"text": "a", "role": 1}, "'role' must be a text"),
        ({"text": "a", "session_id": [1]}, "'session_id' must be"),
        ({"turns": [{"text": "a"}], "text": "b"}, "beside 'turns'"),
        ({"turns": [{"payload": {"prompt": "a"}}], "top_k": 1}, "cannot be sent in turns that are whole bodies"),
        ({"turns": [{"text": "a", "timestamp": 5}, {"text": "b", "timestamp": 4}]}, "not in order of time"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_line(tmp_path: Path, line: Any, words: str) -> None:
    told = refused(tmp_path, [{"turns": [{"text": "fine"}]} if "turns" in line else {"text": "fine"}, line])
    assert "line 2: " in told
    assert words in told


@pytest.mark.parametrize("name", OUTPUTS)
def test_all_names_of_an_answer_length(tmp_path: Path, name: str) -> None:
    assert sent(tmp_path, {"text": "a", name: 7})[0]["max_tokens"] == 7


def test_roles_are_kept(tmp_path: Path) -> None:
    (body,) = sent(tmp_path, {"text": "be brief", "role": "system"})
    assert body["messages"] == [{"role": "system", "content": "be brief"}]


def test_whole_bodies_get_further_fields_and_say_what_was_replaced(tmp_path: Path) -> None:
    line = {"model": "other", "messages": HELLO, "max_tokens": 4, "stream": False, "top_p": 1}
    extra = {"extra_inputs": ("top_k:5", "top_p:0.5")}
    (body,) = sent(tmp_path, line, **extra)
    assert (body["top_k"], body["top_p"], body["model"], body["max_tokens"]) == (5, 1, "m", 4)
    told = notes(tmp_path, [line], **extra, max_osl=2)
    assert "1 of its whole bodies name another model: 'm' was sent" in told
    assert "1 of its whole bodies have another 'stream' than the option" in told
    assert "keep it, whatever extra_inputs says: top_p" in told
    assert "osl and max_osl do not change whole bodies" in told
    assert sent(tmp_path, line, max_osl=2)[0]["max_tokens"] == 4
    timed = dataset(tmp_path, [{"model": "m", "prompt": "a", "timestamp": 5, "delay": 2}], fixed_schedule=True)
    assert timed.session(0).turns[0].payload == {"model": "m", "prompt": "a"}
    odd = {"model": "m", "prompt": "a", "max_tokens": -1, "max_completion_tokens": 5, "max_output_tokens": 6}
    assert {**odd, **sent(tmp_path, odd)[0]} == sent(tmp_path, odd)[0]
    batch = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": HELLO}}
    assert sent(tmp_path, batch)[0]["messages"] == HELLO


def test_failed_rows_and_rows_of_nothing_are_counted(tmp_path: Path) -> None:
    rows = "5,ChatGPT,10,4,14,x\n6,ChatGPT,12,0,12,x\n7,GPT-4,3,5,8,x\n8,GPT-4,0,5,5,x\n"
    made = dataset(tmp_path, BURST_HEAD + rows)
    assert [made.session(index).turns[0].input_tokens for index in range(3)] == [10, 3, 1]
    told = "; ".join(made.notes(6, "m"))
    assert "1 of 4 rows left out (no response), 1 row of 0 tokens sent as 1" in told
    assert "3 of 4 rows used, each 2 times" in told
    assert (made.counts["total"], made.counts["left_out"]) == (4, {"no response": 1})
    assert made.counts["changes"] == {"row of 0 tokens sent as 1": 1}
    twice = BURST_HEAD + rows + "9,GPT-4,0,5,5,x\n9,ChatGPT,12,0,12,x\n"
    assert "2 of 6 rows left out (no response), 2 rows of 0 tokens sent as 1" in notes(tmp_path, twice)


@pytest.mark.parametrize(
    "row", ["inf,ChatGPT,10,4,14,x", "nan,C,10,4,14,x", "1e300,C,10,4,14,x", "-1,C,10,4,14,x", "1,C,4000000000,4,14,x",
            "1,C,99999999999999999999,4,14,x", "1,C," + "9" * 5000 + ",4,14,x", "1,C,-4,4,14,x", "1,C,4.5,4,14,x",
            "1,C,10,4,14,x,surplus", "1,C", "1,C,,4,14,x", "1,C,\u0663,4,1,x", '"1,C,10,4,14,x'],
)  # fmt: skip
def test_rows_that_cannot_be_are_refused_with_their_line(tmp_path: Path, row: str) -> None:
    assert "line 3: " in refused(tmp_path, f"{BURST_HEAD}1,ChatGPT,10,4,14,x\n{row}\n")


def test_rows_may_be_written_in_many_ways(tmp_path: Path) -> None:
    plain = dataset(tmp_path, BURST_HEAD + "5,ChatGPT,10,4,14,x\n7,GPT-4,3,5,8,x\n", fixed_schedule=True)
    head = BURST_HEAD.replace("\n", ",Session ID\r\n").replace("Model", " Model")
    other = f'\ufeff{head}5,"Chat\r\nGPT", 10 ,04,14,x,\r\n\r\n7,GPT-4,3,5,8,x,s1,\r\n'
    made = dataset(tmp_path, other, fixed_schedule=True)
    assert made.schedule == plain.schedule
    assert [made.session(at).turns for at in (0, 1)] == [plain.session(at).turns for at in (0, 1)]
    assert "fields not sent: Session ID" in "; ".join(made.notes(2, "m"))


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    told = refused(tmp_path, BURST_HEAD.replace("Total", "Request") + "5,ChatGPT,10,4,14,x\n")
    assert "line 1: the column 'Request tokens' is there twice" in told


@pytest.mark.parametrize("value", ["1e300", "1e999", "-1", '"5"', "NaN", "true", "[1]", "1" * 40])
@pytest.mark.parametrize("name", ["timestamp", "input_length", "output_length", "delay"])
def test_numbers_that_cannot_be_are_refused_with_their_line(tmp_path: Path, name: str, value: str) -> None:
    fields = {"timestamp": "1", "input_length": "8", "output_length": "4", name: value}
    line = "{" + ", ".join(f'"{key}": {text}' for key, text in fields.items()) + "}"
    assert "line 2: " in refused(tmp_path, '{"timestamp": 0, "input_length": 8}\n' + line)


@pytest.mark.parametrize("date", ["2023-13-45", "0001-01-01", "9999-12-31", "2023-02-30", "20 23-01-01"])
def test_dates_that_cannot_be_are_refused_with_their_line(tmp_path: Path, date: str) -> None:
    rows = f"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n{date} 00:00:00,1,1\n"
    assert "line 3: " in refused(tmp_path, rows, fixed_schedule=True)


@pytest.mark.parametrize("kind", ["lengths", "text", "messages", "turns"])
def test_the_turns_of_a_session_are_in_order_of_time(tmp_path: Path, kind: str) -> None:
    def line(stamp: int | None, number: int) -> dict[str, Any]:
        content: dict[str, Any] = {
            "lengths": {"input_length": number}, "text": {"text": "w " * number},
            "messages": {"messages": [{"role": "user", "content": "w " * number}]},
            "turns": {"turns": [{"text": "w " * number}]},
        }[kind]  # fmt: skip
        return {"session_id": "a", **content, **({} if stamp is None else {"timestamp": stamp})}

    made = dataset(tmp_path, [line(200, 2), line(100, 1), line(300, 3)], fixed_schedule=True)
    turns = made.session(0).turns
    assert (made.size, made.schedule, [turn.interval_ns for turn in turns]) == (
        1,
        (0,),
        [None, 100_000_000, 100_000_000],
    )
    assert turns[0].input_tokens < turns[1].input_tokens < turns[2].input_tokens
    told = "; ".join(made.notes(4, "m"))
    assert "1 session out of order of time: its turns were sorted" in told
    assert "1 of 1 sessions used, each 4 times" in told
    assert "line 3: a timestamp before" in refused(tmp_path, [line(200, 2), line(None, 5), line(100, 1)])
    assert "out of order" not in notes(tmp_path, [line(100, 1), line(100, 2), line(None, 3)])


def test_what_a_later_turn_cannot_send_is_refused_or_counted(tmp_path: Path) -> None:
    whole = {"session_id": "a", "payload": {"messages": HELLO}}
    text = {"session_id": "a", "text": "b", "system": "be brief"}
    assert "line 2: a turn after a whole body" in refused(tmp_path, [whole, {"session_id": "a", "text": "b"}])
    assert "line 2: a later turn with another 'system'" in refused(tmp_path, [text, {**text, "system": "be long"}])
    assert "line 1: a later turn with another" in refused(
        tmp_path, [{"turns": [{"text": "a"}, {"text": "b", "system": "s"}]}]
    )
    made = dataset(tmp_path, [text, text, whole])
    assert [turn.system for turn in made.session(0).turns] == ["be brief", "", ""]
    assert [turn.input_tokens for turn in made.session(0).turns] == [3, 1, 1 + 1]
    assert "1 repetition of a system prompt in a later turn not sent" in "; ".join(made.notes(1, "m"))


def said(*messages: tuple[str, str], keys: tuple[str, str, str] = ("conversations", "from", "value")) -> dict[str, Any]:
    conversation, speaker, value = keys
    return {conversation: [{speaker: who, value: text} for who, text in messages]}


CONVERSATIONS = [
    said(("human", "one two"), ("gpt", "three")), said(("gpt", "hi"), ("human", "b"), ("gpt", "c")),
    said(("human", "lonely")), said(), said(("human", "first"), ("human", "second"), ("gpt", "a b c d")),
    said(("human", "d"), ("gpt", "")), said(("human", "e"), ("tool", "f"), ("gpt", "g")),
]  # fmt: skip


@pytest.mark.parametrize("lines", [False, True])
def test_conversations_that_cannot_be_used_are_counted(tmp_path: Path, lines: bool) -> None:
    made = dataset(tmp_path, CONVERSATIONS if lines else json.dumps(CONVERSATIONS))
    turns = [made.session(index).turns[0] for index in range(2)]
    assert [(turn.texts, turn.output_tokens) for turn in turns] == [(("one two",), 1), (("first\nsecond",), 4)]
    told = "; ".join(made.notes(100, "m"))
    assert "2 of 7 conversations used, each 50 times" in told
    assert "5 of 7 conversations left out (a prompt without an answer: 2, begins with an answer: 1, " in told
    assert made.counts["left_out"] == {
        "begins with an answer": 1, "a prompt without an answer": 2, "empty": 1, "speaker 'tool' is not known": 1,
    }  # fmt: skip
    assert "1 group of prompts in a row sent as one" in told
    assert "used, each 50 to 51 times" in "; ".join(made.notes(101, "m"))
    assert "1 of 7 conversations used" in "; ".join(made.notes(1, "m"))


@pytest.mark.parametrize(
    "keys", [("conversations", "from", "value"), ("conversation", "role", "content"), ("items", "from", "text"),
             ("conversations", "role", "value")],
)  # fmt: skip
def test_conversations_under_other_names(tmp_path: Path, keys: tuple[str, str, str]) -> None:
    exchange = [("system", "be brief"), ("user", "a b"), ("assistant", "c"), ("user", "d"), ("assistant", "e f")]
    for text in (json.dumps([said(*exchange, keys=keys)]), json.dumps(said(*exchange, keys=keys))):
        made = dataset(tmp_path, text, conversation_turn_mean=2)
        turns = made.session(0).turns
        assert [(turn.texts, turn.system, turn.output_tokens) for turn in turns] == [
            (("a b",), "be brief", 1),
            (("d",), "", 2),
        ]
        assert "1 exchange beyond conversation_turn_mean left out" in notes(tmp_path, text)
    cut = said(*exchange, ("user", "g"), keys=keys)
    assert "cut after an exchange: a prompt without an answer" in notes(tmp_path, [cut], conversation_turn_mean=9)


def test_no_conversation_that_can_be_used_is_an_error_that_says_why(tmp_path: Path) -> None:
    assert "2 left out (begins with an answer)" in refused(tmp_path, [CONVERSATIONS[1]] * 2)


@pytest.mark.parametrize(
    "text",
    [
        '["one two"]', '[{"text":"one two"}]', '[\n {"text": "one two"}\n]\n',
        '\ufeff [[{"role":"user","content":"one two"}]]',
        '[{"role":"user","content":"one two"}]', '"one two"', '[{"role":"user","content":"one two"}]\n' * 2,
        '[{"prompt": "one two", "output_length": 4}, "three"]', '[{"turns": [{"text": "one two"}]}]',
    ],
)  # fmt: skip
def test_lists_are_read_as_lines_are(tmp_path: Path, text: str) -> None:
    made = dataset(tmp_path, text)
    body = orjson.loads(make_endpoint("m", LoadgenOptions(endpoint_type="chat")).body(made.session(0).turns[0]))
    assert body["messages"] == [{"role": "user", "content": "one two"}]


def test_mistakes_in_a_list_are_told_with_their_number(tmp_path: Path) -> None:
    told = refused(tmp_path, '[{"text": "a"}, {"tex": "b"}, 5]')
    assert "entry 2: one of 'text'" in told
    assert "entry 3: not a JSON object" in told


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip"), (b"PAR1", "Parquet"),
        (b"\xff\xfe{\x00", "UTF-16"), (b"BZh9", "bzip2"), (b"\xfd7zXZ", "xz"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["auto", "sharegpt", "azure_trace", "single_turn"])
def test_files_of_another_kind_are_named(tmp_path: Path, begin: bytes, words: str, kind: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(begin + bytes(50))
    with pytest.raises(ConfigPathError, match=words):
        read_contents(path, kind)


def test_empty_files_and_folders_are_named(tmp_path: Path) -> None:
    assert "it is empty" in refused(tmp_path, " \n\n")
    with pytest.raises(ConfigPathError, match="not a regular file"):
        read_contents(tmp_path)


def test_what_cannot_be_written_again_is_refused(tmp_path: Path) -> None:
    deep = "[" * 400 + "]" * 400
    for text in (
        f'{{"text": "a", "x": {deep}}}',
        f'{{"payload": {{"x": {deep}}}}}',
        f'{{"messages": [{{"content": {deep}}}]}}',
    ):
        assert "line 1: it cannot be sent" in refused(tmp_path, text)


def test_other_facts_of_a_file_are_told(tmp_path: Path) -> None:
    timed = [{"timestamp": 5, "input_length": 4, "hash_ids": [1, 2], "output_length": 0}]
    told = notes(tmp_path, timed, 1)
    assert "its timestamps are not used: fixed_schedule sends at them" in told
    assert "1 of its requests have more hash_ids than blocks of 512 tokens" in told
    assert "1 answer of 0 tokens asked for as 1" in told
    assert "prefix cache" not in told
    assert "timestamps" not in notes(tmp_path, timed, 1, fixed_schedule=True)
    assert "the same in every run, so that a prefix cache" in notes(tmp_path, [{"text": "a"}])
    assert "1 delay before a first turn not used" in notes(tmp_path, [{"text": "a", "delay": 5}])
    both = [{"turns": [{"text": "a", "timestamp": 1}, {"text": "b", "timestamp": 5, "delay": 2}]}]
    assert "delays of turns that have timestamps are not used" in notes(tmp_path, both, fixed_schedule=True)
    assert "delays" not in notes(tmp_path, both)
    long = [{"text": "a b c"}, {"text": "a"}]
    assert "1 of 2 lines left out (longer than max_isl)" in notes(tmp_path, long, max_isl=1)
    late = [{"text": "a", "timestamp": 1}, {"text": "b", "timestamp": 5}]
    sliced = notes(tmp_path, late, 1, fixed_schedule=True, fixed_schedule_start_offset=3)
    assert "1 of 2 lines left out (outside of the slice of the schedule)" in sliced
    assert "3 drawn at random of 2 lines" in notes(tmp_path, late, dataset_sampling_strategy="random")
    assert "longer than a century" in refused(tmp_path, late, fixed_schedule=True, replay_speedup=1e-300)


def test_no_name_is_both_sent_and_a_description() -> None:
    assert not API & (DESCRIBING | OWN)


def test_made_texts_differ_in_every_pass_and_share_blocks_within_one(tmp_path: Path) -> None:
    lines = [{"input_length": 40, "hash_ids": [1, number]} for number in range(3)]
    for sampling in ("sequential", "shuffle", "random"):
        made = dataset(tmp_path, lines, isl_block_size=16, dataset_sampling_strategy=sampling)
        texts = [made.session(index).turns[0].texts[0].split() for index in (*range(9), 2**40)]
        assert len({tuple(words[32:]) for words in texts}) == 10
        first = [tuple(words[:16]) for words in texts]
        assert [len(set(first[start : start + 3])) for start in (0, 3, 6)] == [1, 1, 1]
        assert len({first[0], first[3], first[6], first[9]}) == 4
