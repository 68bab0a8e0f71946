"""Public data sets, fetched once from the Hugging Face hub (or its mirror) and kept."""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import BinaryIO

from swarmtune.errors import CommunicationError, ConfigPathError

HUB = "https://huggingface.co"
FILES = {
    "sharegpt": (
        "datasets/anon8231489123/ShareGPT_Vicuna_unfiltered/resolve/main",
        "ShareGPT_V3_unfiltered_cleaned_split.json",
    )
}
TIMEOUT_S = 60.0  # without any byte
BLOCK = 1 << 20


def fetch(name: str, *, hub: str | None = None, cache: Path | None = None) -> Path:
    """The local file of a data set; the first time it is fetched from ``hub`` (default $HF_ENDPOINT) into ``cache``.

    CommunicationError: it cannot be fetched; ConfigPathError: it cannot be kept.
    """
    folder, file = FILES[name]
    place = (cache or Path.home() / ".cache" / "swarmtune") / file
    if place.is_file():
        return place
    url = f"{(hub or os.environ.get('HF_ENDPOINT') or HUB).rstrip('/')}/{folder}/{file}"
    part = place.with_name(f"{file}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as target:
            _copy(url, target)
        part.replace(place)
    except OSError as error:
        raise ConfigPathError(f"public_dataset {name}: {place.parent} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return place


def _copy(url: str, target: BinaryIO) -> None:
    """The body behind ``url``; proxies of the environment are used."""
    way_out = "fetch it elsewhere and name it with input_file, or set HF_ENDPOINT to a mirror that can be reached"
    if not url.startswith(("http://", "https://")):
        raise CommunicationError(f"HF_ENDPOINT must be an http or https address, not {url!r}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310  checked above
            expected = response.headers.get("Content-Length")
            while block := response.read(BLOCK):
                _write(target, block)
    except _DiskError as error:
        raise OSError(str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise CommunicationError(f"{url} cannot be fetched ({error}): {way_out}") from error
    if expected is not None and int(expected) != target.tell():
        raise CommunicationError(
            f"{url} was cut off after {target.tell()} of {expected} bytes: try again, or {way_out}"
        )


class _DiskError(Exception):
    """The target cannot be written (errors of the network are OSErrors, too)."""


def _write(target: BinaryIO, block: bytes) -> None:
    try:
        target.write(block)
    except OSError as error:
        raise _DiskError(error.strerror or str(error)) from error
