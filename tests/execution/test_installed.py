"""Questions to programs on a node: real programs, asked through the local executor, whatever they print."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from swarmtune.clock import RealClock
from swarmtune.errors import CommunicationError, IPCCommandError
from swarmtune.execution.executors.local import LocalExecutor
from swarmtune.execution.installed import KEPT_S, MOST_FILES, Answer, Memory, Request, ask
from swarmtune.records import Command
from swarmtune.testing.executor import alive

HELP = ("serve", "--help=all")
NOTHING = ("", "", "")
ASKED = Request(help=HELP)


@pytest.fixture
async def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalExecutor]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    executor = LocalExecutor(tmp_path / "root", RealClock())
    yield executor
    await executor.close()


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """Writes a program of one shell script."""

    def write(script: str, name: str = "engine", interpreter: str = "/bin/sh") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{interpreter}\n{script}\n")
        path.chmod(0o755)
        return path

    return write


async def answer(executor: LocalExecutor, path: Path | str, request: Request = ASKED, **more: object) -> Answer:
    env: dict[str, str] = more.pop("env", {})  # type: ignore[assignment]
    command = Command((str(path), "serve", "model"), env, directory=str(more.pop("directory", "")))
    return await ask(executor, command, request, RealClock(), python=sys.executable, **more)  # type: ignore[arg-type]


async def test_help_and_version(executor: LocalExecutor, program: Callable[..., Path]) -> None:
    path = program('[ "$*" = "--version" ] && echo "engine 1.2.3" || echo "help of $*, $COLUMNS wide"')
    found = await answer(executor, path, Request(help=HELP, version=("--version",)))
    assert (found.program, found.fault, found.trouble) == (str(path), "", "")
    assert (found.version, found.help) == ("engine 1.2.3", "help of serve --help=all, 200 wide\n")


async def test_the_environment_and_the_folder_are_those_of_the_service(
    executor: LocalExecutor, program: Callable[..., Path], tmp_path: Path
) -> None:
    path = program('echo "$MODE in $PWD"')
    env = {"MODE": "fast", "PATH": f"{path.parent}:$PATH"}
    found = await answer(executor, "engine", env=env, directory=tmp_path)
    assert (found.program, found.help) == (str(path), f"fast in {tmp_path}\n")
    assert (await answer(executor, "./bin/engine", env=env, directory=tmp_path)).help == f"fast in {tmp_path}\n"
    assert not (tmp_path / "output.log").exists()


async def test_a_folder_that_is_not_there_yet_is_not_made(executor: LocalExecutor, tmp_path: Path) -> None:
    found = await answer(executor, "./engine", Request(paths=("model",)), directory=tmp_path / "later")
    assert (found.program, found.fault, found.paths) == ("./engine", "", {"model": None})
    assert not (tmp_path / "later").exists()


async def test_what_is_there(executor: LocalExecutor, program: Callable[..., Path], tmp_path: Path) -> None:
    paths = (str(tmp_path), str(tmp_path / "none"), "bin/engine", "~/model")
    found = await answer(executor, program("exit 1"), Request(paths=paths), directory=tmp_path)
    assert found.paths == {paths[0]: True, paths[1]: False, paths[2]: True, paths[3]: False}
    assert (found.help, found.trouble) == ("", "")  # it was not asked


async def test_a_program_that_is_not_there(executor: LocalExecutor, tmp_path: Path) -> None:
    for name in ("no-such-engine", str(tmp_path / "engine"), str(tmp_path / "no" / "engine")):
        found = await answer(executor, name)
        assert (found.program, found.help) == ("", "")


ABSENT = "cannot be executed: its first line names the interpreter {}, which is not there"
RETURN = "cannot be executed: its first line ends with a carriage return; save it with the line ends of Unix"
NAMELESS = "cannot be executed: its first line names no interpreter, such as #!/bin/sh"
BROKEN = {
    "#!/bin/sh\necho help\n": "",
    "#! /usr/bin/env -S A=1 sh -e\necho help\n": "",
    "#!/nope\n": ABSENT.format("/nope"),
    "#!/no/pe -u\n": ABSENT.format("/no/pe"),
    "#!/usr/bin/env nosuchpython\n": ABSENT.format("nosuchpython"),
    "#!/usr/bin/env -S nosuch -u\n": ABSENT.format("nosuch"),
    "#!/bin/sh\r\necho help\r\n": RETURN,
    "#!/usr/bin/env sh\r\n": RETURN,
    "#!\n": NAMELESS,
    "echo help\n": NAMELESS,
    "": NAMELESS,
}


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("named", ["by its path", "on the PATH", "in the folder"])
async def test_a_program_that_cannot_be_executed(
    executor: LocalExecutor, tmp_path: Path, content: str, named: str
) -> None:
    path = tmp_path / "bin" / "engine"
    path.parent.mkdir()
    path.write_bytes(content.encode())
    path.chmod(0o755)
    name = {"by its path": str(path), "on the PATH": "engine", "in the folder": "bin/engine"}[named]
    env = {"PATH": f"{path.parent}:$PATH"}
    found = await answer(executor, name, env=env, directory=tmp_path)
    assert (found.program, found.fault) == (str(path), BROKEN[content])
    assert (found.help == "help\n") is not bool(BROKEN[content])
    path.chmod(0o644)
    found = await answer(executor, name, env=env, directory=tmp_path)
    assert (found.program, found.help) == (str(path), "")
    assert found.fault == "cannot be executed; chmod +x makes it a program"


async def test_a_folder_is_no_program(executor: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    for name in (str(tmp_path / "vllm"), "./vllm"):
        found = await answer(executor, name, directory=tmp_path)
        assert (found.program, found.fault) == (str(tmp_path / "vllm"), "is a folder; name the program in it")


async def test_a_relative_path_is_not_in_the_empty_folder_of_a_run(
    executor: LocalExecutor, program: Callable[..., Path]
) -> None:
    path = program("exit 1", name="start.sh")
    found = await answer(executor, path, Request(paths=("start.sh", "./start.sh", "none.sh")))
    assert found.paths == dict.fromkeys(("start.sh", "./start.sh", "none.sh"), False)
    found = await answer(executor, path, Request(paths=("start.sh", "no.sh")), env={"PATH": f"{path.parent}:$PATH"})
    assert found.paths == {"start.sh": True, "no.sh": False}  # a shell finds its script on the PATH


@pytest.mark.parametrize(
    ("prints", "version"),
    [
        ("echo vllm 0.33.1rc2+cu129", "vllm 0.33.1rc2+cu129"),
        ("echo INFO 11-26 17:00:00 platform 1.2; echo 0.32.0; echo", "0.32.0"),
        ("echo 'vLLM API server version: 0.9.1' >&2", ""),
        ("echo 'version 0.9.1' >&2", "version 0.9.1"),
        ("echo 'usage: vllm [-h] {serve}'; echo default 0.9", ""),
        ("echo '  --gpu-memory-utilization X'; echo; echo '  default: 0.92'", ""),
        ("echo 'needs glibc 2.34, found 2.31'", ""),
        ("echo 0.32.0; exit 3", ""),
        ("exec sleep 600", ""),
    ],
)
async def test_a_version_is_a_line_of_its_own(
    executor: LocalExecutor, program: Callable[..., Path], prints: str, version: str
) -> None:
    path = program(f'[ "$1" != --version ] && exec echo help\n{prints}')
    limit_s = 1.0 if "sleep" in prints else 60.0
    found = await answer(executor, path, Request(help=HELP, version=("--version",)), limit_s=limit_s)
    assert (found.help, found.version, found.trouble) == ("help\n", version, "")


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ("echo $$ > pid; exec sleep 600", "does not end within 0.3 s"),
        ("echo $$ > pid; exec 1>&- 2>&-; exec sleep 600", "does not end within 0.3 s"),
        ("yes -- '--flag VALUE'", "prints more than 2097152 bytes"),
        ("yes 1>&2", "prints more than 2097152 bytes"),
        ("echo before; echo 'ImportError: libcuda.so.1' >&2; exit 3", "ends with code 3: ImportError: libcuda.so.1"),
        (r"printf '\033[2Jno\007 room' >&2; exit 3", r"ends with code 3: \x1b[2Jno\x07 room"),
        ("kill -9 $$", "ends with code -9"),
        ("", "prints nothing"),
        ("head -c 1500000 /dev/urandom", "prints too much"),
    ],
)
async def test_a_program_without_a_help(
    executor: LocalExecutor, program: Callable[..., Path], tmp_path: Path, script: str, trouble: str
) -> None:
    limit_s = 0.3 if "0.3" in trouble else 60.0
    found = await answer(executor, program(script), limit_s=limit_s, directory=tmp_path)
    assert (found.help, found.trouble) == ("", trouble)
    if (tmp_path / "pid").exists():
        assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (r"printf '\377\376 --x\033[1m'", "\ufffd\ufffd --x\x1b[1m"),
        ("echo to-stderr >&2", "to-stderr\n"),
        ("sleep 600 & echo left-behind", "left-behind\n"),
        ("cat; echo no-input", "no-input\n"),
        ("echo '{\"program\": 5}'", '{"program": 5}\n'),
    ],
)
async def test_whatever_it_prints(
    executor: LocalExecutor, program: Callable[..., Path], script: str, text: str
) -> None:
    found = await answer(executor, program(script))
    assert (found.help, found.trouble) == (text, "")


async def test_the_package_of_a_python_program(
    executor: LocalExecutor, program: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "site" / "engine-4.5.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "engine-4.5.dist-info" / "METADATA").write_text("Name: engine\nVersion: 4.5\n")
    env = {"PYTHONPATH": str(tmp_path / "site")}
    request = Request(package="engine", help=HELP, version=("--version",))
    path = program("import sys; print('help of', *sys.argv[1:])", interpreter=sys.executable)
    found = await answer(executor, path, request, env=env)
    assert (found.package, found.version, found.help) == (True, "4.5", "help of serve --help=all\n")
    assert (await answer(executor, path, request)).package is False
    python = await answer(executor, sys.executable, Request(package="json"))
    assert (python.package, python.version) == (True, "")
    assert (await answer(executor, program("echo 1.0"), request)).package is None


async def test_an_unchanged_program_is_not_asked_again(
    executor: LocalExecutor, program: Callable[..., Path], tmp_path: Path
) -> None:
    path, memory = program("echo x >> count; echo first"), Memory(tmp_path / "cache", RealClock())
    found = await answer(executor, path, directory=tmp_path)
    memory.keep("place", found)
    again = await answer(executor, path, known=memory.read("place"), directory=tmp_path)
    assert (again.help, (tmp_path / "count").read_text()) == ("first\n", "x\n")
    program("echo x >> count; echo second, a longer help")
    assert (await answer(executor, path, known=memory.read("place"), directory=tmp_path)).help.startswith("second")
    assert memory.read("elsewhere") == NOTHING


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b'{"stamp": 1}', b"\xff", b"[" * 100_000, b'{"at": "x"}', None])
def test_a_broken_cache_is_no_cache(tmp_path: Path, content: bytes | None) -> None:
    memory = Memory(tmp_path / "cache", RealClock())
    memory.keep("place", Answer("/bin/engine", help="help", version="1", stamp="stamp"))
    (file,) = (tmp_path / "cache").iterdir()
    assert memory.read("place") == ("stamp", "1", "help")
    file.write_bytes(
        content if content is not None else json.dumps({**json.loads(file.read_text()), "help": 5}).encode()
    )
    assert memory.read("place") == NOTHING


def test_the_cache_forgets_and_is_bounded(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "cache", RealClock())
    said = Answer("/bin/engine", help="help", stamp="stamp")
    for number in range(MOST_FILES + 3):
        memory.keep(f"place {number}", said)
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == MOST_FILES
    for file in files:
        file.write_text(json.dumps({**json.loads(file.read_text()), "at": RealClock().wall() - KEPT_S - 1}))
    assert memory.read(f"place {MOST_FILES + 2}") == NOTHING
    Memory(Path("/proc/nowhere"), RealClock()).keep("place", said)  # cannot be written


async def test_tools_that_are_there(executor: LocalExecutor, program: Callable[..., Path]) -> None:
    path = program('echo "0, 81559, Disabled ($*)"', name="nvidia-smi")
    program("exit 9", name="npu-smi")
    tools = (("nvidia-smi", "-q"), ("npu-smi", "info"), ("no-such-smi",))
    found = await answer(executor, "true", Request(tools=tools), env={"PATH": f"{path.parent}:{os.environ['PATH']}"})
    assert found.tools == {"nvidia-smi": "0, 81559, Disabled (-q)\n"}


async def test_a_node_without_python_and_one_that_talks_nonsense(
    executor: LocalExecutor, program: Callable[..., Path]
) -> None:
    command = Command(("engine",))
    with pytest.raises(IPCCommandError, match="no such program"):
        await ask(executor, command, Request(), RealClock(), python="no-such-python")
    for script in ("echo nonsense", "echo '{\"program\": 5}'", 'echo \'{"program": "x", "runs": 1}\'', "exit 1"):
        with pytest.raises(CommunicationError, match="makes no sense"):
            await ask(executor, command, Request(), RealClock(), python=str(program(script)))


async def test_a_cancelled_question_leaves_nothing(
    executor: LocalExecutor, program: Callable[..., Path], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "begun")
    path = program("echo $$ > begun; exec sleep 600")
    question = asyncio.create_task(answer(executor, path, directory=tmp_path))
    pid = int(await asyncio.to_thread((tmp_path / "begun").read_text))
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question
    assert not alive(pid)
