"""Says what there is on a machine: a program, files, what the program prints of itself, and what driver tools print.

Standard library only, one file, Python >= 3.8 on Linux, started as ``python -I -S -c TEXT REQUEST``: it is sent to machines
where SwarmTune is not installed, and changes nothing there.

REQUEST is a JSON object: ``program`` and ``directory`` of a service; ``paths`` that it needs; ``package``, a Python package;
``help`` and ``version``, arguments that make the program print them (empty: it is not asked); ``stamp`` of a program whose
help is known; ``tools``, further commands; ``limit_s``, the time for the help; ``most_bytes`` of one output.

It prints one line, a JSON object that begins with ``program`` (its path; empty: there is none): ``runs``, may it be
executed; ``paths``, which of them are there (null: nobody can say); ``package``, its version and whether it is there (null:
nobody can say); ``stamp``, which changes with the program; ``version``; ``help`` (zlib, then base64; empty: not asked);
``trouble``, why there is no help; ``tools``, the output of those that ended well.
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
            why = f"does not end within {limit_s:g} s"
    if not why:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            why = f"does not end within {limit_s:g} s"
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


def package(python: str, name: str, directory: str) -> list[Any] | None:
    """The version of a package, and whether it can be imported; None if nobody can say."""
    output, _, why = run([python, "-c", PACKAGE, name], directory, TOOL_S, 1 << 16)
    try:
        version, there = json.loads(output)
    except (ValueError, TypeError):
        return None
    return None if why else [str(version), bool(there)]


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


def look(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    directory = os.path.expanduser(request["directory"])  # noqa: PTH111 - no error where there is no home
    directory = directory if os.access(directory, os.X_OK) and Path(directory).is_dir() else ""
    name, place, most = request["program"], directory or str(Path.cwd()), request["most_bytes"]
    path, runs = name if "/" in name else shutil.which(name) or "", True
    if "/" in name and (there := is_there(name, directory)) is not None:
        file = Path(place, name)
        path, runs = str(file) if there and file.is_file() else "", os.access(file, os.X_OK)
    answer: dict[str, Any] = {"program": path, "runs": runs, "package": None, "stamp": "", "version": "", "help": ""}
    answer["trouble"] = ""
    answer["paths"] = {each: is_there(each, directory) for each in request["paths"]}
    answer["tools"] = {}
    for tool in request["tools"]:
        if shutil.which(tool[0]):
            output, _, why = run(tool, place, TOOL_S, 1 << 16)
            answer["tools"].update({} if why else {tool[0]: output})
    if not (path and runs):
        return answer
    python = interpreter(path)
    if request["package"] and python:
        answer["package"] = package(python, request["package"], place)
    answer["version"] = answer["package"][0] if answer["package"] else ""
    with contextlib.suppress(OSError):
        facts = Path(path).stat()
        answer["stamp"] = json.dumps([str(Path(path).resolve()), facts.st_mtime_ns, facts.st_size, answer["version"]])
    if not request["help"] or (answer["stamp"] and answer["stamp"] == request["stamp"]):
        return answer
    if request["version"] and not answer["version"]:
        output, errors, _ = run([name, *request["version"]], place, TOOL_S, 1 << 16)
        answer["version"] = (output.strip() or errors.strip())[:2000]
    output, errors, answer["trouble"] = run([name, *request["help"]], place, request["limit_s"], most)
    if not answer["trouble"] and not (output + errors).strip():
        answer["trouble"] = "prints nothing"
    if not answer["trouble"]:
        packed = base64.b64encode(zlib.compress((output if output.strip() else errors).encode(), 9)).decode()
        answer.update({"trouble": "prints too much"} if len(packed) > MOST_PACKED else {"help": packed})
    return answer


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(json.loads(sys.argv[1]))) + "\n")
