"""A MariaDB server of our own for tests: fresh data, one socket, no network, up in two seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

INSTALLED = Path(sys.prefix).resolve() / "mariadb"
"""Where `.ci/install-mariadb.sh` puts it, for machines that have none."""

START_TIMEOUT_S = 60.0


def _server() -> Path:
    for candidate in (shutil.which("mariadbd"), "/usr/sbin/mariadbd", INSTALLED / "usr/sbin/mariadbd"):
        if candidate is not None and Path(candidate).is_file():
            return Path(candidate).resolve()
    pytest.fail(
        f"expected a MariaDB server (mariadbd on the PATH, or in {INSTALLED}), got none: run "
        f".ci/install-mariadb.sh {INSTALLED}, or as root apt-get install --no-install-recommends mariadb-server-core"
    )


@contextmanager
def mariadb() -> Iterator[str]:
    """URI of an empty database `mlflow` on a server of our own, with defaults that matter: letter case is ignored."""
    server = _server()
    base = server.parents[1]
    share = next(path for path in (base / "share/mysql", base / "share/mariadb") if path.is_dir())
    # Not pytest's directory: the path of the socket must stay short.
    directory = Path(tempfile.mkdtemp(prefix="rg-maria-"))
    data, socket, log = directory / "data", directory / "s.sock", directory / "log"
    data.mkdir()
    libraries = ":".join(str(path) for part in ("usr/lib", "lib") for path in (base.parent / part).glob("*-linux-*"))
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries} if base.parent == INSTALLED else dict(os.environ)
    common = [str(server), "--no-defaults", f"--basedir={base}", f"--lc-messages-dir={share}", f"--datadir={data}"]
    if os.geteuid() == 0:
        common.append("--user=root")
    tables = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
    script = b"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\nSET @skip_auth_anonymous=1;\n"
    script += (
        b"".join((share / name).read_bytes() for name in tables) + b"\nCREATE DATABASE mlflow CHARACTER SET utf8mb4;\n"
    )
    try:
        with log.open("wb") as output:
            subprocess.run(
                [*common, "--bootstrap"], input=script, stdout=output, stderr=output, env=environment, check=True
            )
            process = subprocess.Popen(
                [
                    *common,
                    *(f"--socket={socket}", "--skip-networking", f"--pid-file={directory / 'pid'}"),
                    *("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--max-connections=300"),
                ],
                stdout=output,
                stderr=output,
                env=environment,
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"MariaDB did not start:\n{log.read_text(errors='replace')[-4000:]}")
                time.sleep(0.05)
            yield f"mysql+pymysql://root@localhost/mlflow?unix_socket={socket}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def fresh_database(uri: str, name: str) -> str:
    """URI of another, empty database on the same server, with the character set that MariaDB came with for long."""
    engine = create_engine(uri, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET latin1"))
    engine.dispose()
    return uri.replace("/mlflow?", f"/{name}?")
