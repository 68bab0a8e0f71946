"""Endpoints: the APIs that requests can be sent to, with their bodies and their answers. Pure: no sockets, no clocks."""

from __future__ import annotations

from swarmtune import registry
from swarmtune.loadgen.endpoints.base import Endpoint
from swarmtune.loadgen.options import LoadgenOptions


def endpoint_class(options: LoadgenOptions) -> type[Endpoint]:
    """The class of the endpoint that the options name. ConfigurationError if a plugin's class cannot be imported."""
    registry.load_plugins()  # each process of a run does it itself
    found: type[Endpoint] = registry.endpoints.load(options.endpoint_type)
    return found


def make_endpoint(model: str, options: LoadgenOptions) -> Endpoint:
    """The endpoint that the options name, for this model. ConfigurationError as above, and for a bad template."""
    return endpoint_class(options)(model, options)
