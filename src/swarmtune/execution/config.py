"""The groups of nodes: the table [parallel], hostfiles and node strings. Nothing is connected here."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, field_validator
from pydantic import Field as Option

from swarmtune import registry
from swarmtune.devices.host import is_here
from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.execution.hostfile import SSH_PORT, Host, parse_hostfile, parse_hosts, parse_node_string
from swarmtune.files import opened
from swarmtune.records import Group, Node

FIRST_PORT = 8000
_LOCAL = re.compile(r"^(https?://)(localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(?=[:/]|$)")
START_S = 120.0
MAX_HOSTFILE_BYTES = 4 * 1024 * 1024
SLURM_OURS = {
    "nodes", "nodelist", "ntasks_per_node", "signal", "signal_delay_s", "requeue", "no_requeue", "array",
    "array_parallelism", "output", "error", "open_mode", "stderr_to_stdout", "additional_parameters", "setup", "teardown",
    "srun_args", "use_srun",
}  # fmt: skip
"""Options of a Slurm job that users cannot give: those that SwarmTune sets, and those that are lines for a shell."""
_FROZEN = ConfigDict(frozen=True, extra="forbid")
_Device = Annotated[int, Option(ge=0, lt=4096)]
_SlurmName = Annotated[str, Option(pattern=r"^[a-z][a-z0-9_-]*$")]
_SlurmValue = bool | int | Annotated[str, Option(pattern=r"^[ -~]+$")]  # a line of the job's script
_Seconds = Annotated[float, Option(gt=0, le=1e7, allow_inf_nan=False)]


def _name(value: Any) -> Any:
    """The older extension numbers its groups."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class InOrder(BaseModel):
    """A frozen model that also takes values without names, in the order of the older extension."""

    model_config = _FROZEN
    order: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *values: Any, **named: Any) -> None:
        """TypeError for too many values, or one that is given twice; ValidationError for those that are wrong."""
        given = dict(zip(self.order, values, strict=False))
        if len(values) > len(self.order) or given.keys() & named.keys():
            raise TypeError(f"{type(self).__name__}({', '.join(self.order)}): give each once, the others by name")
        super().__init__(**given, **named)


class NodeConfig(InOrder):
    """A machine of a group, and how to reach it."""

    order = ("host", "ssh_port", "npu_ids", "work_dir", "username")

    host: str = Option(description="name or address")
    ssh_port: int = Option(SSH_PORT, ge=1, le=65535, description="port of its SSH server")
    npu_ids: tuple[_Device, ...] = Option(tuple(range(8)), description="devices that a service may use there")
    work_dir: str = Option("~/.swarmtune", min_length=1, description="folder for our files on it")
    username: str | None = Option(None, min_length=1, description="who logs in; by default SSH decides")

    @field_validator("host")
    @classmethod
    def _one_host(cls, text: str) -> str:
        try:
            return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
        except ValueError:
            hosts, mistakes = parse_hosts(text)
        if mistakes or [host.name for host in hosts] != [text]:
            raise ValueError(mistakes[0] if mistakes else "one name or address; port and user have keys of their own")
        return text


class ServiceOptions(InOrder):
    """How a service is started, checked for readiness, and stopped."""

    port: int | None = Option(
        None,
        ge=1,
        le=65535,
        description="where the master answers; that of health_check_url, else 8000 or the next one free of other groups",
    )
    start: Literal["master", "every_node"] = Option(
        "master",
        description="master: start_script runs on the master alone, with --config PATH, and starts the other nodes "
        "itself; every_node: it runs on each node",
    )
    start_script: str = Option(
        "./start_service.sh",
        min_length=1,
        description="starts the service; a relative path is a file here that is sent along, with arguments if wanted",
    )
    stop_script: str | None = Option(
        None, min_length=1, description="run where start_script runs, before its processes are ended"
    )
    config_path: str = Option(
        "config.json", min_length=1, description="where the script finds the setting as JSON; relative to where it runs"
    )
    health_check_url: str = Option(
        "/health", min_length=1, description="answers 200 when ready; a path, or a URL with {host} and {port}"
    )
    health_check_timeout: _Seconds = Option(300, description="seconds that a service may take to be ready")

    @property
    def health_port(self) -> int | None:
        """The port that ``health_check_url`` names; None if it names none."""
        try:
            return urlsplit(self.health_check_url).port
        except ValueError:  # {port}, or no URL
            return None

    def health_url_of(self, group: Group) -> str:
        """The URL that answers 200 when the service of this group is ready, as seen from here: ``localhost`` is the
        master.
        """
        if self.health_check_url.startswith("/"):
            return group.url + self.health_check_url
        host = f"[{group.master}]" if ":" in group.master else group.master
        text = self.health_check_url if is_here(group.master) else _LOCAL.sub(rf"\g<1>{host}", self.health_check_url)
        return text.replace("{host}", host).replace("{port}", str(group.port))


