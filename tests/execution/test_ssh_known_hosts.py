"""Which host keys are trusted: what OpenSSH's own client would find in the same files. Nothing is connected."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest

from swarmtune.execution.executors import ssh_known_hosts
from swarmtune.execution.executors.ssh_known_hosts import COMMAND, KnownHosts, ask, known_hosts
from swarmtune.execution.executors.ssh_route import Hop, keys

KEY = asyncssh.generate_private_key("ssh-ed25519")
LINE = f"n1 {KEY.export_public_key().decode().strip()}\n"
REAL_SYSTEM = "globalknownhostsfile"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With no known hosts, neither of the user nor of the machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    usual = {**ssh_known_hosts.USUAL, REAL_SYSTEM: (f"{tmp_path}/system", f"{tmp_path}/system2")}
    monkeypatch.setattr(ssh_known_hosts, "USUAL", usual)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def known(folder: Path, text: str = "") -> KnownHosts:
    (folder / "config").write_text(text)
    return known_hosts(Hop("n1", config=[str(folder / "config")]).effective)


def trusts(found: KnownHosts) -> bool:
    assert bool(found.all().match("n1", "", None)[0]) == bool(found.accepted("n1", "", 22))
    return bool(found.accepted("n1", "", 22))


@pytest.mark.parametrize("name", [".ssh/known_hosts", ".ssh/known_hosts2", "system", "system2"])
def test_all_the_usual_files_count(home: Path, name: str) -> None:
    assert not trusts(known(home))
    (home / name).write_text(LINE)
    assert trusts(known(home))
    assert list(known(home).lines) == [str(home / name)]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("UserKnownHostsFile {h}/absent {h}/mine", True),
        ("UserKnownHostsFile {h}/mine {h}/absent", True),
        ("UserKnownHostsFile {h}/mine\nGlobalKnownHostsFile {h}/absent", True),
        ("UserKnownHostsFile {h}/absent\nGlobalKnownHostsFile {h}/mine", True),
        ("UserKnownHostsFile {h} {h}/mine", True),  # a folder
        ("UserKnownHostsFile none\nGlobalKnownHostsFile {h}/mine", True),
        ("UserKnownHostsFile {h}/absent", False),
        ("UserKnownHostsFile {h}/absent\nGlobalKnownHostsFile none", False),
    ],
)
def test_files_that_are_absent_are_passed_over(home: Path, text: str, right: bool) -> None:
    (home / "mine").write_text(LINE)
    found = known(home, text.format(h=home))
    assert trusts(found) == right
    assert right or "absent" in str(found) or "system" in str(found)


def test_with_no_file_at_all_nothing_is_trusted(home: Path) -> None:
    for more in ("", "\nGlobalKnownHostsFile none", "\nGlobalKnownHostsFile /absent"):
        with pytest.raises(ValueError, match="UserKnownHostsFile none leaves nothing to check host keys with"):
            known(home, f"UserKnownHostsFile none{more}")
    with pytest.raises(FileNotFoundError):
        known_hosts({}, home / "absent")  # our own argument names it


@pytest.mark.parametrize(
    "bad",
    ["|1|bad", "|1|a|b|c", "n1", "@odd n1 ssh-ed25519 AAAA", "@revoked n1", "n1 ssh-ed25519 AA!", "\x00\xff", "!"],
)
def test_a_malformed_line_is_passed_over(home: Path, bad: str) -> None:
    for text in (f"{bad} x y\n{LINE}", f"{LINE}{bad}\n", f"{bad}\r\n{LINE}"):
        (home / ".ssh" / "known_hosts").write_text(text, encoding="latin-1")
        assert trusts(known(home)), text


def test_a_key_that_is_revoked_in_any_file_is_not_accepted(home: Path) -> None:
    (home / ".ssh" / "known_hosts").write_text(LINE)
    (home / "system").write_text("@revoked * " + LINE.partition(" ")[2])
    assert known(home).all().match("n1", "", None)[2] == [KEY.convert_to_public()]


# --- KnownHostsCommand ---------------------------------------------------------------------------------------------------


def script(folder: Path, text: str) -> Path:
    path = folder / "a b.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_command_tells_known_hosts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAVOUR", "x y")
    path = script(home, f"printf '%s|' \"$@\" >> {home}/seen; cat {home}/line")
    (home / "line").write_text(LINE)
    text = f'Port 2222\nKnownHostsCommand "{path}" %n %H %I %t "%K %f" ${{FLAVOUR}} \'$(x)\' #%p %%'
    found = known(home, text)
    assert trusts(found)
    assert list(found.lines) == [COMMAND]
    assert (home / "seen").read_text() == "n1|[n1]:2222|ORDER|NONE|NONE NONE|x y|$(x)|#2222|%|"
    (home / "seen").unlink()
    options = Hop("n1", config=[str(home / "config")]).effective
    assert ask(found, options, KEY.convert_to_public())
    _, data, *_ = LINE.partition(" ")[2].split()
    expected = f"n1|[n1]:2222|HOSTNAME|ssh-ed25519|{data} {KEY.get_fingerprint()}|x y|$(x)|#2222|%|"
    assert (home / "seen").read_text() == expected


@pytest.mark.parametrize(("alias", "place"), [("", "real"), ("HostKeyAlias k", "k"), ("HostKeyAlias k\nPort 5", "k")])
def test_the_command_is_asked_for_the_name_in_known_hosts(home: Path, alias: str, place: str) -> None:
    (home / "config").write_text(f"HostName real\nKnownHostsCommand /x %H\n{alias}")
    assert Hop("n1", config=[str(home / "config")]).effective["knownhostscommand"].tokens["H"] == place


def test_a_command_holds_where_there_is_no_file(home: Path) -> None:
    path = script(home, f"echo '{LINE.strip()}'")
    path = path.rename(home / "c.sh")
    assert trusts(known(home, f"UserKnownHostsFile none\nGlobalKnownHostsFile none\nKnownHostsCommand {path}"))
    assert not trusts(known(home, "KnownHostsCommand none"))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/bin/false %H", "config line 1: KnownHostsCommand ended with code 1; try it by hand: /bin/false n1"),
        ("/no/such/program", "config line 1: KnownHostsCommand does not run: .*No such file"),
        ("/bin/cat %x", "config line 1: %x stands for nothing"),
        ("/bin/sleep 60", "config line 1: KnownHostsCommand did not end within 0 s"),
    ],
)
def test_a_command_that_fails_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str) -> None:
    monkeypatch.setattr(ssh_known_hosts, "COMMAND_S", 0.3 if "sleep" in command else 10.0)
    with pytest.raises(ValueError, match=said):
        known(home, f"KnownHostsCommand {command}")


def test_a_command_without_its_whole_path_is_not_run_as_ssh_has_it(home: Path) -> None:
    (home / ".ssh" / "known_hosts").write_text(LINE)
    found = known(home, "KnownHostsCommand echo x")
    assert trusts(found)
    assert "'echo' is not run, since it is no absolute path" in str(found)


# --- certificates --------------------------------------------------------------------------------------------------------


def test_a_certificate_that_is_absent_or_none_is_passed_over(home: Path) -> None:
    KEY.write_private_key(home / ".ssh" / "id_ed25519")
    KEY.generate_user_certificate(KEY, "me").write_certificate(home / "good-cert.pub")
    (home / "broken").write_text("no certificate")
    (home / "config").write_text(f"CertificateFile {home}/absent\nCertificateFile {home}/broken\n")
    hop = Hop("n1", config=[str(home / "config")])
    assert keys(hop) == {"client_certs": []}
    assert len(hop.options(**keys(hop)).client_keys or ()) == 1
    (home / "config").write_text(f"CertificateFile ~/good-cert.pub\nCertificateFile {home}/absent\n")
    hop = Hop("n1", config=[str(home / "config")])
    assert keys(hop) == {"client_certs": [f"{home}/good-cert.pub"]}
    assert len(hop.options(**keys(hop)).client_keys or ()) == 2  # with it, and without
