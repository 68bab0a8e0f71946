"""Files of requests, conversations and traces, in the exact forms of the real ones."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.workload import files
from swarmtune.workload.files import Contents
from swarmtune.workload.replay import ReplayDataset, ReplaySpec
from swarmtune.workload.synthetic import Lengths
from swarmtune.workload.tokens import count
from swarmtune.workload.traces import read_contents

DATA = Path(os.environ.get("SWARMTUNE_DATA") or Path(__file__).parents[3] / "shared" / "data")
MOONCAKE = """\
{"timestamp": 0, "input_length": 1300, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 700, "output_length": 490, "hash_ids": [0, 14]}
{"timestamp": 1500, "input_length": 1100, "output_length": 794, "hash_ids": [7, 1, 3]}
{"timestamp": 9000, "input_length": 600, "output_length": 3, "hash_ids": [0]}
"""
BAILIAN = """\
{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 40, "output_length": 521, "type": "text", "turn": 1, "hash_ids": [5, 6, 7]}
{"chat_id": 160, "parent_chat_id": 159, "timestamp": 62.5, "input_length": 50, "output_length": 12, "type": "text", "turn": 2, "hash_ids": [5, 6, 8, 9]}
"""  # noqa: E501  lines of the real file
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:15:46.6805900,374,44\r
2023-11-16 18:15:50.9951690,396,109\r
2023-11-16 18:15:51.2224670,879,55"""
BURST = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,Conversation log
150.5,GPT-4,10,7,17,API log
"""
SHAREGPT = [
    {"id": "a", "conversations": [{"from": "human", "value": "one two"}, {"from": "gpt", "value": "three four five"},
                                  {"from": "human", "value": "six"}, {"from": "gpt", "value": "seven"}]},
    {"id": "b", "conversations": [{"from": "gpt", "value": "no question"}]},
    {"id": "c", "conversations": []},
    {"id": "d", "conversations": [{"from": "system", "value": "be"}, {"from": "human", "value": "q"},
                                  {"from": "gpt", "value": "a b"}]},
]  # fmt: skip


@pytest.fixture
def write(tmp_path: Path):
    def writer(text: str, name: str = "data") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return writer


def read(path: Path, kind: str = "auto") -> tuple[str, Contents]:
    contents = read_contents(path, kind)
    return contents.kind, contents


def test_mooncake_blocks_are_shared_and_the_last_one_is_shortened(write) -> None:
    kind, entries = read(write(MOONCAKE))
    assert kind == "mooncake_trace"
    dataset = ReplayDataset(entries, ReplaySpec(fixed_schedule=True), 1)
    assert dataset.schedule == (0, 1_500_000_000, 3_000_000_000, 9_000_000_000)
    first, other, second, last = (dataset.session(index).turns[0].texts[0].split() for index in range(4))
    assert [len(words) for words in (first, other, second, last)] == [1300, 1100, 700, 600]
    assert first[:512] == second[:512] == last[:512]
    assert first[512] != second[512]
    assert first[512:1024] == other[512:1024]  # block 1
    assert first[0] != other[0]
    assert [dataset.session(index).turns[0].output_tokens for index in range(4)] == [500, 794, 490, 3]
    assert ReplayDataset(entries, ReplaySpec(), 2).session(0) != ReplayDataset(entries, ReplaySpec(), 1).session(0)


def test_mooncake_sessions_are_conversations(write) -> None:
    lines = [
        {"session_id": "s", "timestamp": 10, "input_length": 20, "output_length": 5},
        {"timestamp": 12, "text_input": "own words", "output_length": 6},
        {"session_id": "s", "delay": 400, "input_length": 30, "output_length": 7},
        {"session_id": "t", "timestamp": 20, "messages": [{"role": "user", "content": "hello there"}]},
        {"session_id": "t", "timestamp": 50, "payload": {"prompt": "raw", "max_tokens": 9}},
    ]
    path = write("\n".join(map(json.dumps, lines)))
    entries = read(path)[1]
    dataset = ReplayDataset(entries, ReplaySpec(fixed_schedule=True, speedup=2), 1)
    assert dataset.schedule == (0, 1_000_000, 5_000_000)
    turns = dataset.session(0).turns
    assert [(turn.input_tokens, turn.output_tokens, turn.delay_ns) for turn in turns] == [
        (20, 5, 0),
        (30, 7, 200_000_000),
    ]
    assert dataset.session(1).turns[0].texts == ("own words",)
    said, raw = dataset.session(2).turns
    assert said.messages == ({"role": "user", "content": "hello there"},)
    assert (raw.payload, raw.output_tokens, raw.interval_ns) == ({"prompt": "raw", "max_tokens": 9}, 9, 15_000_000)


def test_bailian_has_seconds_and_blocks_of_16(write) -> None:
    kind, entries = read(write(BAILIAN))
    assert kind == "bailian_trace"
    dataset = ReplayDataset(entries, ReplaySpec(fixed_schedule=True, block=16), 1)
    assert dataset.schedule == (0, 1_386_000_000)
    first, second = (dataset.session(index).turns[0].texts[0].split() for index in range(2))
    assert (len(first), len(second)) == (40, 50)
    assert first[:32] == second[:32]
    assert first[32] != second[32]


def test_azure_counts_from_its_first_time_and_keeps_100_ns(write) -> None:
    kind, entries = read(write(AZURE))
    assert kind == "azure_trace"
    dataset = ReplayDataset(entries, ReplaySpec(fixed_schedule=True), 1)
    assert dataset.schedule == (0, 4_314_579_000, 4_541_877_000)
    turns = [dataset.session(index).turns[0] for index in range(3)]
    assert [(turn.input_tokens, turn.output_tokens) for turn in turns] == [(374, 44), (396, 109), (879, 55)]
    assert [count(turn.texts[0]) for turn in turns] == [374, 396, 879]
    assert len({turn.texts[0].split()[0] for turn in turns}) == 3


def test_azure_of_2024_has_a_time_zone(write) -> None:
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
                 "2024-05-10 02:00:01+02:00,1,5\n")  # fmt: skip
    assert [entry[0].timestamp_ns for entry in read(path)[1].entries] == [0, 990_070_000]


def test_burst_gpt_leaves_out_what_had_failed(write) -> None:
    kind, entries = read(write(BURST))
    assert kind == "burst_gpt_trace"
    assert [(e[0].timestamp_ns, e[0].input_tokens, e[0].output_tokens) for e in entries.entries] == [
        (5_000_000_000, 472, 18), (45_000_000_000, 1087, 230), (150_500_000_000, 10, 7),
    ]  # fmt: skip


def test_whole_numbers_as_pandas_writes_them(write) -> None:
    lengths = "Timestamp,Request tokens,Response tokens\n5.0,472.0,18.0\n6,10,"
    assert [(e[0].input_tokens, e[0].output_tokens) for e in read(write(f"{lengths}7.00\n"))[1].entries] == [
        (472, 18), (10, 7),
    ]  # fmt: skip
    for wrong in ("7.5", "7.", ".0", "1e3"):
        with pytest.raises(ConfigValidationError, match="line 3: Response tokens must be a whole number"):
            read(write(f"{lengths}{wrong}\n"))


@pytest.mark.parametrize("lines", [False, True])
def test_sharegpt(write, lines: bool) -> None:
    text = "\n".join(map(json.dumps, SHAREGPT)) if lines else json.dumps(SHAREGPT)
    kind, entries = read(write(text))
    assert kind == "sharegpt"
    assert [[part.texts[0] for part in entry] for entry in entries.entries] == [["one two"], ["q"]]
    assert [entry[0].output_tokens for entry in entries.entries] == [3, 2]
    both = read_contents(write(text), "sharegpt", max_turns=2).entries
    assert [[part.texts[0] for part in entry] for entry in both] == [["one two", "six"], ["q"]]


def test_single_turns_in_all_their_forms(write) -> None:
    lines = [
        {"text": "a b", "output_length": 7, "system": "be short", "extra": {"top_k": 1}},
        {"prompt": "c", "max_tokens": 3, "timestamp": 12},
        {"texts": ["d e", "f"]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "g h"}]}]},
        {"payload": {"messages": [{"role": "user", "content": "i"}], "max_tokens": 4}},
        {"model": "x", "prompt": "j k l", "max_tokens": 5, "seed": 1},
    ]
    kind, entries = read(write("\ufeff" + "\n\n".join(map(json.dumps, lines))))
    assert kind == "single_turn"
    dataset = ReplayDataset(entries, ReplaySpec(osl=Lengths(1, 20), max_osl=15), 1)
    turns = [dataset.session(index).turns[0] for index in range(6)]
    assert [turn.texts for turn in turns] == [("a b",), ("c",), ("d e", "f"), (), (), ()]
    assert [turn.input_tokens for turn in turns] == [4, 1, 3, 2, 1, 3]
    assert [turn.output_tokens for turn in turns] == [7, 3, 15, 15, 4, 5]
    assert (turns[0].system, turns[0].extra) == ("be short", {"top_k": 1})
    assert turns[5].payload == lines[5]
    assert ReplayDataset(entries, ReplaySpec(), 1).session(2).turns[0].output_tokens is None
    assert ReplayDataset(entries, ReplaySpec(answers=False), 1).session(0).turns[0].output_tokens is None


def test_multi_turn_conversations(write) -> None:
    line = {"session_id": "s", "timestamp": 5, "turns": [{"text": "a"}, {"text": "b c", "delay": 1500}]}
    kind, entries = read(write(json.dumps(line)))
    assert kind == "multi_turn"
    session = ReplayDataset(entries, ReplaySpec(fixed_schedule=True, auto_offset=False, speedup=2), 1).session(0)
    assert session.start_ns == 2_500_000
    assert [(turn.texts, turn.delay_ns) for turn in session.turns] == [(("a",), 0), (("b c",), 750_000_000)]


@pytest.mark.parametrize("given", ['"http://x/y.png"', '{"url": "http://x/y.png"}', '["http://x/y.png"]'])
@pytest.mark.parametrize("name", ["image", "images", "image_url", "image_urls"])
def test_an_image_by_any_of_its_names_is_a_part_of_the_message(write, name: str, given: str) -> None:
    _, contents = read(write(f'{{"text": "hi", "{name}": {given}, "output_length": 3}}'))
    part = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
    assert contents.entries[0][0].messages[0]["content"] == [{"type": "text", "text": "hi"}, part]
    assert contents.entries[0][0].extra == {}


def test_half_a_character_in_a_list_costs_no_other_entry(write) -> None:
    _, contents = read(
        write('[{"text": "a \\ud83d b", "output_length": 3}, {"text": "good"}, {"text": "\\ud83d\\ude00"}]')
    )
    assert [entry[0].texts for entry in contents.entries] == [("a ? b",), ("good",), ("\U0001f600",)]
    assert contents.changes == {"text with half a character, which was replaced": 1}


@pytest.mark.parametrize("value", ["123456789012345678901234567890", "18446744073709551617", "[-9223372036854775809]"])
def test_a_whole_number_beyond_64_bits_is_refused(write, value: str) -> None:
    for line in (f'{{"text": "a", "seed": {value}}}', f'{{"model": "m", "prompt": "a", "seed": {value}}}'):
        with pytest.raises(ConfigValidationError, match="line 1: a whole number beyond 64 bits"):
            read(write(line))
    _, contents = read(write('{"text": "a", "seed": 18446744073709551615, "top_p": 1e3}'))
    assert contents.entries[0][0].extra == {"seed": 2**64 - 1, "top_p": 1000.0}


def test_recorded_answers_among_turns_are_left_out_and_counted(write) -> None:
    said = [("user", "one"), ("assistant", "recorded"), ("user", "two")]
    line = json.dumps({"session_id": "a", "turns": [{"role": role, "text": text} for role, text in said]})
    _, contents = read(write(line))
    assert [part.texts for part in contents.entries[0]] == [("one",), ("two",)]
    assert contents.changes == {"recorded answer in 'turns' not sent: the service gives its own": 1}


def test_slices_of_the_schedule(write) -> None:
    entries = read(write(MOONCAKE))[1]
    auto = ReplayDataset(entries, ReplaySpec(fixed_schedule=True, start_ms=1500, end_ms=3000), 1)
    assert (auto.size, auto.schedule) == (2, (0, 1_500_000_000))
    given = ReplayDataset(entries, ReplaySpec(fixed_schedule=True, start_ms=1000, auto_offset=False, speedup=4), 1)
    assert given.schedule == (125_000_000, 500_000_000, 2_000_000_000)
    assert auto.session(0).turns == ReplayDataset(entries, ReplaySpec(), 1).session(2).turns  # the text is the entry's
    with pytest.raises(ConfigValidationError, match="no entry from"):
        ReplayDataset(entries, ReplaySpec(fixed_schedule=True, start_ms=10_000), 1)


def test_orders_of_sampling(write) -> None:
    entries = read(write("\n".join(json.dumps({"text": f"w{number}"}) for number in range(50))))[1]

    def order(sampling, number: int, seed: int = 1) -> list[str]:
        dataset = ReplayDataset(entries, ReplaySpec(sampling=sampling), seed)
        assert [dataset.session(index).index for index in range(3)] == [0, 1, 2]
        return [dataset.session(index).turns[0].texts[0] for index in range(number)]

    plain = order("sequential", 100)
    assert plain[:50] == plain[50:] == [f"w{number}" for number in range(50)]
    shuffled = order("shuffle", 100)
    assert sorted(shuffled[:50]) == sorted(shuffled[50:]) == sorted(plain[:50])
    assert shuffled[:50] != shuffled[50:]
    assert order("shuffle", 100) == shuffled != order("shuffle", 100, seed=2)
    drawn = order("random", 1000)
    assert 30 < len(set(drawn[:50])) < 50  # with replacement: about 32 of 50
    assert len(set(drawn)) == 50


def test_users_go_through_the_conversations_of_a_file(write) -> None:
    lines = [
        {"session_id": n, "turns": [{"text": f"s{n}t{t}", "delay": 9} for t in range(2 + n % 3)]} for n in range(9)
    ]
    dataset = ReplayDataset(read(write("\n".join(map(json.dumps, lines))))[1], ReplaySpec(users=4, user_rate=2), 1)
    made = [dataset.session(index) for index in range(40)]
    assert all(a.start_ns <= b.start_ns for a, b in pairwise(made))
    assert {turn.interval_ns for session in made for turn in session.turns[1:]} == {2_000_000_000}
    assert [session.turns[0].texts[0] for session in made[:10]] == [f"s{n % 9}t0" for n in range(10)]
    assert [len(session.turns) for session in made[4:9]] == [3, 4, 2, 3, 4]


def test_long_entries_are_left_out(write) -> None:
    entries = read(write(MOONCAKE))[1]
    dataset = ReplayDataset(entries, ReplaySpec(max_isl=1100), 1)
    assert [dataset.session(index).turns[0].input_tokens for index in range(dataset.size)] == [700, 1100, 600]
    with pytest.raises(ConfigValidationError, match="max_isl = 5"):
        ReplayDataset(entries, ReplaySpec(max_isl=5), 1)


@pytest.mark.parametrize(
    ("kind", "text", "words"),  # lines as they come; their ends are beyond the usual width
    [
        ("single_turn", '{"text": "a"}\n\n{"text": }\n[1]\n{"tex": "b"}', ["line 3: not JSON", "line 4: not a JSON object", "line 5: one of"]),  # noqa: E501
        ("single_turn", '{"text": ""}', ["line 1: the prompt must be a text that is not empty"]),
        ("single_turn", '{"text": "a", "output_length": 0}', ["'output_length' must be a whole number of at least 1, at most 10,000,000, not 0"]),  # noqa: E501
        ("single_turn", '{"text": "a", "delay": "x"}', ["'delay' must be a number"]),
        ("single_turn", '{"text": "a", "system": 1}', ["'system' must be a text"]),
        ("single_turn", '{"messages": [1]}', ["'messages' must be a list"]),
        ("single_turn", '{"payload": 1}', ["'payload' must be a JSON object"]),
        ("multi_turn", '{"turns": []}\n{"turns": [1]}', ["line 1: 'turns' must be a list", "line 2: each of 'turns'"]),
        ("mooncake_trace", '{"timestamp": -1, "input_length": 1}', ["'timestamp' must be a number that is not negative"]),
        ("mooncake_trace", '{"timestamp": 1, "input_length": 1.5}', ["'input_length' must be a whole number"]),
        ("mooncake_trace", '{"input_length": 1, "hash_ids": ["a"]}', ["'hash_ids' must be a list"]),
        ("azure_trace", "TIMESTAMP,ContextTokens\n", ["line 1: no column 'GeneratedTokens'"]),
        ("azure_trace", "TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,1\n2023-11-16 18:15:46.1,y,1\n2023", ["line 2: TIMESTAMP", "line 3: ContextTokens", "line 4: TIMESTAMP"]),  # noqa: E501
        ("burst_gpt_trace", "Timestamp,Request tokens,Response tokens\nx,1,1\n1,1", ["line 2: Timestamp", "line 3: Response tokens"]),  # noqa: E501
        ("sharegpt", '[{"conversations": 1}, {"conversations": [{"value": 2}]}]', ["entry 1: not a ShareGPT", "entry 2: not a ShareGPT"]),  # noqa: E501
        ("sharegpt", "[1", ["not a JSON list"]),
        ("single_turn", "", ["cannot be used: it is empty"]),
    ],
)  # fmt: skip
def test_every_mistake_is_told_with_its_line(write, kind: str, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigValidationError) as caught:
        read(write(text), kind)
    assert len(caught.value.mistakes) == len(words)
    assert all(word in mistake for word, mistake in zip(words, caught.value.mistakes, strict=True))


def test_at_most_twenty_mistakes_are_shown(write) -> None:
    with pytest.raises(ConfigValidationError) as caught:
        read(write('{"text": 1}\n' * 100))
    assert len(caught.value.mistakes) == 21
    assert "80 more" in caught.value.mistakes[-1]


def test_files_that_cannot_be_read_or_known(write, tmp_path: Path) -> None:
    latin = tmp_path / "latin"
    latin.write_bytes(b"TIMESTAMP,ContextTokens,GeneratedTokens\n\xff\xfe,1,1\n")
    for kind in ("auto", "sharegpt", "azure_trace", "single_turn"):
        with pytest.raises(ConfigPathError, match="cannot be read"):
            read(tmp_path / "none", kind)
    with pytest.raises(ConfigPathError, match="cannot be read"):
        read(latin)
    with pytest.raises(ConfigValidationError, match="custom_dataset_type can name it"):
        read(write("hello,world"))
    entries = read(write('{"text": "a", "timestamp": 1}\n{"text": "b"}'))[1]
    with pytest.raises(ConfigValidationError, match="1 of 2 have none"):
        ReplayDataset(entries, ReplaySpec(fixed_schedule=True), 1)


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("mooncake/conversation_trace.jsonl", "mooncake_trace", 12_031),
        ("azure/AzureLLMInferenceTrace_2023_conv.csv", "azure_trace", 19_366),
    ],
)
def test_the_real_files_where_they_are(name: str, kind: str, size: int) -> None:
    path = DATA / name
    assert not DATA.is_dir() or path.is_file()
    if path.is_file():  # public data, not part of the repository; samples of the same form are above
        found, entries = read(path)
        dataset = ReplayDataset(entries, ReplaySpec(fixed_schedule=True), 1)
        assert (found, dataset.size) == (kind, size)
        assert dataset.schedule is not None
        assert all(a <= b for a, b in pairwise(dataset.schedule))
        assert 1700e9 < dataset.schedule[-1] < 3600e9
        for index in (0, size - 1):
            turn = dataset.session(index).turns[0]
            assert count(turn.texts[0]) == turn.input_tokens


@pytest.mark.parametrize("kind", ["auto", "single_turn", "sharegpt", "azure_trace"])
def test_what_is_not_a_regular_file_is_refused(kind: str) -> None:
    with pytest.raises(ConfigPathError, match="not a regular file"):
        read_contents(Path("/dev/zero"), kind)


def test_a_line_without_end_is_refused(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    with pytest.raises(ConfigValidationError, match="line 2: longer than 100 bytes"):
        read(write('{"text": "a"}\n' + "a" * 200), "single_turn")


def test_a_list_may_be_one_long_line(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    monkeypatch.setattr(files, "BEGIN", 10)
    for text in (json.dumps(SHAREGPT), "\ufeff" + " \n" * 30 + json.dumps(SHAREGPT)):
        assert len(read(write(text))[1].entries) == 2


@pytest.mark.parametrize("line", ['{"input_length": 1e15}', '{"input_length": 1, "output_length": 1e15}',
                                  '{"input_length": 1, "timestamp": 1e300}'])  # fmt: skip
def test_numbers_that_no_request_has_are_refused(write, line: str) -> None:
    with pytest.raises(ConfigValidationError, match="at most"):
        read(write(line), "mooncake_trace")
