"""Secrets are hidden by their values; what is none stays as it is."""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.redaction import HIDDEN, Redactor, looks_secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk-abcdefghijklmnop1234 refused", "key *** refused"),
        ("GET http://bob:pw123@h/x?token=t0ken&n=1 failed", "GET http://***@h/x?token=***&n=1 failed"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic Ym9iOnB3'}", "{'authorization': 'Basic ***'}"),
        ("args: {'api_key': ['s3cret-1'], 'port': 8000}", "args: {'api_key': ['***'], 'port': 8000}"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb", "a\n***\nb"),
    ],
)
def test_a_secret_is_known_by_place_and_form(text: str, shown: str) -> None:
    assert Redactor().hide(text) == shown
    assert Redactor().hide(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "the next token: 17 tokens/s, max_tokens=128, api_key=None, engine vllm",
        "postgresql://alice@db/x and https://host:8000/v1?api-version=2024-02-01",
        "give the header -H 'Authorization: Basic ...' or 'Authorization: Bearer $KEY'",
        "Qwen/Qwen2.5-7B-Instruct-AWQ 3f2504e0-4f89-11d3-9a0c-0305e82c3301 /models/sk-lm",
        "basic authentication is required, the token was refused",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    known = Redactor()
    known.learn_environment(
        {
            "HF_TOKEN": "",
            "API_KEY": "EMPTY",
            "OPENAI_API_KEY": "vllm",
            "PASSWORD": "128",
            "MODEL": "Qwen/Qwen2.5-7B-Instruct-AWQ",
            "GPU_ID": "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
            "SSH_KEY": "/models/sk-lm",
            "DB_TOKEN": "token",
        }
    )
    known.learn_header("Accept", "text/event-stream")
    assert known.hide(text) == text


def test_a_value_is_hidden_wherever_it_stands() -> None:
    known = Redactor()
    known.learn_in({"env": {"DB_PASSWORD": 'p"w/ü 1'}, "argv": ["serve", "--api-key", "abcd1", "--model", "m"]})
    known.learn_in("http://bob:s3cr%2Ft@host")
    for text in ('p"w/ü 1', r"p\"w/ü 1", "p%22w%2F%C3%BC%201", "s3cr/t", "s3cr%2Ft", "Ym9iOnMzY3IvdA=="):
        assert known.hide(f"x {text} y") == f"x {HIDDEN} y", text
    assert known.hide("abcd1 abcd12 xabcd1") == "*** abcd12 xabcd1"  # a short one only as a word
    assert known.hide_in({"a": ["abcd1", 3, None], "x abcd1": {"b": "m"}}) == {
        "a": [HIDDEN, 3, None],
        f"x {HIDDEN}": {"b": "m"},
    }


@given(st.text(min_size=8, max_size=40, alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp"))))
def test_whatever_is_learnt_is_not_shown(secret: str) -> None:
    known = Redactor()
    known.learn(secret)
    if secret.strip() in known.known:
        assert secret.strip() not in known.hide(f"before {secret} after, {secret!r}").replace(HIDDEN, "\0")


@pytest.mark.parametrize(
    "key", ["hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789", "plAnted-1~>?x", "pl\u00e4nted", "RuntimeError"]
)
@pytest.mark.parametrize("around", ["{}", "u:{}", ":{}", "xy{}", "{}\n", '{{"a": "{}"}}', "before {} after it"])
def test_a_key_is_hidden_in_base64_whatever_is_encoded_with_it(key: str, around: str) -> None:
    known = Redactor()
    known.learn(key)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shown = known.hide(f"x {encode(around.format(key).encode()).decode()} y")
        assert HIDDEN in shown
        for word in re.split(r"[^\w+/-]+", shown):  # what is left holds no three letters of it
            for start in range(4):
                rest = word[start:]
                left = base64.urlsafe_b64decode(rest.replace("+", "-").replace("/", "_") + "A" * (-len(rest) % 4))
                assert not any(key.encode()[at : at + 3] in left for at in range(len(key) - 2))


KEY = "Zk3vQ9xLp7RtY2mWc8BnHd5s"


@pytest.mark.parametrize(
    "data",
    [
        {
            "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={KEY}==;Suffix=y"
        },
        {"BUS": f"Endpoint=sb://h/;SharedAccessKeyName=Root;SharedAccessKey={KEY}="},
        {"GH_PAT": KEY},
        {"JWT": KEY},
        {"CI_WEBHOOK": f"https://hooks.slack.com/services/T0/B0/{KEY}"},
        {"NOTIFY": f"https://hooks.slack.com/services/T0/B0/{KEY}"},
        {"HDR": f"X-Api-Key: {KEY}"},
        {"command": {"env": {"WIBBLE": KEY}}},
        ["--cookie", f"sid={KEY}"],
        [f"--cookie=a=b; sid={KEY}"],
        ["--pat", KEY],
        [f"--jwt={KEY}"],
        ["--bearer", KEY],
        ["--basic-auth", f"user:{KEY}"],
        ["docker", "run", f"--env=MY_SECRET={KEY}"],
        ["docker", "run", "--env", f"MY_SECRET={KEY}"],
        ["bash", "-c", f"cd /x && API_KEY={KEY} exec server"],
        ["bash", "-c", f"export API_KEY='{KEY}'; exec server"],
        {"WIBBLE": f"Basic {KEY}"},
        {"COOKIE": f"lang=en; session={KEY}"},
        {"SENTRY_DSN": f"https://{KEY}@o1.ingest.sentry.io/5"},
    ],
)
def test_keys_are_known_by_more_names_and_places(data: object) -> None:
    known = Redactor()
    known.learn_in(data)
    assert known.hide(f"x {KEY} y") in (f"x {HIDDEN} y", f"x {HIDDEN}")


def test_what_only_resembles_such_a_key_stays() -> None:
    known = Redactor()
    known.learn_in({
        "JWT_ALGORITHM": "HS256", "PAT_LIMIT": "x1y2z3", "WEBHOOK_HOST": "host-1.example", "PYTHONPATH": "lib1:lib2",
        "NOTE": "Prompt: what is 17x19",
        "MODE": "basic scheduling", "KIND": "Bearer capability", "DSN": "odbc://server7/db1", "PATTERN": "ab12cd",
        "env": {"MODEL": "Qwen/Qwen2.5-7B-Instruct-AWQ", "NCCL_SOCKET_IFNAME": "eth0,eth1", "REVISION": "0e9e39f249a16976"},
    })  # fmt: skip
    known.learn_in(["--pattern", "ab12cd", "--webhook-timeout", "12s5", "--seed=x17y19"])
    text = (
        "HS256 x1y2z3 host-1.example lib1:lib2 17x19 ab12cd Qwen/Qwen2.5-7B-Instruct-AWQ eth0,eth1 12s5 "
        "0e9e39f249a16976 x17y19 https://hooks.slack.com/docs the account key= is wanted"
    )
    assert known.hide(text) == text


def test_base64_of_anything_else_stays() -> None:
    known = Redactor()
    known.learn("plAnted-key-1", "short")
    text = base64.b64encode(b"planted-key-1 and words of any kind, RuntimeError").decode()
    assert known.hide(f"{text} cnQ cnRtZW50 assorted") == f"{text} cnQ cnRtZW50 assorted"


def test_long_texts_take_little_time() -> None:
    known = Redactor()
    known.learn(*(f"planted-secret-{number}" for number in range(300)))
    text = "authorization: " * 20_000 + "://" + "x" * 100_000 + "?" * 10_000 + "token=" * 1000
    assert len(known.hide(text)) > 100_000


def test_the_command_line_of_the_process_is_covered() -> None:
    code = (
        "from pathlib import Path; from swarmtune import redaction as r; import sys; r.ours.learn_in(sys.argv);"
        "r.cover_arguments(); print(Path('/proc/self/cmdline').read_text(), sys.argv)"
    )
    words = ["--api-key", "pl4nted-key", "--model", "m"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    shown, _, kept = done.stdout.partition(" ['-c'")
    assert shown.endswith("--api-key\0***        \0--model\0m\0")
    assert "pl4nted-key" in kept
    assert Path("/proc/self/cmdline").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "TOKEN_BUDGET",
        "PASSWORD_ROUNDS",
        "--token-budget",
        "--pad-token",
        "--key-path",
        "--api-key-file",
        "--kv-cache-keys",
    ],
)
def test_names_of_figures_and_files_are_no_secrets(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Server=db;User Id=sa;Password=x1y2z3;", "Server=db;User Id=sa;Password=***;"),
        ("machine h login bob password plAnted9", "machine h login bob password ***"),
        ("sent Bearer abc123def456 to h", "sent Bearer *** to h"),
        ("http//u:plAnted7@h", "http//u:***@h"),
        ("npm_" + "a1B2" * 9, "***"),
        ("SG." + "a1B2" * 5 + "." + "c3D4" * 8, "***"),
        ("ghcr.io/x/y:v0.30.1-cu130@sha256:0123abcd", "ghcr.io/x/y:v0.30.1-cu130@sha256:0123abcd"),
    ],
)
def test_more_places_and_forms(text: str, shown: str) -> None:
    assert Redactor().hide(text) == shown


def test_values_behind_options() -> None:
    known = Redactor()
    known.learn_in(
        ["--header=X-API-Key: plAnted-1", "--auth", "bob:plAnted-2", "--extra-inputs", "user_token:plAnted-3"]
    )
    known.learn_in({"AUTH_HEADER": "Basic Ym9iOnBsYW50ZWQ=", "SESSION_COOKIE": "sid=plAnted-44", "AUTH_TYPE": "basic"})
    known.learn_in({"argv": "./s.sh --api-key plAnted-5", "start_script": "-t plAnted"})
    assert known.hide("plAnted-5") == "***"
    text = "plAnted-1 plAnted-2 plAnted-3 Ym9iOnBsYW50ZWQ= sid=plAnted-44 basic"
    assert known.hide(text) == "*** *** *** *** *** basic"


def test_figures_and_files_are_never_hidden() -> None:
    known = Redactor()
    limits = [
        "--goodput",
        "time_to_first_token:200.5",
        "inter_token_latency:12.5",
        "time_per_output_token:50.25 ttft:1000",
    ]
    known.learn_in(
        [*limits, "--extra-inputs", "stop_token_ids:[1,2,3]", "--client-key", "client.pem", "max_tokens:5000"]
    )
    known.learn_in({"API_KEY": "12.5", "DB_PASSWORD": "1.2e5", "client_key": "my.key", "TOKEN": "%20%20%20%20"})
    text = "p95 12.5 ms, 200.5, 50.25, 1000, 5000, 1.2e5; client.pem my.key [1,2,3]    four blanks"
    assert known.hide(text) == text


def test_words_are_hidden_whole_and_keys_stay() -> None:
    known = Redactor()
    known.learn("RuntimeError", "trial")
    assert known.hide("RuntimeErrors, a RuntimeError in trial 3") == "RuntimeErrors, a *** in trial 3"
    assert known.hide_in({"RuntimeError": "RuntimeError"}) == {"RuntimeError": "***"}
    known.learn("measured_here", "p95_ttft_ms")
    data = {"source": "measured_here", "p95_ttft_ms": 3.5, "reason": "it was measured_here"}
    assert known.hide_in(data) == {**data, "reason": "it was ***"}


@pytest.mark.parametrize("secret", ["wJalrXUtnFEMI/K7MDENG/bPxRfiCY", 'p&ss"w0rd<9'])
def test_values_are_hidden_as_other_languages_escape_them(secret: str) -> None:
    known = Redactor()
    known.learn(secret)
    php = json.dumps(secret).replace("/", "\\/")
    for text in (php, json.dumps(secret).replace("/", "\\u002f"), html.escape(secret), repr(secret)):
        assert known.hide(f"<{text}>").count(HIDDEN) == 1, text
        assert secret[5:] not in known.hide(text)


def test_what_was_learnt_can_be_handed_on() -> None:
    known, other = Redactor(), Redactor()
    known.learn("hunter2!x", "another-9-key", "hunter2!x", "true")
    assert known.values == ["hunter2!x", "another-9-key"]
    other.learn(*known.values)
    assert other.known == known.known


KEYS = [f"K{number:02}q8Zx7Wv6Yt5Ab" for number in range(40)]
JSON_NAMES = (
    "secret s3-secret aws_secret_access_key minio_secret openai_api_key token s3_token db_password credentials private_key "
    "s3Secret awsSecretAccessKey sas_token account_key shared_key bearer MASTERKEY DBPASS USERPASS ACCESSKEY PRIVATEKEY "
    "KEYPASS PASSCODE APP_CREDS DB_PW ADMINPW SESSIONID CONNSTR TOTP_SEED"
)


@pytest.mark.parametrize("form", ["one", "nested", "option", "variable", "twice"])
def test_json_in_a_value_is_read_by_its_names(form: str) -> None:
    known, keys = Redactor(), dict(zip(JSON_NAMES.split(), KEYS, strict=False))
    if form == "one":
        known.learn_in([part for item in keys.items() for part in ("--config", json.dumps(dict([item])))])
    elif form == "nested":
        known.learn_in({"X": json.dumps({"a": [{"b": keys}]})})
    elif form == "option":
        known.learn_in(["--extra=" + json.dumps(keys)])
    elif form == "variable":
        known.learn_environment({"SETTINGS": json.dumps(keys)})
    else:
        known.learn_environment({"SETTINGS": json.dumps({"inner": json.dumps(keys)})})
    shown = known.hide(" ".join(keys.values()))
    assert shown == " ".join([HIDDEN] * len(keys)), [name for name, key in keys.items() if key in shown]


def test_json_without_a_key_teaches_nothing() -> None:
    known = Redactor()
    for text in ('{"max_tokens": "1234567890", "path": "/a/b-c-d-e-f-g"}', "[1, 2", "{" * 5000, '["prefill-decode-x"]'):
        known.learn_in(["--kv-transfer-config", text])
    known.learn_in(
        ["--api-key", "K1ab-22cc-33dd", "serve", "Qwen2.5-7B-Instruct", "second-key-77x", "--port", "18000-18009-ab"]
    )
    assert known.values == ["K1ab-22cc-33dd", "second-key-77x"], "several keys, and no model"
    for name in ("BYPASS", "COMPASS", "KEYBOARD", "MONKEY", "MAX_PIN_MEMORY", "PWM_RATE"):
        assert not looks_secret(name), name


def test_a_password_in_base64_is_known_by_itself() -> None:
    known = Redactor()
    basic = base64.b64encode(b"pu:larkspur-55").decode()
    known.learn_header("Proxy-Authorization", f"Basic {basic}")
    registry = base64.b64encode(b"me:t3nPqZ8vLw5RkX2").decode()
    known.learn_environment({"DOCKER_AUTH_CONFIG": json.dumps({"auths": {"r.io": {"auth": registry}}})})
    known.learn_in({"DSN": "Driver=x;UID=u;PWD={A;b9K8b1mi59l};"})
    known.learn_environment({"HTTP_BASIC_AUTH": "alice:larkspur.66", "AUTH_URL": "http://h:8000/x"})
    said = f"{basic} larkspur-55 {registry} t3nPqZ8vLw5RkX2 A;b9K8b1mi59l larkspur.66"
    assert known.hide(said) == " ".join([HIDDEN] * 6)
    assert known.hide("http://h:8000/x") == "http://h:8000/x"


def _each(secret: str, form: str) -> str:
    return "".join(form.format(ord(letter)) for letter in secret)


@pytest.mark.parametrize(
    "written",
    [
        lambda s: _each(s, "%{:02x}"),
        lambda s: _each(s, "%25{:02X}"),
        lambda s: _each(s, "\\u{:04x}"),
        lambda s: _each(s, "\\x{:02x}"),
        lambda s: _each(s, "&#{};"),
        lambda s: _each(s, "&#x{:x};"),
        lambda s: _each(s, "\\{:03o}"),
        lambda s: json.dumps(json.dumps(s)),
        lambda s: s.encode().hex(),
        lambda s: s.encode().hex().upper(),
        lambda s: repr(s.encode()),
    ],
)
@pytest.mark.parametrize("secret", ["ghp-zymMlop-77", 'wJ"al\\rX/tn', "grüße-Schlüssel9"])
def test_a_key_is_hidden_however_its_letters_are_written(written: Callable[[str], str], secret: str) -> None:
    known, other = Redactor(), "ordinary-words-7"
    known.learn(secret)
    assert HIDDEN in known.hide(f"a {written(secret)} b")
    assert written(secret) not in known.hide(f"{written(secret)}\nb")
    assert known.hide(f"a {written(other)} 100% \\ b") == f"a {written(other)} 100% \\ b"


@pytest.mark.parametrize(
    "key",
    [
        "gsk_" + "aB3" * 17, "xai-" + "aB3" * 20, "r8_" + "aB3" * 12, "lsv2_pt_" + "a1" * 20, "glrt-" + "aB3" * 8,
        "sk_live_" + "aB3" * 8, "whsec_" + "aB3" * 10, "hvs." + "aB3" * 10, "ya29." + "aB3" * 10, "dapi" + "a1" * 16,
        "123456789:AA" + "aB3" * 11, "PMAK-" + "a1" * 20, "GOCSPX-" + "aB3" * 9, "pypi-" + "aB3" * 20,
    ],
)  # fmt: skip
def test_keys_that_nobody_named_are_known_by_their_makers_forms(key: str) -> None:
    assert Redactor().hide(f"refused: {key}, sorry") == f"refused: {HIDDEN}, sorry"
