"""What follows from what the nodes say of an installed engine: mistakes, notices, and a line of the plan."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from swarmtune.devices import npu_smi, nvidia_smi
from swarmtune.engines.base import Engine
from swarmtune.engines.help_text import version_in
from swarmtune.engines.questions import Questions
from swarmtune.execution.installed import Answer

MEMORY = "npu_memory_total_bytes"


@dataclass(frozen=True)
class Reply:
    """What a host said, or the ``reason`` why it said nothing. ``devices``: those that the group of this name claims there;
    ``program``: that of the command.
    """

    host: str
    group: str
    devices: tuple[int, ...]
    program: str
    answer: Answer | None = None
    reason: str = ""

    @cached_property
    def memory(self) -> Mapping[int, int]:
        """Memory in bytes by device (0: not told), as a driver's tool says; empty where there is none."""
        tools = self.answer.tools if self.answer else {}
        found = nvidia_smi.parse(tools.get(nvidia_smi.QUERY[0], ""))
        with contextlib.suppress(ValueError):  # numbers of thousands of digits
            for reading in npu_smi.parse(tools.get(npu_smi.COMMAND[0], "")):
                device = int(dict(reading.labels)["device"])
                found[device] = int(reading.value) if reading.name == MEMORY else found.get(device, 0)
        return found

    @property
    def version(self) -> str:
        """The version of the engine; empty: not known."""
        return version_in(self.answer.version) if self.answer else ""


@dataclass(frozen=True)
class Installed:
    """``facts``: what is there, for the plan; ``notices``: what was not checked, and why; ``missing``: what a service will
    not find, where that is no mistake yet. Sentences.
    """

    facts: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass
class Findings:
    """``hosts`` whose help the engine took, and its ``mistakes`` then; ``notices``: what was not checked."""

    hosts: set[str] = field(default_factory=set)
    mistakes: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def learn(engine: Engine, questions: Questions, replies: Sequence[Reply]) -> Findings:
    """Let the engine take the flags and the memory that the nodes tell. Where nodes differ, a mistake on any of them is one,
    and the flags of the first node that told them are those in use.
    """
    findings = Findings(notices=[f"not checked: {reply.reason}" for reply in replies if reply.reason])
    sizes = [reply.memory.get(d, 0) for reply in replies for d in reply.devices or reply.memory]
    if known := [size for size in sizes if size]:
        engine.learn_memory(min(known))
    different: dict[tuple[str, str], Reply] = {}
    for reply in replies:
        answer = reply.answer
        if answer is not None and reply.devices and not reply.memory:
            findings.notices.append(
                f"not checked: the devices of {reply.group} on {reply.host}, as neither {nvidia_smi.QUERY[0]} nor "
                f"{npu_smi.COMMAND[0]} tells any there"
            )
        if answer is not None and answer.help:
            different.setdefault((answer.help, reply.version), reply)
        elif answer is not None and answer.trouble:
            findings.notices.append(f"{_unchecked(questions, reply)} {answer.trouble}")
    for (text, version), reply in reversed(different.items()):
        if engine.learn(text, version, reply.host):
            findings.mistakes[:0] = engine.mistakes()
            findings.hosts |= {r.host for r in replies if r.answer and (r.answer.help, r.version) == (text, version)}
        else:
            findings.notices.append(f"{_unchecked(questions, reply)} prints no help of a server")
    findings.mistakes[:] = dict.fromkeys(findings.mistakes or engine.mistakes())
    versions = {reply.version: reply.host for reply in reversed(replies) if reply.version}
    if len(versions) > 1:
        several = ", ".join(f"{version} on {host}" for version, host in versions.items())
        findings.notices.append(f"{engine.name} is {several}: their results cannot be compared")
    return findings


def _unchecked(questions: Questions, reply: Reply) -> str:
    return f"not checked: the flags on {reply.host}, as `{shlex.join((reply.program, *questions.help))}`"


def missing(questions: Questions, replies: Sequence[Reply]) -> list[str]:
    """A mistake for each program, package, file and device that a node which answered does not have."""
    found = []
    install = f" ({questions.install})" if questions.install else ""
    for reply in replies:
        answer, host = reply.answer, reply.host
        if answer is None:
            continue
        if not answer.program:
            found.append(
                f"{questions.key}: there is no {questions.what} {reply.program} on {host}; install it there{install}, "
                "or correct its name or path"
            )
        elif answer.fault:
            found.append(f"{questions.key}: {answer.program} on {host} {answer.fault}")
        elif answer.package is False:
            found.append(
                f"{questions.key}: the Python of {reply.program} on {host} has no package {questions.package}; install it "
                f"there{install}, or name a Python that has it"
            )
        found += [
            f"{need.key}: there is no {need.what} {need.path} on {host}; copy it there, or correct the path"
            for need in questions.needed
            if answer.paths.get(need.path) is False
        ]
        if reply.memory and (absent := [device for device in reply.devices if device not in reply.memory]):
            found.append(
                f"parallel: the devices {', '.join(map(str, absent))} of {reply.group} are not on {host}, which has "
                f"{len(reply.memory)}; give their number (slots=N in the hostfile, npus_per_node, or npu_ids of the node)"
            )
    return found


def summary(engine: Engine, questions: Questions, replies: Sequence[Reply], findings: Findings) -> tuple[str, ...]:
    """The version, files and devices on the hosts; hosts with the same share a sentence."""
    hosts: dict[tuple[str, str], list[str]] = {}
    for reply in replies:
        answer = reply.answer
        if answer is None or not answer.program or answer.fault:
            continue
        there = sum(device in reply.memory for device in reply.devices)
        things = [questions.what, *(need.what for need in questions.needed if answer.paths.get(need.path))]
        things = [thing for thing in things if thing != "folder"]
        if there:
            things.append(f"{there} device{'s' if there > 1 else ''}")
        several = " and ".join((", ".join(things[:-1]), things[-1])) + " are" if len(things) > 1 else f"{things[0]} is"
        checked = "; flags were checked against its help" if reply.host in findings.hosts else ""
        name = f"{engine.name} {reply.version}".strip()
        hosts.setdefault((name, f"{several} there{checked}"), []).append(reply.host)
    return tuple(f"{name} on {', '.join(found)}: {text}" for (name, text), found in hosts.items())
