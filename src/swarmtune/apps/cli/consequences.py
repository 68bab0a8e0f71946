"""Which mistakes of a plan may be there only because something else was wrong, and was left out of the settings."""

from __future__ import annotations

import re
from collections.abc import Collection

from swarmtune import registry
from swarmtune.settings import BaseSections
from swarmtune.sources import FIELDS

UNKNOWN, BREAKS = "is not a field", "the baseline breaks it"  # what is said of rules between fields


class Consequences:
    """The mistakes that may follow from ``without``, the places that were left out (``sources.Rest``)."""

    def __init__(self, without: Collection[tuple[str, ...]]) -> None:
        single = [place for place in without if place[1:2] == (FIELDS,) and len(place) > 2]  # one field of a list
        whole = [place for place in without if place not in single]
        ours = BaseSections.model_fields.keys() - {"load_search"}  # which leaves the fields of the load out
        engines = [place for place in whole if place[0] not in {*ours, *registry.benchmarks}]
        self._tables = {place[0] for place in whole}
        self._places = [".".join(place) for place in whole]
        self._fields = [f"{table}.{FIELDS}{between}{name}" for table, _, name in single for between in (": ", " ")]
        self._names = re.compile("|".join(rf"\b{re.escape(name)}\b" for _, _, name in single) or r"(?!)")
        self._engine = bool(engines)
        self._all_fields = any(place[0] == "load_search" or place[1:] in ((), (FIELDS,)) for place in engines)

    def __contains__(self, mistake: str) -> bool:
        place = mistake.partition(":")[0]
        of_rule = place == "constraints"
        if of_rule or place.startswith("optimizer.user_settings"):
            breaks = BREAKS in mistake or not of_rule
            open_rule = breaks and (self._engine or bool(self._names.search(mistake)))
            written = place if of_rule else place.rpartition(".")[0]
            return open_rule or written in self._places or (self._all_fields and UNKNOWN in mistake)
        return (
            place in self._tables
            or any(place == key or place.startswith((f"{key}.", f"{key} ")) for key in self._places)
            or any(mistake.startswith((f"{start}:", f"{start} ")) for start in self._fields)
        )