class ServiceGroupConfig(ServiceOptions):
    """Nodes that serve one candidate at a time."""

    order = (
        *("group_id", "nodes", "master_node_index", "start_script", "stop_script", "config_path"),
        *("health_check_url", "health_check_timeout"),
    )

    group_id: Annotated[str, BeforeValidator(_name)] = Option(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="its name; a whole number will do"
    )
    nodes: tuple[NodeConfig, ...] = Option(min_length=1, max_length=1024, description="its machines")
    master_node_index: int = Option(0, ge=0, description="which of the nodes answers")

    @property
    def ranks(self) -> tuple[NodeConfig, ...]:
        """The nodes, the master first."""
        master = self.nodes[self.master_node_index]
        return (master, *(n for i, n in enumerate(self.nodes) if i != self.master_node_index))

    @property
    def group(self) -> Group:
        """The group as a record, for services and executors."""
        return Group(self.group_id, tuple(Node(n.host, n.npu_ids) for n in self.ranks), self.port or FIRST_PORT)

    @property
    def health_url(self) -> str:
        """The URL that answers 200 when the service is ready."""
        return self.health_url_of(self.group)


class ParallelConfig(ServiceOptions):
    """[parallel]: the groups, and what happens when one fails. Its service keys are defaults for all groups.

    The groups are those of ``hostfile``, else of ``node_string``, else ``service_groups``.
    """

    order = ("enabled", "service_groups", "evaluation_timeout", "retry_count", "retry_delay")

    enabled: bool = Option(False, description="measure on several groups of nodes at once (--parallel)")
    executor: str = Option(
        "ssh",
        description="how nodes are reached: ssh, local, ray, slurm, shared_dir, or a plugin's; "
        "unless it is given, nodes that are this machine are local",
    )
    ray_address: str = Option("auto", min_length=1, description="Ray cluster to join; auto: the one of this machine")
    ray_resource: str = Option("NPU", min_length=1, description='what Ray counts devices by: "NPU" or "GPU"')
    slurm: dict[_SlurmName, _SlurmValue] = Option(
        {}, description="options of sbatch for each group's job, such as partition, account, qos, time"
    )
    slurm_resource: str = Option(
        "gpu", pattern=r"^[\w:.-]+$", description='what Slurm counts devices by: "gpu" or "npu"'
    )
    slurm_pending_timeout: _Seconds = Option(3600, description="seconds that a group's job may wait for its nodes")
    benchmark_on: Literal["tuner", "master"] = Option(
        "tuner",
        description="where our load generator runs: on the tuner's machine, which all groups share, or on each group's "
        "master, by benchmark_python",
    )
    benchmark_python: str = Option(
        "python3", min_length=1, description="a Python of 3.11 or later with swarmtune on each master"
    )
    mode: Literal["single_node", "multi_node"] = Option("multi_node", description="single_node: every node is a group")
    service_groups: tuple[ServiceGroupConfig, ...] = Option((), max_length=1024, description="the groups, one by one")
    hostfile: str | None = Option(None, min_length=1, description="file with one host a line (--hostfile)")
    node_string: str | None = Option(None, min_length=1, description="the groups as n0,n1:n2,n3 (--nodes)")
    nodes_per_group: int = Option(2, ge=1, le=1024, description="nodes of a group made from a list of hosts")
    npus_per_node: int = Option(8, ge=0, le=1024, description="devices of a host that does not say slots=N; 0 = none")
    services_per_group: int = Option(
        1,
        ge=1,
        le=64,
        description="services that share the nodes of a group from a list, with equal parts of its devices",
    )
    in_turn: bool = Option(
        False,
        description="services that share a node are measured one at a time; while one is, the next candidate starts",
    )
    work_dir: str = Option("~/.swarmtune", min_length=1, description="folder for our files on the hosts of a list")
    username: str | None = Option(None, min_length=1, description="who logs in on the hosts of a list")
    evaluation_timeout: _Seconds = Option(600, description="seconds that the measurement of one candidate may take")
    retry_count: int = Option(2, ge=0, le=100, description="further tries of a candidate whose node was lost")
    retry_delay: float = Option(10, ge=0, le=3600, description="seconds before the first further try, then doubled")
    breaker_failures: int = Option(5, ge=1, le=1000, description="losses in a row that take a group out of use")
    breaker_recovery: _Seconds = Option(60, description="seconds until a group that is out of use is tried again")
    health_check_interval: _Seconds = Option(30, description="seconds between looks at idle groups")
    results_dir: str = Option("swarmtune-parallel", min_length=1, description="folder here for results and logs")
    _notices: tuple[str, ...] = PrivateAttr(())

    @field_validator("executor")
    @classmethod
    def _known_executor(cls, name: str) -> str:
        registry.load_plugins()
        if name not in registry.executors:
            raise ValueError(f"unknown executor {name!r}; use {', '.join(registry.executors)}{registry.unloaded()}")
        return name

    @property
    def load_python(self) -> str | None:
        """The Python by which load generators run on the masters; None: they run on the tuner's machine."""
        return self.benchmark_python if self.benchmark_on == "master" else None

    @property
    def start_s(self) -> float:
        """Seconds for all nodes of a group to start a command, their reservation included."""
        return START_S + self.reservation_s

    @property
    def reservation_s(self) -> float:
        """Seconds for the reservation of a group's nodes, before anything starts there."""
        return self.slurm_pending_timeout if self.executor == "slurm" else 0.0

    @property
    def notices(self) -> tuple[str, ...]:
        """Notes for the user, such as hosts that are in no group; filled when the groups are resolved."""
        return self._notices

    @classmethod
    def from_hostfile(
        cls, path: str | Path, *, nodes_per_group: int = 2, npus_per_node: int = 8, **options: Any
    ) -> Self:
        """The groups of a hostfile (``hostfile.parse_hostfile``), consecutive hosts together; ``options`` are other keys.

        ConfigPathError or ConfigValidationError with all mistakes and their lines.
        """
        sizes = {"nodes_per_group": nodes_per_group, "npus_per_node": npus_per_node}
        return cls(**{"enabled": True, **options}, **sizes, hostfile=str(path)).resolved()

    @classmethod
    def from_node_string(cls, text: str, *, nodes_per_group: int = 2, npus_per_node: int = 8, **options: Any) -> Self:
        """The groups of ``"n0,n1:n2,n3"``; without a colon, consecutive nodes together as in a hostfile."""
        sizes = {"nodes_per_group": nodes_per_group, "npus_per_node": npus_per_node}
        return cls(**{"enabled": True, **options}, **sizes, node_string=text).resolved()

    def groups(self) -> tuple[Group, ...]:
        """The groups, each with its master first. Errors: see ``resolved``."""
        return tuple(group.group for group in self.resolved().service_groups)

    def resolved(self) -> Self:
        """The same with all groups spelled out in ``service_groups``, ports included.

        ConfigPathError if the hostfile cannot be read, ConfigValidationError with everything that is wrong.
        """
        try:
            groups, notices = self._source()
        except ConfigValidationError as error:
            more = _slurm_mistakes(self.slurm, ()) if self.executor == "slurm" else []
            raise ConfigValidationError([*error.mistakes, *more]) from error
        groups = [self._completed(group) for group in groups]
        mistakes = _mistakes(groups, single=self.mode == "single_node")
        if self.executor == "slurm":
            mistakes += _slurm_mistakes(self.slurm, groups)
        if mistakes:
            raise ConfigValidationError(mistakes)
        groups = _with_ports(groups, self.port or FIRST_PORT)
        config = self.model_copy(update={"service_groups": tuple(groups), "hostfile": None, "node_string": None})
        config._notices = (*self._notices, *notices)  # noqa: SLF001 - it is our own copy
        return config

    def _source(self) -> tuple[Sequence[ServiceGroupConfig], list[str]]:
        if self.hostfile is None and self.node_string is None:
            return self.service_groups, []
        notices = []
        if self.hostfile is not None:
            hosts, mistakes = parse_hostfile(_read(Path(self.hostfile)), self.hostfile)
            named = [hosts]
        else:
            named, mistakes = parse_node_string(self.node_string or "")
        if mistakes:
            raise ConfigValidationError(mistakes)
        if self.service_groups:
            given = "the hostfile" if self.hostfile is not None else "the node string"
            notices.append(f"service_groups are not used, because {given} is given")
        if len(named) == 1:
            named, notes = self._cut(named[0])
            notices += notes
        groups = [self._group(number, hosts) for number, hosts in enumerate(named)]
        return [part for group in groups for part in self._parts(group)], notices

    def _cut(self, hosts: list[Host]) -> tuple[list[list[Host]], list[str]]:
        size = 1 if self.mode == "single_node" else self.nodes_per_group
        whole = len(hosts) - len(hosts) % size
        unused = [str(host) for host in hosts[whole:]]
        if not whole:
            raise ConfigValidationError(
                [f"{len(hosts)} host(s) are too few for a group of {size}: {', '.join(unused)}; change nodes_per_group"]
            )
        notices = [f"not used, because groups have {size} nodes: {', '.join(unused)}"] if unused else []
        return [hosts[i : i + size] for i in range(0, whole, size)], notices

    def _group(self, number: int, hosts: list[Host]) -> ServiceGroupConfig:
        nodes = [
            NodeConfig(
                host=host.name,
                ssh_port=host.port,
                npu_ids=tuple(range(self.npus_per_node if host.slots is None else host.slots)),
                work_dir=self.work_dir,
                username=host.username or self.username,
            )
            for host in hosts
        ]
        return ServiceGroupConfig(group_id=f"group{number}", nodes=tuple(nodes))

    def _parts(self, group: ServiceGroupConfig) -> list[ServiceGroupConfig]:
        """The services that share its nodes. ConfigValidationError if its devices cannot be shared equally."""
        count = self.services_per_group
        if count == 1:
            return [group]
        if uneven := [f"{n.host}: {len(n.npu_ids)}" for n in group.nodes if len(n.npu_ids) % count]:
            raise ConfigValidationError([f"devices cannot be shared equally by {count} services: {', '.join(uneven)}"])
        return [
            ServiceGroupConfig(
                group_id=f"{group.group_id}.{part}", nodes=tuple(_share(n, part, count) for n in group.nodes)
            )
            for part in range(count)
        ]

    def _completed(self, group: ServiceGroupConfig) -> ServiceGroupConfig:
        """The group with these service options where it has none of its own."""
        keys = ServiceOptions.model_fields.keys() - group.model_fields_set
        return group.model_copy(update={key: getattr(self, key) for key in sorted(keys) if key != "port"})


