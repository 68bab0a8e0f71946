"""CPU time of sets of processes, and of the CPUs at hand, from readings that are made up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmtune.devices import busiest, cpus
from swarmtune.devices.busiest import Busiest, MachineLook, growth, most_busy
from swarmtune.devices.cpus import CpuTimes, CpuUse, Limit, cgroup_limit, cpu_use, read_times
from swarmtune.devices.neighbours import IDLE, OTHER, STOLEN, NeighbourSource, shares
from swarmtune.devices.parties import ServiceMark
from swarmtune.devices.processes import TICKS_PER_S, CpuAccount, Process, WaitAccount, process, shown, since_boot
from swarmtune.devices.readings import ReadError


def one(pid: int, own: int, *, parent: int = 1, reaped: int = 0, started: int = 0, name: str = "p") -> Process:
    return Process(pid, name, parent, pid, started, own, reaped)


def by_pid(*processes: Process) -> dict[int, Process]:
    return {each.pid: each for each in processes}


def spent(*looks: dict[int, Process]) -> list[int]:
    """What an account says at looks that are 100 ticks apart."""
    account = CpuAccount()
    return [account.spent(look, 1000 + 100 * number) for number, look in enumerate(looks)]


def test_what_was_used_before_does_not_count_and_the_rest_does() -> None:
    assert spent(by_pid(one(1, 500, reaped=70)), by_pid(one(1, 530, reaped=70))) == [0, 30]


def test_children_that_came_and_went_between_two_looks_count_once() -> None:
    """30 ticks of a child never seen, 20 of one that was seen with 15 of them: the parent has waited for both."""
    before = by_pid(one(1, 100), one(2, 15, parent=1))
    after = by_pid(one(1, 101, reaped=30 + 20))
    assert spent(before, after) == [0, 1 + 30 + 5]


def test_grandchildren_are_the_nearest_living_ancestors() -> None:
    before = by_pid(one(1, 0), one(2, 10, parent=1), one(3, 40, parent=2))
    after = by_pid(one(1, 0, reaped=10 + 40 + 6))
    assert spent(before, after) == [0, 6]


def test_a_child_whose_time_nobody_inherits_takes_nothing_from_others() -> None:
    """An orphan's time goes to a process that is not ours; with SIGCHLD ignored it goes nowhere."""
    before = by_pid(one(1, 100), one(2, 900, parent=7), one(3, 900, parent=1))
    assert spent(before, by_pid(one(1, 130))) == [0, 30]


def test_a_process_is_another_one_if_it_has_started_later() -> None:
    assert spent(by_pid(one(5, 400)), by_pid(one(5, 8, started=1050))) == [0, 8]


def test_an_older_process_that_is_recognised_late_begins_at_nothing() -> None:
    late = one(6, 5000, started=10)
    assert spent({}, by_pid(late), by_pid(late._replace(own=5003))) == [0, 0, 3]


def test_waiting_counts_for_known_processes_and_only_if_it_matters() -> None:
    waits, ms = WaitAccount(), 10**6
    assert waits.share({(1, 1): (70 * ms, 900 * ms)}, 10.0) is None, "nothing to compare with"
    new_thread, late = {(1, 2): (100 * ms, 200 * ms)}, {(5, 5): (0, 9000 * ms)}
    assert waits.share({(1, 1): (270 * ms, 1000 * ms), **new_thread, **late}, 11.0) == pytest.approx(300 / 600)
    assert waits.share({(1, 1): (280 * ms, 1040 * ms), **new_thread, **late}, 12.0) == 0.0, "40 ms in a second"
    assert waits.share({}, 13.0) is None
    uncounted = WaitAccount()
    assert [uncounted.share({(1, 1): (0, 0)}, at_s) for at_s in (10.0, 11.0)] == [None, None], "delay accounting is off"


# --- the CPUs --------------------------------------------------------------------------------------------------------


def times(at_s: float, idle: int, interrupts: int = 0, limit: Limit | None = None, count: int = 4) -> CpuTimes:
    """``count`` CPUs; ``idle`` and ``interrupts``: ticks of each."""
    each = range(count)
    total = int(at_s * TICKS_PER_S)
    return CpuTimes(at_s, dict.fromkeys(each, idle), dict.fromkeys(each, interrupts), dict.fromkeys(each, total), limit)


