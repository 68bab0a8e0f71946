"""Says what there is on a machine: a program, files, what the program prints of itself, and what driver tools print.

Standard library only, one file, Python >= 3.8 on Linux, started as ``python -I -S -c TEXT REQUEST``: it is sent to machines
where SwarmTune is not installed, and changes nothing there.

REQUEST is a JSON object: ``program`` and ``directory`` of a service; ``paths`` that it needs; ``package``, a Python package;
``help`` and ``version``, arguments that make the program print them (empty: it is not asked); ``stamp`` of a program whose
help is known; ``tools``, further commands; ``limit_s``, the time for all that the program is asked; ``most_bytes`` of one
output.

It prints one line, a JSON object that begins with ``program`` (its path; empty: there is none): ``fault``, why that cannot
be executed (empty: it can); ``paths``, which of them are there (null: nobody can say); ``package``, its version and whether
it is there (null: nobody can say); ``stamp``, which changes with the program; ``version``, the line that tells it; ``help``
(zlib, then base64; empty: not asked); ``trouble``, why there is no help; ``tools``, the output of those that ended well.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

TOOL_S = 20.0  # for anything but the help
MOST_PACKED = 180_000  # characters of a packed help: the tuner reads the last 256 KiB
PYTHON = re.compile(rb"(?:\A#!\s*(?:\S*/env\s+(?:-S\s+)?)?|^'''exec' [\"']?)([^\s\"']*python[0-9.]*)", re.MULTILINE)
VERSION = re.compile(r"(?:[A-Za-z][\w.-]*[ ,:]+){0,3}v?[0-9]+\.[0-9][\w.+!-]*")
OF_HELP = re.compile(r"^\s*(?:usage:|-{1,2}[A-Za-z])", re.IGNORECASE | re.MULTILINE)
PACKAGE = """
import importlib.metadata, importlib.util, json, sys
try:
    version = importlib.metadata.version(sys.argv[1])
except importlib.metadata.PackageNotFoundError:
    version = ""
