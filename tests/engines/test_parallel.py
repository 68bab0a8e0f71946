"""How many devices a setting takes, as its command says."""

from __future__ import annotations

import pytest

from swarmtune.engines.llamacpp import LlamacppConfig, LlamacppEngine
from swarmtune.engines.parallel import parallel
from swarmtune.engines.target_field import TargetField
from swarmtune.engines.vllm import VllmConfig, VllmEngine
from swarmtune.records import Group, Node
from swarmtune.space import Space


@pytest.mark.parametrize(
    ("line", "devices"),
    [
        ("vllm serve m", None),
        ("vllm serve m --tensor-parallel-size 4", 4),
        ("vllm serve m -tp=2 --pipeline-parallel-size 2 -dp 3", 12),
        ("sglang --tp-size 8 --dp-size=2", 16),
        ("x --tensor-parallel-size 2 --tensor-parallel-size 4", 4),
        ("x --tp", None),
        ("x --tp zero --pp 0", None),
        ("--tp 8 --dp 8 --enable-dp-attention", 8),  # the data parallel ranks are among the tensor ranks
        ("--dp-size 8 --tp-size 8 --pp-size 2 --enable-dp-attention", 16),
        ("--enable-dp-attention", None),
    ],
)
def test_flags_are_multiplied_and_the_last_of_equal_ones_counts(line: str, devices: int | None) -> None:
    assert parallel(line.split()) == devices


def test_a_setting_of_vllm_takes_what_its_flags_say() -> None:
    field = TargetField(name="tp", config_position="--tensor-parallel-size", dtype="enum", dtype_param=[1, 2, 4])
    engine = VllmEngine(VllmConfig(command={"model": "m", "others": "-pp 2"}, target_field=[field]))
    space, group = Space(engine.fields()), Group("g", (Node(devices=tuple(range(8))),))
    assert [engine.accelerators(space.setting({"tp": n}), group) for n in (1, 2, 4)] == [2, 4, 8]
    plain = VllmEngine(VllmConfig(command={"model": "m"}))
    assert plain.accelerators(Space(plain.fields()).default(), group) == 1


def test_an_engine_whose_command_says_nothing_takes_the_whole_group() -> None:
    engine = LlamacppEngine(LlamacppConfig())
    setting = Space(engine.fields()).default()
    assert engine.accelerators(setting, Group("g")) == 1
    assert engine.accelerators(setting, Group("g", (Node(devices=(0, 1)),))) == 2
    assert engine.version
