"""What other programs took during a measurement, from readings that are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarmtune.devices.neighbours import BUSY_PROCESS, IDLE, NEIGHBOURS, OTHER, SPAN, STOLEN, WAIT
from swarmtune.devices.readings import Reading, of_device
from swarmtune.devices.spool import Lines
from swarmtune.loadgen.judge.certify import certify, disturbed
from swarmtune.loadgen.observe.contention import Contention, contention, other_device_share
from swarmtune.loadgen.options import LoadgenOptions
from swarmtune.loadgen.records import Observed, Outcome, Records
from swarmtune.testing.fake_records import fake_records

S = 10**9
Sample = tuple[float, float, float]  # at (s), share of others, idle share


def lines(*samples: Sample, span_s: float = 1.0, wait: float = 0.5, stolen: float = 0.0) -> Lines:
    found = Lines()
    for at_s, other, idle in samples:
        values = {OTHER: other, IDLE: idle, WAIT: wait, SPAN: span_s, STOLEN: stolen}
        readings = [Reading(name, value) for name, value in values.items()]
        found.add(round(at_s * S), NEIGHBOURS, readings)
    return found


def test_neighbours_take_only_what_is_not_left_over() -> None:
    found = contention(lines((1, 0.4, 0.0), (2, 0.4, 0.5), (3, 0.4, 0.04), (4, 0.0, 1.0)), 0, 4 * S)
    assert found == Contention(pytest.approx(0.3), pytest.approx(0.2))


def test_neighbours_take_little_from_a_service_that_need_not_wait() -> None:
    assert contention(lines((1, 0.9, 0.0), wait=0.08), 0, S) == Contention(pytest.approx(0.9), 0.0)


def test_what_other_machines_took_counts_though_nobody_here_waited() -> None:
    found = contention(lines((1, 0.5, 0.3), wait=0.0, stolen=0.4), 0, S)
    assert found == Contention(pytest.approx(0.5), pytest.approx(0.4), stolen_share=pytest.approx(0.4))


def test_only_the_measurement_counts_and_each_reading_by_the_time_it_covers() -> None:
    samples = lines((0.5, 1.0, 0.0), (1.5, 0.8, 0.0), (2.5, 0.2, 0.0), (3.5, 1.0, 0.0))
    found = contention(samples, round(1.25 * S), round(2.5 * S))
    assert found == Contention(pytest.approx(0.25 / 1.25 * 0.8 + 0.2 / 1.25), pytest.approx(0.32))


@pytest.mark.parametrize("samples", [(), ((1, 0.9, 0.0), (9, 0.9, 0.0))])
def test_readings_that_cover_too_little_tell_nothing(samples: tuple[Sample, ...]) -> None:
    assert contention(lines(*samples), 0, 8 * S) is None
    assert contention(lines((1, 0.9, 0.0)), S, S) is None
    assert contention(Lines(), 0, S) is None


def test_the_last_look_names_the_busiest_and_hostile_names_are_harmless() -> None:
    made = lines((1, 0.5, 0.0), (2, 0.5, 0.0))

    def named(at_s: int, **programs: float) -> None:
        made.add(at_s * S, NEIGHBOURS, [
            Reading(BUSY_PROCESS, share, (("name", name), ("pid", str(number))))
            for number, (name, share) in enumerate(programs.items())
        ])  # fmt: skip

    named(1, early=0.9)
    named(2, **{"a\x1b[2J": 0.2, "b" * 500: 0.4, "c": 0.1, "d": 0.05})
    found = contention(made, 0, 2 * S)
    assert found is not None
    assert found.busiest == f"{'b' * 40} (pid 1, 40%), a\\x1b[2J (pid 0, 20%), c (pid 2, 10%)"
    assert found.named_share == pytest.approx(0.7)


def test_of_several_accelerators_the_one_that_others_use_most_counts() -> None:
    made = Lines()
    for at_s, first, second in ((0, 1.0, 1.0), (1, 0.2, 0.0), (2, 0.4, 0.1), (5, 1.0, 1.0)):
        made.add(at_s * S, "nvml", [of_device("gpu_other_share", first, 0), of_device("gpu_other_share", second, 1)])
    assert other_device_share(made, 0, 3 * S) == pytest.approx(0.3)
    assert other_device_share(made, 3 * S, 4 * S) is None


# --- the certificate ---------------------------------------------------------------------------------------------


def starved(share: float, idle: float = 0.0, stolen: float = 0.0) -> Records:
    """A run without any other fault, beside which others used this share of the service's CPUs."""
    made = fake_records(400, seed=1)
    sent = made.requests["sent_ns"] > 0
    made.requests["ready_ns"] = (made.requests["sent_ns"] - made.requests["connect_ns"]) * sent
    made.chunks["doubt_ns"] = 0
    seconds = (made.ended_ns - made.started_ns) / S
    beside = lines((made.ended_ns / S, share, idle), span_s=seconds, stolen=stolen)
    beside.add(made.ended_ns, NEIGHBOURS, [Reading(BUSY_PROCESS, share, (("name", "burn"), ("pid", "4711")))])
    return replace(made, observed=Observed(devices=beside))


