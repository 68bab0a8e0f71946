"""The words for people about the causes for which services do not start: what happened, and the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarmtune.engines.causes import PROXIED, SHARED_MEMORY, UNSET, Cause

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
NOT_BUILT = (
    "it was not built for this device",
    "Install a build or an image of the service that was made for the device, driver and CPUs of the nodes.",
)
VERSIONS = (
    "the versions of its libraries do not fit each other",
    "Install the service anew in an environment of its own, the same one on every node.",
)
PROGRAM_WAY_OUT = "Install it on every node, or correct its path in the engine's section or the start script."
_AGAIN = "It is tried again; if it stays so,"
CLOSER: Mapping[Cause, Sequence[tuple[str, str, str]]] = {  # better words, by a pattern in the line that tells
    Cause.PORT_TAKEN: (
        (
            r"business ip and port",
            "it cannot listen at its address",
            f"{_AGAIN} look whether another process has the port (ss -ltnp), and whether the IP is one of its node.",
        ),
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
            r"unable to negotiate|authentication failures|configuration option",
            "ssh cannot log in on another machine of it",
            "Correct the keys, the host or the line of ssh_config in the start script (ssh -v).",
        ),
        (
            r"json\.exception\.",
            "a file or option in JSON has a mistake in its text",
            "Correct the line and column that are named below.",
        ),
        (
            r"unique IP address",
            "its nodes tell one address for two machines",
            "Set the host address of each node (VLLM_HOST_IP) in the engine's env table or the start script.",
        ),
        (
            rf"{UNSET}|^make(\[\d+\])?: |^failed to start",
            "its start script lacks something",
            "Set the variable, or correct the target or unit, that the line below names.",
        ),
        (
            r"host key verification|attempt to run as root|specified executable|\bPMI\b",
            "the launcher of its processes refuses to start them",
            "Do what the line below asks (ssh-keyscan, mpirun --allow-run-as-root, the program's path) on every node.",
        ),
        (
            r"CreateContainerConfig|InvalidImageName|client-(cert|key)|not a docker command|additional property",
            "the description of its container, or the program that reads it, is not right",
            "Correct what the line below names (kubectl describe pod, docker compose config).",
        ),
        (
            r"\bstatfs\b",
            "a folder that its container mounts is not there",
            "Correct the path, or make the folder on each node.",
        ),
        (
            r"engine plan|backend extension|opp path",
            "what it loads was made for another version, or is not installed",
            "Build the engine again, or install the device's toolkit (source its set_env.sh) where the service runs.",
        ),
        (
            r"/dev/kfd|\b(render|video)\W? group",
            "it may not use its devices",
            "Add the user to the groups render and video, or start the container with --group-add and --device=/dev/kfd.",
        ),
        (
            r"NoCredentials|locate credentials|AccessKeyId|SignatureDoes|NoSuch(Bucket|Key)|ExpiredToken|when calling",
            "the object store refuses its model, or does not have it",
            "Correct the model's address, and give the keys to the service (AWS_* in the engine's env table).",
        ),
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
            (
                r"size changed|binary incompatib|NumPy|_ARRAY_API|required version|version mismatch|not match|outdated"
                r"|_OpNamespace|common_ops|Descriptors|Gencode|descriptor pool|VersionConflict|InvalidVersion|ClassVersion"
            ),
            *VERSIONS,
        ),
        (
            r"ibv_\w+.{0,120}(cannot allocate|\[12\])|to (register|mlock)\b",
            "it may lock too little memory",
            "Raise the limit on the nodes (ulimit -l unlimited; memlock in limits.conf; docker --ulimit memlock=-1).",
        ),
        (r"\bibv_", "its node's RDMA refuses it", "Check its driver and its devices (ibv_devinfo, nvidia-peermem)."),
        (
            r"socket interface|find (address|interface) for",
            "the network interface that its environment names is not there",
            "Correct NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME in the engine's env table (ip -br address).",
        ),
        (
            r"SyntaxError|syntax error|Indentation|TabError|unexpected EOF while|unbound variable|parameter not|bad subst",
            "a script or module that starts it has a mistake in its text",
            "Correct the line below, or name the interpreter and the version that the text was written for.",
        ),
        (
            (
                r"virtual environment|matching distribution|version that satisfies|failed to spawn|interpreter found"
                r"|solution found|^error: failed to"
                r"|not found in your path|pyproject|lock ?file"
            ),
            "the environment of its start script cannot be made or does not have its program",
            "Make it and install the service in it on every node, with the same tool and in the same folder.",
        ),
        (
            r"could not open image|unable to handle|\.(sif|sqsh|sqfs)\b|pyxis|user namespace|container creation",
            "its container cannot be made",
            "Correct the image's path and the mounts in the start script; the lines below say which one is not there.",
        ),
        (
            r"no such (container|network|volume)\b|\bnetwork \S+ (not found|declared)|container \S+ is not running",
            "a container, network or volume that it names is not there",
            "Start or create it on every node, or correct its name in the start script (docker ps -a, docker network ls).",
        ),
        (
            r"from server \(|logged in to the server",
            "Kubernetes refuses what the start script asks",
            "Correct the object's name, the namespace or the login of the start script (kubectl auth can-i).",
        ),
        (
            r"NotExistError|not exist model|(Repository|Revision|Entry)NotFound|repository not found|model identifier",
            "the model hub has no such model, or does not show it",
            (
                "Correct the model's name or folder in the engine's section; if it is private or gated, log in on the nodes "
                "(hf auth login) or set HF_TOKEN in the engine's env table."
            ),
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
                r"|not compiled with|requires? (a )?(GPU|device|card|NPU|compute cap)"
            ),
            *NOT_BUILT,
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
            *VERSIONS,
        ),
        (
            (
                r"No module named|ModuleNotFoundError|ImportError|shared (librar|object)|PackageNotFound"
                r"|DistributionNotFound|modulefile|module\(s\)|sentencepiece|tiktoken|protobuf|not installed|install\b"
                r"|main class|JAVA_HOME|Java runtime|find module|MODULE_NOT_FOUND"
            ),
            "a module or library that it needs is missing",
            "Install it in the environment of the service on every node, or name the right program.",
        ),
        (
            (
                r"architecture|tokenizer|untagged enum|tensor_dims|corrupted|bounds|magic|gguf|Header|BufferError"
                r"|IncompleteBuffer|SafetensorError"
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
            r"image|pull access|auth credentials|authentication required|manifests?\b|reference format|requested access",
            "its container image cannot be had",
            "Pull the image on every node, or correct its name.",
        ),
        (
            r"command not found|: not found$|exec: |executable file|No such file or directory|cannot open|can't (open|cd)",
            "a program or file that it needs is missing",
            PROGRAM_WAY_OUT,
        ),
    ),
    Cause.BAD_ARGUMENT: (
        (
            r"device ordinal|enough slots",
            "it needs more devices than it may use",
            "Lower its ranks, or let it see more devices (CUDA_VISIBLE_DEVICES, the host file of mpirun).",
        ),
    ),
    Cause.KILLED: (
        (
            r"-9\b|SIGKILL|signal:? 9\b",
            "a process of it was killed by the system, probably because the memory of the host ran out",
            (
                f"{_AGAIN} look for the reason (dmesg -T | grep -i -e oom -e killed) and give the host or container more "
                "memory, or the service less to keep there (swap space, CPU offload)."
            ),
        ),
    ),
    Cause.DEVICE_ERROR: (
        (
            (
                r"^ssh: |kex_exchange|^timeout, server|reliably start|lost communication|task launch for"
                r"|communication connection|ibv_"
            ),
            "another machine of it cannot be reached",
            f"{_AGAIN} check the network and the services between the nodes (ssh, sinfo, ibstat).",
        ),
        (
            r"nodes are available|low on resource",
            "its cluster has no room for it",
            f"{_AGAIN} free devices and disks on the nodes (kubectl describe nodes).",
        ),
        (
            r"\blookup \S+ on |download failed after|\bdial tcp ",
            "the registry of its container image is out of reach",
            f"{_AGAIN} pull the image on the nodes beforehand.",
        ),
        (
            r"RayChannel|node timed out during startup|raylet failed to start",
            "Ray does not start on a node",
            f"{_AGAIN} look at its logs there (/tmp/ray/session_latest/logs), and stop what is left of it (ray stop).",
        ),
        (
            r"acquire failed|Device not found",
            "it sees no device",
            f"{_AGAIN} check the driver and what it may see (hl-smi).",
        ),
        (
            (
                r"CAS service|HTTP status server error|ReadTimeout|ConnectTimeout|IncompleteRead|ChunkedEncoding"
                r"|RemoteProtocol|peer closed|consistency check"
            ),
            "a download or a request to another machine broke off",
            f"{_AGAIN} download the model beforehand and name its folder.",
        ),
        (
            r"Errno 1(01|10|13)\]|\bgloo\b",
            "another machine cannot be reached",
            f"{_AGAIN} check the network between the nodes, and the interface that is used (GLOO_SOCKET_IFNAME).",
        ),
        (
            r"containerd|connection to the server|connect to the server|Kubernetes|error from server",
            "what runs its containers does not answer",
            f"{_AGAIN} check containerd or the cluster (systemctl status containerd, kubectl cluster-info).",
        ),
        (
            r"endpoint|container networking|add the host|external connectivity",
            "the network of its container cannot be made",
            f"{_AGAIN} restart docker, or start the container with --network=host.",
        ),
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
            r"stale file handle|input/output error|host is down|Errno (5|112|116)\]|transport endpoint",
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
