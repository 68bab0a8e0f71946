"""What every service of the load generator must do. Inherit ``ServiceContract`` and give it ``make_service``."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from swarmtune.clock import VirtualClock
from swarmtune.errors import SwarmTuneError
from swarmtune.loadgen.ask.spec import Spec
from swarmtune.loadgen.distributed.bus import Bus
from swarmtune.loadgen.distributed.lifecycle import State
from swarmtune.loadgen.distributed.messages import BusMessage, Configure, Done, Heartbeat, Shutdown, Start
from swarmtune.loadgen.distributed.service import CONTROLLER, Service
from swarmtune.loadgen.options import LoadgenOptions

ENOUGH_S = 60.0  # virtual
COMMANDS = ("initialize", "configure", "start")


class ServiceContract:
    """The tests of its life cycle. The bus is on a virtual clock, and the tests speak as the controller."""

    def make_service(self, bus: Bus, place: Path) -> Service:
        """The service, not yet initialized, with its files in ``place``."""
        raise NotImplementedError

    def order(self) -> Configure:
        """What it is configured with."""
        spec = Spec(url=("http://127.0.0.1:9",), model="m", options=LoadgenOptions(request_count=3, concurrency=1))
        return Configure(spec.model_dump_json(exclude_unset=True))

    def lead(self, service: Service, to: str) -> list[State]:
        """Take it through its life as far as this command, as the controller does: by messages. Its states on the way."""
        channel, states = service.bus.channel(CONTROLLER), [service.state]
        for command in COMMANDS[: COMMANDS.index(to) + 1]:
            if command == "initialize":
                service.initialize()
            else:
                message: BusMessage = self.order() if command == "configure" else Start()
                assert channel.request(message, service.name, ENOUGH_S) == Done()
            states.append(service.state)
        return states

    def test_it_obeys_its_commands_in_their_order(self, tmp_path: Path) -> None:
        service = self.make_service(Bus(VirtualClock()), tmp_path)
        states = self.lead(service, "start")
        assert states == [State.CREATED, State.INITIALIZED, State.CONFIGURED, State.RUNNING]
        service.leave(CONTROLLER, Shutdown())
        assert (service.state, service.dismissed) == (State.STOPPED, True)
        service.clean()
        assert service.state is State.CLEANED
        service.clean()  # twice does no harm

    def test_a_command_out_of_order_is_refused_and_changes_nothing(self, tmp_path: Path) -> None:
        service = self.make_service(Bus(VirtualClock()), tmp_path)
        self.lead(service, "initialize")
        with pytest.raises(SwarmTuneError, match="is initialized and cannot become running"):
            service.bus.channel(CONTROLLER).request(Start(), service.name, ENOUGH_S)
        assert service.state is State.INITIALIZED
        service.clean()

    @pytest.mark.parametrize("last", COMMANDS)
    def test_it_can_be_cleaned_up_from_everywhere_and_leaves_no_process(self, tmp_path: Path, last: str) -> None:
        before = set(psutil.Process().children(recursive=True))
        service = self.make_service(Bus(VirtualClock()), tmp_path)
        self.lead(service, last)
        if service.state is State.RUNNING:
            service.fail()
        service.clean()
        assert service.state is State.CLEANED
        assert set(psutil.Process().children(recursive=True)) <= before

    def test_a_run_that_is_given_up_makes_it_failed(self, tmp_path: Path) -> None:
        service = self.make_service(Bus(VirtualClock()), tmp_path)
        self.lead(service, "start")
        service.leave(CONTROLLER, Shutdown("given up"))
        assert (service.state, service.dismissed) == (State.FAILED, True)
        service.clean()

    def test_the_controller_hears_that_it_lives(self, tmp_path: Path) -> None:
        service = self.make_service(Bus(VirtualClock()), tmp_path)
        signs: list[tuple[str, str]] = []
        service.bus.channel(CONTROLLER).subscribe(Heartbeat, lambda name, sign: signs.append((name, sign.state)))
        self.lead(service, "initialize")
        service.beat()
        service.bus.wait(0)
        assert signs == [(service.name, State.INITIALIZED)]
        service.clean()