def _share(node: NodeConfig, part: int, count: int) -> NodeConfig:
    """The node with one of ``count`` equal parts of its devices."""
    size = len(node.npu_ids) // count
    return node.model_copy(update={"npu_ids": node.npu_ids[part * size : (part + 1) * size]})


def _mistakes(groups: Sequence[ServiceGroupConfig], single: bool) -> list[str]:
    if not groups:
        return ["parallel: no group of nodes is given; give hostfile, node_string or service_groups"]
    mistakes = [
        f"group {name}: given more than once" for name, n in Counter(g.group_id for g in groups).items() if n > 1
    ]
    devices: dict[tuple[str, int, int], tuple[str, str]] = {}
    ports: dict[tuple[str, int, int | None], str] = {}
    files: dict[tuple[str, int, str], str] = {}
    for group in groups:
        where = f"group {group.group_id}"
        if single and len(group.nodes) > 1:
            mistakes.append(f"{where}: has {len(group.nodes)} nodes, but mode is single_node")
        if not group.health_check_url.startswith(("/", "http://", "https://")):
            mistakes.append(f"{where}: health_check_url {group.health_check_url!r} begins with neither / nor http://")
        for host, key in [(node.host, (*_machine(node), device)) for node in group.nodes for device in node.npu_ids]:
            if key in devices:
                user, name = devices[key]
                same = f"{host} is the same machine as {name} of {user}; name it once"
                used = f"device {key[2]} of {host} is used already, by {user}"
                mistakes.append(f"{where}: {used if name == host else same}")
            devices.setdefault(key, (where, host))
        for node in group.nodes if Path(group.config_path).is_absolute() else ():
            user = files.setdefault((*_machine(node), group.config_path), where)
            if user != where:
                mistakes.append(
                    f"{where}: config_path {group.config_path} on {node.host} is that of {user}; give each its own"
                )
        if group.master_node_index >= len(group.nodes):
            mistakes.append(
                f"{where}: master_node_index {group.master_node_index}, but its nodes are 0 to {len(group.nodes) - 1}"
            )
            continue
        port = group.port or group.health_port
        user = ports.setdefault((*_place(group), port), where)
        if port is not None and user != where:
            mistakes.append(f"{where}: port {port} on {group.ranks[0].host} is taken by {user}")
    return list(dict.fromkeys(mistakes))


