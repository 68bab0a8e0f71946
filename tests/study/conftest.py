"""A real PostgreSQL server of our own, in a temporary folder, on a free loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmtune.fleet.service_run import free_port


def postgres_program(name: str) -> str | None:
    found = shutil.which(name)
    return found or next((str(p) for p in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or server is None:
        if os.environ.get("CI"):
            pytest.fail("CI must prove the ledger on PostgreSQL: apt-get install postgresql")
        pytest.skip("no PostgreSQL server is installed here (Debian: apt-get install postgresql)")
    folder = Path(f"/tmp/swarmtune-postgres-{os.getpid()}")  # short: a socket's path has 107 characters
    folder.mkdir(mode=0o700)
    user: dict[str, object] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam("postgres" if any(u.pw_name == "postgres" for u in pwd.getpwall()) else "nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data, port = folder / "data", free_port()
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    started = None
    try:
        subprocess.run(
            [initdb, "-D", str(data), "-U", "swarm", "--auth", "trust", "-N", "-E", "UTF8"],
            check=True, capture_output=True, env=environment, cwd=folder, **user,
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            options = ["-D", str(data), "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-F"]
            started = subprocess.Popen([server, *options], env=environment, cwd=folder, stdout=log, stderr=log, **user)
        ready = postgres_program("pg_isready") or "pg_isready"
        for _ in range(300):
            if (
                subprocess.run(
                    [ready, "-q", "-h", "127.0.0.1", "-p", str(port)], env=environment, check=False
                ).returncode
                == 0
            ):
                break
            time.sleep(0.1)
        yield f"postgresql://swarm@127.0.0.1:{port}/postgres"
    finally:
        if started is not None:
            started.terminate()
            started.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
