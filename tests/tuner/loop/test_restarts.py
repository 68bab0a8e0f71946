"""What a start costs, and which fields need none, as real engines' commands tell."""

from __future__ import annotations

from typing import Any

import pytest

from swarmtune.records import Setting
from swarmtune.settings import read_settings
from swarmtune.tuner.loop.restarts import Restarts, free_fields
from swarmtune.tuner.planning.make import make_plan

STARTED = {"start_seconds": 60.0}
RUNS = Setting({"seqs": 8, "concurrency": 4})


def free_of(engine: str, fields: list[dict[str, Any]], **section: Any) -> frozenset[str]:
    options = {"engine": engine, "warm_start": False}
    settings = {
        "optimizer": options, engine: {"target_field": fields, **section}, "load_search": {"enabled": False}
    }  # fmt: skip
    return free_fields(make_plan(read_settings(None, settings)))


SEQS = {"name": "max_num_seqs", "config_position": "--max-num-seqs", "min": 1, "max": 64, "dtype": "int"}
USERS = {"name": "CONCURRENCY", "config_position": "env", "min": 1, "max": 64, "dtype": "int"}


@pytest.mark.parametrize(("engine", "section"), [("simulated", {}), ("command", {"argv": ["serve"], "model": "m"})])
def test_only_the_load_needs_no_restart(engine: str, section: dict[str, Any]) -> None:
    assert free_of(engine, [SEQS, USERS], **section) == {"CONCURRENCY"}
    assert free_of(engine, [SEQS], **section) == frozenset()


LIVE = {**SEQS, "config_position": "POST /settings"}


def test_a_parameter_that_is_set_while_the_service_runs_needs_no_restart() -> None:
    assert free_of("simulated", [LIVE, USERS]) == {"max_num_seqs", "CONCURRENCY"}
    assert free_of("command", [LIVE], argv=["serve"], model="m") == {"max_num_seqs"}
    tokens = {"name": "tokens", "config_position": "--max-num-batched-tokens", "min": 64, "max": 512, "dtype": "int"}
    assert free_of("simulated", [LIVE, tokens]) == {"max_num_seqs"}


def test_a_command_that_names_the_value_needs_one_all_the_same() -> None:
    assert free_of("command", [LIVE], argv=["serve", "$MAX_NUM_SEQS"], model="m") == frozenset()


def test_shares_are_those_of_what_was_measured() -> None:
    restarts = Restarts(frozenset({"concurrency"}))
    assert restarts.on("g0") is None
    restarts.ended("g0", RUNS, 40.0, {})
    assert restarts.on("g0") is None, "nobody knows yet what a start costs"
    restarts.ended("g1", RUNS, 100.0, STARTED)
    running = restarts.on("g0")
    assert running is not None
    assert (running.setting, running.free) == (RUNS, {"concurrency"})
    assert running.start_share == pytest.approx(60 / (60 + 40))
    assert restarts.on("g2") is None


def test_after_a_failure_nothing_runs() -> None:
    restarts = Restarts(frozenset({"concurrency"}))
    restarts.ended("g0", RUNS, 100.0, STARTED)
    restarts.ended("g0", None, 5.0, {})
    assert restarts.on("g0") is None


def test_where_all_fields_need_a_restart_nobody_has_to_know() -> None:
    restarts = Restarts(frozenset())
    restarts.ended("g0", RUNS, 100.0, STARTED)
    assert restarts.on("g0") is None


def test_what_has_no_effect_on_the_baseline_is_not_taken_for_free() -> None:
    chunked = {"name": "chunked", "config_position": "--enable-chunked-prefill", "dtype": "bool", "value": False}
    tokens = {
        "name": "tokens", "config_position": "--max-num-batched-tokens", "min": 64, "max": 512, "dtype": "int",
        "when": "chunked",
    }  # fmt: skip
    assert free_of("simulated", [chunked, tokens, USERS]) == {"CONCURRENCY"}


def test_waits_are_no_costs_and_one_long_start_is_an_exception() -> None:
    restarts = Restarts(frozenset({"concurrency"}))
    for start_s in (60.0, 3000.0, 60.0):
        facts = {"start_seconds": start_s, "waited_seconds": 500.0}
        restarts.ended("g0", RUNS, start_s + 540.0, facts)
    running = restarts.on("g0")
    assert running is not None
    assert running.start_share == pytest.approx(60 / (60 + 40))


def test_a_measurement_that_takes_no_time_still_has_a_worth() -> None:
    restarts = Restarts(frozenset({"concurrency"}))
    restarts.ended("g0", RUNS, 60.0, {"start_seconds": 60.0})
    running = restarts.on("g0")
    assert running is not None
    assert running.start_share == 0.99
