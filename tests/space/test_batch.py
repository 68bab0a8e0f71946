"""Many points at once must mean what each alone means."""

from __future__ import annotations

import numpy as np
import pytest

from swarmtune.space import Field, Space
from swarmtune.space.batch import snapped
from swarmtune.testing.search import MIXED, RULES
from swarmtune.testing.services import SyntheticService

TERNARY = Field("pp", dtype="ternary_factories", dtype_param={"target_names": ["tp", "dp"], "product": 8})
SPACES = {
    "mixed": Space(MIXED, RULES),
    "rules": Space(
        MIXED,
        [
            "cache in ['f16', 'q8_0'] or not chunked",
            "tokens // 64 % 2 == 0 and -seqs < 0 < seqs + 1",
            "min(seqs, tokens, 100) <= max(abs(prefill), 50) * 2",
            "cache not in ['q4_0'] or tokens / dp > 100",
        ],
    ),
    "text and numbers": Space(
        [
            Field("m", dtype="enum", dtype_param=["auto", 2048, 4096]),
            Field("n", min=1, max=9, when="m == 2048"),
            Field("k", min=1, max=9),
        ],
        ["m == 'auto' or m > n * 300", "m != 4096 or k > 2"],
    ),
    "synthetic": SyntheticService(0).space,
    "ternary": Space(
        [
            Field("tp", dtype="enum", dtype_param=[1, 2, 4, 8]),
            Field("dp", dtype="int", min=1, max=8),
            TERNARY,
        ]
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_the_same_as_one_at_a_time(name: str) -> None:
    space = SPACES[name]
    points = np.random.default_rng(3).uniform(size=(500, len(space.dimensions)))
    units, legal = snapped(space, points)
    settings = [space.decode(p) for p in points]
    assert [space.legal(s) for s in settings] == legal.tolist()
    assert [space.decode(u).key for u in units] == [s.key for s in settings]
    expected = np.array([space.encode(s) for s in settings])
    floats = [d.kind == "float" for d in space.dimensions]
    assert np.allclose(units, expected, atol=np.where(floats, 1e-3, 1e-9))
    assert legal.any()


def test_text_where_a_number_is_needed_is_illegal_in_both_ways() -> None:
    space = Space([Field("a", dtype="enum", dtype_param=["x", "y"]), Field("n", min=1, max=9)], ["a + n > 2 or n > 5"])
    points = np.random.default_rng(1).uniform(size=(50, 2))
    assert snapped(space, points)[1].tolist() == [space.legal(space.decode(p)) for p in points]
