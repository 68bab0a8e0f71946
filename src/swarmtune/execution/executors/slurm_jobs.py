"""Slurm jobs: the options of a job for a group of nodes, and the Slurm commands that we use."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarmtune.errors import CommunicationError, Culprit, MissingExtraError
from swarmtune.execution.config import NodeConfig, ParallelConfig, counts_devices
from swarmtune.execution.executors.node_agent import serve_allocation

try:
    import submitit
except ImportError as missing:
    raise MissingExtraError("Nodes that Slurm allots", "slurm") from missing

KEPT = ("SLURM_CONF", "SLURM_JWT")  # Slurm's address, and our identity
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")


def job_options(config: ParallelConfig, nodes: Sequence[NodeConfig]) -> dict[str, Any]:
    """The parameters of submitit for a job on these nodes.

    Whole nodes with all their memory, because neighbours would disturb the measurements and because Slurm gives devices
    by count, not by index: only on a node that is ours alone is device 3 device 3. [parallel] slurm may override this.
    """
    given = {name.replace("-", "_"): value for name, value in config.slurm.items()}
    whole = given.get("exclusive", True) is not False
    wanted: dict[str, Any] = {"job_name": "swarmtune", "exclusive": whole, "time": None, "wckey": None}
    if whole and not any(name.startswith("mem") for name in given):
        wanted["mem"] = "0"  # all of it
    devices = max((max(n.npu_ids) + 1 if whole else len(n.npu_ids) for n in nodes if n.npu_ids), default=0)
    if devices and not counts_devices(given):
        wanted["gres"] = f"{config.slurm_resource}:{devices}"
    wanted = {name: None if value is False else value for name, value in (wanted | given).items()}
    parameters = Sbatch._valid_parameters()  # noqa: SLF001 - it has no other list of them
    further = {name.replace("_", "-"): wanted.pop(name) for name in list(wanted) if name not in parameters}
    return wanted | {
        "nodes": len(nodes),
        "nodelist": ",".join(node.host for node in nodes),
        "ntasks_per_node": 1,
        "srun_args": ["--cpu-bind=none"],  # the service gets all processors
        "stderr_to_stdout": True,
        "signal_delay_s": 60,  # before the time limit, for services to end in order
        "additional_parameters": {"no-requeue": True, **{k: v for k, v in further.items() if v is not None}},
    }


Sbatch = submitit.SlurmExecutor


class _Submits(Sbatch):
    """Submits also from within a job, whose variables sbatch would otherwise take as options of the new job."""

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        outer = [name for name in os.environ if name.startswith("SLURM_") and name not in KEPT]
        unset = [word for name in outer for word in ("-u", name)]
        return ["env", *unset, *super()._make_submission_command(submission_file_path)]


def submit(folder: Path, options: dict[str, Any]) -> str:
    """Submit a job that runs an agent on each node; returns its id. CommunicationError with Slurm's reason for refusal."""
    try:
        folder.mkdir(mode=0o700, parents=True)
        executor = _Submits(folder / "job")
        executor.update_parameters(**options)
        return str(executor.submit(serve_allocation, str(folder)).job_id)
    except (RuntimeError, ValueError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        lines = [line for line in str(error).splitlines() if "sbatch: " in line] or [str(error)]
        unreachable = "Unable to contact" in str(error) or "timed out" in str(error)
        raise CommunicationError(
            f"Slurm does not take the job: {' '.join(lines)}. Its options are those of [parallel] slurm; hosts are named as "
            "sinfo prints them",
            culprit=Culprit.INFRASTRUCTURE if unreachable else Culprit.USER,
        ) from error


async def squeue(job: str) -> tuple[str, str] | None:
    """State and reason of a job; None if it is over, ("", error) if Slurm does not answer."""
    try:
        code, out, err = await _run("squeue", "-h", "-j", job, "-o", "%T %r")
    except CommunicationError as error:
        return "", error.message
    state, _, reason = out.strip().partition(" ")
    if code and "Invalid job id" not in err:
        return "", err.strip()
    return (state, reason) if state else None


async def scancel(job: str) -> None:
    """Cancel a job; harmless if it is over. CommunicationError if ``scancel`` cannot be run."""
    await _run("scancel", job)


async def _run(*argv: str) -> tuple[int | None, str, str]:
    """Exit code, output and errors of a Slurm command, which is killed when the awaiting task is cancelled.
    CommunicationError if it cannot start.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise CommunicationError(f"{argv[0]} cannot be run: {error.strerror or error}") from error
    try:
        out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
