"""Finds the port on which a service listens instead of the one that it was given, and the process that holds that one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from swarmtune.devices.host import is_here
from swarmtune.devices.listeners import listening
from swarmtune.devices.parties import listening_ports, stranger, successor
from swarmtune.devices.processes import shown
from swarmtune.fleet.job import Service
from swarmtune.fleet.service_run import answers_http
from swarmtune.records import Group

MOST_PORTS = 16  # of those on which the service listens that are asked
GIVEN = "the port that it is given ($PORT or $SWARMTUNE_PORT in a start script)"


async def other_port(token: str, group: Group) -> str:
    """Where the service with this token listens instead of the group's address, and the way out, as a sentence.

    Ports on which it does not answer HTTP are left out, as those on which its processes meet. Empty: nothing is known, as of
    a service on another machine.
    """
    ports = listening_ports(token)
    if group.port in ports:
        return f"It listens on that port at another address of its node: let it listen on {group.master} or 0.0.0.0."
    asked = sorted(ports)[:MOST_PORTS]
    answers = await asyncio.gather(*(answers_http(replace(group, port=port)) for port in asked))
    found = [str(port) for port, answered in zip(asked, answers, strict=True) if answered]
    if not found:
        return ""
    return f"The service listens on port {' and '.join(found)} instead: let it listen on {GIVEN}."


async def taken_by(service: Service) -> str:
    """What holds the group's port in place of this service, which is ready or was, as a sentence.

    Empty: nothing is known against it, as of a service on another machine; what listens then is remembered as its own.
    """
    group, before = service.group, service.listening
    if not is_here(group.master):
        return ""
    if before:
        name = await asyncio.to_thread(successor, group.port, service.token, before)
    else:
        other = await asyncio.to_thread(stranger, group.port, service.token, service.since)
        name = f"{shown(other.name)} (pid {other.pid})" if other else ""
    if name:
        return (
            f"port {group.port} of this machine belongs to {name}, which is not the service that was started: stop it, or "
            "give the service another port"
        )
    before.update(listening(group.port))
    return ""


def has_left(service: Service) -> bool:
    """Does none of the sockets listen any longer that took the service's connections when it was ready?"""
    return bool(service.listening) and not service.listening.keys() & listening(service.group.port).keys()
