"""What every Search must do."""

from __future__ import annotations

import numpy as np
import pytest

from swarmtune.errors import PSOConvergenceError
from swarmtune.records import Score, Setting
from swarmtune.search.base import Search
from swarmtune.space import Field, Space

MIXED = (
    Field("seqs", dtype="int", min=1, max=512, log=True, value=16),
    Field("tokens", dtype="range", min=64, max=8192, dtype_param=64, value=2048),
    Field("fraction", dtype="float", min=0.1, max=0.9, value=0.5),
    Field("cache", dtype="enum", dtype_param=["f16", "q8_0", "q4_0"], value="f16"),
    Field("chunked", dtype="bool", min=0, max=1, value=True),
    Field("prefill", dtype="ratio", min=0.1, max=0.7, dtype_param="seqs"),
    Field("tp", dtype="enum", dtype_param=[1, 2, 4, 8], value=1),
    Field("dp", dtype="factories", dtype_param={"target_name": "tp", "product": 8}),
)
RULES = ("tokens >= seqs",)


def service(setting: Setting) -> Score:
    """A small made-up service: more sequences give throughput until an SLO breaks; some cannot start."""
    v = setting.values
    seqs, tokens, fraction, tp = float(v["seqs"]), float(v["tokens"]), float(v["fraction"]), float(v["tp"])
    if fraction > 0.85 and tokens > 4096:
        return Score.failed()
    throughput = seqs**0.5 * (1 + fraction) * (1.2 if v["chunked"] else 1.0) * tp**0.3
    latency = 5 + 0.1 * seqs + tokens / 400
    return Score(value=throughput, loss=-throughput, violations={"latency": latency / 40 - 1})


class SearchContract:
    """Inherit, and give ``make(space, seed, budget)``."""

    def make(self, space: Space, seed: int, budget: int) -> Search:
        """A new search."""
        raise TypeError("give make() in the subclass")

    @pytest.fixture
    def space(self) -> Space:
        """A space of every kind of dimension, with a rule."""
        return Space(MIXED, RULES)

    def run(self, search: Search, space: Space, evaluations: int, workers: int = 1) -> list[tuple[Setting, Score]]:
        """Ask and tell asynchronously with that many workers; results come back in a seeded random order."""
        rng = np.random.default_rng(5)
        baseline = Setting(space.default().values, origin="baseline")
        told = [(baseline, service(baseline))]
        search.tell(*told[0])
        pending: list[Setting] = []
        asked = 1
        while len(told) < evaluations:
            while len(pending) < workers and asked < evaluations:
                pending.append(search.ask(tuple(pending)))
                asked += 1
            done = pending.pop(int(rng.integers(len(pending))))
            told.append((done, service(done)))
            search.tell(*told[-1])
        return told

    def test_asks_legal_settings_with_an_origin(self, space: Space) -> None:
        told = self.run(self.make(space, 1, 25), space, 25)
        assert all(space.legal(s) for s, _ in told)
        assert all(space.decode(space.encode(s)) == s for s, _ in told)
        assert all(s.origin for s, _ in told)

    @pytest.mark.parametrize("workers", [1, 4])
    def test_never_asks_the_same_twice(self, space: Space, workers: int) -> None:
        told = self.run(self.make(space, 2, 40), space, 40, workers)
        assert len({s.key for s, _ in told}) == 40

    def test_same_seed_same_questions(self, space: Space) -> None:
        first = self.run(self.make(space, 3, 15), space, 15, 3)
        again = self.run(self.make(space, 3, 15), space, 15, 3)
        other = self.run(self.make(space, 4, 15), space, 15, 3)
        assert [s.key for s, _ in first] == [s.key for s, _ in again]
        assert [s.key for s, _ in first] != [s.key for s, _ in other]

    def test_resume_is_replay(self, space: Space) -> None:
        search = self.make(space, 6, 20)
        told = self.run(search, space, 12)
        resumed = self.make(space, 6, 20)
        for setting, score in told:
            resumed.tell(setting, score)
        assert resumed.ask(()) == search.ask(())

    def test_learns_nothing_from_failure_but_goes_on(self, space: Space) -> None:
        search = self.make(space, 7, 12)
        for _ in range(12):
            setting = search.ask(())
            search.tell(setting, Score.failed())
        assert space.legal(search.ask(()))

    def test_says_when_the_space_is_exhausted(self) -> None:
        space = Space([Field("n", dtype="int", min=1, max=3), Field("b", dtype="bool", min=0, max=1)], ["n > 1 or b"])
        search = self.make(space, 8, 20)
        seen = set()
        with pytest.raises(PSOConvergenceError, match="No new legal setting"):
            for number in range(7):
                setting = search.ask(())
                seen.add(setting.key)
                search.tell(setting, Score(value=float(number), loss=-float(number)))
        assert len(seen) == 5

    def test_finds_something_feasible_and_better_than_the_baseline(self, space: Space) -> None:
        told = self.run(self.make(space, 9, 40), space, 40, 2)
        best = min((score for _, score in told), key=lambda s: s.rank)
        assert best.feasible
        assert best.loss < told[0][1].loss
