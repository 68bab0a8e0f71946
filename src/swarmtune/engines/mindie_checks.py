"""What MindIE's daemon refuses of its config.json, and what of it lets nothing answer where SwarmTune asks.

Source: MindIE-LLM's ``schedule_config.cpp``, ``model_deploy_config.cpp``, ``config_manager_impl.cpp`` and
``backend_config.cpp``, and its page on the parameters of the service.
"""

from __future__ import annotations

import ipaddress
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from swarmtune.engines.baseline import is_number
from swarmtune.engines.document import read_or
from swarmtune.engines.mindie_ranks import BACKEND, joins_machines
from swarmtune.engines.rules import Rule
from swarmtune.engines.schema import underscored
from swarmtune.space import Field

SCHEDULE = f"{BACKEND}.ScheduleConfig"
PREEMPTED = f"{SCHEDULE}.maxPreemptCount"
DEVICES = f"{BACKEND}.npuDeviceIds"
ADDRESS, EVERYWHERE = "ServerConfig.ipAddress", "ServerConfig.allowAllZeroIpListening"
MODE, STANDARD = "ServerConfig.inferMode", "standard"
UNSPECIFIED = (str(ipaddress.IPv4Address(0)), str(ipaddress.IPv6Address(0)))
ADDRESS_VARIABLE = "MIES_CONTAINER_IP"  # the daemon takes it before the file's
DEPLOY = f"{BACKEND}.ModelDeployConfig"
MEMORY = f"{DEPLOY}.ModelConfig.0.cpuMemSize"
STANDARD_TEMPLATE, MIXED = "Standard", "Mix"  # values of templateType; the second one splits prompts
MOST = 2**32 - 1
MOST_TOKENS = 4 * 2**20
BOUNDS: Mapping[str, tuple[int, int]] = {
    f"{DEPLOY}.maxInputTokenLen": (1, MOST_TOKENS),
    f"{DEPLOY}.maxSeqLen": (1, MOST),
} | {
    f"{SCHEDULE}.{name}": bounds
    for name, bounds in {
        "cacheBlockSize": (1, 128),
        "decodeExpectedTime": (1, 10_000),
        "decodePolicyType": (0, 3),
        "decodeTimeMsPerReq": (0, 1000),
        "maxBatchSize": (1, 819_200),
        "maxBeamWidth": (1, 8192),
        "maxFirstTokenWaitTime": (0, 3_600_000),
        "maxIterTimes": (1, MOST),
        "maxPreemptCount": (0, MOST),
        "maxPrefillBatchSize": (0, MOST),  # 0: as maxBatchSize
        "maxPrefillTokens": (1, MOST_TOKENS),
        "maxQueueDelayMicroseconds": (500, 1_000_000),
        "prefillExpectedTime": (1, 10_000),
        "prefillPolicyType": (0, 3),
        "prefillTimeMsPerReq": (0, 1000),
    }.items()
}


def file_mistakes(file: Any, where: str, fields: Sequence[Field]) -> list[str]:
    """A sentence for each number of the scheduler that the daemon refuses, where no field sets another one, and for devices
    that are in no list of lists. ``where``: the file in words.
    """
    set_here = {
        f.config_position for f in fields if f.value is not None or f.constant is not None or f.dtype == "ratio"
    }
    found = []
    for path in BOUNDS.keys() - set_here:
        value = read_or(file, path, None)
        if is_number(value) and (why := _refusal(path, value)):
            found.append(f"{where}: {path} is {reprlib.repr(value)}, but {why}")
    devices = read_or(file, DEVICES, None)
    if isinstance(devices, list) and not all(isinstance(one, list) for one in devices):
        found.append(
            f"{where}: {DEVICES} is {reprlib.repr(devices)}, but MindIE takes a list for each instance: [[0, 1]]"
        )
    return sorted(found)


def rules(file: Any, names: Mapping[str, str]) -> list[Rule]:
    """The rules between numbers of the scheduler and of the model. ``names``: the fields by the keys that they set, as
    ``Schema.fields_by_parameter`` has them; of what is neither a field nor a number of the file nothing is known.
    """

    def of(path: str) -> str | None:
        value = read_or(file, path, None)
        number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
        return names.get(underscored(path)) or (str(value) if number else None)

    batch, preempted = of(f"{SCHEDULE}.maxBatchSize"), of(PREEMPTED)
    tokens, longest = of(f"{SCHEDULE}.maxPrefillTokens"), of(f"{DEPLOY}.maxInputTokenLen")
    beams, memory = of(f"{SCHEDULE}.maxBeamWidth"), of(MEMORY)
    found = []
    for key, number in (("maxPreemptCount", preempted), ("maxBeamWidth", beams)):
        if batch and number not in (None, "0"):
            why = f"MindIE takes no {key} above maxBatchSize ({_told(number)} and {_told(batch)})"
            found.append(Rule(f"{number} <= {batch}", why))
    if preempted not in (None, "0") and memory:
        why = f"MindIE takes no maxPreemptCount but 0 ({_told(preempted)}) while cpuMemSize is 0"
        found.append(
            Rule(f"{preempted} == 0 or {memory} > 0", f"{why}: requests that give way are kept in that memory")
        )
    if tokens and longest and read_or(file, f"{SCHEDULE}.templateType", STANDARD_TEMPLATE) != MIXED:
        why = f"MindIE takes no maxPrefillTokens ({_told(tokens)}) below maxInputTokenLen ({_told(longest)})"
        found.append(Rule(f"{tokens} >= {longest}", f'{why} unless templateType is "{MIXED}"'))
    return found


