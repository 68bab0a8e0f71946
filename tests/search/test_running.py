"""A search that sees which service runs prefers what needs no restart, as far as that is worth it (C7)."""

from __future__ import annotations

import numpy as np
import pytest

from swarmtune.records import Score, Setting
from swarmtune.search.assisted import AssistedSwarm
from swarmtune.search.auto import AutoSearch
from swarmtune.search.base import Running, Search
from swarmtune.search.bayesian import BayesianSearch
from swarmtune.search.proposals import as_it_runs, per_second
from swarmtune.space import Field, Space

SPACE = Space([Field("batch", min=1, max=64), Field("concurrency", min=1, max=64), Field("mode", dtype="bool")])
FREE = frozenset({"concurrency"})


def told(search: Search, results: int = 12) -> Search:
    rng = np.random.default_rng(0)
    for _ in range(results):
        setting = SPACE.decode(SPACE.sample(rng))
        value = float(100 - abs(setting.values["batch"] - 40) - abs(setting.values["concurrency"] - 20))  # type: ignore[operator]
        search.tell(setting, Score(value=value, loss=-value))
    return search


def same_service(a: Setting, b: Setting) -> bool:
    return all(a.values[name] == b.values[name] for name in ("batch", "mode"))


@pytest.mark.parametrize("kind", [AssistedSwarm, BayesianSearch, AutoSearch])
def test_a_dear_restart_is_avoided_and_a_cheap_one_is_not(kind: type[Search]) -> None:
    running = SPACE.setting({"batch": 33, "concurrency": 50, "mode": True})
    mindful = told(kind(SPACE, 1, 40))
    mindful.see(Running(running, FREE, start_share=0.999999))
    assert same_service(mindful.ask(()), running)
    for other in (None, Running(running, FREE, start_share=0.0)):
        search = told(kind(SPACE, 1, 40))
        search.see(other)
        assert not same_service(search.ask(()), running)


def test_what_it_sees_is_no_memory() -> None:
    running = Running(SPACE.setting({"batch": 33}), FREE, 0.9)
    once, never = told(AssistedSwarm(SPACE, 1, 40)), told(AssistedSwarm(SPACE, 1, 40))
    once.see(running)
    once.see(None)
    assert once.ask(()) == never.ask(())


def test_worth_is_divided_by_the_time_that_it_takes() -> None:
    running = SPACE.setting({"batch": 33, "concurrency": 50})
    points = as_it_runs(SPACE, Running(running, FREE, 0.75), np.random.default_rng(0))
    assert {SPACE.decode(p).values["batch"] for p in points} == {33}
    assert len({SPACE.decode(p).values["concurrency"] for p in points}) > 10
    worth = per_second(lambda p: np.zeros(len(p)), SPACE, Running(running, FREE, 0.75))
    elsewhere = SPACE.encode(SPACE.setting({"batch": 34, "concurrency": 50}))
    assert worth(np.vstack([points[0], elsewhere])) == pytest.approx([np.log(4.0), 0.0])


def test_where_everything_needs_a_restart_nothing_is_added() -> None:
    running = Running(SPACE.setting({}), frozenset(), 0.75)
    assert as_it_runs(SPACE, running, np.random.default_rng(0)).shape == (0, 3)
