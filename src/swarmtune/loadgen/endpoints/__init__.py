"""The APIs that requests can be sent to: how a body looks, and what an answer says. Adding one: a file and a line
here."""

from __future__ import annotations

from importlib import import_module

from swarmtune.loadgen.endpoints.base import Endpoint
from swarmtune.loadgen.options import LoadgenOptions

ENDPOINTS = {
    "chat": "chat:Chat",
    "completions": "completions:Completions",
    "embeddings": "embeddings:Embeddings",
    "responses": "responses:Responses",
    "rankings": "rankings:Rankings",
    "tgi": "tgi:Tgi",
    "template": "template:Template",
}


def make_endpoint(model: str, options: LoadgenOptions) -> Endpoint:
    """The endpoint that the options name, for this model."""
    module, _, name = ENDPOINTS[options.endpoint_type].partition(":")
    made: Endpoint = getattr(import_module(f"{__name__}.{module}"), name)(model, options)
    return made
