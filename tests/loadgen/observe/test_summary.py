"""What each series did during the measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmtune.devices.prometheus import parse
from swarmtune.devices.spool import Lines
from swarmtune.loadgen.observe.summary import summary

S = 1_000_000_000
DATA = Path(__file__).parents[2] / "devices"


def read(*texts: tuple[int, str]) -> Lines:
    lines = Lines()
    for second, text in texts:
        lines.add(second * S, "s", parse(text)[0])
    return lines


def test_it_reads_what_prometheus_client_writes() -> None:
    """Written by prometheus_client 0.26: nothing, then 0.05 0.05 0.5 0.5, then also 0.5 0.5 0.5 5.0 observed."""
    lines = read(*((second, (DATA / f"prometheus_client_{n}.txt").read_text()) for n, second in enumerate((0, 1, 3))))
    (found,) = [row for row in summary(lines, 1 * S, 3 * S) if row["name"] == "wait_seconds"]
    assert (found["labels"], found["kind"], found["count"]) == ({"model": 'm"1\\'}, "histogram", 4)
    assert found["mean"] == pytest.approx(6.5 / 4)
    assert found["p50"] == pytest.approx(0.1 + 0.9 * 2 / 3)
    assert found["p99"] == 1.0  # in the +Inf bucket: the last finite bound


def test_counters_survive_a_restart_and_gauges_are_those_of_the_window() -> None:
    levels = ((0, 10, 1), (1, 20, 2), (2, 5, 6), (3, 8, 100))
    lines = read(*((s, f"# TYPE c counter\nc {count}\n# TYPE g gauge\ng {level}\n") for s, count, level in levels))
    counter, gauge = summary(lines, 0, 2 * S)
    assert (counter["delta"], counter["rate"]) == (15, 7.5)
    assert (gauge["mean"], gauge["max"], gauge["n"]) == (3.0, 6.0, 3)
    assert summary(lines, 10 * S, 20 * S) == []


def test_odd_values_and_bounds_are_passed_over() -> None:
    text = (
        "# TYPE c counter\nc {}\n# TYPE g gauge\ng {}\n"
        '# TYPE h histogram\nh_bucket{{le="soon"}} 1\nh_bucket{{le="nan"}} 1\nh_bucket{{le="1"}} {}\nh_sum 1\nh_count 1\n'
    )
    lines = read((0, text.format("NaN", "NaN", 0)), (1, text.format(1, "+Inf", 2)), (2, text.format(3, 4, 5)))
    counter, gauge, histogram = summary(lines, 0, 2 * S)
    assert (counter["delta"], gauge["mean"], gauge["n"], histogram["count"]) == (2, 4.0, 1, 5)
