"""What tests of several floors need: a real PostgreSQL server of their own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

UNPRIVILEGED = ("postgres", "nobody")  # the server refuses to run as root


def _binaries() -> Path | None:
    """Where the server's programs are: on the path, or in the newest of Debian's folders."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


def _user() -> str | None:
    """Who is to run the server, where it cannot be us."""
    if os.geteuid():
        return None
    return next(name for name in UNPRIVILEGED if name in {entry.pw_name for entry in pwd.getpwall()})


@pytest.fixture(scope="session")
def _server() -> Iterator[Path]:
    """The folder with the socket of a server that runs as long as the tests do."""
    binaries, user = _binaries(), _user()
    if binaries is None:
        pytest.skip("no PostgreSQL server here; `make postgresql` installs it")
    folder = Path(tempfile.mkdtemp(prefix="autotune-pg-", dir="/tmp"))  # a socket's path must be short
    if user is not None:
        shutil.chown(folder, user)
    data, options = folder / "data", {"user": user, "cwd": folder, "stdin": subprocess.DEVNULL}
    command = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "autotune",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    subprocess.run(command, check=True, capture_output=True, **options)
    settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-k", folder, *settings], stdout=log, stderr=log, **options
        )
    try:
        deadline = time.monotonic() + 120
        while subprocess.run([binaries / "pg_isready", "-q", "-h", folder], check=False).returncode:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)
        yield folder
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for its clients
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def new_postgresql(_server: Path) -> Callable[[], str]:
    """Gives the URL of a new, empty database each time it is called."""
    psycopg = pytest.importorskip("psycopg", reason="the driver is not installed: pip install psycopg[binary]")
    numbers = count()

    def create() -> str:
        name = f"t{next(numbers)}"
        with psycopg.connect(f"host={_server} user=autotune dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://autotune@/{name}?host={_server}"

    return create
