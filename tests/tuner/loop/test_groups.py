"""Which groups came and went with a hostfile."""

from __future__ import annotations

from swarmtune.execution.config import ParallelConfig
from swarmtune.tuner.loop.groups import by_place


def test_services_that_share_their_nodes_are_told_apart() -> None:
    config = ParallelConfig.from_node_string("h1:h2", nodes_per_group=1, npus_per_node=0, services_per_group=2)
    places = by_place(config.service_groups)
    assert [g.group_id for g in places.values()] == ["group0.0", "group0.1", "group1.0", "group1.1"]
    fewer = ParallelConfig.from_node_string("h2:h3", nodes_per_group=1, npus_per_node=0, services_per_group=2)
    gone = places.keys() - by_place(fewer.service_groups).keys()
    assert {places[place].group_id for place in gone} == {"group0.0", "group0.1"}