def _slurm_mistakes(options: Mapping[str, Any], groups: Sequence[ServiceGroupConfig]) -> list[str]:
    """Mistakes for Slurm, which by default reserves whole nodes, and gives each node of a job the same resources."""
    given = {name.replace("-", "_") for name in options}
    mistakes = [f"parallel.slurm: {name} is what SwarmTune itself says" for name in sorted(SLURM_OURS & given)]
    if "clusters" in given:
        mistakes.append(
            "parallel.slurm: clusters: squeue would look for the job here; run this in the cluster that is meant"
        )
    whole = options.get("exclusive", True) is not False
    uses = Counter(node.host for group in groups for node in group.nodes)
    for group in groups:
        where, hosts = f"group {group.group_id}", [node.host for node in group.nodes]
        if len(set(hosts)) < len(hosts):
            mistakes.append(f"{where}: names a node twice, which Slurm can give only once")
        elif whole and (shared := [host for host in hosts if uses[host] > 1]):
            mistakes.append(
                f"{where}: {', '.join(shared)} is in several groups, but each has whole nodes; use it in one, or say "
                "exclusive = false in parallel.slurm"
            )
        if len({len(node.npu_ids) for node in group.nodes}) > 1 and not counts_devices(options):
            mistakes.append(f"{where}: its nodes differ in devices; say gres in parallel.slurm, or group others")
    return mistakes


