"""Groups from hostfiles, node strings and tables."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from swarmtune.cluster import NodeConfig, ParallelConfig, ServiceGroupConfig
from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.records import Group, Node


def hostfile(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def table(group_id: str, *hosts: str, devices: tuple[int, ...] = (0, 1), **more: object) -> dict[str, object]:
    return {"group_id": group_id, "nodes": [{"host": h, "npu_ids": devices} for h in hosts], **more}


def config(**keys: object) -> ParallelConfig:
    return ParallelConfig.model_validate(keys)


def test_the_defaults_are_those_of_the_older_tool() -> None:
    node = NodeConfig(host="n0")
    assert (node.ssh_port, node.npu_ids, node.work_dir, node.username) == (22, tuple(range(8)), "~/.swarmtune", None)
    group = ServiceGroupConfig(group_id="g", nodes=(node,))
    assert (group.master_node_index, group.start_script, group.health_check_timeout) == (0, "./start_service.sh", 300)
    parallel = ParallelConfig()
    assert (parallel.enabled, parallel.evaluation_timeout, parallel.retry_count, parallel.retry_delay) == (
        False,
        600,
        2,
        10,
    )


def test_what_is_built_in_code_as_for_the_older_extension() -> None:
    node = NodeConfig("n0", 2222, [0, 1], "/tmp/modelevalstate", "me")
    assert node == NodeConfig(host="n0", ssh_port=2222, npu_ids=(0, 1), work_dir="/tmp/modelevalstate", username="me")
    assert NodeConfig("n1", npu_ids=[3]).npu_ids == (3,)
    group = ServiceGroupConfig(0, [node], 0, "./start.sh", None, "/tmp/config.json", "http://{host}:8000/health", 60)
    assert (group.group_id, group.nodes, group.start_script, group.start) == ("0", (node,), "./start.sh", "master")
    assert (group.config_path, group.health_url) == ("/tmp/config.json", "http://n0:8000/health")
    assert group.health_check_timeout == 60
    parallel = ParallelConfig(True, [group], 900, 1, 5, work_dir="/data")
    assert parallel == ParallelConfig(
        enabled=True, service_groups=(group,), evaluation_timeout=900, retry_count=1, retry_delay=5, work_dir="/data"
    )
    assert [g.url for g in parallel.groups()] == ["http://n0:8000"]


def test_values_without_names_may_be_wrong_too() -> None:
    with pytest.raises(TypeError, match="give each once, the others by name"):
        NodeConfig("n0", host="n1")
    with pytest.raises(TypeError, match=r"NodeConfig\(host, ssh_port, npu_ids, work_dir, username\)"):
        NodeConfig("n0", 22, [0], "/tmp", "me", "more")
    with pytest.raises(ValidationError, match="ssh_port"):
        NodeConfig("n0", 0)


def test_a_start_script_runs_on_the_master_unless_the_table_or_the_group_says_otherwise() -> None:
    groups = [table("a", "h1"), table("b", "h2", start="every_node")]
    assert [g.start for g in config(service_groups=groups).resolved().service_groups] == ["master", "every_node"]
    everywhere = config(start="every_node", service_groups=[table("a", "h1"), table("b", "h2", start="master")])
    assert [g.start for g in everywhere.resolved().service_groups] == ["every_node", "master"]


def test_eight_servers_make_four_groups_of_sixteen_devices(tmp_path: Path) -> None:
    parallel = ParallelConfig.from_hostfile(hostfile(tmp_path, "server[1-8]"), nodes_per_group=2)
    groups = parallel.groups()
    assert [[n.host for n in g.nodes] for g in groups] == [[f"server{i}", f"server{i + 1}"] for i in (1, 3, 5, 7)]
    assert {g.accelerators for g in groups} == {16}
    assert parallel.enabled
    assert parallel.notices == ()
    assert groups == parallel.resolved().groups()


def test_leftover_hosts_are_named_and_groups_may_differ(tmp_path: Path) -> None:
    text = "a slots=2\nme@b:2222 slots=4\nc\nd\ne slots=1\n"
    parallel = ParallelConfig.from_hostfile(hostfile(tmp_path, text), npus_per_node=3, username="you", port=9000)
    assert parallel.notices == ("not used, because groups have 2 nodes: e",)
    assert parallel.groups() == (
        Group("group0", (Node("a", (0, 1)), Node("b", (0, 1, 2, 3))), 9000),
        Group("group1", (Node("c", (0, 1, 2)), Node("d", (0, 1, 2))), 9000),
    )
    a, b = parallel.service_groups[0].nodes
    assert (a.username, b.username, b.ssh_port) == ("you", "me", 2222)


def test_node_strings_say_the_groups_or_let_them_be_cut() -> None:
    written = ParallelConfig.from_node_string("n0,n1,n2:n3", npus_per_node=0)
    assert [len(g.nodes) for g in written.groups()] == [3, 1]
    assert written.groups()[0].nodes[0].devices == ()
    cut = ParallelConfig.from_node_string("n[0-4]")
    assert [len(g.nodes) for g in cut.groups()] == [2, 2]
    assert "n4" in cut.notices[0]
    single = ParallelConfig.from_node_string("n[0-4]", mode="single_node")
    assert [len(g.nodes) for g in single.groups()] == [1] * 5


def test_the_master_comes_first_and_ports_of_one_host_differ() -> None:
    parallel = config(
        service_groups=[
            table("a", "h1", "h2", master_node_index=1),
            table("b", "h2", devices=(2, 3)),
            table("c", "h2", devices=(4,), port=8001),
            table("d", "h3"),
        ]
    )
    groups = parallel.groups()
    assert [(g.master, g.port) for g in groups] == [("h2", 8003), ("h2", 8005), ("h2", 8001), ("h3", 8000)]
    assert [n.host for n in groups[0].nodes] == ["h2", "h1"]


def test_groups_take_what_they_do_not_say_from_the_table() -> None:
    parallel = config(
        start_script="/opt/start",
        health_check_timeout=7,
        service_groups=[table("a", "h1", health_check_url="/v1/ready"), table("b", "::1", start_script="/opt/other")],
    ).resolved()
    a, b = parallel.service_groups
    assert (a.start_script, a.health_check_timeout, a.health_url) == ("/opt/start", 7, "http://h1:8000/v1/ready")
    assert (b.start_script, b.health_url) == ("/opt/other", "http://[::1]:8000/health")
    url = b.model_copy(update={"health_check_url": "https://{host}:{port}/x{y}"})
    assert url.health_url == "https://[::1]:8000/x{y}"


@pytest.mark.parametrize(
    ("url", "port", "asked"),
    [
        ("http://localhost:1025/health", 1025, "http://h1:1025/health"),
        ("http://127.0.0.1:1025/v1/models", 1025, "http://h1:1025/v1/models"),
        ("http://0.0.0.0/ready", 8000, "http://h1/ready"),
        ("http://localhost.rack:8001/x", 8001, "http://localhost.rack:8001/x"),
        ("http://{host}:9000/health", 9000, "http://h1:9000/health"),
        ("http://{host}:{port}/health", 8000, "http://h1:8000/health"),
        ("/health", 8000, "http://h1:8000/health"),
    ],
)
def test_the_health_url_names_the_port_and_localhost_is_the_master(url: str, port: int, asked: str) -> None:
    (group,) = config(service_groups=[table("a", "h1", health_check_url=url)]).resolved().service_groups
    assert (group.port, group.health_url) == (port, asked)


def test_two_groups_cannot_answer_at_the_port_of_one_health_url() -> None:
    twice = [table(name, "h1", health_check_url="http://h1:1025/health", devices=(d,)) for d, name in enumerate("ab")]
    with pytest.raises(ConfigValidationError, match="group b: port 1025 on h1 is taken by group a"):
        config(service_groups=twice).resolved()


def test_a_list_of_hosts_goes_before_the_table_and_says_so(tmp_path: Path) -> None:
    parallel = config(hostfile=str(hostfile(tmp_path, "a\nb\n")), service_groups=[table("x", "y")]).resolved()
    assert [g.group_id for g in parallel.service_groups] == ["group0"]
    assert parallel.notices == ("service_groups are not used, because the hostfile is given",)


def test_all_mistakes_of_the_groups_at_once() -> None:
    parallel = config(
        mode="single_node",
        service_groups=[
            table("a", "h1", "h2", port=9000),
            table("a", "h1", devices=(1, 2, 2), port=9000),
            table("c", "h3", master_node_index=4, health_check_url="health"),
        ],
    )
    with pytest.raises(ConfigValidationError) as caught:
        parallel.groups()
    assert sorted(caught.value.mistakes) == [
        "group a: device 1 of h1 is used already, by group a",
        "group a: device 2 of h1 is used already, by group a",
        "group a: given more than once",
        "group a: has 2 nodes, but mode is single_node",
        "group c: health_check_url 'health' begins with neither / nor http://",
        "group c: master_node_index 4, but its nodes are 0 to 0",
    ]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (table("a", "h", port=9000), table("b", "h", devices=(4,), port=9000), "port 9000 on h is taken by group a"),
        (table("a", "h"), table("b", "h"), "device 0 of h is used already, by group a"),
    ],
)
def test_groups_must_not_share(first: object, second: object, says: str) -> None:
    with pytest.raises(ConfigValidationError, match=says):
        config(service_groups=[first, second]).groups()


def test_one_machine_under_two_names_is_one_machine() -> None:
    """A service that listens on all addresses would answer for both groups, and the devices are the same ones."""
    with pytest.raises(ConfigValidationError) as caught:
        config(node_string="localhost:127.0.0.1", nodes_per_group=1, npus_per_node=2).resolved()
    assert caught.value.mistakes == [
        "group group1: 127.0.0.1 is the same machine as localhost of group group0; name it once"
    ]
    without = config(node_string="localhost:127.0.0.1:[::1]", nodes_per_group=1, npus_per_node=0).resolved()
    assert [g.port for g in without.groups()] == [8000, 8002, 8004]


def test_hosts_behind_one_name_are_told_apart_by_their_ssh_port(tmp_path: Path) -> None:
    parallel = ParallelConfig.from_hostfile(hostfile(tmp_path, "lab:2201\nlab:2202\n"), nodes_per_group=1)
    assert [g.port for g in parallel.groups()] == [8000, 8000]


def test_no_group_at_all() -> None:
    with pytest.raises(ConfigValidationError, match="give hostfile, node_string or service_groups"):
        ParallelConfig().groups()
    with pytest.raises(ConfigValidationError, match=r"3 host\(s\) are too few for a group of 4: a, b, c"):
        ParallelConfig.from_node_string("a,b,c", nodes_per_group=4)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigPathError, match="cannot be read: No such file"):
        ParallelConfig.from_hostfile(tmp_path / "none")
    with pytest.raises(ConfigPathError, match="cannot be read: Is a directory"):
        ParallelConfig.from_hostfile(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigPathError, match="not UTF-8"):
        ParallelConfig.from_hostfile(tmp_path / "binary")
    with pytest.raises(ConfigValidationError, match=r"hosts, line 1: 'a\[': '\[' without '\]'"):
        ParallelConfig.from_hostfile(hostfile(tmp_path, "a[\n"))


@pytest.mark.parametrize("host", ["", "a b", "n[0-1]", "me@n", "n:22", "a,b"])
def test_a_node_is_one_host(host: str) -> None:
    with pytest.raises(ValidationError):
        NodeConfig(host=host)


def test_addresses_of_nodes() -> None:
    assert [NodeConfig(host=h).host for h in ("::1", "[::1]", "10.0.0.1", "n0.lan")] == [
        "::1",
        "::1",
        "10.0.0.1",
        "n0.lan",
    ]


def test_the_examples_of_the_page_are_right(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    (text,) = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    parallel = ParallelConfig.from_hostfile(hostfile(tmp_path, text))
    assert len(parallel.groups()) == 4
    assert parallel.notices == ("not used, because groups have 2 nodes: fe80::8:2222",)
    (block, *_) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    big, small = config(**tomllib.loads(block)["parallel"]).groups()
    assert (big.master, big.accelerators, small.url) == ("server2", 12, "http://server3:9000")


def test_a_thousand_nodes(tmp_path: Path) -> None:
    text = "".join(f"node{n} slots=8\n" for n in range(1000))
    groups = ParallelConfig.from_hostfile(hostfile(tmp_path, text), nodes_per_group=1).groups()
    assert len(groups) == 1000


def test_services_that_share_nodes_get_equal_parts_of_the_devices() -> None:
    config = ParallelConfig.from_node_string("h1,h2:h3,h4", services_per_group=2)
    names = [(g.group_id, g.port, [n.npu_ids for n in g.ranks]) for g in config.service_groups]
    halves = (0, 1, 2, 3), (4, 5, 6, 7)
    assert names == [
        ("group0.0", 8000, [halves[0]] * 2),
        ("group0.1", 8002, [halves[1]] * 2),
        ("group1.0", 8000, [halves[0]] * 2),
        ("group1.1", 8002, [halves[1]] * 2),
    ]
    without = ParallelConfig.from_node_string("h1", nodes_per_group=1, npus_per_node=0, services_per_group=3)
    assert [g.nodes[0].npu_ids for g in without.service_groups] == [(), (), ()]
    with pytest.raises(ConfigValidationError, match="shared equally by 3 services: h1: 8"):
        ParallelConfig.from_node_string("h1", nodes_per_group=1, services_per_group=3)


def test_services_on_one_machine_need_a_config_of_their_own() -> None:
    with pytest.raises(ConfigValidationError, match=r"config_path /etc/c\.json on h1 is that of group group0\.0"):
        ParallelConfig.from_node_string("h1", nodes_per_group=1, services_per_group=2, config_path="/etc/c.json")
    ParallelConfig.from_node_string("h1:h2", nodes_per_group=1, config_path="/etc/c.json")
