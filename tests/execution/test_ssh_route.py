"""Jump hosts and keys as OpenSSH reads them from a configuration. Nothing is connected."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import asyncssh
import pytest

from swarmtune.errors import CommunicationError
from swarmtune.execution.executors.ssh_login import SshTarget, config_mistake, login
from swarmtune.execution.executors.ssh_route import Hop, keys, route


def written(folder: Path, text: str) -> list[str]:
    (folder / "config").write_text(text)
    return [str(folder / "config")]


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("Host *\n  User u", ["n1"]),
        ("Host n1\n  ProxyJump none\nHost *\n  ProxyJump b", ["n1"]),
        ("Host n1\n  ProxyJump b", ["b", "n1"]),
        ("Host n1\n  ProxyJump me@b:2222,[fe80::1]:22,ssh://c/", ["b:2222 me", "fe80::1:22", "c", "n1"]),
        ("Host n1\n  ProxyJump b\nHost b\n  ProxyJump a", ["a", "b", "n1"]),
        ("Host n1\n  ProxyJump b,c\nHost b\n  ProxyJump a\nHost c\n  ProxyJump x", ["a", "b", "c", "n1"]),
        ("Host n*\n  ProxyJump b", ["b", "n1"]),
    ],
)
def test_the_way_is_that_of_openssh(tmp_path: Path, text: str, way: list[str]) -> None:
    hops = route(Hop("n1", config=written(tmp_path, text)))
    shown = [h.host + (f":{h.port}" if h.port else "") + (f" {h.username}" if h.username else "") for h in hops]
    assert shown == way


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("Host *\n  ProxyJump n1", "n1 through n1"),
        ("Host *\n  ProxyJump b", "n1 through b through b"),
        ("Host n1\n  ProxyJump b\nHost b\n  ProxyJump N1", "n1 through b through N1"),
        ("Host n1\n  ProxyJump a\nHost a\n  ProxyJump b\nHost b\n  ProxyJump c,a", "n1 through a through b through a"),
    ],
)
def test_a_circle_is_a_mistake(tmp_path: Path, text: str, circle: str) -> None:
    with pytest.raises(ValueError, match="go in a circle") as caught:
        route(Hop("n1", config=written(tmp_path, text)))
    assert str(caught.value).endswith(f"(ProxyJump): {circle}")


@pytest.mark.parametrize("jump", ["b:x", "@", ":22", "b,,c"])
def test_a_jump_that_is_none_is_named(tmp_path: Path, jump: str) -> None:
    with pytest.raises(ValueError, match="ProxyJump"):
        route(Hop("n1", config=written(tmp_path, f"Host n1\n  ProxyJump {jump}")))


def test_keys_are_those_that_are_there(tmp_path: Path) -> None:
    plain, locked = (asyncssh.generate_private_key("ecdsa-sha2-nistp256") for _ in range(2))
    plain.write_private_key(tmp_path / "plain")
    plain.write_public_key(tmp_path / "plain.pub")
    locked.write_private_key(tmp_path / "locked", "pkcs8-pem", passphrase="secret")
    locked.write_public_key(tmp_path / "only.pub")
    (tmp_path / "broken").write_text("no key")
    (tmp_path / "folder").mkdir()
    names = ("absent", "broken", "folder", "locked", "plain", "only.pub", "only")
    lines = "\n".join(f"IdentityFile {tmp_path}/{name}" for name in names)
    hop = Hop("n1", config=written(tmp_path, lines))
    found = keys(hop)
    assert found == {"client_keys": [f"{tmp_path}/locked", f"{tmp_path}/plain"], "ignore_encrypted": True}
    assert hop.options(**found).client_keys
    only = keys(Hop("n1", config=written(tmp_path, f"IdentitiesOnly yes\n{lines}")))
    assert only["agent_identities"] == [f"{tmp_path}/plain.pub", f"{tmp_path}/only.pub", f"{tmp_path}/only.pub"]
    assert keys(Hop("n1", config=written(tmp_path, "User u"))) == {}


async def test_a_login_reads_the_files_once_for_each_hop_and_lets_others_run(tmp_path: Path) -> None:
    """The command of Match exec waits for a line that this event loop writes."""
    os.mkfifo(tmp_path / "line")
    counted, line = tmp_path / "counted", os.open(tmp_path / "line", os.O_RDWR)

    async def write() -> None:
        os.write(line, b"x\n" * 9)

    with socket.socket() as silent, contextlib.closing(os.fdopen(line, "wb")):
        silent.bind(("127.0.0.1", 0))  # nobody listens: the login fails
        (tmp_path / "config").write_text(
            f"Match exec \"sh -c 'read x < {tmp_path}/line; echo %n >> {counted}'\"\n"
            f"  Port {silent.getsockname()[1]}\nHost n1\n  ProxyJump b\nHost *\n  HostName 127.0.0.1\n"
        )
        target = SshTarget("n1", config=tmp_path / "config")
        failure, _ = await asyncio.gather(login(target), write(), return_exceptions=True)
    assert isinstance(failure, CommunicationError)
    assert "n1 is reached through b (ProxyJump): no connection to b" in str(failure)
    assert counted.read_text().split() == ["n1", "b"]


@pytest.mark.parametrize("name", ["nohost9.invalid", "%h.invalid"])
async def test_a_host_name_that_does_not_resolve_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    (config,) = written(tmp_path, f"Host n1\n  HostName {name}\n")
    with pytest.raises(CommunicationError) as caught:
        await login(SshTarget("n1", config=Path(config)))
    real = name.replace("%h", "n1")
    assert str(caught.value).startswith(f"there is no host '{real}' (")
    assert f"which {config} line 2 means by n1; correct that line" in str(caught.value)


def test_mistakes_of_the_configuration_are_found_without_a_connection(tmp_path: Path) -> None:
    good = written(tmp_path, "Host n1\n  ProxyJump b\nHost b\n  Port 7\n")
    assert config_mistake(SshTarget("n1", config=Path(*good))) == ""
    (bad,) = written(tmp_path, "Host n1\n  ProxyJump b\nHost b\n  ServerAliveInterval soon\n")
    assert config_mistake(SshTarget("n1", config=Path(bad))).startswith(f"{bad} line 4: 'soon' is no")
    later = written(
        tmp_path, "Match exec \"sh -c 'kill -9 $$'\"\n  Port 7\n"
    )  # what a command says is not known for good
    assert config_mistake(SshTarget("n1", config=Path(*later))) == ""
