"""Hosts as people write them, and what they are told when they write them wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.execution.hostfile import Host, expand, parse_hostfile, parse_hosts, parse_node_string

GOOD = """
# two racks
node0                    # a comment behind it
node1 slots=4
me@node2:2222 slots=0 max_slots=9
10.0.0.[7-8]
[fe80::0001]:2200
user.name@[::1]
rack[1-2]n[08-10,12]
"""


def test_every_way_to_write_a_host() -> None:
    hosts, mistakes = parse_hostfile(GOOD)
    assert mistakes == []
    assert hosts[:7] == [
        Host("node0"),
        Host("node1", slots=4),
        Host("node2", 2222, "me", slots=0),
        Host("10.0.0.7"),
        Host("10.0.0.8"),
        Host("fe80::1", 2200),
        Host("::1", username="user.name"),
    ]
    assert [h.name for h in hosts[7:]] == [f"rack{r}n{n}" for r in (1, 2) for n in ("08", "09", "10", "12")]


BAD = """node1
node1
node2:99999
node3:8
::1
node[7-0]
node[1-
-node
node4 slot=8
node5 slots=many
300.1.2.3
nóde
@node6
node7:22 8
node8,,node9 slots=-1
[12:zz]
a b=1 c
"""


def test_all_mistakes_are_named_with_their_lines() -> None:
    _, mistakes = parse_hostfile(BAD, "hosts.txt")
    lines = {int(m.removeprefix("hosts.txt, line ").partition(":")[0]) for m in mistakes}
    assert lines == set(range(2, 18))
    text = "\n".join(mistakes)
    for part in (
        "line 2: node1 is given twice, first in line 1",
        "line 3: 'node2:99999': '99999' is not a port",
        "write: node3 slots=8; a colon means an SSH port",
        "write an IPv6 address in brackets: [::1]",
        "line 6: 'node[7-0]': the range 7-0 goes backwards",
        "line 7: 'node[1-': '[' without ']'",
        "did you mean slots=N?",
        "line 12: 'nóde' is not a host name",
        "line 15: a host is missing",
        "line 15: 'slots=-1': give a whole number",
        "[12:zz] is not an IPv6 address",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("n1 slots=8 slots=4", "line 1: 'slots=4': slots is given twice; write it once"),
        ("n1 slots=8 slots=8", "line 1: 'slots=8': slots is given twice; write it once"),
        ("n1 max_slots=8 slots=4 max_slots=9", "line 1: 'max_slots=9': max_slots is given twice; write it once"),
        ("root@ slots=8", "line 1: 'root@' names no host; write USER@HOST"),
        ("root@", "line 1: 'root@' names no host; write USER@HOST"),
        ("n1,me@", "line 1: 'me@' names no host; write USER@HOST"),
    ],
)
def test_an_option_twice_and_a_user_without_a_host_are_named(line: str, said: str) -> None:
    _, mistakes = parse_hostfile(line, "h")
    assert mistakes == [f"h, {said}"]


@pytest.mark.parametrize(
    "line",
    [
        *(
            "n1 ansible_ssh_pass=hunter2secret",
            "n1 ansible_become_password='hunter2 secret' slots=8",
            "n1 API_KEY=hunter2==",
        ),
        *(
            "ansible_ssh_pass=hunter2secret",
            "ansible_password: hunter2secret",
            "db_password:hunter2",
            "token = hunter2 x",
        ),
        *("n1 --password hunter2", "n1 password hunter2", 'n1 secret="hunter2 secret', f"n1 SSHPASS={'hunter2' * 20}"),
        *(
            "me:hunter2@n1",
            "ssh://me:hunter2@n1",
            "me:hunt@er2@n1",
            "n0,me:x,hunter2@n1 slots=8",
            "n1 a=1 x_token:hunter2",
        ),
    ],
)
def test_no_mistake_shows_a_secret(line: str) -> None:
    _, mistakes = parse_hostfile(line, "h")
    assert mistakes
    assert "***" in "".join(mistakes)
    assert not any(part in "".join(mistakes) for part in ("hunt", "er2", "secret'"))


def test_a_secret_is_hidden_wherever_it_stands() -> None:
    _, mistakes = parse_hostfile("n1 hunter2x\nn2 db_pass='hunter2x'\nhunter2x!\n")
    assert len(mistakes) == 3
    assert "hunter" not in "".join(mistakes)


@pytest.mark.parametrize(
    ("line", "hosts"),
    [
        ("key1 slots=8", [Host("key1", slots=8)]),
        ("token-a:2222,key-[1-2]", [Host("token-a", 2222), Host("key-1"), Host("key-2")]),
        ("n1:2222,me@n2", [Host("n1", 2222), Host("n2", username="me")]),
        ("me@secret.lan:2222 slots=2", [Host("secret.lan", 2222, "me", 2)]),
        ("[fe80::1]:2222,me@[::1]", [Host("fe80::1", 2222), Host("::1", username="me")]),
    ],
)
def test_hosts_that_are_called_like_secrets(line: str, hosts: list[Host]) -> None:
    assert parse_hostfile(line) == (hosts, [])


@pytest.mark.parametrize("number", [1, 8, 16, 21, 32, 64, 128, 512])
def test_a_number_behind_a_colon_that_may_be_devices_is_asked_about(number: int) -> None:
    """Intel MPI and MPICH write processes there."""
    hosts, mistakes = parse_hostfile(f"n1:{number}\n")
    assert hosts == []
    assert f"is {number} a number of devices? write: n1 slots={number}" in mistakes[0]


@pytest.mark.parametrize("port", [22, 222, 1022, 2222, 65535])
def test_a_number_behind_a_colon_that_is_no_number_of_devices_is_a_port(port: int) -> None:
    assert parse_hostfile(f"n1:{port}\n") == ([Host("n1", port)], [])


@pytest.mark.parametrize("text", ["", "\n\n# nothing\n"])
def test_an_empty_hostfile_is_a_mistake(text: str) -> None:
    assert parse_hostfile(text, "h") == ([], ["h: no host in it; write one a line, like: node1 slots=8"])


def test_a_thousand_nodes() -> None:
    hosts, mistakes = parse_hostfile("\n".join(f"node{n} slots=8" for n in range(1000)))
    assert (len(hosts), mistakes) == (1000, [])
    assert parse_hostfile("node[000-999] slots=8")[0][-1] == Host("node999", slots=8)


@pytest.mark.parametrize("pattern", ["n[0-99999999]", "n[0-99][0-99][0-99]", "n[0-9999][0-9]", "n[0-999999999/1]"])
def test_a_set_cannot_explode(pattern: str) -> None:
    hosts, mistakes = parse_hosts(pattern)
    assert hosts == []
    assert "at most 10000" in mistakes[0]


def test_steps_and_padding() -> None:
    assert expand("n[0-8/4]") == ["n0", "n4", "n8"]
    assert expand("n[008-010]") == ["n008", "n009", "n010"]
    assert expand("plain") == ["plain"]


def names(groups: list[list[Host]]) -> list[list[str]]:
    return [[str(host) for host in group] for group in groups]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n0,n1:n2,n3", [["n0", "n1"], ["n2", "n3"]]),
        (" n0 , n1 : n2 ", [["n0", "n1"], ["n2"]]),
        ("n0:2222,n1:n2:2223", [["n0:2222", "n1"], ["n2:2223"]]),
        ("n[0-1,4]:n[2-3]", [["n0", "n1", "n4"], ["n2", "n3"]]),
        ("[::1],[::2]:[::3]:2222", [["::1", "::2"], ["::3:2222"]]),
        ("10.0.0.1:10.0.0.2", [["10.0.0.1"], ["10.0.0.2"]]),
        ("n0", [["n0"]]),
    ],
)
def test_node_strings(text: str, expected: list[list[str]]) -> None:
    groups, mistakes = parse_node_string(text)
    assert (names(groups), mistakes) == (expected, [])


def test_all_mistakes_of_a_node_string() -> None:
    _, mistakes = parse_node_string("n0,n0::n1,n2:n1,b%d")
    assert mistakes == [
        "node string, group 1: n0 is given twice, first in group 1; name each host once",
        "node string, group 2: a host is missing; write names with one comma or colon between them",
        "node string, group 4: 'b%d' is not a host name; use letters, digits, '.', '-' and '_'",
        "node string, group 4: n1 is given twice, first in group 3; name each host once",
    ]


@given(st.text(max_size=60))
def test_any_text_gives_hosts_or_mistakes(text: str) -> None:
    hosts, mistakes = parse_hostfile(text)
    assert bool(hosts) or bool(mistakes)
    groups, wrong = parse_node_string(text)
    assert any(groups) or bool(wrong)
    assert all(host.name.isascii() and 1 <= host.port <= 65535 for group in [hosts, *groups] for host in group)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[::1", "'[::1' is no IPv6 address in brackets; write it like [fe80::1]"),
        ("fe80::1]:22", "is no IPv6 address in brackets"),
        ("n[1-99999999999]", "a number in '1-99999999999' is too long; at most 9 digits"),
        ("n[1-99999]", "the range 1-99999 is too long"),
        ("user@@h", "'user@@h' has several '@'; write USER@HOST"),
    ],
)
def test_a_mistake_names_what_is_wrong(text: str, words: str) -> None:
    hosts, (mistake,) = parse_hosts(text)
    assert hosts == []
    assert words in mistake


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("fe80::1", "fe80::1 is an IPv6 address; write it in brackets: [fe80::1]"),
        ("n1,::1", "::1 is an IPv6 address; write it in brackets: [::1]"),
        ("n[0-8/0]", "the range 0-8/0 has no steps"),
        ("a[1-9999],b[1-9999]", "names more than 10000 hosts"),
        ("a[1-9999]:b[1-9999]", "more than 10000 hosts are too many"),
        (",".join(f"a{i}[1-9999]" for i in range(9999)), "names more than 10000 hosts"),
    ],
)
def test_node_strings_that_are_none(nodes: str, said: str) -> None:
    groups, (mistake,) = parse_node_string(nodes)
    assert said in mistake
    assert sum(map(len, groups)) <= 10_000


def test_a_hostfile_of_too_many_hosts_is_read_no_further() -> None:
    hosts, mistakes = parse_hostfile("\n".join(f"a{i}[1-9999]" for i in range(9999)))
    assert mistakes == ["hostfile: more than 10000 hosts are too many"]
    assert len(hosts) < 20_000
