"""The hierarchy of errors, who must act, and what each carries."""

from __future__ import annotations

import inspect

import pytest

from swarmtune import errors
from swarmtune.errors import ConfigValidationError, Culprit, MissingExtraError, SwarmTuneError

# name -> (parent, who must act)
HIERARCHY = {
    "ConfigurationError": ("SwarmTuneError", Culprit.USER),
    "ConfigPathError": ("ConfigurationError", Culprit.USER),
    "ConfigValidationError": ("ConfigurationError", Culprit.USER),
    "MissingExtraError": ("ConfigurationError", Culprit.USER),
    "PluginError": ("ConfigurationError", Culprit.USER),
    "OptimizationError": ("SwarmTuneError", Culprit.BUG),
    "PSOConvergenceError": ("OptimizationError", Culprit.USER),
    "FitnessCalculationError": ("OptimizationError", Culprit.USER),
    "StudyBusyError": ("OptimizationError", Culprit.USER),
    "StoreError": ("OptimizationError", Culprit.USER),
    "SimulatorError": ("SwarmTuneError", Culprit.SETTING),
    "SimulatorStartError": ("SimulatorError", Culprit.SETTING),
    "SimulatorStopError": ("SimulatorError", Culprit.INFRASTRUCTURE),
    "SimulatorHealthCheckError": ("SimulatorError", Culprit.SETTING),
    "BenchmarkError": ("SwarmTuneError", Culprit.INFRASTRUCTURE),
    "BenchmarkExecutionError": ("BenchmarkError", Culprit.INFRASTRUCTURE),
    "BenchmarkParseError": ("BenchmarkError", Culprit.INFRASTRUCTURE),
    "CommunicationError": ("SwarmTuneError", Culprit.INFRASTRUCTURE),
    "IPCTimeoutError": ("CommunicationError", Culprit.INFRASTRUCTURE),
    "IPCCommandError": ("CommunicationError", Culprit.INFRASTRUCTURE),
}


def test_there_are_these_and_no_others() -> None:
    found = {
        name: (kind.__bases__[0].__name__, kind.culprit)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, SwarmTuneError) and kind is not SwarmTuneError
    }
    assert found == HIERARCHY


@pytest.mark.parametrize("name", [n for n in HIERARCHY if n not in ("ConfigValidationError", "MissingExtraError")])
def test_message_details_and_culprit(name: str) -> None:
    kind = getattr(errors, name)
    facts = {"exit_code": 1}
    error = kind("What is wrong.", details=facts)
    assert (str(error), error.message, error.details, error.culprit) == (
        "What is wrong.",
        "What is wrong.",
        facts,
        HIERARCHY[name][1],
    )
    assert error.details is not facts
    assert kind("x").details == {}
    assert kind("x", culprit=Culprit.INFRASTRUCTURE).culprit is Culprit.INFRASTRUCTURE
    assert kind("x").culprit is HIERARCHY[name][1]


def test_all_mistakes_are_in_the_message_once() -> None:
    error = ConfigValidationError(["a.toml: x: wrong", "a.toml: y: wrong", "a.toml: x: wrong"])
    assert error.mistakes == ["a.toml: x: wrong", "a.toml: y: wrong"]
    assert error.details == {"mistakes": error.mistakes}
    assert str(error) == "2 mistakes in the configuration:\n  - a.toml: x: wrong\n  - a.toml: y: wrong"
    assert str(ConfigValidationError(["x"])).startswith("1 mistake in")


def test_a_missing_extra_names_the_command() -> None:
    error = MissingExtraError("The llamacpp engine", "llamacpp")
    assert str(error).endswith("pip install 'swarmtune[llamacpp]'")
    assert "\n" not in str(error)
    assert error.details == {"extra": "llamacpp"}