@pytest.mark.parametrize(
    ("share", "idle", "level"),
    [(0.41, 0.0, "invalid"), (0.1, 0.0, "degraded"), (0.05, 0.0, "valid"), (0.41, 0.3, "valid")],
)
def test_a_starved_service_is_not_valid(share: float, idle: float, level: str) -> None:
    verdict = certify(starved(share, idle), LoadgenOptions(concurrency=8))
    assert verdict.level == level
    assert verdict.facts["other_cpu_share"] == pytest.approx(share)
    assert verdict.facts["contended_cpu_share"] == pytest.approx(0 if idle else share)
    assert disturbed(verdict.reasons) == (level != "valid")


def test_the_neighbours_are_blamed_by_name_and_not_the_load_generator() -> None:
    made = starved(0.41)
    made.requests["ready_ns"] -= 10**9  # it was starved, too
    verdict = certify(made, LoadgenOptions(concurrency=8))
    assert verdict.level == "invalid"
    assert verdict.reasons[0] == (
        "other programs used 41% of the service's CPUs while it waited for one and none was idle, most of it burn "
        "(pid 4711, 41%): the service was starved (limit 0.3); stop them, or measure again when they have ended"
    )
    assert "load generator" not in " ".join(verdict.reasons)
    accepted = certify(starved(0.41), LoadgenOptions(concurrency=8, max_contended_cpu_share=1))
    assert accepted.level == "degraded"


def test_programs_with_a_small_part_are_not_said_to_have_most() -> None:
    """In a container, say, from which the others cannot be seen."""
    made = starved(0.41)
    made.observed.devices.add(
        made.ended_ns + 1, NEIGHBOURS, [Reading(BUSY_PROCESS, 0.02, (("name", "cron"), ("pid", "7")))]
    )
    verdict = certify(made, LoadgenOptions(concurrency=8))
    assert "none was idle, some of it cron (pid 7, 2%): the service was starved" in verdict.reasons[0]


def test_a_hypervisor_that_gives_the_cpus_to_others_is_not_taken_for_a_program() -> None:
    verdict = certify(starved(0.5, stolen=0.4), LoadgenOptions(concurrency=8))
    assert verdict.level == "invalid"
    assert disturbed(verdict.reasons)
    assert verdict.reasons[0] == (
        "other programs used 50% of the service's CPUs, most of it outside this virtual machine (steal): the service was "
        "starved (limit 0.3); measure on a machine whose CPUs are its own"
    )


def test_a_service_that_was_starved_to_death_has_no_result() -> None:
    made = starved(0.9)
    made.requests["outcome"] = Outcome.FAILED
    assert disturbed(certify(made, LoadgenOptions()).reasons)


@pytest.mark.parametrize(("share", "level"), [(0.05, "valid"), (0.2, "degraded"), (0.4, "invalid")])
def test_an_accelerator_that_others_use(share: float, level: str) -> None:
    made = starved(0.0)
    made.observed.devices.add(made.ended_ns, "nvml", [of_device("gpu_other_share", share, 0)])
    verdict = certify(made, LoadgenOptions(concurrency=8))
    assert (verdict.level, verdict.facts["other_device_share"]) == (level, share)
    assert disturbed(verdict.reasons) == (level != "valid")
    assert "load generator" not in " ".join(verdict.reasons)


def test_what_was_not_measured_is_not_judged() -> None:
    verdict = certify(replace(starved(0.9), observed=Observed()), LoadgenOptions(concurrency=8))
    assert (verdict.level, verdict.facts.keys() & {"other_cpu_share", "contended_cpu_share"}) == ("valid", set())