print(json.dumps([version or "", importlib.util.find_spec(sys.argv[1]) is not None]))
"""


def run(argv: list[str], directory: str, limit_s: float, most_bytes: int) -> tuple[str, str, str]:
    """Standard output and error of a program that ends well, and why it did not (empty: it did)."""
    try:
        process = subprocess.Popen(
            argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except (OSError, ValueError) as error:
        return "", "", f"cannot be run: {getattr(error, 'strerror', None) or error}"
    streams: list[Any] = [process.stdout, process.stderr]
    outputs: dict[Any, bytes] = dict.fromkeys(streams, b"")
    deadline, waiting, why = time.monotonic() + limit_s, list(streams), ""
    while waiting and not why:
        ready = select.select(waiting, [], [], 0.1)[0]
        for stream in ready:
            block = os.read(stream.fileno(), 1 << 16)
            outputs[stream] += block
            if not block:
                waiting.remove(stream)
        if not ready and process.poll() is not None:
            break  # something that it left behind holds its output open
        if max(map(len, outputs.values())) > most_bytes:
            why = f"prints more than {most_bytes} bytes"
        elif time.monotonic() > deadline:
            why = f"does not end within {round(limit_s, 1):g} s"
    if not why:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            why = f"does not end within {round(limit_s, 1):g} s"
    if process.poll() is None:
        process.kill()
        process.wait()
    output, errors = (outputs[stream].decode(errors="replace") for stream in streams)
    if process.returncode and not why:
        said = [line.strip() for line in (errors or output).splitlines() if line.strip()]
        why = f"ends with code {process.returncode}" + (f": {said[-1][:300]}" if said else "")
    return output, errors, why


def interpreter(program: str) -> str:
    """The Python that runs a program: itself, or the one that its first lines name; empty if there is none."""
    if re.fullmatch(r"python[0-9.]*", Path(program).name):
        return program
    with contextlib.suppress(OSError), Path(program).open("rb") as file:
        match = PYTHON.search(file.read(512))
        if match:
            return shutil.which(match[1].decode(errors="replace")) or ""
    return ""


def fault(file: Path) -> str:
    """Why this file cannot be executed, as the rest of a sentence that begins with it; empty: nothing speaks against it."""
    try:
        file.stat()
    except OSError as error:  # links in a circle, a name that is too long
        return f"cannot be run: {error.strerror}; correct its name or path"
    if file.is_dir():
        return "is a folder; name the program in it"
    if not os.access(file, os.X_OK):
        return "cannot be executed; chmod +x makes it a program"
    begin = b"\0"
    if file.is_file():
        with contextlib.suppress(OSError), file.open("rb") as opened:
            begin = opened.read(512)
    is_text = b"\0" not in begin and begin[:4] != b"\x7fELF"
    if begin[:2] != b"#!" or not begin[2:].split():
        return "cannot be executed: its first line names no interpreter, such as #!/bin/sh" if is_text else ""
    line = begin[2:].partition(b"\n")[0].decode(errors="replace")
    words = line.strip(" \t").split()
    if words and Path(words[0]).name == "env" and Path(words[0]).exists():
        words = [word for word in words[1:] if word not in ("-S", "-i") and "=" not in word]
    if words and words[0].startswith("-"):  # another option of env
        return ""
    if not words or shutil.which(words[0]) is None:
        return (
            f"cannot be executed: its first line names the interpreter {''.join(words[:1])[:200]}, which is not there"
        )
    if line.endswith("\r"):
        return "cannot be executed: its first line ends with a carriage return; save it with the line ends of Unix"
    return ""


def package(python: str, name: str, directory: str, limit_s: float) -> list[Any] | None:
    """The version of a package, and whether it can be imported; None if nobody can say."""
    output, _, why = run([python, "-c", PACKAGE, name], directory, limit_s, 1 << 16)
    try:
        version, there = json.loads(output)
    except (ValueError, TypeError):
        return None
    return None if why else [str(version), bool(there)]


def version_line(text: str) -> str:
    """The last line that tells a version and nothing else; empty if there is none, or if the text is a help."""
    lines = [] if OF_HELP.search(text) else [line.strip() for line in text.splitlines()]
    return next((line[:200] for line in reversed(lines) if VERSION.fullmatch(line)), "")


def on_path(name: str) -> str:
    """The program of this name on the PATH, else a file of this name there that cannot be executed; empty: there is none."""
    files = (Path(folder, name) for folder in os.get_exec_path())
    return shutil.which(name) or next((str(file) for file in files if file.is_file()), "")


def is_there(path: str, directory: str) -> bool | None:
    """Is this file or folder there? None: it is relative to a folder that is made later, or may not be looked at."""
    if not directory and not Path(path).is_absolute():
        return None
    try:
        Path(directory, path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return None
    return True


def needed(path: str, directory: str, wanted: str) -> bool | None:
    """As ``is_there``. A shell also looks for the bare name of its script on the PATH; and a service for which no folder is
    wanted starts in an empty one.
    """
    there = is_there(path, directory)
    if "/" not in path and on_path(path):
        return True
    return False if there is None and not wanted and not Path(path).is_absolute() else there


def look(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    directory = os.path.expanduser(request["directory"])  # noqa: PTH111 - no error where there is no home
    directory = directory if os.access(directory, os.X_OK) and Path(directory).is_dir() else ""
    name, place, most = request["program"], directory or str(Path.cwd()), request["most_bytes"]
    path, there = name if "/" in name else on_path(name), True if "/" not in name else is_there(name, directory)
    if "/" in name and there is not None:
        path = str(Path(place, name)) if there else ""
    seen = path and (there or Path(path).is_symlink())
    answer: dict[str, Any] = {"program": path, "fault": fault(Path(path)) if seen else "", "package": None}
    answer.update(dict.fromkeys(("stamp", "version", "help", "trouble"), ""))
    answer["paths"] = {each: needed(each, directory, request["directory"]) for each in request["paths"]}
    answer["tools"] = {}
    for tool in request["tools"]:
        if shutil.which(tool[0]):
            output, _, why = run(tool, place, TOOL_S, 1 << 16)
            answer["tools"].update({} if why else {tool[0]: output})
    if not path or answer["fault"]:
        return answer
    deadline = time.monotonic() + request["limit_s"]
    python = interpreter(path)
    if request["package"] and python:
        answer["package"] = package(python, request["package"], place, min(TOOL_S, request["limit_s"]))
    answer["version"] = answer["package"][0] if answer["package"] else ""
    with contextlib.suppress(OSError):
        facts = Path(path).stat()
        answer["stamp"] = json.dumps([str(Path(path).resolve()), facts.st_mtime_ns, facts.st_size, answer["version"]])
    if not request["help"] or (answer["stamp"] and answer["stamp"] == request["stamp"]):
        return answer
    output, errors, answer["trouble"] = run([name, *request["help"]], place, deadline - time.monotonic(), most)
    if not answer["trouble"] and not (output + errors).strip():
        answer["trouble"] = "prints nothing"
    if not answer["trouble"]:
        packed = base64.b64encode(zlib.compress((output if output.strip() else errors).encode(), 9)).decode()
        answer.update({"trouble": "prints too much"} if len(packed) > MOST_PACKED else {"help": packed})
    left_s = min(TOOL_S, deadline - time.monotonic())
    if request["version"] and not answer["version"] and left_s > 0:
        output, errors, why = run([name, *request["version"]], place, left_s, 1 << 16)
        answer["version"] = "" if why else version_line(output) or version_line(errors)
    return answer


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(json.loads(sys.argv[1]))) + "\n")
