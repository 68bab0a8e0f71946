"""What ssh_config files say of a host: the same as OpenSSH's own client says, or one sentence with the line."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import subprocess
from pathlib import Path

import asyncssh
import pytest

from swarmtune.execution.executors import ssh_config
from swarmtune.execution.executors.ssh_keywords import KNOWN
from swarmtune.execution.executors.ssh_route import Hop, keys, route

in_shell = ssh_config.in_shell
ME = pwd.getpwuid(os.getuid()).pw_name
COMPARED = (
    *("hostname", "port", "user", "proxyjump", "proxycommand", "identityfile", "identitiesonly", "hostkeyalias"),
    *("ignoreunknown", "sendenv", "kbdinteractiveauthentication"),
)
DEFAULTS = {"port": ["22"], "user": [ME], "identitiesonly": ["no"], "kbdinteractiveauthentication": ["yes"]}
needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed")


def by_openssh(file: Path, host: str) -> dict[str, list[str]] | None:
    """What the client would do; None: it refuses the file."""
    done = subprocess.run(
        ["ssh", "-F", str(file), "-G", host], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60
    )
    if done.returncode != 0:
        return None
    found: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="surrogateescape").split("\n"):
        key, _, value = line.partition(" ")
        if key in COMPARED:
            found.setdefault(key, []).append(value)
    if "sendenv" in found:
        found["sendenv"] = sorted(set(found["sendenv"]))  # a second pass repeats them
    return found


def by_us(file: Path, host: str) -> dict[str, list[str]] | None:
    mistake = ""
    try:
        options = ssh_config.effective(host, files=[str(file)])
    except ValueError as error:
        mistake = str(error)
    if mistake:
        assert str(file.parent) in mistake
        assert "\n" not in mistake
        return None
    found = {**DEFAULTS, **{key: option.values for key, option in options.items() if key in COMPARED}}
    for key in ("identitiesonly", "kbdinteractiveauthentication"):
        found[key] = [{"true": "yes", "false": "no"}.get(value, value) for value in found[key]]
    found["sendenv"] = sorted(found.get("sendenv", []))
    return {key: values for key, values in found.items() if values and (values != ["none"] or key == "identityfile")}


def compare(file: Path, host: str) -> None:
    theirs, ours = by_openssh(file, host), by_us(file, host)
    if theirs is not None and "identityfile" not in (ours or {}):
        theirs.pop("identityfile", None)  # its own defaults
    assert ours == theirs, file.read_bytes()


@needs_ssh
@pytest.mark.parametrize(
    "text",
    [
        "Port 22 # the usual one",
        "Port 2222#x",
        "Port=2222",
        "Port = 2222",
        "  Port\t=\t2222  ",
        "Port 2222 3333",
        "Port x",
        "Port 0",
        "Port",
        "Port ssh",
        "User me # not you",
        'User "two words"',
        "User 'two words'",
        "User two words",
        r"User two\ words",
        'User "open',
        "User a#b",
        "HostName real",
        "HostName REAL.Example",
        "HostName %h.example.com",
        "HostName %%x",
        "HostName %p",
        "HostName 127.0.0.1",
        "HostName localhost",
        "HostName fe80::1",
        "HostName a # b",
        "Host n1 # n2\nPort 5",
        "Host n2 # n1\nPort 5",
        "Host n2,n1\nPort 5",
        "Host n2 n1\nPort 5",
        "Host *\nPort 5\nHost n1\nPort 6",
        "Host !n1 *\nPort 5",
        "Host * !n2\nPort 5",
        "Host N1\nPort 5",
        "Host n?\nPort 5",
        "Host n[1]\nPort 5",
        'Host "n1"\nPort 5',
        "Host=n1\nPort=5",
        "Host = n1\nPort 5",
        "Host\nPort 5",
        "IdentityFile none",
        "IdentityFile none\nIdentityFile ~/.ssh/a",
        "IdentityFile ~/.ssh/a\nIdentityFile ~/.ssh/a\nIdentityFile /b",
        "IdentityFile ~/.ssh/id_%r_%h # x\nIdentitiesOnly yes",
        'IdentityFile "/a b/c"',
        "IdentityFile /a=b",
        "IdentityFile=/a=b",
        "IdentitiesOnly yes # x",
        "IdentitiesOnly True",
        "IdentitiesOnly maybe",
        "ProxyCommand none",
        "ProxyCommand nc %h %p",
        "ProxyCommand=nc %h %p",
        "ProxyCommand = nc %h %p",
        "ProxyCommand nc %h %p # x",
        'ProxyCommand sh -c "nc %h %p"',
        "ProxyJump none",
        "ProxyJump none\nProxyCommand x",
        "ProxyCommand none\nProxyJump b",
        "ProxyJump b\nProxyCommand x",
        "ProxyCommand x\nProxyJump b",
        "ProxyJump b # x",
        "ProxyJump=b",
        "ProxyJump b,c",
        "Host n1\nProxyJump none\nHost *\nProxyJump b",
        "HostKeyAlias other",
        "Match all\nPort 5",
        "Match all # x\nPort 5",
        "Match !all\nPort 5",
        "Match host n1\nPort 5",
        "Match host N1\nPort 5",
        "Match host=n1\nPort 5",
        'Match host "n1"\nPort 5',
        "Match host n2,n1\nPort 5",
        "Match host *,!n1\nPort 5",
        "Match !host n1\nPort 5",
        "Match host n1 # x\nPort 5",
        "HostName real\nMatch host real\nPort 5",
        "HostName real\nMatch host n1\nPort 5",
        "HostName real\nMatch originalhost n1\nPort 5",
        f"Match user {ME}\nPort 5",
        f"User x\nMatch user {ME}\nPort 5",
        f"Match localuser {ME}\nPort 5",
        "Match localuser nobody-else\nPort 5",
        'Match exec "true"\nPort 5',
        'Match exec "exit 1"\nPort 5',
        'Match exec "test %h = n1"\nPort 5',
        'Match host n1 exec "test %n-%p = n1-22"\nPort 5',
        'Match !exec "test %h = n1"\nPort 5',
        "Match exec true\nPort 5",
        'Match exec="true"\nPort 5',
        'Match exec "true\nPort 5',
        "Match exec\nPort 5",
        "Match\nPort 5",
        "Match nonsense x\nPort 5",
        "Match final\nPort 5",
        "Match final all\nPort 5",
        "Match final host n1\nPort 5",
        "Match final host real\nPort 5\nHost n1\nHostName real",
        "Match !final host n1\nPort 5",
        "Match canonical\nPort 5",
        "Match canonical\nPort 5\nMatch final\nUser u",
        "Host n1\nHostName REAL\nHost real\nPort 5\nMatch final\nUser u",
        "Match final\nIdentityFile /a\nMatch all\nIdentityFile /b",
        "CanonicalizeHostname yes\nMatch canonical\nPort 5",
        "CanonicalizeHostname yes\nHost n1\nPort 5",
        "CanonicalizeHostname yes\nCanonicalizeFallbackLocal no",
        "CanonicalizeHostname no\nMatch canonical\nPort 5",
        "Port 1\r\nUser u\r\nHostName real\r\n",
        "Host n1\r\n  Port 5\r\n",
        "\ufeffHost n1\n  Port 5\n",
        "\ufeff# x\nPort 5\n",
        "# x\n\n   # y\n\t\nPort 5",
        "PORT 5\nuSER u",
        "ServerAliveInterval 1m\nConnectTimeout none\nStrictHostKeyChecking accept-new",
        "PubkeyAuthentication unbound",
        "HostNmae 10.0.0.5",
        "Host n2\nHostNmae 10.0.0.5",
        "IgnoreUnknown HostN*\nHostNmae x\nPort 5",
        "HostNmae x\nIgnoreUnknown HostN*",
        "IgnoreUnknown foo,BAR\nFoo x\nbar=1\nPort 5",
        "IgnoreUnknown *,!bar\nfoo 1\nbar 2",
        "IgnoreUnknown foo\nIgnoreUnknown bar\nbar 2",
        "Host n2\nIgnoreUnknown foo\nHost *\nfoo 1",
        "IgnoreUnknown foo bar",
        "IgnoreUnknown *\n$$$ x\nPort 5",
        "IgnoreUnknown foo\nfoo",
        'IgnoreUnknown foo\nfoo a"b',
        'ForwardAgent a"b',
        'ProxyCommand a"b',
        "$$$ x",
        "foo",
        "IdentityFile2 /a\nIdentityFile /b",
        "ChallengeResponseAuthentication no\nKbdInteractiveAuthentication yes",
        "SendEnv A B*\nSendEnv -A",
        "SendEnv AB AC* A\nSendEnv -A? D",
        "SendEnv A\nSendEnv -*",
        "SendEnv -A A",
        "SendEnv A B\nMatch final\nSendEnv -B",
        "Host n2\nSendEnv A\nHost n1\nSendEnv B # C",
        "SendEnv A=B",
        'SendEnv A ""',
        "User a\\",
        "User a\\\\",
        "User a\\x\\\\y",
        "User a\\\ty",
        "User a\\\t# x",
        "User a\\# x",
        "User \\a",
        'User a\\x"b c"',
        'User "a\\',
        'User "a\\ b"',
        "User 'a\\'b'",
        "User a\rb",
        "IdentityFile /a\\",
        "Host # n1\nPort 5",
        'Host n1 ""\nPort 5',
        "SendEnv # A\nPort 5",
        "UserKnownHostsFile #\nPort 5",
        "Include #\nPort 5",
        "User # x",
    ],
)
def test_a_file_says_what_openssh_says(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config"
    file.write_bytes(text.encode())
    compare(file, "n1")


@needs_ssh
@pytest.mark.parametrize("host", ["n1", "N1", "127.0.0.1", "::1", "n1.example.com", "localhost"])
def test_the_host_as_it_is_asked_for(tmp_path: Path, host: str) -> None:
    file = tmp_path / "config"
    file.write_text(
        f"Host n1\nPort 5\nHost *.example.com\nPort 6\nMatch host {host}\nUser u\nMatch final\nHostKeyAlias k"
    )
    compare(file, host)


@needs_ssh
@pytest.mark.parametrize(
    "text",
    [
        "Include {d}/*.conf\nPort 9",
        "Include {d}/b.conf {d}/a.conf",
        "Include {d}/absent.conf\nPort 9",
        "Include {d}/none*\nPort 9",
        "Host n2\nInclude {d}/*.conf\nHost n1\nPort 9",
        "Host n1\nInclude {d}/host.conf\nPort 9",
        "Match host n1\nInclude {d}/host.conf\nUser w",
        "Include {d}/self.conf",
        "Include {d}/?.conf # x\nPort 9",
        'Include "{d}/a.conf"',
        "Include={d}/a.conf",
        "Include",
        "Include {d}/bad.conf",
        "Host n2\nInclude {d}/bad.conf",
        "Include {d}/loop.link",
        "Host n2\nInclude {d}/loop.link",
        "Include {d}/l*.link\nPort 9",
        "Include {d}/gone.link\nPort 9",
        "Include {d}/folder\nPort 9",
    ],
)
def test_files_inside_files(tmp_path: Path, text: str) -> None:
    for name, content in {
        "a.conf": "User a\n",
        "b.conf": "User b\nPort 7\n",
        "host.conf": "Host n2\n  Port 1\nHost n1\n  User h\nHost n2\n",
        "self.conf": f"Include {tmp_path}/self.conf\n",
        "bad.conf": 'User "x\n',
    }.items():
        if "*.conf" not in text or name in ("a.conf", "b.conf"):
            (tmp_path / name).write_text(content)
    (tmp_path / "loop.link").symlink_to("loop.link")  # cannot be opened, even by root
    (tmp_path / "gone.link").symlink_to("gone")
    (tmp_path / "folder").mkdir()
    file = tmp_path / "config"
    file.write_text(text.format(d=tmp_path))
    compare(file, "n1")


@needs_ssh
@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_says_what_openssh_says(tmp_path: Path, seed: int) -> None:
    made = random.Random(seed)
    conditions = [
        "Host n1", "Host n2", "Host *", "Host n? !n2", "Host real", "Match host n1", "Match host real", "Match final",
        "Match originalhost n1 host r*", "Match all", "Match user u", "Match !canonical", 'Match exec "test %p = 5"',
    ]  # fmt: skip
    values = [
        "Port 5", "Port=6", "User u # x", 'User "v w"', "HostName real", "HostName %h.x", "IdentityFile /a",
        "IdentityFile none", "IdentityFile=/b", "ProxyJump b", "ProxyJump none", "ProxyCommand none", "ProxyCommand c",
        "IdentitiesOnly yes", "HostKeyAlias k", "# comment", "", "Include {d}/more",
    ]  # fmt: skip

    def text(count: int) -> str:
        rows = [made.choice(conditions) if made.random() < 0.3 else "  " + made.choice(values) for _ in range(count)]
        end = made.choice(["\n", "\r\n", " \n"])
        return "".join(row.format(d=tmp_path) + end for row in rows)

    (tmp_path / "more").write_text(text(4).replace(f"Include {tmp_path}/more", ""))
    file = tmp_path / "config"
    file.write_text(text(made.randint(1, 14)))
    compare(file, "n1")


@needs_ssh
@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize(
    "line",
    [f"{key} {value}" for keys, values in {
        "ConnectTimeout ServerAliveInterval ForwardX11Timeout": "x soon 1m 1h30m -1 none 0 1x 5w 5;6 '' 5|6",
        "ServerAliveCountMax NumberOfPasswordPrompts RequiredRSASize ConnectionAttempts": "x 1 -1 2x 3|4",
        "ConnectionAttempts": "0 00 01",
        "StrictHostKeyChecking UpdateHostKeys VerifyHostKeyDNS": "perhaps ask accept-new YES off true",
        "LogLevel": "LOUD debug1 VERBOSE debug4 INFO|x",
        "ForwardAgent": "yes maybe /x|y /x $SSH 'a|b'",
        "BatchMode CheckHostIP ForwardX11 GatewayPorts HashKnownHosts VisualHostKey StdinNull": "maybe yes FALSE yes|no 1",
        "Ciphers": "nonsense +nonsense -nonsense ^nonsense aes128-ctr +aes128-ctr aes128-ctr,nonsense aes257-ctr aes*",
        "MACs": "nonsense hmac-sha1 hmac-sha2-256-etm@openssh.com hmac-sha2-257 umac-64@openssh.com",
        "KexAlgorithms": "nonsense curve25519-sha256 -nonsense +curve25519-sha265",
        "HostKeyAlgorithms PubkeyAcceptedAlgorithms CASignatureAlgorithms": "nonsense ssh-ed25519 +ssh-rsa -x ssh-ed25520",
        "HostKeyAlgorithms": "ssh-* ssh-rsa-cert-v01@openssh.com ssh-ed25519|ssh-rsa",
        "ControlMaster": "maybe autoask auto", "ControlPersist": "soon yes 10m 0 -1",
        "AddKeysToAgent": "maybe confirm 1h confirm|1h yes|x", "RequestTTY": "maybe auto",
        "Tunnel": "maybe ethernet", "TunnelDevice": "x any:any 0 1:2:3", "IPQoS": "nonsense af21|cs1 0x10 none 5 af14",
        "EscapeChar": "xx none ~ ^[", "FingerprintHash": "x md5 sha256", "SyslogFacility": "x auth LOCAL3",
        "StreamLocalBindMask": "9 0177 777", "LocalForward": "x 8080|localhost:80 8080",
        "RekeyLimit": "x 1 15 1G|1h default|none 1K", "AddressFamily": "inet7 inet6 ANY",
        "CanonicalizeHostname": "x", "SetEnv": "x A=1 A=1|B A=1|B=2 =1",
        "DynamicForward": "1080 [::1]:1080 h:1080 0 x:y:z *:1080 :1080 x /tmp/%h",
        "RemoteForward": "80|a:80 80 a:b [::]:80|x:22 /tmp/s|/tmp/t 0 h:0|a:1",
        "PermitRemoteOpen": "any none a:1 a a:*|b:2 [::1]:22",
        "Port": "+22 022 0 +0 22x",
        "ProxyJump": "me@j:99999 a:0 a:x a, none ssh://a:22/ a@b@c [::1]:22 a:65535 a:65536 :22 @a me@ j1,|j2",
    }.items() for key in keys.split() for value in values.replace("none none", "none").split(" ")
     for value in [value.replace("|", " ")] if not (key == "RequiredRSASize" and value == "1")],
)  # fmt: skip
def test_a_value_is_refused_where_openssh_refuses_it(tmp_path: Path, line: str, active: bool) -> None:
    file = tmp_path / "config"
    file.write_text(f"Host {'n1' if active else 'n2'}\n  {line}\n")
    theirs, ours = by_openssh(file, "n1"), by_us(file, "n1")
    assert (ours is None) == (theirs is None) or (ours is None and line in LATE and not active), line


LATE = ("ConnectionAttempts 0", "ConnectionAttempts 00", "KexAlgorithms nonsense", "KexAlgorithms +curve25519-sha265")
"""What OpenSSH refuses only where it is in use."""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Ciphers aes257-ctr", "'aes257-ctr' in Ciphers is no algorithm of ssh; did you mean aes256-ctr?"),
        ("ServerAliveInterval soon", "'soon' is no value of ServerAliveInterval"),
        ("ForwardAgent /x y", "'y' is too much after ForwardAgent"),
        ("LogLevel # no", "no argument after LogLevel"),
        ("ProxyJump me@jump.invalid:99999", "'me@jump.invalid:99999' is not [USER@]HOST[:PORT], with a port from 1 to"),
        ("Ciphers chacha20-poly2048-siv-v2@example.org", ""),  # of a later OpenSSH, for all that is known
        ("KexAlgorithms mlkem1024x448-sha512", ""),
        ("HostKeyAlgorithms ssh-mldsa44", ""),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "config").write_text(f"Host n1\n  {line}\n")
    found = ""
    try:
        ssh_config.effective("n1", files=[str(tmp_path / "config")])
    except ValueError as error:
        found = str(error)
    assert (said in found) if said else not found
    assert not said or f"{tmp_path / 'config'} line 2: " in found


# --- what becomes of it --------------------------------------------------------------------------------------------------


def options(folder: Path, text: str, host: str = "n1") -> asyncssh.SSHClientConnectionOptions:
    (folder / "config").write_bytes(text.encode())
    hop = Hop(host, config=[str(folder / "config")])
    return hop.options(**keys(hop))


def test_the_login_has_what_the_file_says(tmp_path: Path) -> None:
    found = options(
        tmp_path,
        'HostName %h.example # x\nPort=2222\nUser "a b"\nServerAliveInterval 1m\nMatch final\nProxyCommand = nc %h %p # x',
    )
    assert (found.host, found.port, found.username) == ("n1.example", 2222, "a b")
    assert Hop("n1", config=[str(tmp_path / "config")]).proxy == in_shell("nc n1.example 2222 # x")
    assert found.config.get("ServerAliveInterval") is None  # ours is shorter


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo '%h  %p' 2>/dev/null", "n1  22"),
        ("echo `echo %h`", "n1"),
        ("$HOME/x.sh %h %p # x", "x.sh n1 22"),
        ("~/x.sh %r", f"x.sh {ME}"),
        ('sh -c "echo %h; echo %p"', "n1\n22"),
        ("echo a=b", "a=b"),
    ],
)
def test_a_proxy_command_is_one_of_the_users_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.sh").write_text('#!/bin/sh\necho x.sh "$@"\n')
    (tmp_path / "x.sh").chmod(0o755)
    (tmp_path / "config").write_text(f"User {ME}\nProxyCommand {command}")
    argv = Hop("n1", config=[str(tmp_path / "config")]).proxy
    assert subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout.decode().strip() == said


def test_no_proxy_command_is_none(tmp_path: Path) -> None:
    for text in ("ProxyCommand none\nHost n1\nProxyCommand nc %h", "Host n2\nProxyCommand nc %h", "ProxyJump b"):
        (tmp_path / "config").write_text(text)
        assert Hop("n1", config=[str(tmp_path / "config")]).proxy == []


@pytest.mark.parametrize(
    "name", ["a;b", "$(x)", "`x`", "-oX", "a b", "a\nb", "a|b", "a&b", "a'b", 'a"b', "a\\b", "{a}"]
)
def test_no_name_of_a_host_or_user_reaches_a_shell_as_a_command(tmp_path: Path, name: str) -> None:
    (tmp_path / "config").write_text(f'Match exec "touch {tmp_path}/ran %h"\nProxyCommand nc %h %r\n')
    with pytest.raises(ValueError, match="is no name of a host, for ssh either"):
        ssh_config.effective(name, files=[str(tmp_path / "config")])
    if name not in ("$(x)", "a b", "a\\b"):
        with pytest.raises(ValueError, match="is no name of a user, for ssh either"):
            ssh_config.effective("n1", user=name, files=[str(tmp_path / "config")])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("host", "user"),
    [("fe80::1%eth0", "u"), ("n_1.example-x.org", "a b"), ("::1", "DOMAIN\\me"), ("n1", "me@x.org"), ("ü", "a$")],
)
def test_usual_names_of_hosts_and_users_stay(tmp_path: Path, host: str, user: str) -> None:
    (tmp_path / "config").write_text("Port 5\n")
    found = ssh_config.effective(host, user=user, files=[str(tmp_path / "config")])
    assert (found["hostname"].values, found["user"].values) == ([host], [user])


def test_files_of_known_hosts_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config").write_text('HostName real\nUserKnownHostsFile ~/%n-%h "%d/a b" # x')
    found = Hop("n1", config=[str(tmp_path / "config")]).effective
    assert found["userknownhostsfile"].expanded == [f"{tmp_path}/n1-real", f"{tmp_path}/a b"]


@needs_ssh
@pytest.mark.parametrize("letter", "CLhiklnpru%")
def test_tokens_stand_for_what_they_do_for_openssh(tmp_path: Path, letter: str) -> None:
    file = tmp_path / "config"
    text = f"HostName real\nPort 2222\nUser u\nHostKeyAlias a%b\nProxyCommand false\nIdentityFile /absent/x%{letter}x"
    file.write_text(text)
    command = ["ssh", "-v", "-F", str(file), "n1"]
    said = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60
    ).stderr.decode()
    named = [line.split()[3] for line in said.splitlines() if "identity file " in line]
    found = Hop("n1", config=[str(file)]).options(client_keys=None).config.get("IdentityFile")
    assert isinstance(found, list)
    assert found[0] == named[0]


def test_tokens_that_asyncssh_does_not_have(tmp_path: Path) -> None:
    text = "Host n1\nHostKeyAlias 50%\nProxyJump me@b:22,c@%k.%h\nIdentityFile /k/%k-%j-%%\nIdentityAgent /a/%k-%j\n"
    (tmp_path / "config").write_text(text)
    hop = Hop("n1", config=[str(tmp_path / "config")])
    found = hop.options(**keys(hop))
    assert found.config.get("IdentityFile") == ["/k/50%-%k.%h-%"]
    assert found.agent_path == "/a/50%-%k.%h"
    assert [jump.host for jump in route(hop)] == ["b", "50%.n1", "n1"]
    (tmp_path / "config").write_text("HostKeyAlias 50%\nProxyCommand nc %k %h %n %p %r %%h\nUser u\nHostName real\n")
    assert Hop("n1", config=[str(tmp_path / "config")]).proxy == in_shell("nc 50% real n1 22 u %h")


def test_an_address_with_a_zone_stays(tmp_path: Path) -> None:
    assert options(tmp_path, "User u", "fe80::1%eth0").host == "fe80::1%eth0"


def test_no_keys_are_no_keys(tmp_path: Path) -> None:
    for text in ("IdentityFile none", "IdentityFile /absent/key"):
        assert options(tmp_path, text).client_keys == []
    assert options(tmp_path, "IdentityFile none\nIdentitiesOnly yes").agent_path in ("", None)


def test_a_jump_in_a_final_block_counts(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Match final host n1\n  ProxyJump b # x\n")
    assert [hop.host for hop in route(Hop("n1", config=[str(tmp_path / "config")]))] == ["b", "n1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Port 22 x", "line 1: 'x' is too much after Port"),
        ("\n\nPort x", "line 3: 'x' is not a port"),
        ("\ufeffPort 22", "a byte order mark begins the file"),
        ("\nHostNmae 10.0.0.5", "line 2: 'HostNmae' is not a keyword of ssh_config; did you mean Hostname?"),
        ("Xyzzy 1", "line 1: 'Xyzzy' is not a keyword of ssh_config"),
        ("ProxyCommand nc %u", "line 1: %u stands for nothing"),
        ("ProxyJump %C", "line 1: %C stands for nothing"),
        ("Match exec \"sh -c 'kill -9 $$'\"", "line 1: signal 9 ended the command of Match exec"),
        ('User "x', "line 1: a quote is not closed"),
        ("Match localnetwork 10.0.0.1/8", "line 1: 10.0.0.1/8 has host bits set (Match localnetwork)"),
        ("Match version OpenSSH_10*", "the condition 'version' of Match is not known here"),
        ("IdentityFile ~/%x", "line 1: %x stands for nothing"),
        ("User a\nAddressFamily inet9", "line 2: 'inet9' is no value of AddressFamily"),
        ("CanonicalizeHostname yes\nCanonicalizePermittedCNAMEs *:*", "CanonicalizePermittedCNAMEs is not known here"),
    ],
)
def test_a_line_that_is_not_understood_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match="config line ") as caught:
        options(tmp_path, text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "config"))


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("localnetwork 127.0.0.0/8", True),
        ("localnetwork 203.0.113.0/24,127.0.0.1", True),
        ("localnetwork 203.0.113.0/24,2001:db8::/32", False),
        ("!localnetwork 127.0.0.0/8", False),
        ("!localnetwork 203.0.113.0/24 host n1", True),
        ('command "git-*"', False),
        ('!command "git-*"', True),
        ("sessiontype exec", True),
        ("sessiontype shell,subsystem", False),
    ],
)
def test_conditions_of_later_versions(tmp_path: Path, condition: str, holds: bool) -> None:
    (tmp_path / "config").write_text(f"Match {condition}\n  Port 5\n")
    assert ("port" in ssh_config.effective("n1", files=[str(tmp_path / "config")])) == holds


def test_include_has_variables_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE", "west")
    for name, text in {"west": "Port 5", "n1": "User u", "50%": "HostKeyAlias a", "${NONE}": "HostName h"}.items():
        (tmp_path / f"{name}.conf").write_text(f"{text}\n")
    names = ("${SITE}", "%h", "50%", "${NONE}")
    (tmp_path / "config").write_text("".join(f"Include {tmp_path}/{name}.conf\n" for name in names))
    found = ssh_config.effective("n1", files=[str(tmp_path / "config")])
    shown = {key: option.values for key, option in found.items()}
    assert shown == {"port": ["5"], "user": ["u"], "hostkeyalias": ["a"], "hostname": ["h"]}


def test_the_usual_files_are_the_users_and_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Include more\nPort 5\n")
    (tmp_path / ".ssh" / "more").write_text("User u\n")
    (tmp_path / "system").write_text("Port 6\nProxyJump b\nSendEnv LANG\nInclude local\n")
    (tmp_path / "local").write_text("HostKeyAlias k\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ssh_config, "SYSTEM_FILE", tmp_path / "system")
    found = {key: option.values for key, option in ssh_config.effective("n1").items()}
    assert found == {"hostname": ["n1"], "user": ["u"], "port": ["5"], "proxyjump": ["b"], "hostkeyalias": ["k"]}
    (tmp_path / ".ssh" / "more").chmod(0o666)
    with pytest.raises(ValueError, match="bad owner or permissions"):
        ssh_config.effective("n1")
    (tmp_path / ".ssh" / "config").unlink()
    assert ssh_config.effective("n1")["port"].values == ["6"]


def test_files_of_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    made = random.Random(7)
    for _ in range(300):
        data = bytes(made.choices(b"\x00\xff\n\r\t \"'=#%!*Host Match exec Port\\", k=made.randint(0, 60)))
        (tmp_path / "config").write_bytes(data.replace(b"exec", b""))
        with contextlib.suppress(ValueError):
            ssh_config.lines(ssh_config.effective("n1", files=[str(tmp_path / "config")]))
    (tmp_path / "config").write_bytes(b"# x\n" * 400_000)
    with pytest.raises(ValueError, match="more than"):
        ssh_config.effective("n1", files=[str(tmp_path / "config")])


def test_usual_files_that_cannot_be_opened_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ssh").mkdir()
    user, system = tmp_path / ".ssh" / "config", tmp_path / "system"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ssh_config, "SYSTEM_FILE", system)
    for unreadable in (user, system):
        unreadable.symlink_to(unreadable.name)  # to itself: root cannot open it, either
    assert list(ssh_config.effective("n1")) == ["hostname"]
    user.unlink()
    user.write_text("Port 5\nInclude loop\n")
    (tmp_path / ".ssh" / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"config line 2: .*loop cannot be read"):
        ssh_config.effective("n1")
    with pytest.raises(OSError, match="system"):
        ssh_config.effective("n1", files=[str(system)])


@needs_ssh
def test_openssh_has_the_keywords_that_we_know_of_its_age(tmp_path: Path) -> None:
    """A misspelt name in our list would be refused by it."""
    file = tmp_path / "config"
    file.write_text("".join(f"{name} x\n" for name in KNOWN if name not in ("include", "match", "host")))
    done = subprocess.run(
        ["ssh", "-F", str(file), "-G", "n1"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60
    )
    refused = {
        line.rpartition(" ")[2].strip() for line in done.stderr.decode().splitlines() if "configuration option:" in line
    }
    assert refused <= {
        "channeltimeout", "gssapiclientidentity", "gssapikexalgorithms", "gssapikeyexchange", "gssapirenewalforcesrekey",
        "gssapiserveridentity", "gssapitrustdns", "logverbose", "obscurekeystroketiming", "protocolkeepalives",
        "refuseconnection", "rsaminsize", "setuptimeout", "tag", "useblacklistedkeys", "usekeychain", "versionaddendum",
        "warnweakcrypto",
    }  # fmt: skip
