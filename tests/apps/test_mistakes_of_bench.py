"""Mistakes of ``swarmtune bench``: each names the option or the file, what is wrong with it, and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import Cli, names_in

KINDS = ("auto", "single_turn", "multi_turn", "random_pool", "sharegpt", "mooncake_trace", "bailian_trace", "azure_trace",
         "burst_gpt_trace")  # fmt: skip
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,4,4,\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,é,1,1,2,x\n"
TEXT = '{"text": "plain"}\n{"text": "déjà"}\n'
SHAREGPT = '[{"conversations": [{"from": "human", "value": "é"}, {"from": "gpt", "value": "b"}]}]'
MOONCAKE = '{"timestamp": 0, "input_length": 4, "output_length": 4, "hash_ids": [1], "note": "é"}\n'


def mistake(cli: Cli, *arguments: str) -> str:
    """What the command says of its one mistake, in one line."""
    ended = cli("bench", "-m", "m", *arguments)
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.count("mistake") == ended.err.count("1 mistake in")
    return " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--url", "", "--url: '' has an empty item; write for example http://127.0.0.1:8000"),
        ("--url", "http://a,,http://b", "--url: 'http://a,,http://b' has an empty item"),
        ("--url", "http://host:99999", "--url: url 'http://host:99999': its port is not a number from 1 to 65535"),
        ("--url", "http://host:x", "its port is not a number from 1 to 65535"),
        (
            "--url",
            "http://[::1",
            "--url: the url is not of the form http://host:port, an IPv6 address in brackets: [::1]",
        ),
        ("--url", "ftp://h", "--url: url 'ftp://h' is not of the form http://host:port"),
        ("--concurrency", "1,,2", "--concurrency: '1,,2' has an empty item; write for example 1,4,16"),
        ("--concurrency", ",", "--concurrency: ',' has an empty item"),
        ("--request-rate", "1,2,", "--request-rate: '1,2,' has an empty item"),
        ("--isl", ",64", "--isl: ',64' has an empty item"),
        ("--export", "jsonl,,vllm", "--export: 'jsonl,,vllm' has an empty item; write for example jsonl,vllm,aiperf"),
        ("--devices", "0,,1", "--devices: '0,,1' has an empty item; write for example 0,1"),
        ("--goodput", "ttft:5,,tpot:3", "--goodput: 'ttft:5,,tpot:3' has an empty item"),
        ("--sequence-distribution", "64,64:50;;32,32:50", "sequence_distribution: '' is not of the form"),
        ("--source-addresses", "", "source_addresses has an empty item"),
        ("--goodput", "ttft:inf", "--goodput: 'ttft:inf' is not of the form NAME:MILLISECONDS"),
        ("--goodput", "tpot:1e400", "--goodput: 'tpot:1e400' is not of the form"),
        ("--isl-distribution", "uniform", "--isl-distribution needs --isl-stddev"),
        ("--extra-inputs", ":5", "extra_inputs have the form 'name:value'"),
        ("--profile-export-prefix", "results", "results.json is another file of the run"),
        ("--profile-export-prefix", "requests", "requests.jsonl is another file of the run"),
        ("--profile-export-prefix", "../precious", "a name is needed, with no folder"),
        ("--profile-export-prefix", "a/b", "a name is needed, with no folder"),
    ],
)
def test_a_value_that_cannot_be_used(cli: Cli, clean: Path, option: str, value: str, words: str) -> None:
    assert words in mistake(cli, option, value)
    assert names_in(clean) == []


def test_a_key_that_a_file_of_options_gives_twice(cli: Cli, clean: Path) -> None:
    (clean / "options.yaml").write_text("concurrency: 2\nisl: 3\nconcurrency: 3\n")
    assert "concurrency is given twice" in mistake(cli, "--config", "options.yaml")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("o.yaml", "a: " + "[" * 20_000, "nested deeper than 32 levels"),
        ("o.toml", ".".join(["a"] * 2000) + "=1", "nested deeper than 32 levels"),
        ("o.yaml", "request-rate: 1" + ":0" * 2500, "request-rate: its value cannot be written as text"),
        ("o.yaml", "a: &x [1]\nb: *x", "aliases (*name) are not read"),
    ],
)
def test_a_file_of_options_without_measure(cli: Cli, clean: Path, name: str, content: str, words: str) -> None:
    (clean / name).write_text(content)
    assert words in mistake(cli, "--config", name)


def test_more_mistakes_than_anybody_reads(cli: Cli, clean: Path) -> None:
    (clean / "o.yaml").write_text("\n".join(f"k{n}: 1" for n in range(5000)))
    ended = cli("bench", "-m", "m", "--config", "o.yaml")
    assert (ended.code, ended.err.count("\n")) == (2, 202)
    assert ended.err.endswith("  and 4,800 more\n")
    (clean / "c.toml").write_text("\n".join(f"k{n} = 1" for n in range(5000)))
    ended = cli("check", "-c", "c.toml")
    assert (ended.code, ended.err.count("\n")) == (2, 202)


@pytest.mark.parametrize("value", ["a\udcff", "\ud800"])
def test_an_option_that_is_no_text(cli: Cli, clean: Path, value: str) -> None:
    (clean / "options.json").write_text(json.dumps({"custom_endpoint": value}))
    assert "is not UTF-8 text" in mistake(cli, "--config", "options.json")
    assert "is not UTF-8 text" in mistake(cli, "--custom-endpoint", value)
    assert "is not UTF-8 text" not in mistake(cli, "--input-file", "ä")


@pytest.mark.parametrize("content", ["config: other.yaml\n", "f: other.yaml\n"])
def test_a_file_of_options_that_names_another_one(cli: Cli, clean: Path, content: str) -> None:
    (clean / "options.yaml").write_text(content)
    (clean / "other.yaml").write_text("concurrency: 2\n")
    assert "options.yaml" in mistake(cli, "--config", "options.yaml")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file(cli: Cli, clean: Path, kind: str, content: bytes) -> None:
    (clean / "data").write_bytes(content)
    told = mistake(cli, "--input-file", "data", "--custom-dataset-type", kind)
    assert "the input file data cannot be used: it is empty" in told
    assert names_in(clean) == ["data"]


def test_an_empty_list(cli: Cli, clean: Path) -> None:
    (clean / "data").write_bytes(b" [ ]\n")
    assert "it is an empty list" in mistake(cli, "--input-file", "data")


@pytest.mark.parametrize(("kind", "content", "line"), [
    ("auto", TEXT, 2), ("single_turn", TEXT, 2), ("random_pool", TEXT, 2), ("sharegpt", SHAREGPT, 1), ("auto", SHAREGPT, 1),
    ("mooncake_trace", MOONCAKE, 1), ("auto", MOONCAKE, 1), ("burst_gpt_trace", BURST, 2), ("auto", BURST, 2),
    ("auto", "é\n", 1), ("azure_trace", AZURE.replace("4,\n", "4,é\n"), 2),
])  # fmt: skip
def test_a_file_in_another_encoding(cli: Cli, clean: Path, kind: str, content: str, line: int) -> None:
    data = content.encode("latin-1")
    byte = data.split(b"\n")[line - 1].index(b"\xe9") + 1
    (clean / "data").write_bytes(data)
    told = mistake(cli, "--input-file", "data", "--custom-dataset-type", kind)
    assert f"cannot be read: line {line}, byte {byte} (0xe9) is not UTF-8: save it as UTF-8" in told
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        (clean / "data").write_bytes(("{" + content).encode(encoding))
        told = mistake(cli, "--input-file", "data", "--custom-dataset-type", kind)
        assert "it is text in UTF-16" in told
        assert "save it as UTF-8" in told


@pytest.mark.parametrize(("content", "words"), [
    (b"", "'body' cannot be read: it is empty"),
    ('{"p": "é{{prompt}}"}'.encode("latin-1"), "'body' cannot be read: byte 8 (0xe9) is not UTF-8: save it as UTF-8"),
])  # fmt: skip
def test_a_template_that_cannot_be_read(cli: Cli, clean: Path, content: bytes, words: str) -> None:
    (clean / "body").write_bytes(content)
    here = ("--run-type", "single", "--gpu-telemetry", "off")
    assert words in mistake(cli, "--endpoint-type", "template", "--payload-template", "body", *here)


@pytest.mark.parametrize("name", ["options.toml", "options.yaml"])
@pytest.mark.parametrize(("content", "words"), [
    (b"", "it is empty"), ("# é\n".encode("latin-1"), "byte 3 (0xe9) is not UTF-8: save it as UTF-8"),
])  # fmt: skip
def test_a_file_of_options_that_cannot_be_read(cli: Cli, clean: Path, name: str, content: bytes, words: str) -> None:
    (clean / name).write_bytes(content)
    assert words in mistake(cli, "--config", name)
