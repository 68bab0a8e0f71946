"""The causes for which services do not start or end early, the lines that tell them, and the words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from swarmtune.errors import Culprit


class Cause(StrEnum):
    """Causes of failure, in the order in which a line is compared with their patterns."""

    PORT_TAKEN = "port_taken"
    OUT_OF_MEMORY = "out_of_memory"
    MISSING_MODEL = "missing_model"
    DEVICE_ERROR = "device_error"
    BAD_ARGUMENT = "bad_argument"
    CRASHED = "crashed"
    HANG = "hang"
    KILLED = "killed"


Patterns = Mapping[Cause, Sequence[str]]
"""Regular expressions by cause, searched in each line without regard to case."""

COMMON: Patterns = {
    Cause.PORT_TAKEN: (
        r"address already in use",
        r"\[Errno 98\]",
        r"EADDRINUSE",
        r"port \d+ is (already )?(in use|taken|occupied)",
        r"port is already allocated",
        r"couldn't bind .{0,80}socket",
        r"bind address failed",
        r"failed to bind .{0,80}(port|address)",
    ),
    Cause.OUT_OF_MEMORY: (
        r"out of memory",
        r"OutOfMemoryError",
        r"\bMemoryError\b",
        r"std::bad_alloc",
        r"cannot allocate memory",
        r"\[Errno 12\]",
        r"failed to allocate",
        r"unable to allocate \w+ buffer",
        r"insufficient memory",
        r"failed to map segment from shared object",
        r"unable to mmap",
        r"oom[-_ ]?kill(?!er)",  # Ray names the OOM killer among causes that it does not know
        r"(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED",
        r"cudaErrorMemoryAllocation",
        r"aclrtMalloc\w{0,30}\b.{0,80}(fail|error|207001|507899)",
        r"\bEL0004\b|error code:? ?(is )?207001\b",
        r"No available memory for the cache blocks",
        r"(is )?larger than the (maximum|available) (number of tokens|KV cache memory)",
        r"(free|available) memory on (device|node) .{0,200}(is )?less than",
        r"estimated maximum model length is",
        r"Not enough memory",
        r"Please try to (increase|decrease|reduce) --mem-fraction-static",
        r"max_total_num_tokens.{0,80}(<= 0|negative)",
        r"npuBlockNum.{0,40}(less|invalid|<= ?0)",
    ),
    Cause.MISSING_MODEL: (
        r"is not a local folder and is not a valid model identifier",
        r"does not appear to have (a file named|files named)",
        r"repository not found",
        r"RepositoryNotFoundError|RevisionNotFoundError|EntryNotFoundError|GatedRepoError|DisabledRepoError",
        r"HFValidationError",
        r"OfflineModeIsEnabled",
        r"access to model .{0,200} is restricted",
        r"access a gated repo|gated repo",
        r"\b(401|403) Client Error|\b(401 Unauthorized|403 Forbidden)\b",
        r"invalid user token|invalid credentials|\btoken is (required|invalid|expired|not valid)|LocalTokenNotFoundError",
        r"couldn't connect to .{0,120}(hub|huggingface|load)",
        r"outgoing traffic has been disabled",
        r"cannot find the (requested|appropriate) (files|snapshot).{0,80}(cache|disk)",
        r"(huggingface|modelscope)\.c[on].{0,200}(max retries|resolve|timed out|unreachable|refused)",
        r"(max retries|resolve|timed out|unreachable|refused).{0,200}(huggingface|modelscope)\.c[on]",
        r"invalid repository ID or local directory",
        r"no supported config format found|unrecognized model in ",
        r"no such model",
        r"model (file|path|directory|weights)?\b.{0,200}(not found|does not exist|no such file)",
        r"(not found|does not exist|no such file).{0,40}\bmodel\b",
        r"cannot find any model weights",
        r"model architectures? .{0,200}(not|un)\s?supported",
        r"unknown model architecture|unknown (pre-)?tokenizer",
        r"trust_remote_code",
        r"model is corrupted or incomplete|not within (the )?file bounds",
        r"gguf_init_from_\w+: failed|invalid magic (characters|number)",
        r"HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer",
        r"command not found|: not found$",
        r"exec: .{0,200}(not found|no such file)",
        r"No such file or directory: '[^']{0,200}(vllm|sglang|python|llama|server|daemon|\.sh)[^'/]{0,40}'",
        r"ModuleNotFoundError|No module named ",
        r"ImportError: ",
        r"error while loading shared libraries|cannot open shared object file",
        r"PackageNotFoundError|DistributionNotFound",
        r"permission denied|PermissionError|exec format error|cannot execute",
        r"driver .{0,80}(is )?too old|driver version is insufficient",
        r"found no NVIDIA driver",
        r"unable to find image|pull access denied|manifest .{0,120}(unknown|not found)",
    ),
    Cause.DEVICE_ERROR: (
        r"(?<!unhandled )CUDA (driver )?error",
        r"no CUDA-capable device",
        r"no CUDA GPUs are available",
        r"devices? (is|are) busy or unavailable",
        r"uncorrectable ECC",
        r"NVRM: Xid|\bXid\b.{0,40}\b\d",
        r"fallen off the bus",
        r"device-side assert",
        r"HIP error",
        r"Failed to infer device type",
        r"NVML.{0,80}(error|mismatch|fail)|driver/library version mismatch",
        r"aclrt\w* failed|ACL_ERROR|ErrCode=507\d{3}|error code:? ?(is )?(107|207|507)\d{3}",
        r"ACL stream synchronize failed",
        r"set device.{0,20}fail",
        r"NPU (error|fault)",
        r"could not select device driver|nvidia-container-cli|unknown or invalid runtime name",
        r"GPUs? may be occupied by other processes",
        r"too many open files|\[Errno 24\]",
        r"no space left on device|\[Errno 28\]|disk quota exceeded|\[Errno 122\]",
        r"resource temporarily unavailable|can't start new thread|\[Errno 11\]",
        r"\bNODE_DIED\b|node (has )?(died|crashed)|node .{0,100}\b(has died|was terminated|marked dead)",
        r"raylet .{0,40}(died|dead)\b",
        r"cannot connect to the docker daemon",
    ),
    Cause.BAD_ARGUMENT: (
        r"unrecognized arguments?",
        r"error: argument ",
        r"invalid choice",
        r"(unknown|invalid) (argument|option|flag)\b",
        r"error while handling argument",
        r"unknown flag|flag provided but not defined",
        r"error: the following arguments are required",
        r"\bvalue error, ",
        r"check (config|param\w*).{0,80}fail",
    ),
}
GENERAL: Patterns = {  # exceptions of many meanings: a chained one gives way to its cause
    Cause.BAD_ARGUMENT: (r"ValidationError", r"validation errors? for \w+", r"\bValueError: ", r"AssertionError: ")
}
CONSEQUENCES: Patterns = {  # what other processes say when one has ended: counts where nothing else tells
    Cause.DEVICE_ERROR: (
        r"(NCCL|RCCL)\b.{0,80}(error|failure|failed|timed? ?out)|\bnccl\w*Error\b",
        r"ProcessGroupNCCL.{0,120}(timed? ?out|error)",
        r"HCCL.{0,80}(error|fail|timed? ?out)|Hccl\w+ fail",
        r"DistBackendError|DistNetworkError|DistStoreError",
        r"\bE[EIJZ]\d{4}\b",
        r"connection (closed|reset) by peer|broken pipe|connection refused|no route to host|network is unreachable",
        r"(client )?socket has timed out|TCPStore.{0,80}(fail|timed? ?out)",
        r"ActorDiedError|ActorUnavailableError|RayActorError|WorkerCrashedError|NodeDiedError|OwnerDiedError",
        r"temporary failure in name resolution|name or service not known",
    ),
    Cause.MISSING_MODEL: (r"FileNotFoundError",),
}
RERAISED = (  # exceptions that only say that another one was raised
    r"(root cause|stack ?trace|traceback|error|logs?)s? (above|below)|see (the )?(above|logs?|stack|root)|, see above",
    r"failed core proc|worker failed with error|workers? (proc )?.{0,60}(died|failed to start|initialization failed)",
    r"please check (the )?(if there are relevant logs|input params|log)|exception in a background process",
    r"EngineDeadError|EngineGenerationError|ChildFailedError|CalledProcessError|ProcessExitedException|BrokenProcessPool",
    r"^(EOFError|SystemExit|KeyboardInterrupt|BrokenPipeError|(\w+\.){0,3}CancelledError)\b|did not start",
)
CHILD_FAILED = r"Received sigquit from a child process|child process .{0,60}(died|failed)"  # SGLang then kills itself

CULPRITS: Mapping[Cause, Culprit] = {
    Cause.PORT_TAKEN: Culprit.INFRASTRUCTURE,
    Cause.DEVICE_ERROR: Culprit.INFRASTRUCTURE,
    Cause.KILLED: Culprit.INFRASTRUCTURE,
    Cause.MISSING_MODEL: Culprit.USER,
}
WORDS: Mapping[Cause, tuple[str, str]] = {  # what happened, and the way out
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
        "Raise the start timeout if the lines below show progress.",
    ),
    Cause.KILLED: ("it was killed from outside", "It is tried again; the lines below are its last."),
}
PROGRAM_WAY_OUT = "Install it on every node, or correct its path in the engine's section or the start script."
_AGAIN = "It is tried again; if it stays so,"
CLOSER: Sequence[tuple[Cause, str, str, str]] = (  # better words where the line says more
    (
        Cause.MISSING_MODEL,
        r"gated|\b(401|403)\b|is restricted|\btoken\b|credentials|LocalTokenNotFound",
        "the model hub refuses access to its model",
        "Log in on the nodes (hf auth login) or set HF_TOKEN in the engine's env table, and accept the model's terms.",
    ),
    (
        Cause.MISSING_MODEL,
        r"connect to|LocalEntryNotFound|offline|outgoing traffic|max retries|timed out|unreachable|cache\b",
        "its model is not in the cache, and the model hub is out of reach",
        "Download it on the nodes, name its folder, or let the service reach the hub (HF_HUB_OFFLINE, HF_TOKEN).",
    ),
    (
        Cause.MISSING_MODEL,
        r"trust_remote_code",
        "its model brings code of its own",
        "Add --trust-remote-code to others if you trust it.",
    ),
    (
        Cause.MISSING_MODEL,
        r"architecture|tokenizer|corrupted|bounds|magic|gguf|Header|BufferError|IncompleteBuffer",
        "its model cannot be read by this version of the service",
        "Get the whole file again, or a version of the service that knows this model.",
    ),
    (
        Cause.MISSING_MODEL,
        r"No module named|ModuleNotFoundError|ImportError|shared (librar|object)|PackageNotFound|DistributionNotFound",
        "a module or library that it needs is missing",
        "Install it in the environment of the service on every node, or name the right program.",
    ),
    (
        Cause.MISSING_MODEL,
        r"driver",
        "the driver of the device does not fit",
        "Install a driver that fits on the nodes, or a service that was built for the driver they have.",
    ),
    (
        Cause.MISSING_MODEL,
        r"permission|cannot execute|exec format",
        "something that it needs may not be read or executed",
        "Make the script executable (chmod +x) and the files readable on every node.",
    ),
    (
        Cause.MISSING_MODEL,
        r"image|pull access|manifest",
        "its container image cannot be had",
        "Pull the image on every node, or correct its name.",
    ),
    (
        Cause.MISSING_MODEL,
        r"command not found|: not found$|exec: |No such file or directory",
        "a program or file that it needs is missing",
        PROGRAM_WAY_OUT,
    ),
    (
        Cause.DEVICE_ERROR,
        r"(free|available) memory on|occupied by other|busy or unavailable|memory in use",
        "another process holds the memory of its device",
        f"{_AGAIN} stop what uses the device (nvidia-smi, npu-smi info).",
    ),
    (
        Cause.DEVICE_ERROR,
        r"too many open files|Errno 24",
        "it ran out of open files",
        f"{_AGAIN} raise the limit on the nodes (ulimit -n).",
    ),
    (Cause.DEVICE_ERROR, r"no space left|quota|Errno 28", "a disk is full", f"{_AGAIN} free space on the nodes."),
    (
        Cause.DEVICE_ERROR,
        r"device driver|nvidia-container|runtime name|docker daemon",
        "the container cannot get its devices",
        f"{_AGAIN} install and configure the container toolkit of the device on the nodes.",
    ),
    (
        Cause.DEVICE_ERROR,
        r"NODE_DIED|node .{0,100}(died|dead|crashed|terminated)|raylet",
        "a node of its cluster died",
        f"{_AGAIN} check the nodes (ray status).",
    ),
    (
        Cause.OUT_OF_MEMORY,
        r"warm|capture|graph",
        "it ran out of memory while it warmed up",
        "The search avoids such settings; lower batch sizes or the share of memory for the cache.",
    ),
)
