"""WHAT may change: fields, rules between them, and their coordinates in the unit cube."""

from swarmtune.space.checks import sound_part
from swarmtune.space.constraint import Constraint, ConstraintError
from swarmtune.space.dimension import Dimension
from swarmtune.space.field import DTYPES, Field
from swarmtune.space.space import Space

__all__ = ["DTYPES", "Constraint", "ConstraintError", "Dimension", "Field", "Space", "sound_part"]
