"""Runs one command and guarantees that nothing of it survives.

Standard library only, one file, Python >= 3.8 on Linux, started as ``python -I supervisor.py``: it is sent along with the
command to machines where SwarmTune is not installed.

Standard input: the first line is the command as JSON (``Supervisor`` lists the keys). Every later line renews the lease;
``{"stop": 5.0}`` (or ``stop``) asks for the end, with that many seconds of grace. The end of the input means that the
tuner is gone, and ends the command too.

Standard output, one JSON object per line: ``started`` (pid), ``exited`` (code or signal of the main process; what it left
behind is then ended), ``failed`` (error, errno; nothing runs, files are as before), ``lapsed`` (nobody renewed the lease:
the command is ended), ``left`` (pids that cannot be ended), ``unrestored`` (path, error), ``done``. Exit status: 0 all gone
and put back, 1 not started, 2 something is left.

``--sweep TOKEN...`` ends what killed supervisors left behind and puts their files back; ``--restore JOURNAL`` does only
the latter.

The file is longer than our limit of 500 lines because it must travel as one file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import re
import resource
import select
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

TOKEN = "SWARMTUNE_TOKEN"  # noqa: S105 - the name of a variable that marks our processes; no secret
PRIVATE_PREFIXES = ("RAY_", "SWARMTUNE_")  # a command must neither join our Ray cluster nor see our own settings
JOURNAL = "supervisor-journal.json"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
KILL_WAIT_S = 30.0  # a killed process that is still there then cannot be ended (a driver holds it)
LOCK_WAIT_S = 15.0  # how long another command may hold a file that we must write
NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # too many processes or open files on the node
LOG_HEAD_BYTES, LOG_TAIL_BYTES = 1 << 20, 4 << 20


class Refused(Exception):  # noqa: N818 - a verdict, reported as the event "failed"
    """The command cannot be started as asked; the text is for people. ``program``: because argv[0] cannot be run."""

    def __init__(self, text: str, program: bool = False) -> None:
        super().__init__(text)
        self.program = program


# ---------------------------------------------------------------------------------------------------- processes


class Process(NamedTuple):
    """A process, identified by pid and start time (clock ticks since boot), so that a reused pid is another process."""

    pid: int
    parent: int
    started: int


def read_process(pid: int) -> Process | None:
    """The process that now has this number, or None. Source of the fields: proc(5), /proc/pid/stat 4 and 22."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[19]))


def all_processes() -> list[Process]:
    """Every process of the machine that we can see."""
    with os.scandir("/proc") as entries:
        numbers = [int(e.name) for e in entries if e.name.isdigit()]
    return [p for p in map(read_process, numbers) if p]


def descendants(roots: set[int]) -> list[Process]:
    """Children, grandchildren and so on of these processes. Orphans count: they come to us, the subreaper."""
    by_parent: dict[int, list[Process]] = {}
    for process in all_processes():
        by_parent.setdefault(process.parent, []).append(process)
    below: list[Process] = []
    waiting = list(roots)
    while waiting:
        children = [p for p in by_parent.pop(waiting.pop(), []) if p.pid not in roots]
        below += children
        waiting += [p.pid for p in children]
    return below


