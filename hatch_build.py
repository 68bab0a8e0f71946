"""Builds the hot paths in C of load generator and simulator, where there is a compiler on Linux; else Python serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PARTS = {
    Path("src/swarmtune/loadgen/wire"): (),
    Path("src/swarmtune/simulator/virtual"): ("-ffp-contract=off",),  # the same bytes as in Python
}


class NativeParts(BuildHookInterface):  # type: ignore[type-arg] # hatchling's own hooks do the same
    """Compiles each native.c to _native.so beside it. SWARMTUNE_BUILD_NATIVE: "0" never, "1" or fail; else if it can be."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the signature is hatchling's
        wanted = os.environ.get("SWARMTUNE_BUILD_NATIVE", "")
        root = Path(self.root)
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if wanted == "0" or not sys.platform.startswith("linux") or self.target_name != "wheel":
            return
        if compiler is None:
            self._without("there is no C compiler (cc)", wanted)
            return
        for part, flags in PARTS.items():
            library = root / part / "_native.so"
            command = [
                compiler,
                "-O2",
                *flags,
                "-shared",
                "-fPIC",
                "-o",
                str(library),
                str(root / part / "native.c"),
                "-lm",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self._without(done.stderr.strip(), wanted)
                return
            build_data["artifacts"].append(str(part / "_native.so"))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def _without(self, reason: str, wanted: str) -> None:
        if wanted == "1":
            raise RuntimeError(f"the hot paths were not built: {reason}")
        self.app.display_warning(f"The hot paths were not compiled, those in Python are used: {reason}")