def kept(fields: Sequence[Field], file: Any) -> tuple[Field, ...]:
    """The fields; without memory for the cache of requests that give way, the one that lets them is 0 in every setting."""
    if read_or(file, MEMORY, None) != 0 or any(f.config_position == MEMORY for f in fields):
        return tuple(fields)
    if read_or(file, PREEMPTED, 0) != 0:  # which the daemon refuses, and the rules say so
        return tuple(fields)
    idle = {f.name for f in fields if f.config_position == PREEMPTED and f.searched and f.value is None}
    return tuple(replace(f, constant=0) if f.name in idle else f for f in fields)


def _told(number: str) -> str:
    return number if number.isdecimal() else f"the field {number}"


def field_mistakes(fields: Sequence[Field], port_path: str) -> list[str]:
    """A sentence for each field with a value that the daemon refuses, or at the place to which SwarmTune writes the port."""
    found = []
    for made in fields:
        where, path = f"mindie.target_field {made.name}", made.config_position
        if path == port_path:
            found.append(f"{where}: {path} is written by SwarmTune; leave it out; mindie.port sets it")
        if path not in BOUNDS or made.dtype == "ratio" or made.derived:
            continue
        listed = made.dtype_param if made.dtype == "enum" and isinstance(made.dtype_param, (list, tuple)) else ()
        ends = (made.min, made.max) if made.dtype in ("int", "float", "range") and made.fixed is None else ()
        step = (made.dtype_param,) if made.dtype == "range" and made.fixed is None else ()
        numbers = [n for n in (made.constant, made.value, *ends, *listed) if is_number(n)]
        whole = made.dtype != "float" or made.fixed is not None
        if not whole or any(n != int(n) for n in (*numbers, *filter(is_number, step)) if math.isfinite(n)):
            found.append(f'{where}: MindIE takes {path.rpartition(".")[2]} in whole numbers; set dtype = "int"')
        elif why := next(filter(None, (_refusal(path, n) for n in numbers)), None):
            found.append(f"{where}: {why}")
    return found


def _refusal(path: str, number: Any) -> str | None:
    low, high = BOUNDS[path]
    if low <= number <= high:
        return None
    bounds = f"from {low} to {high}" if high < MOST else f"of {low} or more"
    return f"MindIE takes {path.rpartition('.')[2]} {bounds}, not {number:g}"


def notes(file: Any, where: str, fields: Sequence[Field], env: Mapping[str, str]) -> list[str]:
    """What lets the daemon wait for other machines, or answer at an address where SwarmTune may not ask."""
    set_here = {f.config_position for f in fields}
    found = []
    if joins_machines(file) and f"{BACKEND}.multiNodesInferEnabled" not in set_here:
        waits = "the daemon waits for those of other machines, and SwarmTune starts one"
        found.append(f"{where}: {BACKEND}.multiNodesInferEnabled is true: {waits}; set it to false")
    if read_or(file, MODE, STANDARD) != STANDARD and MODE not in set_here:
        waits = "such a daemon answers only when a controller has given it a role, and SwarmTune starts none"
        found.append(
            f'{where}: {MODE} is {reprlib.repr(read_or(file, MODE, STANDARD))}: {waits}; set it to "{STANDARD}"'
        )
    address, key = read_or(file, ADDRESS, ""), f"{where}: {ADDRESS}"
    if env.get(ADDRESS_VARIABLE):
        address, key = env[ADDRESS_VARIABLE], f"mindie.env: {ADDRESS_VARIABLE}"
    if isinstance(address, str) and ADDRESS not in set_here and not _is_local(address):
        elsewhere = "SwarmTune asks at 127.0.0.1, or at the node as [parallel] names it"
        found.append(f"{key} is {reprlib.repr(address)}: {elsewhere}; it must be the same place")
    everywhere = isinstance(address, str) and address in UNSPECIFIED and not {ADDRESS, EVERYWHERE} & set_here
    if everywhere and read_or(file, EVERYWHERE, None) is not True:
        found.append(f"{key} is {address!r}: the daemon listens there only if {EVERYWHERE} is true")
    return found


def _is_local(address: str) -> bool:
    """Is it this machine on every machine, or no address?"""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    return parsed.is_loopback or parsed.is_unspecified