def signal_process(process: Process, number: int) -> bool:
    """Send a signal to this process; False if it is gone, or if its pid now belongs to another one."""
    try:
        descriptor = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        return False
    except OSError:  # kernel before 5.3
        descriptor = None
    try:
        now = read_process(process.pid)
        if now is None or now.started != process.started:
            return False
        if descriptor is None:
            os.kill(process.pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def end_processes(
    find: Callable[[], list[Process]],
    wait: Callable[[float], None],
    kill_at: Callable[[], float],
) -> list[int]:
    """SIGTERM once to each, SIGKILL from ``kill_at()`` (monotonic seconds) on, until ``find`` finds none. Returns the pids
    that could not be ended.
    """
    terminated: set[tuple[int, int]] = set()
    delay = 0.01
    while True:
        living = find()
        if not living:
            return []
        now = time.monotonic()
        if now >= kill_at() + KILL_WAIT_S:
            return [p.pid for p in living]
        for process in living:
            if now >= kill_at():
                signal_process(process, signal.SIGKILL)
            elif (process.pid, process.started) not in terminated:
                terminated.add((process.pid, process.started))
                signal_process(process, signal.SIGTERM)
                signal_process(process, signal.SIGCONT)
        wait(min(delay, kill_at() - now) if now < kill_at() else delay)
        delay = min(delay * 1.5, 0.2)


def pause(seconds: float) -> None:
    """Wait."""
    select.select([], [], [], seconds)


# ------------------------------------------------------------------------------------------------------ cgroups


def own_cgroups() -> list[Path]:
    """The folders of our control groups in which groups of our own may be made: version 2, or those of version 1 that only
    count or stop processes. Source: cgroups(7), /proc/pid/mountinfo in proc(5).
    """
    paths, found = {}, []
    try:
        for line in Path("/proc/self/cgroup").read_text(errors="replace").splitlines():
            _, names, path = line.split(":", 2)
            paths.update(dict.fromkeys(names.split(","), path))
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            (root, at), (kind, _, options) = before.split()[3:5], after.split()[:3]
            known = {"", "pids", "freezer", "name=systemd"} & ({""} if kind == "cgroup2" else set(options.split(",")))
            inside = paths.get(next(iter(known))) if known and kind in ("cgroup", "cgroup2") else None
            if inside is not None and (root == "/" or f"{inside}/".startswith(f"{root}/")):
                found.append(Path(at) / inside[len(root.rstrip("/")) :].lstrip("/"))
    except (OSError, ValueError):
        return found
    return found


def cgroup_for(token: str) -> Path | None:
    """Where a control group for one command can be, which keeps what leaves us with no mark; None if we may make none."""
    return next((folder / f"swarmtune-{token}" for folder in own_cgroups() if os.access(folder, os.W_OK)), None)


def cgroup_members(group: str | Path | None) -> set[int]:
    """The processes in this control group; none if it has gone, or if there is none."""
    try:
        return {int(n) for n in (Path(group) / "cgroup.procs").read_text().split()} if group else set()
    except (OSError, ValueError):
        return set()


def remove_cgroup(group: str | Path | None) -> None:
    """Remove the control group; one with processes stays."""
    if group:
        with contextlib.suppress(OSError):
            Path(group).rmdir()


# -------------------------------------------------------------------------------------------------------- files


def make_private(directory: Path) -> None:
    """Create the folder and what lies above it, readable by the owner only; those that exist stay as they are."""
    for part in [*reversed(directory.parents), directory]:
        if not part.exists():
            with contextlib.suppress(FileExistsError):
                part.mkdir(mode=0o700)


def sync_directory(directory: Path) -> None:
    """Make renames in this folder survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes, like: os.stat_result | None = None) -> None:
    """Write a file that must not exist, to the disk, with mode and owner of ``like`` (default: 0600, ours)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if like is not None:
                if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise


def real_target(path: Path) -> Path:
    """Where a write to ``path`` lands. Refused: a link made by another user, or one that leads to another user's file."""
    own = os.geteuid()
    for part in [*path.parents, path]:
        if part.is_symlink() and part.lstat().st_uid not in (0, own):
            raise Refused(f"{part} is a link made by another user (uid {part.lstat().st_uid}); name the file itself")
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.exists():
            raise Refused(f"{path} is a link to {target}, which does not exist; create it or remove the link")
        if target.stat().st_uid != own:
            raise Refused(f"{path} is a link to {target}, which belongs to another user; name the file itself")
        path = target
    if path.exists() and not path.is_file():
        raise Refused(f"{path} is not a regular file")
    return path


class TunedFile:
    """A file of the command: locked while it is ours, written in one step, put back from what is kept beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.original = path.with_name(path.name + ".swarmtune-original")
        self.absent = path.with_name(path.name + ".swarmtune-absent")
        self.fresh = path.with_name(path.name + ".swarmtune-new")
        self.lock_path = path.with_name(path.name + ".swarmtune-lock")
        self._lock: int | None = None

    def lock(self) -> None:
        """Lock this file against other supervisors. The lock ends with our process, however that ends."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == self.lock_path.stat().st_ino:
                    self._lock = descriptor
                    return
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise Refused(f"{self.path} is in use by another command of SwarmTune; give each its own file")
            pause(0.02)

    def unlock(self) -> None:
        """Release the lock and remove its file."""
        if self._lock is not None:
            self.lock_path.unlink()
            os.close(self._lock)
            self._lock = None

    def write(self, content: str, restore: bool) -> None:
        """Replace the file. With ``restore``, first what was there (or that nothing was) is kept beside it."""
        like = self.path.stat() if self.path.exists() else None
        if restore and like is None:
            write_new(self.absent, b"")
        elif restore:
            self._keep_original()
        sync_directory(self.path.parent)
        write_new(self.fresh, content.encode(), like)
        self.fresh.replace(self.path)
        sync_directory(self.path.parent)

    def _keep_original(self) -> None:
        try:
            os.link(self.path, self.original)  # the very file, with owner, mode, times; needs no space
        except OSError:  # no hard links here, or not ours
            write_new(self.fresh, self.path.read_bytes(), self.path.stat())
            self.fresh.replace(self.original)

    def put_back(self) -> None:
        """Undo ``write`` with ``restore``, finished or cut off at any moment; nothing to undo is fine. Hold the lock."""
        self.fresh.unlink(missing_ok=True)
        if self.original.exists():
            if self.path.exists() and self.path.samefile(self.original):
                self.original.unlink()  # rename between two names of one file does nothing
            else:
                self.original.replace(self.path)
            self.absent.unlink(missing_ok=True)
        elif self.absent.exists():
            self.path.unlink(missing_ok=True)
            sync_directory(self.path.parent)
            self.absent.unlink()
        sync_directory(self.path.parent)


def check_token(token: str) -> None:
    """Refuse an invalid token: it becomes a file name, and an empty one would match too many processes."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{8,64}", token):
        raise Refused(f"a token has 8 to 64 letters, digits, '_' or '-', not {token!r}")


NOWHERE = (errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)  # no file can be made in such a place


def index_path(token: str) -> Path:
    """The user's own copy of a command's journal: with it ``--sweep`` needs nothing but the token."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError as error:
        raise FileNotFoundError("this user has no home directory; set XDG_STATE_HOME") from error
    return state / "swarmtune" / "commands" / f"{token}.json"


def family(token: str) -> list[Path]:
    """The journals of this token and of those that begin with it and "-"; none where none of ours can have been written."""
    try:
        folder = index_path(token).parent
        mine = folder.stat().st_uid == os.geteuid()
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in NOWHERE:
            return []
        raise
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except PermissionError:
        if mine:
            raise OSError(f"{folder}: this user's own journals cannot be listed; chmod u+rwx") from None
        return []
    return [folder / name for name in names if name == f"{token}.json" or re.fullmatch(rf"{token}-.*\.json", name)]


def write_journal(path: Path, journal: dict[str, Any]) -> None:
    """Write what is needed to clean up after us."""
    make_private(path.parent)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    write_new(fresh, json.dumps(journal).encode())
    fresh.replace(path)
    sync_directory(path.parent)


def journal_paths(path: Path) -> list[str]:
    """The files that a journal lists; none if there is no journal."""
    try:
        return [str(p) for p in json.loads(path.read_text())["paths"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"{path} is not a journal of ours: {error!r}; put its files back by hand, then remove it"
        ) from error


def restore_journal(path: Path) -> list[str]:
    """Put back the files that a journal lists, and remove it. The files that could not be put back, with the reason."""
    try:
        trouble = restore(journal_paths(path))
    except (OSError, Refused) as error:
        return [str(error)]
    if not trouble:
        with contextlib.suppress(OSError, ValueError, KeyError):
            remove_cgroup(json.loads(path.read_text())["cgroup"])
        path.unlink(missing_ok=True)
    return trouble


def restore(paths: Iterable[str]) -> list[str]:
    """Put these files back. Those that could not be put back, with the reason."""
    trouble = []
    for file in map(TunedFile, map(Path, paths)):
        if not file.path.parent.is_dir():
            continue
        try:
            file.lock()
            file.put_back()
            file.unlock()
        except (OSError, Refused) as error:
            trouble.append(f"{file.path}: {error}")
    return trouble


# ------------------------------------------------------------------------------------------------------- output


# Colours and all else that steers a terminal, control characters but for tab and line ends (UTF-8's second range, too), and
# marks that turn words around. Source: ECMA-48 5.4, Unicode 9 (UAX 9) 2.
STEERING = re.compile(
    rb"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]|\x1b\][^\x07\x1b\n]{0,300}(?:\x07|\x1b\\)|\x1b[ -/]{0,4}[0-Z\\^-~]"
    rb"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f\xad]|\xd8\x9c|\xe1\xa0\x8e|\xe2\x80[\x8b-\x8f\xa8-\xae]"
    rb"|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xef\xbf[\xb9-\xbb]|\xf3\xa0[\x80\x81][\x80-\xbf]|\xed[\xa0-\xbf][\x80-\xbf]"
    rb"|(?<![\x80-\xff])[\x80-\x9f]"  # the latter alone, as no UTF-8 has them
)
ALONE = re.compile(rb"\r+(?!\n)")  # what stands behind it would be shown in place of what stands before
BLANKS = (b" ", b"\n", b"\t")
END_OF_KEY = re.compile(rb"-----END [A-Z ]+-----")
MOST_WORD, MOST_KEY = 4096, 20_000  # bytes of output that wait: a key may go on in the next piece
UNFINISHED = re.compile(
    rb"(?:\x1b(?:\[[0-?]{0,64}[ -/]{0,8}|\][^\x07\x1b\n]{0,300}\x1b?|[ -/]{0,4})"
    rb"|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2}|\r)\Z"  # or a character that is not whole
)


class Log:
    """The command's output: never more than head + 2 x tail bytes; the middle of a long one is left out.

    Values in ``redact``, and what has one of the ``forms`` (a pattern) of keys, are replaced, and what steers a terminal is
    left out, also when they arrive in pieces. A full disk loses output, not the command.
    """

    def __init__(self, path: Path, redact: Iterable[str], forms: str = "") -> None:
        self.path = path
        self._forms = re.compile(forms.encode()) if forms else None
        self._secrets = sorted((r.encode() for r in redact if len(r) >= 4), key=len, reverse=True)
        self._held = self._unfinished = b""
        self._size = self._total = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_APPEND, 0o600)
        except OSError as error:
            raise Refused(f"cannot write the output to {path}: {error.strerror}") from error
        info = os.fstat(self._file)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise Refused(f"cannot write the output to {path}: it is not a regular file of ours")
        os.ftruncate(self._file, 0)
        os.fchmod(self._file, 0o600)

    def write(self, data: bytes, last: bool = False) -> None:
        """Add output; what may be the beginning of a secret waits for the next call, unless this is the last one."""
        data = self._unfinished + data
        begun = None if last else UNFINISHED.search(data, max(0, len(data) - 320))
        self._unfinished = begun.group() if begun else b""
        data = ALONE.sub(b"\n", STEERING.sub(b"", data[: len(data) - len(self._unfinished)]))
        data = self._held + data
        for secret in self._secrets:
            data = data.replace(secret, b"***")
        longest = min(len(data), max(map(len, self._secrets), default=1) - 1)
        held = next((n for n in range(longest, 0, -1) if any(s.startswith(data[-n:]) for s in self._secrets)), 0)
        if self._forms is not None:
            data = self._forms.sub(b"***", data) if last else self._without_forms(data)
            held = max(held, len(data) - self._begun(data))
        if last:
            held = 0
        self._held = data[len(data) - held :]
        self._append(data[: len(data) - held])

    def _without_forms(self, data: bytes) -> bytes:
        """Without the keys that end in it; what a later piece may go on with stays as it is."""
        assert self._forms is not None  # noqa: S101 - ``write`` has looked
        end = self._begun(data)
        return self._forms.sub(b"***", data[:end]) + data[end:]

    def _begun(self, data: bytes) -> int:
        """Where the last word begins, or a private key that has no end before it."""
        begun = max(len(data) - MOST_WORD, *(data.rfind(blank) + 1 for blank in BLANKS))
        key = data.rfind(b"-----BEGIN ", max(0, len(data) - MOST_KEY))
        head = data[key : key + 80]
        may_be = b"PRIVATE KEY-----" in head or (len(head) < 80 and b"\n" not in head)
        return key if key >= 0 and may_be and not END_OF_KEY.search(data[key:begun]) else begun

    def _append(self, data: bytes) -> None:
        self._total += len(data)
        with contextlib.suppress(OSError):  # a full disk: keep the command going
            if self._size + len(data) > LOG_HEAD_BYTES + 2 * LOG_TAIL_BYTES:
                self._compact()
            self._size += os.write(self._file, data)

    def _compact(self) -> None:
        head = os.pread(self._file, LOG_HEAD_BYTES, 0)
        tail = os.pread(self._file, LOG_TAIL_BYTES, max(len(head), self._size - LOG_TAIL_BYTES))
        note = f"\n[swarmtune: about {self._total - len(head) - len(tail)} bytes left out here]\n".encode()
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.unlink(missing_ok=True)
        write_new(fresh, head + note + tail)
        fresh.replace(self.path)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
        self._size = len(head) + len(note) + len(tail)


# --------------------------------------------------------------------------------------------------- supervisor


def emit(event: str, **facts: Any) -> None:
    """Report an event to the tuner; ignored if the tuner is gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")


def inherited() -> dict[str, str]:
    """What a command gets of our own environment."""
    return {k: v for k, v in os.environ.items() if not k.startswith(PRIVATE_PREFIXES)}


def secrets_of_node(names: str) -> set[str]:
    """The values of our own variables of such names; no numbers, no paths, no short words."""
    found = [value for name, value in os.environ.items() if names and re.search(names, name)]
    return {value for value in found if len(value) >= 8 and not value.isdigit() and not value.startswith("/")}


def prctl(option: int, value: int) -> None:
    """See prctl(2)."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise Refused(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


class Supervisor:
    """One command from start to end.

    ``spec``: argv; env (added to our own, without PRIVATE_PREFIXES; "$PATH" in PATH is ours); directory ("~" is the home);
    files [{path, content, restore}], relative to the directory; log_path (default output.log in the directory);
    memory_limit_bytes (of address space, per process); lives_on (the end of the main process with 0 is not the command's);
    nice (0 to 19, of it and of its session); grace_s; lease_s (null: none); token; redact (values that must not appear in
    the log); redact_names (a pattern of the names of our variables whose values must not appear there either); redact_forms
    (a pattern of keys as their makers publish them).
    """

    def __init__(self, spec: dict[str, Any], unread: bytes) -> None:
        self.spec = spec
        self.directory = Path(spec["directory"]).expanduser()
        self.status: int | None = None
        self.main: subprocess.Popen[bytes] | None = None
        self.files: list[TunedFile] = []
        self._unread = unread
        self._kill_at: float | None = None
        self._cgroup: Path | None = None
        self._reaped = self._journal_is_ours = False
        self._parent = os.getppid()
        self._renewed = time.monotonic()
        self._output, self._output_of_child = os.pipe()
        os.set_blocking(self._output, False)
        wake, wake_up = os.pipe()
        for descriptor in (wake, wake_up):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake_up)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.ask_end())
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake, selectors.EVENT_READ, lambda: os.read(wake, 4096))
        self._selector.register(self._output, selectors.EVENT_READ, self._pump)
        self._selector.register(0, selectors.EVENT_READ, self._listen)

    def start(self) -> None:
        """Write the files and start the command. Refused or OSError: nothing runs (call ``put_back``)."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        make_private(self.directory)
        hidden = {*self.spec.get("redact", ()), *secrets_of_node(self.spec.get("redact_names", ""))}
        log = Path(self.spec.get("log_path") or self.directory / "output.log")
        make_private(log.parent)
        self.log = Log(log, hidden, self.spec.get("redact_forms", ""))
        self._write_files()
        self._spawn()

    def _write_files(self) -> None:
        entries = []
        for entry in self.spec.get("files", ()):
            path = self.directory / entry["path"]
            make_private(path.parent)
            entries.append((TunedFile(real_target(path)), entry))
        earlier = journal_paths(self.directory / JOURNAL)  # of a supervisor that was killed here
        kept = earlier + [str(file.path) for file, entry in entries if entry.get("restore")]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._cgroup = cgroup_for(self.spec["token"])
        group = str(self._cgroup or "")
        pipe = os.fstat(self._output).st_ino
        journal = {"token": self.spec["token"], "paths": kept, "boot": boot, "pipe": pipe, "cgroup": group}
        with contextlib.suppress(OSError):  # no home to write to: --restore and the next start still work
            write_journal(index_path(self.spec["token"]), journal)
        if kept:
            write_journal(self.directory / JOURNAL, journal)
        if self._cgroup:
            with contextlib.suppress(OSError):
                self._cgroup.mkdir()
        trouble = restore(earlier)
        if trouble:
            raise Refused("files of an earlier command could not be put back: " + "; ".join(trouble))
        self._journal_is_ours = bool(kept)
        for file, entry in entries:
            try:
                file.lock()
                self.files.append(file)
                file.put_back()
                file.write(entry["content"], bool(entry.get("restore")))
            except OSError as error:
                raise Refused(f"cannot write {file.path}: {error.strerror}") from error
            if not entry.get("restore"):
                self.files.remove(file)
                file.unlock()

    def _spawn(self) -> None:
        supervisor = os.getpid()
        limit = self.spec.get("memory_limit_bytes")
        nice = self.spec.get("nice", 0)

        def prepare() -> None:  # between fork and exec, in a session of its own
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(127)
            if limit:
                hard = resource.getrlimit(resource.RLIMIT_AS)[1]
                limited = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
                resource.setrlimit(resource.RLIMIT_AS, (limited, limited))
            if self._cgroup:
                with contextlib.suppress(OSError):
                    (self._cgroup / "cgroup.procs").write_text("0")
            if nice:
                give_way(nice)

        environment = {**inherited(), **self.spec["env"], TOKEN: self.spec["token"]}
        if "$PATH" in environment.get("PATH", ""):
            environment["PATH"] = environment["PATH"].replace("$PATH", os.environ.get("PATH", os.defpath))
        try:
            self.main = subprocess.Popen(
                self.spec["argv"],
                stdin=subprocess.DEVNULL,
                stdout=self._output_of_child,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=environment,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
                pass_fds=(self._output_of_child,),  # a mark that a daemon keeps which only turns its output away
            )
        except OSError as error:
            program = error.errno not in NO_ROOM
            raise Refused(f"cannot run {self.spec['argv'][0]!r}: {error.strerror}", program=program) from error
        os.close(self._output_of_child)
        emit("started", pid=self.main.pid)

    def watch(self) -> None:
        """Return when the command has exited or must end."""
        self._obey(b"")  # what came together with the command
        while self.status is None and self._kill_at is None:
            self._turn(0.5)

    def ask_end(self, grace_s: float | None = None) -> None:
        """SIGTERM now, SIGKILL after the grace; a second request can only make it sooner."""
        grace = self.spec.get("grace_s", 5.0) if grace_s is None else grace_s
        kill_at = time.monotonic() + grace
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)

    def end(self) -> list[int]:
        """End all that is left of it; the pids that cannot be ended."""
        self._end_once()
        own = {os.getpid()}

        def living() -> list[Process]:
            kept = filter(None, map(read_process, cgroup_members(self._cgroup) - own))
            return list({*descendants(own), *kept})

        remaining = end_processes(living, self._wait, lambda: self._kill_at or 0.0)
        self._drain()
        self.log.write(b"", last=True)
        return remaining

    def put_back(self) -> bool:
        """Put the files back as they were and forget the journals; False if one could not be."""
        trouble = False
        remove_cgroup(self._cgroup)
        for file in self.files:
            try:
                file.put_back()
                file.unlock()
            except OSError as error:
                trouble = True
                emit("unrestored", path=str(file.path), error=f"{error.strerror}; its content is in {file.original}")
        if not trouble:
            with contextlib.suppress(OSError):
                index_path(self.spec["token"]).unlink(missing_ok=True)
                if self._journal_is_ours:
                    (self.directory / JOURNAL).unlink(missing_ok=True)
        return not trouble

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            key.data()
        self._reap()
        lease = self.spec.get("lease_s")
        lapsed = lease is not None and time.monotonic() > self._renewed + lease
        if lapsed and self._kill_at is None:
            emit("lapsed")
        if lapsed or os.getppid() != self._parent:
            self._end_once()

    def _wait(self, seconds: float) -> None:
        """That long, or until a process has ended."""
        deadline = time.monotonic() + seconds
        self._reaped = False
        while not self._reaped and time.monotonic() < deadline:
            self._turn(max(0.0, deadline - time.monotonic()))

    def _end_once(self) -> None:
        if self._kill_at is None:
            self.ask_end()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._reaped = True
                if self.main is not None and pid == self.main.pid and self.main.returncode is None:
                    self._drain()
                    if status == 0 and self.spec.get("lives_on"):
                        self.main.returncode = 0
                        continue
                    self.status = status
                    code, number = os.WEXITSTATUS(status), os.WTERMSIG(status)
                    self.main.returncode = -number if number else code
                    emit("exited", code=None if number else code, signal=number or None)

    def _pump(self) -> bool:
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        if data:
            self.log.write(data)
        elif self._output in self._selector.get_map():
            self._selector.unregister(self._output)
        return bool(data)

    def _drain(self) -> None:
        for _ in range(64):  # more than a pipe holds; a process that still writes must not keep us here
            if not self._pump():
                return

    def _listen(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self._selector.unregister(0)
            self._end_once()
        self._obey(data)

    def _obey(self, data: bytes) -> None:
        self._renewed = time.monotonic()
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if line == b"stop":
                self.ask_end()
            elif line.startswith(b"{"):
                try:
                    self.ask_end(float(json.loads(line)["stop"]))
                except (ValueError, KeyError, TypeError):  # cut off, or not a number of seconds
                    self.ask_end()


def give_way(nice: int) -> None:
    """Let this process and its session give way to others; where the kernel shares CPUs between sessions first
    (sched_autogroup), the nice value of a process counts only within its session. The service starts up to 2 s later where
    the kernel asks an ordinary user to wait.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
    for _ in range(20):
        try:
            Path("/proc/self/autogroup").write_text(str(nice))
        except BlockingIOError:  # the kernel takes one in a tenth of a second from users
            time.sleep(0.1)
        except OSError:
            return  # this kernel has no such thing, or does not let us
        else:
            return


