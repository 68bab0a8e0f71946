"""The description of one run of the load generator: the JSON file that its command line names."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from swarmtune.devices.host import is_here
from swarmtune.errors import ConfigPathError, ConfigValidationError
from swarmtune.loadgen.ask.target import parse
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.redaction import ours
from swarmtune.workload import StopRules

# What a request may have to keep to count for goodput: upper limits in ms, and a lower one in tokens/s.
LIMITS = ("ttft_ms", "ttst_ms", "ttfo_ms", "tpot_ms", "e2el_ms", "output_throughput_per_user")
HEADERS_VARIABLE = "SWARMTUNE_LOADGEN_HEADERS"  # a JSON object; headers may be secrets, so the spec file has only names
URLS_VARIABLE = "SWARMTUNE_LOADGEN_URLS"  # a JSON list, where a URL holds a secret
PROXY_VARIABLE = "SWARMTUNE_LOADGEN_PROXY"  # one with a password
OPTIONS_VARIABLE = "SWARMTUNE_LOADGEN_OPTIONS"  # a JSON object: further options that hold a secret
HIDDEN_VARIABLE = "SWARMTUNE_LOADGEN_HIDDEN"  # a JSON list: values that the tuner hides, and its load generator too
KEY_VARIABLES = ("SWARMTUNE_API_KEY", "OPENAI_API_KEY")


class ServiceNode(BaseModel):
    """A machine on which the service runs, and the indices of its devices there; none: it may use all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    devices: tuple[int, ...] = ()

    @property
    def is_here(self) -> bool:
        """Is it this machine?"""
        return is_here(self.host)


class Spec(BaseModel):
    """A whole run. ``url``: of the service, with or without /v1; several share the requests by turns.

    ``nodes``: where the service runs, if not only at ``url``. ``metrics_url``: where its engine tells its own metrics.
    ``service_token``: the SWARMTUNE_TOKEN of its processes; empty: SwarmTune has not started them.
    ``power_needed``: a measurement without power_watts is useless, so its reasons say why there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: tuple[str, ...] = Field(min_length=1)
    model: str
    seed: int = Field(0, ge=0, lt=2**63)
    request_slos: Mapping[str, float] = {}
    options: LoadgenOptions = LoadgenOptions()
    early_stop: StopRules | None = None
    nodes: tuple[ServiceNode, ...] = ()
    metrics_url: str = ""
    power_needed: bool = False
    service_token: str = ""

    @property
    def service_nodes(self) -> tuple[ServiceNode, ...]:
        """``nodes``, or the hosts of the addresses."""
        hosts = dict.fromkeys(urlsplit(url).hostname or "" for url in self.url)
        return self.nodes or tuple(ServiceNode(host=host) for host in hosts)

    @model_validator(mode="before")
    @classmethod
    def _one_url(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("url"), str):
            return {**data, "url": (data["url"],)}
        return data

    @field_validator("url")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parse(url)
        return urls

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if unknown := sorted(set(self.request_slos) - set(LIMITS)):
            raise ValueError(f"request_slos knows only {', '.join(LIMITS)}, not {', '.join(unknown)}")
        if any(not limit > 0 for limit in self.request_slos.values()):
            raise ValueError("the limits of request_slos must be above 0")
        return self

    def to_json(self) -> str:
        """The text of the spec file: without the values of headers, and without secrets in URLs."""
        data = self.model_dump(mode="json", exclude_unset=True)  # what was not given stays so
        if self.options.header:
            data["options"]["header"] = [f"{text.partition(':')[0]}:" for text in self.options.header]
        if "@" in self.options.proxy:
            data["options"]["proxy"] = ""
        data["options"] |= {name: ours.hide_in(data["options"][name]) for name in self._secret_options()}
        if self._secret_urls():
            data["url"] = [ours.hide(url) for url in self.url]
        return json.dumps(data, indent=1)

    def secret_environment(self) -> dict[str, str]:
        """What a process that reads the spec file needs besides it."""
        found = (
            {HEADERS_VARIABLE: msgspec.json.encode(headers_of(self.options)).decode()} if self.options.header else {}
        )
        found |= {URLS_VARIABLE: json.dumps(self.url)} if self._secret_urls() else {}
        found |= {OPTIONS_VARIABLE: json.dumps(options)} if (options := self._secret_options()) else {}
        return found | ({PROXY_VARIABLE: self.options.proxy} if "@" in self.options.proxy else {})

    def _secret_options(self) -> dict[str, Any]:
        """The other options that hold a secret, as plain data."""
        given = self.options.model_dump(mode="json", exclude_unset=True, exclude={"header", "proxy"})
        return {name: value for name, value in given.items() if ours.hide_in(value) != value}

    def _secret_urls(self) -> bool:
        ours.learn_in(self.url)
        return any(ours.hide(url) != url for url in self.url)

    @classmethod
    def read(cls, path: Path) -> Spec:
        """The spec in this file; ConfigPathError or ConfigValidationError say what is wrong with it. From then on this
        process hides what its environment holds, and what the process that started it hides.
        """
        ours.learn_environment(os.environ)
        with contextlib.suppress(ValueError, TypeError):
            ours.learn(*json.loads(os.environ.get(HIDDEN_VARIABLE, "[]")))
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigPathError(f"The spec file {path} cannot be read: {error.strerror}.") from error
        try:
            spec = cls.model_validate_json(_whole(text))
        except ValidationError as error:
            raise ConfigValidationError([f"{path}: {_where(e)}{e['msg']}" for e in error.errors()]) from error
        proxy = os.environ.get(PROXY_VARIABLE, spec.options.proxy)
        urls = tuple(json.loads(os.environ.get(URLS_VARIABLE, "null")) or spec.url)
        return spec.model_copy(update={"url": urls, "options": spec.options.model_copy(update={"proxy": proxy})})


def _whole(text: bytes) -> bytes:
    """The spec with the options that the file does not tell. What is no spec stays as it is."""
    told = os.environ.get(OPTIONS_VARIABLE)
    if told is None:
        return text
    try:
        data = json.loads(text)
        data["options"] = {**data["options"], **json.loads(told)}
    except (ValueError, TypeError, LookupError, RecursionError):
        return text
    return json.dumps(data).encode()


def _where(mistake: Any) -> str:
    place = ".".join(str(part) for part in mistake["loc"])
    return f"{place}: " if place else ""


def headers_of(options: LoadgenOptions) -> dict[str, str]:
    """The further headers of every request: of the options, of the environment, and the key as a bearer token.

    ConfigValidationError if those of the environment cannot be read, or the key cannot be sent.
    """
    headers = {name.strip(): value.strip() for name, _, value in (text.partition(":") for text in options.header)}
    try:
        headers |= msgspec.json.decode(os.environ.get(HEADERS_VARIABLE, "{}"), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise ConfigValidationError(
            [f"${HEADERS_VARIABLE} is not a JSON object of texts ({error}); unset it"]
        ) from error
    keys = {name: key for name in KEY_VARIABLES if (key := os.environ.get(name, "").strip())}  # a file ends a line
    name, key = next(iter(keys.items()), ("", ""))
    if not (key.isascii() and key.isprintable()):
        raise ConfigValidationError(
            [f"${name} holds what no key has: a line break, another control character, or an accent"]
        )
    if key and "authorization" not in {name.lower() for name in headers}:
        headers["Authorization"] = f"Bearer {key}"
    for name, value in headers.items():
        ours.learn_header(name, value)
    return headers
