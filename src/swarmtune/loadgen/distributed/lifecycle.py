"""The life of a service: created -> initialized -> configured -> running -> stopped -> cleaned; failed from any of them.

What a service does on the way are its hooks: methods under a decorator, several per stage if wanted. The hooks of base
classes come first, within a class in the order of the text; those of the clean-up run in reverse, all of them, always.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from swarmtune.errors import SwarmTuneError

Hook = TypeVar("Hook", bound=Callable[..., None])
_MARK = "_life_cycle_stage"


class State(StrEnum):
    """Where a service is in its life."""

    CREATED = "created"
    INITIALIZED = "initialized"
    CONFIGURED = "configured"
    RUNNING = "running"
    STOPPED = "stopped"
    CLEANED = "cleaned"
    FAILED = "failed"


# A service that never ran, or failed, is cleaned without being stopped.
ALLOWED: dict[State, frozenset[State]] = {
    State.CREATED: frozenset({State.INITIALIZED, State.CLEANED, State.FAILED}),
    State.INITIALIZED: frozenset({State.CONFIGURED, State.CLEANED, State.FAILED}),
    State.CONFIGURED: frozenset({State.RUNNING, State.CLEANED, State.FAILED}),
    State.RUNNING: frozenset({State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset({State.CLEANED, State.FAILED}),
    State.CLEANED: frozenset(),
    State.FAILED: frozenset({State.CLEANED, State.FAILED}),
}


class LifeCycleError(SwarmTuneError):
    """A service was asked to go to a state that cannot follow its present one."""


def _decorator(stage: State) -> Callable[[Hook], Hook]:
    def mark(method: Hook) -> Hook:
        setattr(method, _MARK, stage)
        return method

    return mark


on_initialize = on_init = _decorator(State.INITIALIZED)
on_configure = _decorator(State.CONFIGURED)
on_start = _decorator(State.RUNNING)
on_stop = _decorator(State.STOPPED)
on_cleanup = _decorator(State.CLEANED)


class LifeCycle:
    """Base of all services. A hook takes no arguments; one that raises makes the service failed."""

    def __init__(self) -> None:
        self.state = State.CREATED

    def initialize(self) -> None:
        """created -> initialized."""
        self._go(State.INITIALIZED)

    def configure(self) -> None:
        """initialized -> configured."""
        self._go(State.CONFIGURED)

    def start(self) -> None:
        """configured -> running."""
        self._go(State.RUNNING)

    def stop(self) -> None:
        """running -> stopped."""
        self._go(State.STOPPED)

    def fail(self) -> None:
        """Any -> failed: it cannot go on. Only a clean-up can follow."""
        self._check(State.FAILED)
        self.state = State.FAILED

    def clean(self) -> None:
        """Let go of everything; a second time does nothing. Errors of several hooks come as an ExceptionGroup."""
        if self.state is State.CLEANED:
            return
        self._check(State.CLEANED)
        errors: list[Exception] = []
        for hook in reversed(self._hooks(State.CLEANED)):
            try:
                hook()
            except Exception as error:  # noqa: BLE001 - the other hooks must run; told below
                errors.append(error)
        self.state = State.FAILED if errors else State.CLEANED
        if errors:
            raise ExceptionGroup(f"{type(self).__name__} could not be cleaned up", errors)

    def _go(self, state: State) -> None:
        self._check(state)
        try:
            for hook in self._hooks(state):
                hook()
        except BaseException:
            self.state = State.FAILED
            raise
        self.state = state

    def _check(self, state: State) -> None:
        if state not in ALLOWED[self.state]:
            raise LifeCycleError(f"{type(self).__name__} is {self.state} and cannot become {state}")

    def _hooks(self, stage: State) -> list[Callable[[], Any]]:
        """An overridden hook keeps the place of the one that it replaces."""
        names: dict[str, None] = {}
        for cls in reversed(type(self).__mro__):
            names |= {name: None for name, value in vars(cls).items() if getattr(value, _MARK, None) is stage}
        return [getattr(self, name) for name in names]