def supervise() -> int:
    """Read one command from standard input, run it, end it."""
    with contextlib.suppress(OSError):  # already the first of its session
        os.setsid()
    unread = b""
    while b"\n" not in unread:
        data = os.read(0, 1 << 20)
        if not data:
            return 0
        unread += data
    line, _, unread = unread.partition(b"\n")
    try:
        spec = json.loads(line)
        check_token(spec["token"])
        supervisor = Supervisor(spec, unread)
    except (ValueError, KeyError, TypeError, Refused) as error:
        emit("failed", error=f"the command cannot be understood: {error!r}", program=False)
        return 1
    try:
        supervisor.start()
    except Exception as error:  # noqa: BLE001 - whatever it is, the files must be put back and the tuner told
        supervisor.put_back()
        text = str(error) if isinstance(error, (OSError, Refused)) else repr(error)
        number = getattr(error.__cause__ or error, "errno", None)
        emit("failed", error=text, program=isinstance(error, Refused) and error.program, errno=number)
        return 1
    try:
        supervisor.watch()
    finally:
        remaining = supervisor.end()
        restored = supervisor.put_back()
    if remaining:
        emit("left", pids=remaining)
    if remaining or not restored:
        return 2
    emit("done")
    return 0


def carriers(token: str) -> list[Process]:
    """This user's processes of that command, found by its control group, by token, or by the output pipe they hold, and
    their descendants.

    Group and pipe matter: a daemon may have an empty environment, and a program that sets its title (vLLM does) may
    overwrite what /proc shows as its environment.
    """
    pipes, members = set(), set()
    for journal in journals(token):
        pipes.add(f"pipe:[{journal['pipe']}]")
        members |= cgroup_members(journal.get("cgroup"))
    mark = f"{TOKEN}={token}".encode()
    holders = {}
    for process in all_processes():
        folder = Path(f"/proc/{process.pid}")
        with contextlib.suppress(OSError):
            if process.pid == os.getpid() or folder.stat().st_uid != os.geteuid():
                continue
            marks = (folder / "environ").read_bytes().split(b"\0")
            if (
                process.pid in members
                or any(m == mark or m.startswith(mark + b"-") for m in marks)
                or (pipes and not pipes.isdisjoint(list(held(folder / "fd"))))
            ):
                holders[process.pid] = process
    below = descendants(set(holders)) if holders else []
    return [p for p in (*holders.values(), *below) if p.pid != os.getpid()]


