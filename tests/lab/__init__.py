"""Several machines on one box, for tests of what happens between machines.

``Lab`` (needs root) makes them of namespaces, with real sshd and a real network that can be cut; ``Loopback`` is an sshd of
our own on this very machine, for the rest. ``NoLab`` says why there is none.
"""

from tests.lab.loopback import Loopback
from tests.lab.machine import Lab, Machine
from tests.lab.sshd import NoLab

__all__ = ["Lab", "Loopback", "Machine", "NoLab"]
