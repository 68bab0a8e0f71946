"""What keeps this machine busy before a run begins, as notices of its plan."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from swarmtune.clock import RealClock
from swarmtune.devices.busiest import MachineLook, MachineUse
from swarmtune.devices.host import is_here
from swarmtune.devices.sources import memory_in_use
from swarmtune.report.sentences import busy_text, occupied_text
from swarmtune.tuner.planning.plan import Plan

BUSY_SHARE = 0.25  # of all CPUs: from here on results suffer
OCCUPIED_SHARE = 0.05  # of an accelerator's memory; its driver alone takes less

SAMPLE_S = 0.5


def machine_use() -> MachineUse | None:
    """The use of this machine's CPUs by others, over half a second; None if it cannot be known."""
    try:
        look = MachineLook()
        asyncio.run(RealClock().sleep(SAMPLE_S))
        return look.use()
    except (OSError, ValueError, LookupError):
        return None


def noticed(plan: Plan) -> Plan:
    """The plan with a notice of each thing that is busy here, if a service of it runs here. It takes half a second."""
    here = [node for group in plan.groups for node in group.nodes if is_here(node.host)]
    if not here:
        return plan
    use = machine_use()
    notices = []
    if use is not None and use.share > BUSY_SHARE:
        notices.append(busy_text(use.share, [(one.name, one.pid, one.share) for one in use.busiest]))
    devices = sorted({index for node in here for index in node.devices})
    notices += [
        occupied_text(index, used, total)
        for index, (used, total) in memory_in_use(devices or None).items()
        if used > OCCUPIED_SHARE * total
    ]
    return replace(plan, notices=(*plan.notices, *notices))