def journals(token: str) -> list[dict[str, Any]]:
    """The journals of this token's family that were written since this machine has started."""
    found = []
    for path in family(token):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            journal = json.loads(path.read_text())
            if journal["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip() and journal["pipe"]:
                found.append(journal)
    return found


def held(folder: Path) -> Iterable[str]:
    """What the file descriptors in this folder of /proc lead to."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # closed meanwhile
                yield os.readlink(entry.path)  # noqa: PTH115 - Path.readlink is newer than 3.8


def sweep(tokens: Iterable[str], grace_s: float = 2.0) -> int:
    """Clean up after supervisors that were killed: processes first, then files.

    A token stands for all that begin with it and "-": the ranks and load generators of one attempt.
    """
    status = 0
    for token in tokens:
        check_token(token)
        kill_at = time.monotonic() + grace_s
        remaining = end_processes(functools.partial(carriers, token), pause, lambda limit=kill_at: limit)  # type: ignore[misc]
        trouble = [t for path in family(token) for t in restore_journal(path)]
        if remaining or trouble:
            status = 2
        emit("swept", token=token, left=remaining, unrestored=trouble)
    return status


def main(arguments: list[str]) -> int:
    """The command line."""
    try:
        if arguments[:1] == ["--sweep"]:
            return sweep(arguments[1:])
        if arguments[:1] == ["--restore"]:
            trouble = [t for path in arguments[1:] for t in restore_journal(Path(path))]
            emit("restored", unrestored=trouble)
            return 2 if trouble else 0
    except (OSError, Refused) as error:
        emit("failed", error=str(error), program=False)
        return 2
    return supervise()


if __name__ == "__main__":
    STATUS = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(STATUS)  # all is done; the interpreter's own tidying takes longer than the end of most commands
