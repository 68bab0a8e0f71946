"""WHERE commands run: a supervised command on a node, however the node is reached."""


def register() -> None:
    """Make the built-in executors known under ``--executor NAME``."""
    from swarmtune import registry

    for name, target, summary in (
        ("ssh", "ssh:SshExecutor", "logs in with your keys; host keys are checked"),
        ("local", "local:LocalExecutor", "everything on this machine"),
        ("ray", "ray:RayExecutor", "nodes that a Ray cluster reserves"),
        ("slurm", "slurm:SlurmExecutor", "nodes that Slurm allots, one job for each group"),
        (
            "shared_dir",
            "shared_dir:SharedDirectoryExecutor",
            "an agent on each node reads commands from a shared folder",
        ),
    ):
        registry.register_executor(name, f"swarmtune.execution.executors.{target}", summary)