def test_what_is_neither_idle_nor_an_interrupt_is_use_of_these_cpus() -> None:
    use = cpu_use(times(10, 0), times(12, TICKS_PER_S // 2, TICKS_PER_S // 10), {0, 1, 99})
    assert use == CpuUse(2, 2, pytest.approx(2 * 2 - 1 - 0.2), 0.25)


def test_a_limit_of_a_cgroup_counts_where_less_of_it_is_idle() -> None:
    before, after = Limit("/c", 1.5, 100.0), Limit("/c", 1.5, 102.97)
    free = TICKS_PER_S  # half of the time
    use = cpu_use(times(10, 0, limit=before), times(12, free, limit=after), range(4))
    assert use == CpuUse(1.5, 2, pytest.approx(2.97), pytest.approx(0.01), limited=True)
    other = replace(after, folder="/d")
    assert cpu_use(times(10, 0, limit=before), times(12, free, limit=other), range(4)) == CpuUse(4, 2, 4.0, 0.5)
    unused = replace(after, used_s=100.1)
    assert cpu_use(times(10, 0, limit=before), times(12, free, limit=unused), range(4)) == CpuUse(4, 2, 4.0, 0.5)


def test_what_the_hypervisor_gave_to_other_machines_is_told_apart() -> None:
    before, after = times(10, 0), replace(times(12, TICKS_PER_S), stolen=dict.fromkeys(range(4), TICKS_PER_S // 2))
    use = cpu_use(before, after, range(4))
    assert use == CpuUse(4, 2, 4.0, 0.5, stolen_s=2.0)
    assert {r.name: r.value for r in shares(use, 1.0, 0.5)}[STOLEN] == 0.25
    everything = replace(after, stolen=dict.fromkeys(range(4), 9 * TICKS_PER_S))
    assert cpu_use(before, everything, range(4)) == CpuUse(4, 2, 4.0, 0.5, stolen_s=4.0), "no more than was used"


def test_a_kernel_that_counts_nothing_or_no_such_cpu_is_not_known() -> None:
    made_up = replace(times(12, 0), total=dict.fromkeys(range(4), 0))
    assert cpu_use(replace(times(10, 0), total=made_up.total), made_up, range(4)) is None
    assert cpu_use(times(10, 0), times(12, 0), {77}) is None


def values(use: CpuUse, service_s: float, load_generator_s: float) -> dict[str, float]:
    return {reading.name: reading.value for reading in shares(use, service_s, load_generator_s)}


def test_others_have_what_neither_service_nor_load_generator_has_used() -> None:
    found = values(CpuUse(4, 2.0, 6.0, 0.25), 3.0, 1.0)
    assert (found[OTHER], found[IDLE]) == (0.25, 0.25)
    assert (found["cpu_service_share"], found["cpu_load_generator_share"]) == (0.375, 0.125)
    assert values(CpuUse(4, 2.0, 1.0, 0.9), 1.5, 0.0)[OTHER] == 0.0
    stolen = values(CpuUse(4, 2.0, 6.0, 0.25, stolen_s=0.5), 5.8, 0.2)
    assert stolen[OTHER] == stolen[STOLEN] == 0.0625, "the kernel charged the service for what was stolen meanwhile"


def test_limits_of_cgroups_are_read_at_each_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(folder: str, **files: str) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / folder / name.replace("_", ".", 1)).write_text(content)

    leave("a", cpu_max="250000 100000\n", cpu_stat="usage_usec 5000000\nuser_usec 1\n")
    leave("a/b", cpu_max="max 100000\n", cpu_stat="usage_usec 7\n")
    leave("a/c", cpu_max="nonsense", cpu_stat="")
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
    told: Callable[[list[tuple[str, str]]], Any] = lambda rows: monkeypatch.setattr(cpus, "cgroups_of", lambda _: rows)  # noqa: E731
    for path in ("/a", "/a/b", "/a/c"):
        told([("", path)])
        assert cgroup_limit(1) == Limit(str(tmp_path / "a"), 2.5, 5.0)
    told([("", "/../../etc")])
    assert cgroup_limit(1) is None
    leave("cpu/x", cpu_cfs_quota_us="50000", cpu_cfs_period_us="100000")
    leave("cpuacct/x", cpuacct_usage="3000000000")
    told([("memory", "/x"), ("cpu,cpuacct", "/x")])
    assert cgroup_limit(1) == Limit(str(tmp_path / "cpu/x"), 0.5, 3.0)


# --- names -----------------------------------------------------------------------------------------------------------


def test_growth_does_not_blame_a_parent_for_what_its_children_did_before() -> None:
    first = [one(1, 10, reaped=5), one(2, 1000, parent=1), one(3, 50)]
    now = [one(1, 10, reaped=5 + 1004), one(3, 80), one(4, 7, started=200), one(5, 900, started=50)]
    assert sorted(growth(first, now, since=100)) == [(4, now[0]), (7, now[2]), (30, now[1])]


def test_only_the_busiest_on_these_cpus_are_named() -> None:
    own = os.getpid()
    used = [(ticks, one(own, 0, name=f"p{ticks}\n")) for ticks in (900, 700, 800, 600, 1)]
    named = most_busy(used, 1000 / TICKS_PER_S, os.sched_getaffinity(0))
    assert [(p.name, p.share) for p in named] == [("p900 ", 0.9), ("p800 ", 0.8), ("p700 ", 0.7)]
    assert most_busy(used, 1000 / TICKS_PER_S, {10**6}) == ()


def test_names_cost_little_however_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    clock = iter(range(1000))
    monkeypatch.setattr(busiest.time, "thread_time", lambda: next(clock))  # a look takes a second

    def others() -> list[Process]:
        looks.append(1)
        return []

    names = Busiest(others)
    names.begin()
    assert [names.now(1, {0}) for _ in range(50)] == [()] * 50
    assert len(looks) == 1


def test_any_name_can_be_printed() -> None:
    assert shown("\x1b[31m\u202ered\n" + "x" * 99) == r"\x1b[31m\u202ered " + "x" * 22


def test_this_process_and_this_machine() -> None:
    me = process(os.getpid())
    assert me is not None
    assert (me.parent, 0 < me.started <= since_boot()) == (os.getppid(), True)
    assert process(2**22 + 5) is None
    assert read_times(os.getpid()).total
    look = MachineLook()
    use = next((found for _ in range(1000) if (found := look.use())), None)  # at once, the kernel has counted nothing
    assert use is None or 0 <= use.share <= 1


def test_a_service_that_cannot_be_identified_is_not_measured() -> None:
    source = NeighbourSource(ServiceMark((1,)), os.getpid())
    for _ in range(2):
        with pytest.raises(ReadError, match="listens on port 1 of this machine"):
            source.read()
