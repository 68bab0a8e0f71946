"""Programs that the lab needs and a machine may lack: the installed ones, or Debian's, unpacked without installing them."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.lab.sshd import PROJECT, NoLab, unpack

CACHE = PROJECT / ".cache"


def find_nft() -> tuple[str, ...]:
    """The beginning of its command lines, for packet filters. NoLab if there is none."""
    if installed := shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin"):
        return (installed,)
    root = _unpacked(
        "nft", ("nftables", "libnftables1", "libnftnl11", "libmnl0", "libxtables12", "libjansson4", "libedit2")
    )
    libraries = sorted({str(path.parent) for path in root.rglob("lib*.so.*")})
    return ("env", f"LD_LIBRARY_PATH={':'.join(libraries)}", str(root / "usr/sbin/nft"))


def find_faketime() -> str:
    """A library for LD_PRELOAD that shows another time of day. NoLab if there is none."""
    for root in (Path("/"), _unpacked("faketime", ("libfaketime",))):
        for library in root.glob("usr/lib/*/faketime/libfaketimeMT.so.1"):
            return str(library)
    raise NoLab("there is no libfaketime here; install it")


def _unpacked(name: str, packages: tuple[str, ...]) -> Path:
    if not (CACHE / name).exists():
        unpack(packages, CACHE / name, name)
    return CACHE / name
