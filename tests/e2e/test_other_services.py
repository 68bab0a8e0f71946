"""Services that are not the tuner's, on the port of the one that it starts: they are never measured."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from swarmtune.devices.listeners import listening
from swarmtune.fleet.service_run import free_port
from tests.e2e.conftest import TINY, Workplace

pytestmark = pytest.mark.e2e

SERVICE = "#!/bin/sh\nexec {python} -P -m swarmtune.simulator --host 127.0.0.1 --port {port} --model m\n"
# The engine of a user who forgot to pass the port on: it runs, and listens nowhere.
DEAF = "#!/bin/sh\ntouch {folder}/started\nexec sleep 600\n"
STUDY = TINY.replace('engine = "simulated"', 'engine = "command"')
COMMAND = """
[command]
argv = ["./start.sh"]
cwd = "{folder}"
model = "m"
[[command.target_field]]
name = "SEQS"
config_position = "env"
dtype = "int"
min = 1
max = 64
value = 8
[parallel]
enabled = true
executor = "local"
node_string = "127.0.0.1"
npus_per_node = 0
nodes_per_group = 1
port = {port}
retry_delay = 0.2
"""


def configure(workplace: Workplace, script: str, port: int) -> None:
    start = workplace.folder / "start.sh"
    start.write_text(script.format(folder=workplace.folder, port=port, python=sys.executable))
    start.chmod(0o755)
    workplace.config(STUDY + COMMAND.format(folder=workplace.folder, port=port))


@contextlib.contextmanager
def silent_at_the_root(port: int) -> Iterator[None]:
    """A service that answers what a tuner asks, and never what others may ask."""
    code = f"""
import http.server, time
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            time.sleep(600)
        self.send_response(200)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", {port}), Answers).serve_forever()
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def test_a_service_that_was_there_before_is_not_measured(workplace: Workplace) -> None:
    port = free_port()
    configure(workplace, SERVICE, port)
    with silent_at_the_root(port):
        code, _, err = workplace.run()
    assert code == 1
    assert f"another service already answers at http://127.0.0.1:{port}" in " ".join(err.split())


def test_a_service_that_takes_the_port_meanwhile_is_not_measured(workplace: Workplace) -> None:
    """As of another tuner: it comes after the look at the port, and answers as the engine would."""
    port = free_port()
    configure(workplace, DEAF, port)
    tuner = workplace.start()
    while not (workplace.folder / "started").exists():
        assert tuner.poll() is None
        time.sleep(0.02)
    arguments = ["-P", "-m", "swarmtune.simulator", "--host", "127.0.0.1", "--port", str(port), "--model", "m"]
    with subprocess.Popen([sys.executable, *arguments], env={**os.environ, "SWARMTUNE_TOKEN": "another"}) as other:
        _, err = tuner.communicate(timeout=120)
        other.terminate()
    words = " ".join(err.split())
    assert tuner.returncode == 1
    assert f"port {port} of this machine belongs to" in words
    assert f"(pid {other.pid}), which is not the service that was started" in words, words


# The engine of a user whose HTTP server dies while its wrapper lives on.
DYING = """#!/bin/sh
{python} -P -m swarmtune.simulator --host 127.0.0.1 --port {port} --model m &
while ! [ -e {folder}/die ]; do sleep 0.05; done
kill $!
exec sleep 600
"""


def test_a_service_that_takes_the_port_in_the_middle_of_the_load_is_not_measured(workplace: Workplace) -> None:
    port = free_port()
    configure(workplace, DYING, port)
    config = (workplace.folder / "config.toml").read_text().partition("[parallel]")[0]
    for before, now in {
        "request_count = 8": "benchmark_duration = 4",
        "evaluations = 6": "evaluations = 1",
        'model = "m"': f'model = "m"\nport = {port}',
    }.items():
        config = config.replace(before, now)
    workplace.config(config)
    with workplace.start() as tuner:
        while not list(workplace.folder.glob("swarmtune-studies/*/attempts/*/load-0/*")):
            assert tuner.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        (workplace.folder / "die").touch()
        while listening(port):
            time.sleep(0.01)
        arguments = ["-P", "-m", "swarmtune.simulator", "--host", "127.0.0.1", "--port", str(port), "--model", "m"]
        with subprocess.Popen([sys.executable, *arguments]) as other:
            _, err = tuner.communicate(timeout=120)
            other.terminate()
    words = " ".join(err.split())
    assert tuner.returncode == 1
    assert f"(pid {other.pid}), which is not the service that was started" in words, words
