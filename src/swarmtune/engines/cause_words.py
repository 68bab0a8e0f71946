"""The words for people about the causes for which services do not start: what happened, and the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarmtune.engines.causes import PROXIED, SHARED_MEMORY, Cause

WORDS: Mapping[Cause, tuple[str, str]] = {
    Cause.PORT_TAKEN: (
        "its port is taken by another process",
        "It is tried again; if it stays so, choose another port or stop what holds it (ss -ltnp).",
    ),
    Cause.OUT_OF_MEMORY: (
        "it ran out of memory",
        "The search avoids such settings; lower batch sizes, context or cache, or provide more memory.",
    ),
    Cause.MISSING_MODEL: (
        "its model cannot be found or read",
        "Correct the model's path or name in the engine's section.",
    ),
    Cause.DEVICE_ERROR: (
        "a device or the network between devices failed",
        "It is tried again; if it stays so, check the device, its driver and the network.",
    ),
    Cause.BAD_ARGUMENT: (
        "it refused its arguments",
        "Correct the field or flag that the lines below name, or add a constraint that excludes it.",
    ),
    Cause.CRASHED: (
        "it crashed",
        "The lines below are the last that it wrote; the whole log is in the trial's folder.",
    ),
    Cause.HANG: (
        "it still runs but did not become ready in time",
        "",  # what to do depends on what its health check saw: see the job that waited
    ),
    Cause.KILLED: ("it was killed from outside", "It is tried again; the lines below are its last."),
}
ENDED = (
    "it ended by itself",
    "A service must stay in the foreground: start it without &, -d or a daemon's option, as the last command (exec).",
)
PROGRAM_WAY_OUT = "Install it on every node, or correct its path in the engine's section or the start script."
_AGAIN = "It is tried again; if it stays so,"
CLOSER: Mapping[Cause, Sequence[tuple[str, str, str]]] = {  # better words, by a pattern in the line that tells
    Cause.PORT_TAKEN: (
        (
            r"container name",
            "a container of its name is still there",
            f"{_AGAIN} remove that container (docker rm -f), or start it with --rm.",
        ),
    ),
    Cause.OUT_OF_MEMORY: (
        (
            r"warm|captur",
            "it ran out of memory while it warmed up",
            "The search avoids such settings; lower batch sizes or the share of memory for the cache.",
        ),
    ),
    Cause.MISSING_MODEL: (
        (
            "|".join(PROXIED),
            "its request to itself, to warm up, went through a proxy of its environment (http_proxy)",
            (
                "Set no_proxy=127.0.0.1,localhost, with the host on which it serves, in the engine's env table or the "
                "start script."
            ),
        ),
        (
            "|".join(SHARED_MEMORY),
            "it has too little shared memory",
            "Start the container with --ipc=host or a larger --shm-size, or enlarge /dev/shm.",
        ),
        (
            r"\b(srun|sbatch|salloc): ",
            "Slurm refuses the job",
            "Correct account, partition, QOS or resources in the start script (sinfo, sacctmgr show assoc).",
        ),
        (
            r"docker daemon socket|docker\.sock",
            "it may not use docker",
            "Add the user to the group docker on every node, or start docker without root.",
        ),
        (
            r"\bbind\b.{0,200}(permission denied|\[Errno 13\])|\[Errno 13\].{0,80}\bbind\b",
            "it may not use its port",
            "Choose a port above 1023.",
        ),
        (
            r"(permission ?(denied|error)|read-only file system|\[Errno (13|30)\]).{0,300}(cache|\bhub\b)",
            "it cannot write the folder of its cache",
            "Make the folder writable for the user of the service, or set HF_HOME (or the cache's variable) to another.",
        ),
        (
            r"owner id|permission (should|must)|permission failed",
            "the owner or the mode of its files is not what it demands",
            "Give the files to the user of the service (chown) and take rights from others (chmod 640, folders 750).",
        ),
        (
            r"permission|PermissionError|cannot execute|exec format|read-only file system",
            "something that it needs may not be read or executed",
            "Make the script executable (chmod +x) and the files readable on every node.",
        ),
        (
            r"\bsudo: |sudoers|authentication failure",
            "it asks for a password",
            "Let the start script run without sudo, or allow it without a password (NOPASSWD).",
        ),
        (
            r"assign requested address|\[Errno 99\]|EADDRNOTAVAIL",
            "its host address is not one of its node",
            "Correct the host in the engine's section (0.0.0.0 listens on all addresses).",
        ),
        (
            r"C compiler|nvcc|CUDA_HOME|\bninja\b|fatal error: |building extension|GNU version",
            "it cannot compile its kernels",
            "Install a C compiler, the headers of Python and the toolkit of the device where the service runs.",
        ),
        (
            r"CERTIFICATE_VERIFY_FAILED",
            "the certificate of the model hub is not trusted",
            "Install the certificate of your proxy on the nodes (SSL_CERT_FILE, REQUESTS_CA_BUNDLE).",
        ),
        (
            r"gated|\b(401|403)\b|is restricted|\btoken\b|credentials|LocalTokenNotFound",
            "the model hub refuses access to its model",
            "Log in on the nodes (hf auth login) or set HF_TOKEN in the engine's env table, and accept the model's terms.",
        ),
        (
            (
                r"connect to|LocalEntryNotFound|offline|outgoing traffic|max retries|timed out|unreachable"
                r"|(?<![./])\bcache\b(?!/)"
            ),
            "its model is not in the cache, and the model hub is out of reach",
            "Download it on the nodes, name its folder, or let the service reach the hub (HF_HUB_OFFLINE, HF_TOKEN).",
        ),
        (
            r"trust_remote_code",
            "its model brings code of its own",
            "Add --trust-remote-code to others if you trust it.",
        ),
        (
            r"failed to open .{0,40}\bfile|failed to load GGUF split|cannot open model",
            "the file of its model is not there, or may not be read",
            "Correct the model's path in the engine's section, and copy all parts of the model to every node.",
        ),
        (
            (
                r"no kernel image|NoBinaryForGpu|invalid device function|unsupported toolchain|illegal instruction"
                r"|not compiled with"
            ),
            "it was not built for this device",
            "Install a build or an image of the service that was made for the device and driver of the nodes.",
        ),
        (
            r"driver|forward compatibility",
            "the driver of the device does not fit",
            "Install a driver that fits on the nodes, or a service that was built for the driver they have.",
        ),
        (
            r"conda (activate|environment)|CondaError|EnvironmentName|EnvironmentLocation|CommandNotFoundError",
            "the environment of its start script cannot be activated",
            "Source conda's profile (etc/profile.d/conda.sh) in the start script, and correct the environment's name.",
        ),
        (
            (
                r"undefined symbol|symbol lookup|torchvision::|GLIBC|file too short|ELF header|version mismatch"
                r"|different CUDA|no attribute"
            ),
            "the versions of its libraries do not fit each other",
            "Install the service anew in an environment of its own, the same one on every node.",
        ),
        (
            (
                r"No module named|ModuleNotFoundError|ImportError|shared (librar|object)|PackageNotFound"
                r"|DistributionNotFound|modulefile|module\(s\)|sentencepiece|tiktoken|protobuf"
            ),
            "a module or library that it needs is missing",
            "Install it in the environment of the service on every node, or name the right program.",
        ),
        (
            (
                r"architecture|tokenizer|corrupted|bounds|magic|gguf|Header|BufferError|IncompleteBuffer|SafetensorError"
                r"|\btensors?\b|split file|PytorchStreamReader|UnpicklingError|truncated"
            ),
            "its model cannot be read by this version of the service",
            "Get the whole file again, or a version of the service that knows this model.",
        ),
        (
            r"\bmount\b|bind source",
            "a folder that its container mounts is not there",
            "Correct the path in the start script, or make the folder on every node.",
        ),
        (
            r"image|pull access|manifests?\b|reference format|requested access",
            "its container image cannot be had",
            "Pull the image on every node, or correct its name.",
        ),
        (
            r"command not found|: not found$|exec: |No such file or directory|cannot open|can't (open|cd)",
            "a program or file that it needs is missing",
            PROGRAM_WAY_OUT,
        ),
    ),
    Cause.DEVICE_ERROR: (
        (
            r"(free|available) memory on|occupied|busy or unavailable|memory in use|memory profiling|device is used",
            "another process holds the memory of its device",
            f"{_AGAIN} stop what uses the device (nvidia-smi, npu-smi info).",
        ),
        (
            r"too many open files|Errno 24",
            "it ran out of open files",
            f"{_AGAIN} raise the limit on the nodes (ulimit -n).",
        ),
        (
            r"start new thread|resource temporarily unavailable|Errno 11\]",
            "it may start no more threads or processes",
            f"{_AGAIN} raise the limits of the user (ulimit -u) and of the container (--pids-limit).",
        ),
        (r"no space left|quota|Errno 28", "a disk is full", f"{_AGAIN} free space on the nodes."),
        (
            r"stale file handle|input/output error|Errno (5|116)\]|transport endpoint",
            "a file system of its node failed",
            f"{_AGAIN} mount it anew and check its server.",
        ),
        (
            r"connect to the docker daemon|error during connect",
            "docker does not run on its node",
            f"{_AGAIN} start it (systemctl start docker).",
        ),
        (
            r"device driver|nvidia-container|runtime name|CDI device|device information",
            "the container cannot get its devices",
            f"{_AGAIN} install and configure the container toolkit of the device on the nodes.",
        ),
        (
            r"\b429\b|too ?many ?requests|rate limit",
            "the hub limits how often it may be asked",
            f"{_AGAIN} download what it needs beforehand, or log in (HF_TOKEN, docker login).",
        ),
        (
            r"(Get|Head) .http",
            "the registry of its container image is out of reach",
            f"{_AGAIN} pull the image on the nodes beforehand.",
        ),
        (r"\b5\d\d Server Error", "the model hub fails", f"{_AGAIN} download the model beforehand."),
        (
            r"running Ray instance|ray client|GCS|with raylet|to raylet|node_ip_address",
            "no cluster of Ray answers",
            f"{_AGAIN} start it on the nodes (ray start; ray status).",
        ),
        (
            r"NODE_DIED|node .{0,100}(died|dead|crashed|terminated)|raylet",
            "a node of its cluster died",
            f"{_AGAIN} check the nodes (ray status).",
        ),
        (
            r"\b(srun|sbatch|salloc|slurmstepd): ",
            "Slurm gave no nodes, or took them back",
            f"{_AGAIN} check the nodes and the time of the job (sinfo, squeue).",
        ),
        (
            (
                r"cudaGetDeviceCount|GPUs? (is|are|available)|no (CUDA|ROCm)-capable|NVIDIA-SMI|infer device type"
                r"|(NPU|XPU)s? (are|is)\b"
            ),
            "it sees no device",
            f"{_AGAIN} check the driver (nvidia-smi, rocm-smi, npu-smi info) and what the service may see.",
        ),
    ),
}
