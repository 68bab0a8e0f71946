"""Public data sets, fetched once from the Hugging Face hub (or its mirror) and kept.

Each is pinned: its revision, its size and its SHA-256 are part of SwarmTune, so that equal options mean equal requests.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.error import HTTPError

from swarmtune.errors import CommunicationError, ConfigPathError
from swarmtune.files import created

HUB = "https://huggingface.co"
TIMEOUT_S = 60.0  # without any byte
BLOCK = 1 << 20


@dataclass(frozen=True)
class PublicFile:
    """A file of a data set on the hub."""

    repository: str
    revision: str  # a commit
    name: str
    size: int  # bytes
    sha256: str

    @property
    def path(self) -> str:
        """Where it is on a hub."""
        return f"datasets/{self.repository}/resolve/{self.revision}/{self.name}"


FILES = {
    "sharegpt": PublicFile(
        "anon8231489123/ShareGPT_Vicuna_unfiltered",
        "192ab2185289094fc556ec8ce5ce1e8e587154ca",
        "ShareGPT_V3_unfiltered_cleaned_split.json",
        672_837_942,
        "35f0e213ce091ed9b9af2a1f0755e9d39f9ccec34ab281cd4ca60d70f6479ba4",
    )
}


def fetch(name: str, *, hub: str | None = None, cache: Path | None = None) -> Path:
    """The local file of a data set; the first time it is fetched from ``hub`` (default $HF_ENDPOINT) into ``cache``.

    Only a file of the pinned size and hash gets its name there; a fetch that fails or is cancelled leaves nothing.
    CommunicationError: it cannot be fetched, or is another file; ConfigPathError: it cannot be kept.
    """
    file = FILES[name]
    place = (cache or Path.home() / ".cache" / "swarmtune") / file.revision / file.name
    if place.is_file() and place.stat().st_size == file.size:
        return place
    url = f"{(hub or os.environ.get('HF_ENDPOINT') or HUB).rstrip('/')}/{file.path}"
    part = place.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with created(part) as target:
            _copy(url, target, file)
        part.replace(place)
    except OSError as error:
        raise ConfigPathError(f"public_dataset {name}: {place.parent} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return place


def _copy(url: str, target: IO[bytes], file: PublicFile) -> None:
    """The body behind ``url``; proxies of the environment are used. No more is read than the pinned size."""
    way_out = "fetch it elsewhere and name it with input_file, or set HF_ENDPOINT to a mirror that can be reached"
    if not url.startswith(("http://", "https://")):
        raise CommunicationError(f"HF_ENDPOINT must be an http or https address, not {url!r}")
    found = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310  checked above
            while (block := response.read(BLOCK)) and target.tell() <= file.size:
                found.update(block)
                _write(target, block)
    except _DiskError as error:
        raise OSError(str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise CommunicationError(f"{url} cannot be fetched ({error}): {way_out}") from error
    if target.tell() < file.size:
        raise CommunicationError(
            f"{url} was cut off after {target.tell()} of {file.size} bytes: try again, or {way_out}"
        )
    if target.tell() > file.size or found.hexdigest() != file.sha256:
        raise CommunicationError(
            f"{url} is another file than the pinned one (SHA-256 {file.sha256}, {file.size} bytes): {way_out}"
        )


class _DiskError(Exception):
    """The target cannot be written (errors of the network are OSErrors, too)."""


def _write(target: IO[bytes], block: bytes) -> None:
    try:
        target.write(block)
    except OSError as error:
        raise _DiskError(error.strerror or str(error)) from error
