"""``python -m swarmtune`` is the command ``swarmtune``."""

from swarmtune.apps.cli import main

main()