def counts_devices(options: Mapping[str, Any]) -> bool:
    """Do these options of sbatch say how many devices are wanted?"""
    return any(name.startswith(("gres", "gpus", "num_gpus")) for name in options)


def _with_ports(groups: Sequence[ServiceGroupConfig], first: int) -> list[ServiceGroupConfig]:
    """The groups with a port each: one that names none gets the first such that it and the next one, on which the ranks
    meet, are free on its master.
    """
    taken = {(_place(g), port + more) for g in groups if (port := g.port or g.health_port) for more in (0, 1)}
    complete = []
    for group in groups:
        port, place = group.port or group.health_port, _place(group)
        if port is None:
            free = (p for p in range(first, 65535) if not {(place, p), (place, p + 1)} & taken)
            port = next(free, 65535)
            taken |= {(place, port), (place, port + 1)}
        complete.append(group.model_copy(update={"port": port}))
    return complete


def _place(group: ServiceGroupConfig) -> tuple[str, int]:
    return _machine(group.ranks[0])


def _machine(node: NodeConfig) -> tuple[str, int]:
    """The same for all names of this machine; other machines are known by one name each."""
    here = node.ssh_port == SSH_PORT and is_here(node.host)
    return ("this machine" if here else node.host), node.ssh_port


def _read(path: Path) -> str:
    try:
        with opened(path.expanduser()) as file:
            data = file.read(MAX_HOSTFILE_BYTES + 1)
        if len(data) > MAX_HOSTFILE_BYTES:
            raise ConfigPathError(f"{path}: too large for a hostfile; at most {MAX_HOSTFILE_BYTES} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigPathError(f"{path}: the hostfile cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigPathError(f"{path}: the hostfile is not UTF-8 text (byte {error.start})") from error
