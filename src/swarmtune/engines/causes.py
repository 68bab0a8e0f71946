"""The causes for which services do not start or end early, and the lines that tell them."""

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

SHARED_MEMORY = (  # the user gives more of it; "(in multiprocessing/...)" is added by the diagnosis
    r"(insufficient|out of|raise your) shared memory|creating shared memory segment|/dev/shm.{0,80}too small",
    r"(</torch_|/dev/shm\b|shared memory|shmem|(?<![/\w])shm).{0,300}no space left|exceeds /dev/shm size",
    r"no space left on device.{0,40}(/dev/shm\b|shared memory|'/(psm|wnsm|torch|sem)[._])|posix_fallocate.{0,60}no space",
    r"no space left on device.{0,200}\(in multiprocessing/",
)
PROXIED = (  # what a service asked itself, and a proxy of its environment answered
    r"AssertionError: .{0,10}<Response \[(403|407|50[234])\]>",
    r"\b(403|407|50[234])\b.{0,80}for url: https?://(127\.|localhost|0\.0\.0\.0|\[::)",
    r"max retries exceeded with url: https?://(127\.|localhost|0\.0\.0\.0|\[::)",
)
UNSET = (  # what bash says of ${NAME:?what to say}
    r"^\S{1,200}: (line )?\d{1,5}: (?!(info|note|debug|warn|warning|error)\b)\w{1,60}: .{0,120}"
    r"\b(set|null|required|missing|needed|define|export|specify|provide)\b"
)
COMMON: Patterns = {
    Cause.PORT_TAKEN: (
        r"address already in use",
        r"\[Errno 98\]|\bbind\b.{0,80}\berrno:? ?98\b",
        r"EADDRINUSE",
        r"port \d+ is (already )?(in use|taken|occupied|used)|port (at )?\d+ is not available",
        r"port is already allocated",
        r"couldn't bind .{0,80}socket",
        r"bind address failed",
        r"failed to bind (?!.{0,200}(cannot assign|denied)).{0,80}(port|address)",
        r"container name .{0,200}already in use",
    ),
    Cause.OUT_OF_MEMORY: (
        r"out[ _]?of[ _]?((host|device)[ _]?)?memory",
        r"\bMemoryError\b",
        r"std::bad_alloc",
        r"(cannot|can't) allocate memory",
        r"\[Errno 12\]",
        r"failed to allocate",
        r"unable to allocate (\w+ buffer|[\d.]+ [KMGT]i?B\b)|RESOURCE_EXHAUSTED: .{0,80}(alloc|memory)",
        r"\bmemory .{0,40}(is )?not enough\b",
        r"insufficient memory",
        r"failed to map segment from shared object",
        r"unable to mmap",
        r"oom[-_ ]?kill(?!er)",  # Ray names the OOM killer among causes that it does not know
        r"(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED",
        r"cudaErrorMemoryAllocation",
        r"\b(acl)?rtMalloc\w{0,30}\b.{0,80}(fail|error|207001|507899)",
        r"\bEL0004\b|(error code:? ?(is )?|runtime result ?= ?)207001\b",
        r"No available memory for the cache blocks",
        r"(is )?larger than the (maximum|available) (number of tokens|KV cache memory)",
        r"(free|available) memory on (device|node) .{0,200}(is )?less than",
        r"estimated maximum model length is",
        r"Not enough memory",
        r"Please try to (increase|decrease|reduce) --mem-fraction-static",
        r"max_total_num_tokens.{0,80}(<= 0|negative)",
        r"npuBlockNum.{0,40}(less|invalid|<= ?0)",
        r"PT_DEVMEM allocation failed",  # Gaudi
    ),
    Cause.MISSING_MODEL: (
        *PROXIED,
        r"is not a local folder and is not a valid model identifier",
        r"does not appear to have (a file named|files named)",
        r"repository not found|can't load (the )?(tokenizer|config\w*|model|image processor|feature extractor) (for|of) ",
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
        r"no supported config format found|unrecognized model in |does not recognize this architecture",
        r"no such model",
        r"model (file|path|directory|weights)?\b.{0,200}(not found|does not exist|no such file)",
        r"(not found|does not exist|no such file).{0,40}\bmodel\b",
        r"cannot find any model weights|unable to load weights|is not a valid JSON file|Incorrect path_or_model_id",
        r"model architectures? .{0,200}(not|un)\s?supported",
        r"unknown model architecture|unknown (pre-)?tokenizer|tokenizer class .{0,100}does not exist",
        r"(couldn't|cannot) instantiate th(e backend|is) tokenizer|have sentencepiece installed",
        r"trust_remote_code",
        r"model is corrupted or incomplete|not within (the )?file bounds",
        r"check_tensor_dims: |variant of untagged enum|GGUF model with architecture",
        r"wrong number of tensors|invalid ggml type|missing tensor|tensor '.{0,100}' is missing",
        r"gguf_init_from_\w+: failed|failed to open (GGUF|file '.{0,200}gguf)|invalid magic (characters|number)",
        r"(illegal|invalid) split file|failed to load GGUF split",
        r"HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer|SafetensorError",
        r"PytorchStreamReader failed|UnpicklingError|unexpected EOF, expected",
        r"command not found|: not found$|can't open file '",
        r"^(\S{0,100}/)?(\w{0,3}sh|env): .{1,300}: no such file or directory$",
        r"unable to locate a modulefile|module\(s\) are unknown",
        r": (line )?\d{1,5}: .{0,300}(no such file or directory|not a directory|cannot open|can't cd)",
        r"CommandNotFoundError|CondaError|EnvironmentNameNotFound|EnvironmentLocationNotFound|conda environment:",
        r"exec: .{0,200}(not found|no such file)",
        r"No such file or directory: '[^']{0,200}(vllm|sglang|python|llama|server|daemon|\.sh)[^'/]{0,40}'",
        r"No such file or directory: '[\w.+-]{1,40}'",  # a program that is not on the PATH
        r"ModuleNotFoundError|No module named ",
        r"ImportError: ",
        r"no matching distribution found|could not find a version that satisfies the requirement",
        r"error while loading shared libraries|cannot open shared object file|file too short|invalid ELF header",
        r"PackageNotFoundError|DistributionNotFound",
        r"undefined symbol|symbol lookup error|version `GLIBC.{1,20}' not found|operator \w+::\w+ does not exist",
        r"compiled with different CUDA|module '(torch|triton|transformers|numpy)[\w.]{0,60}' has no attribute",
        r"failed to find C compiler|fatal error: \S{1,200}\.\w{1,4}: no such file|could not find nvcc|nvcc fatal",
        r"unsupported GNU version|CUDA_HOME environment variable is not set|Ninja is required",
        r"no kernel image is available|invalid device function|NoBinaryForGpu|compiled with an unsupported toolchain",
        r"(?<!an )illegal instruction|not compiled with (CUDA|ROCm|NPU|XPU)",
        r"forward compatibility was attempted|unsupported display driver",
        r"permission denied|PermissionError|exec format error|cannot execute|read-only file system|\[Errno 30\]",
        r"owner id diff|permission (should|must) be|\bcheck .{0,40}permission failed",
        r"sudo: .{0,120}(password is|terminal is|command not)|not in the sudoers|su: authentication failure",
        r"assign requested address|\[Errno 99\]|EADDRNOTAVAIL",
        *SHARED_MEMORY,
        r"(srun|sbatch|salloc): error: .{0,120}(invalid|not permitted|violates|can ?not be satisfied|is not available)",
        r"CERTIFICATE_VERIFY_FAILED",
        r"version mismatch: the cluster was started with",
        r"driver .{0,80}(is )?too old|driver version is insufficient",
        r"found no NVIDIA driver",
        r"no such image|authentication required|no basic auth credentials",
        r"unable to find image|pull access denied|manifest .{0,120}(unknown|not found)|no matching manifest",
        r"short-name .{0,200}did not resolve",
        r"invalid reference format|requested access to the resource is denied",
        r"/manifests/.{0,100}denied|bind source path does not exist",
    ),
    Cause.DEVICE_ERROR: (
        r"(?<!unhandled )CUDA (driver )?error\b(?!$)",  # at its end ggml only repeats the line above
        r"no (CUDA|ROCm)-capable device|\bno (CUDA |XPU |NPU )?(GPU|NPU|XPU|device)s? (is |are )?available",
        r"NVIDIA-SMI has failed|no devices were found|HSA_STATUS_ERROR|cudaGetDeviceCount|Error 802: ",
        r"devices? (is|are) (busy|occupied|unavailable)|because the device is used|error in memory profiling",
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
        r"cannot connect to the docker daemon|error during connect:",
        r"failed to (create endpoint|set up container networking|add the host)|failed programming external connectivity",
        r"unresolvable CDI devices|gathering device information",
        r"429 Client Error|too many requests (for url|.{0,100}(huggingface|modelscope))|toomanyrequests|HTTP Error 429",
        r"\b5\d\d Server Error\b",
        r"(Get|Head) .https?://.{0,300}(no such host|time-?out|canceled|refused|unreachable)",
        r"could not find any running Ray instance|(connect to|reach) .{0,20}GCS|register worker .{0,80}raylet",
        r"can't find a `node_ip_address|ray client connection timeout",
        r"contact slurm controller|job credential|DUE TO (TIME LIMIT|PREEMPTION|NODE FAILURE)",
        r"(srun|sbatch|salloc): error: .{0,120}(node not available|not available now|are busy|revoked|timed out)",
        r"srun: error: (unable to create step|node failure)",
        r"stale file handle|\[Errno (5|116|121)\]|input/output error|transport endpoint is not connected",
        r"dcmi \w{1,20} initiali[sz]ed? failed|failed to start the device",
    ),
    Cause.BAD_ARGUMENT: (
        r"unrecognized arguments?",
        r"error: argument ",
        r"invalid choice",
        r"(unknown|invalid) (argument|option|flag)\b",
        r"^error: (unexpected argument|invalid value) '|required arguments were not provided|\bArgumentValidation\(",
        r"error while handling argument",
        r"unknown (shorthand )?flag|flag provided but not defined|^Error: no such option",
        r"\binvalid .{1,60} \(chose from ",
        r"error: the following arguments are required",
        r"\bvalue error, ",
        r"check (config|param\w*).{0,80}fail",
        r"OutOfResources|out of resource: ",  # Triton: the kernel of this setting does not fit the device
        r"cache quanti[sz]ation requires|quanti[sz]ed V cache .{0,80}requires|cache type .{0,80}does not divide",
        r"^llama_(init_from_model|new_context_with_model|context): .{0,80}(requires|must be|cannot)\b",
    ),
}
_HERE = r"(127\.|localhost|0\.0\.0\.0|\[::)"  # what a service asks itself
_AWAY = r"(timed out|no route|unreachable)"  # of another node
PRECISE: Patterns = {  # lines that tell more than their words of memory, time and arguments: compared before COMMON
    Cause.MISSING_MODEL: (
        # installation
        r"(dtype|ufunc|ndarray) size changed|binary incompatib|compiled (against|using) numpy|_ARRAY_API not found",
        r"less than the (minimum )?required version|does not match .{1,60}\bversion\b",
        r"(?<!driver/library )\bversion mismatch",
        r"_OpNamespace' .{1,60}has no attribute|could not load any .{0,40}\blibrary",
        r"common_ops\b.{0,80}(no such file|undefined|not found|cannot)|(cannot|no module).{0,80}\bcommon_ops",
        r"CUDA_HOME\b.{0,40}(not set|not found|not exist|undefined)|could not find (a )?CUDA (installation|toolkit)",
        r"^[\w.]{0,120}(Error|Exception): .{0,200}((is|are) not installed|(please|need to) (re|un)?-?install)",
        r"not available or outdated",
        r"Descriptors cannot (not )?be created|Protobuf Gencode|proto(buf)? file into descriptor pool",
        r"VersionConflict: |InvalidVersion: ",
        r"could not find or load main class|JAVA_HOME is not set|locate a Java runtime|UnsupportedClassVersionError",
        r"cannot find module '|MODULE_NOT_FOUND",
        # scripts
        r"^(SyntaxError|IndentationError|TabError): ",
        r": (line )?\d{1,5}: .{0,80}(syntax error|unexpected EOF|unbound variable|parameter not set|bad substitution)",
        r": bad interpreter",
        UNSET,
        r"^make(\[\d+\])?: \*\*\* (no rule to make target|no targets specified)",
        r"^failed to start \S{1,120}: (unit \S{1,120} (not found|is masked)|.{0,40}authentication required|access denied)",
        # launchers
        r"virtual environment directory .{1,300} cannot be used",
        r"no virtual environment found|failed to spawn: |no interpreter found for|no solution found when resolving",
        r"^error: failed to (fetch|parse|resolve|install|download|build|prepare|determine installation)\b",
        r"^command '?[^']{1,80}'? is not found in your path|could not find a pyproject\.toml|pyproject\.toml not found",
        r"pyproject\.toml changed significantly|lock ?file .{0,80}(outdated|out of date|not up.to.date|needs to be updated)",
        r"could not open image |unable to handle \w{2,10}://|executable file not found in \$PATH|mount source .{0,200}exist",
        r"\.(sif|sqsh|sqfs)\b.{0,100}no such file|no such file or directory: \S{1,200}\.(sif|sqsh|sqfs)\b",
        r"failed to create user namespace|container creation failed: mount",
        r"\bnetwork \S{1,100} (not found|declared as external)|no such (container|network|volume)\b",
        r"response from daemon: container \S{1,100} is not running",
        r"^error from server \((notfound|forbidden|badrequest|invalid|unauthorized)|you must be logged in to the server",
        r"CreateContainerConfigError|InvalidImageName|unable to read client-(cert|key)",
        r"^(error: )?statfs .{1,300}: no such file|is not a docker command|additional property .{1,80} is not allowed",
        r"attempt to run as root|unable to find the specified executable|was not built with .{1,40}PMI",
        r"host key verification failed|^unable to negotiate with |too many authentication failures",
        r"bad configuration option: |\d bad configuration options?$",
        r"every node should have a unique IP address",
        r"^(?!.{0,200}handling argument).{0,200}\[json\.exception\.",
        r"execve\(\): .{1,200}: (no such file|not a directory)",
        r"^(srun|sbatch|salloc): (unrecognized|invalid|ambiguous) option",
        # what the program or its model was built for
        r"\brequires? (a )?(GPU|device|card|NPU)s?\b.{0,40}\b(sm_?\d|compute capability|or (higher|newer|later))",
        r"engine plan file is not compatible|failed to load the backend extension|failed to find opp path",
        r"/dev/kfd\b.{0,80}(denied|not permitted)|not (a )?member of \W?(render|video)\W? group",
        # downloads
        r"NoCredentialsError|unable to locate credentials",
        r"(InvalidAccessKeyId|SignatureDoesNotMatch|NoSuchBucket|ExpiredToken)\b",
        r"an error occurred \((40[134]|AccessDenied|NoSuchKey)\) when calling",
        r"modelWeightPath\b.{0,300}(not exist|no such|not found|invalid|denied)",
        # limits and network of the node
        rf"ibv_\w{{1,40}}\b(?!.{{0,120}}{_AWAY}).{{0,120}}(fail|error)",
        r"fail\w* to (register|mlock)\b.{0,120}(cannot allocate|\[12\])",
        r"no socket interface found|unable to find (address|interface) for: ",
        r"NotExistError\b|not exist model",
    ),
    Cause.DEVICE_ERROR: (
        rf"^[\w.]{{0,60}}\b(Read|Connect)Timeout(Error)?\b(?!.{{0,300}}{_HERE})",
        r"IncompleteRead|ChunkedEncodingError|RemoteProtocolError|peer closed connection without sending complete",
        r"consistency check failed: file should be of size|CAS service error : reqwest|HTTP status server error \(5\d\d",
        r"^timeout, server \S{1,200} not responding|RayChannelTimeoutError|DeepEP error: timeout",
        r"\[Errno 112\]|host is down|UR_RESULT_ERROR_DEVICE_LOST|/dev/(accel|vfio)\S{0,20}:? .{0,80}(busy|in use)",
        rf"^([\w.]{{0,80}}: )?\[Errno 1(01|10|13)\](?!.{{0,300}}{_HERE})",
        r"\bgloo\b.{0,200}(connectFullMesh|timed out|connection (closed|reset))",
        r"containerd(\.sock)?\b(?!.{0,200}(denied|not permitted)).{0,120}(no such file|deadline|refused|cannot|dial)",
        r"(dial|access|connect to) .{0,60}containerd\b(?!.{0,200}(denied|not permitted))",
        r"^(error: )?the connection to the server .{1,120} was refused|kubernetes cluster unreachable",
        r"^(error: )?unable to connect to the server: |^error from server \((timeout|internalerror|serviceunav|toomany)",
        r"\b\d+/\d+ nodes are available: |the node was low on resource",
        r"^ssh: connect to host |^ssh: could not resolve hostname|^kex_exchange_identification: ",
        rf"ibv_\w{{1,40}}\b.{{0,120}}{_AWAY}",
        r"\blookup \S{1,200} on \S{1,80}: |download failed after attempts",
        rf"\bdial tcp (?!{_HERE}).{{0,80}}(time-?out|timed out)",
        r"task launch for .{0,80}failed|communication connection failure",
        r"node timed out during startup|raylet failed to start",
        r"\bCUDA unknown error\b",
        r"Device acquire failed|synStatus=\d{1,4} \[Device not found",
    ),
    Cause.BAD_ARGUMENT: (
        r"invalid device ordinal|not enough slots available",
        r"\bE[EIJZ]\d{4}\b.{0,200}\b(should|must) be (a multiple|not|less|greater|in|one|equal|divisible)",
        r"^Error: .{0,200}\bmust be (<|>|=|less|greater|at (least|most)|strictly)",
        r"assertion failed: .{0,200}does not divide",
    ),
}
GENERAL: Patterns = {  # exceptions of many meanings: a chained one gives way to its cause
    Cause.BAD_ARGUMENT: (
        r"ValidationError",
        r"validation errors? for \w+",
        r"\b(ValueError|AssertionError|NotImplementedError): ",
        r"^[\w.]{0,120}(Error|Exception): .{0,300}(not (yet )?support|unsupported|only supports?\b|(in|not )compatible)",
        r"^[\w.]{0,120}(Error|Exception): .{0,300}(cannot be (used|combined)|mutually exclusive|must be (div|a mult))",
    )
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
        r"no HIP GPUs are available|ORTE was unable to reliably start|(ORTE|PRTE) has lost communication",
    ),
    Cause.MISSING_MODEL: (
        r"FileNotFoundError",
        r"ninja build failed|error building extension",
        r"pyxis: (couldn't start|failed to (import|create)|container start failed|child \d{1,9} failed)",
    ),
    Cause.KILLED: (
        r"\bexit ?code:? -9\b|signaled to shutdown with signal 9\b|failed core proc.{0,80}: -9\b",
        r"terminated with signal SIGKILL|(killed|terminated) by signal:? (9\b|SIGKILL)",
    ),
}
RERAISED = (  # exceptions that only say that another one was raised
    r"(root cause|stack ?trace|traceback|error|logs?)s? (above|below)|see (the )?(above|logs?|stack|root)|, see above",
    r"failed core proc|worker failed with error|workers? (proc )?.{0,60}(died|failed to start|initialization failed)",
    r"please check (the )?(if there are relevant logs|input params|log)|exception in a background process",
    r"inner error is reported as above|EngineDeadError|EngineGenerationError|ChildFailedError|CalledProcessError",
    r"ProcessExitedException|BrokenProcessPool|^Error: (Shard|Webserver)(Failed|CannotStart)",
    r"^(EOFError|SystemExit|KeyboardInterrupt|BrokenPipeError|(\w+\.){0,3}CancelledError)\b|did not start",
    r"exiting due to |failed to (init|start) endpoint|unable to load model$|failed to (load model\b|create context with)",
    r"^(srun|slurmstepd): .{0,80}(exited with|terminating job step|killed|cancelled)",
    r"^(terminate called|Aborted|Killed|Terminated)\b|: line \d+: +\d+ (Killed|Aborted|Terminated)",
)
HINTS = (  # lines that advise, and lines of a program that is ending: never a cause
    r"^GPU device may be out of range",
    r"^(compile with .TORCH_USE|for debugging consider|(CUDA|HIP) kernel errors might|search for .cuda)",
    r"^(if you are trying to access a private|if this is a private repository|please make sure you specified the correct)",
    r"^(hint|tip|solution|possible (cause|solution))s?\b",
    r"sys\.meta_path is None|python is likely shutting down|new futures after (interpreter )?shutdown",
    r"destroy_process_group\(\)|resource_tracker: |leaked (shared_memory|semaphore)",
)
IGNORED = (  # the first line of a traceback that ended nothing
    r"^Exception ignored (in|on|while)\b|^Error in atexit\b|^--- Logging error ---",
    r"^Exception in thread .{0,100}(usage|telemetry|tracking|analytics|QueueFeeder|exporter|BatchSpan|monitor|tqdm)",
)
KILLS_ITSELF = (  # the last words of SGLang and MindIE before their SIGKILL
    r"Received sigquit from a child process|child process .{0,60}(died|failed)|Initialization failed\. warmup error"
    r"|failed to (init|start) endpoint"
)

CULPRITS: Mapping[Cause, Culprit] = {
    Cause.PORT_TAKEN: Culprit.INFRASTRUCTURE,
    Cause.DEVICE_ERROR: Culprit.INFRASTRUCTURE,
    Cause.KILLED: Culprit.INFRASTRUCTURE,
    Cause.MISSING_MODEL: Culprit.USER,
}
