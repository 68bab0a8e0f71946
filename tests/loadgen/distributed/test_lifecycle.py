from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.loadgen.distributed.lifecycle import (
    ALLOWED,
    LifeCycle,
    LifeCycleError,
    State,
    on_cleanup,
    on_configure,
    on_init,
    on_initialize,
    on_start,
    on_stop,
)


class Base(LifeCycle):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    @on_initialize
    def base_first(self) -> None:
        self.done.append("base 1")

    @on_init
    def base_second(self) -> None:
        self.done.append("base 2")

    @on_cleanup
    def base_clean(self) -> None:
        self.done.append("base clean")


class Derived(Base):
    @on_initialize
    def derived_first(self) -> None:
        self.done.append("derived 1")

    @on_configure
    def set_up(self) -> None:
        self.done.append("configured")

    @on_start
    def go(self) -> None:
        self.done.append("started")

    @on_stop
    def halt(self) -> None:
        self.done.append("stopped")

    @on_cleanup
    def derived_clean(self) -> None:
        self.done.append("derived clean")


def test_hooks_of_the_base_come_first_and_clean_up_runs_in_reverse() -> None:
    service = Derived()
    service.initialize()
    service.configure()
    service.start()
    service.stop()
    service.clean()
    assert service.done == [
        *("base 1", "base 2", "derived 1", "configured", "started", "stopped", "derived clean", "base clean")
    ]
    service.clean()
    assert len(service.done) == 8
    assert service.state is State.CLEANED


STEPS = {
    "initialize": State.INITIALIZED,
    "configure": State.CONFIGURED,
    "start": State.RUNNING,
    "stop": State.STOPPED,
    "fail": State.FAILED,
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=8))
def test_only_allowed_transitions_happen_and_the_error_names_both_states(steps: list[str]) -> None:
    service = LifeCycle()
    for step in steps:
        before, wanted = service.state, STEPS[step]
        if wanted in ALLOWED[before]:
            getattr(service, step)()
            assert service.state is wanted
        else:
            with pytest.raises(LifeCycleError, match=f"is {before} and cannot become {wanted}"):
                getattr(service, step)()
            assert service.state is before


def test_a_hook_that_raises_makes_the_service_failed_and_it_can_be_cleaned() -> None:
    class Bad(Derived):
        @on_configure
        def set_up(self) -> None:
            raise OSError("no room")

    service = Bad()
    service.initialize()
    with pytest.raises(OSError, match="no room"):
        service.configure()
    assert service.state is State.FAILED
    service.clean()
    assert service.done[-2:] == ["derived clean", "base clean"]


def test_one_failed_clean_up_hides_no_other() -> None:
    class Bad(Derived):
        @on_cleanup
        def bad_1(self) -> None:
            raise ValueError("one")

        @on_cleanup
        def bad_2(self) -> None:
            raise OSError("two")

    service = Bad()
    with pytest.raises(ExceptionGroup) as raised:
        service.clean()
    assert [str(error) for error in raised.value.exceptions] == ["two", "one"]
    assert service.done == ["derived clean", "base clean"]
    assert service.state is State.FAILED
