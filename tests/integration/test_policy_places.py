"""A server with four workers decides by the set that its place holds now, within five seconds and without a restart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
import requests
from conftest import AS_README, Installation, Server, assert_invariant, free_port, gated_server, in_use

from registry_gate.evidence.keys import generate_key
from registry_gate.policy.document import load_policy_set
from registry_gate.policy.files import read_directory
from registry_gate.policy.s3_place import S3Place
from registry_gate.policy.source import GRACE_S

ASKED = 24
"""Enough questions, each on a connection of its own, that every one of four workers gets some."""


@dataclass
class Written:
    """A directory where policies are written, and how they get to the place that the server reads."""

    directory: Path
    publish: Callable[[], object]

    def write(self, at_most: str) -> str:
        """Publish the policies with another ceiling in two files at once. Returns the digest."""
        for name in ("general", "medical"):
            file = self.directory / f"{name}.yaml"
            head, _, tail = file.read_text().partition("      atMost: ")
            file.write_text(f"{head}      atMost: {at_most}{tail[tail.index(chr(10)) :]}")
        self.publish()
        return load_policy_set(self.directory, self.batteries).digest

    batteries: tuple[Path, ...] = ()


def git(directory: Path, *arguments: str) -> None:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(
        ["git", "-C", str(directory), "-c", "init.defaultBranch=main", *arguments],
        check=True,
        capture_output=True,
        env={**os.environ, **identity},
    )


def commit(directory: Path) -> None:
    git(directory, "add", "--all", "--force")
    git(directory, "commit", "--quiet", "-m", "x")


@contextmanager
def server_at(
    make: Callable[..., Installation], address: Callable[[Path], str], environment: dict[str, str]
) -> Iterator[tuple[Server, Path]]:
    """A server whose policies are at an address, and the directory that they were written in."""
    written: list[Path] = []

    def made(**arguments: Any) -> Installation:
        one = make(**arguments)
        directory = one.directory / "written"
        shutil.copytree(one.policies, directory)
        written.append(directory)
        config = one.config.read_text()
        assert '\npolicies = "policies" ' in config
        one.config.write_text(config.replace('"policies" ', f'"{address(directory)}" ', 1))
        return one

    with gated_server("sqlite", made, environment=environment, options=AS_README) as server, in_use(server):
        yield server, written[0]


@contextmanager
def moto(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real S3 server in a process of its own, that can be stopped and started."""
    program = "from moto.server import main; import sys; main(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(port)])
    try:
        for _ in range(300):
            try:
                requests.get(f"http://127.0.0.1:{port}/moto-api/", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def ask(server: Server, model: str, version: int, alias: str, *, away: bool = False) -> tuple[list[str], str]:
    """Ask for a promotion: (reason codes of a denial, the whole answer).

    On a busy machine the place may answer late, which denies; unless it is away, the question is put again.
    """
    end = time.monotonic() + 60
    while True:
        codes, text = asked(server, model, version, alias)
        if away or codes != ["policies_unreachable"] or time.monotonic() > end:
            return codes, text


def asked(server: Server, model: str, version: int, alias: str) -> tuple[list[str], str]:
    question = {"name": model, "alias": alias, "version": str(version)}
    answer = requests.post(f"{server.uri}/api/2.0/mlflow/registered-models/alias", json=question, timeout=30)
    if answer.status_code == 200:
        return [], answer.text
    return [reason["code"] for reason in answer.json()["registry_gate"]["reasons"] if reason["blocking"]], answer.text


def digests(server: Server, model: str) -> list[str | None]:
    """Digests of the sets that decided, newest first."""
    rows = server.sql(
        "SELECT policy_set_digest FROM registry_gate_decision WHERE model = :m ORDER BY decided_at DESC",
        m=model,
    )
    return [row[0] for row in rows]


def follow(server: Server, written: Written, model: str) -> None:
    """Changes, broken sets and mended ones, as every worker sees them."""
    version = server.registered(model)
    # While the set changes, every decision rests on one of the two, whole.
    old = written.write("0.14")
    time.sleep(GRACE_S)
    assert ask(server, model, version, "champion") == ([], "{}")
    new = written.write("0.13")
    end, seen = time.monotonic() + GRACE_S, []
    while time.monotonic() < end:
        assert ask(server, model, version, "champion")[0] == []
        seen.append(digests(server, model)[0])
    # None is a rollback while the place was late: it rests on what was allowed before, and on no set.
    assert {digest for digest in seen if digest} <= {old, new}
    before = len(digests(server, model))
    for number in range(ASKED):
        assert ask(server, model, version, f"a{number}")[0] == []
    assert {digest for digest in digests(server, model)[:-before] if digest} == {new}
    # An invalid set denies in every worker, with its errors.
    policy = written.directory / "medical.yaml"
    good = policy.read_text()
    policy.write_text(good.replace("      atMost:", "      atmost:", 1))
    written.publish()
    time.sleep(GRACE_S)
    for number in range(ASKED):
        codes, text = ask(server, model, version, f"b{number}")
        assert codes == ["policies_invalid"]
        assert "medical.yaml:" in text and "unknown key" in text
    policy.write_text(good)
    written.publish()
    time.sleep(GRACE_S)
    for number in range(ASKED):
        assert ask(server, model, version, f"c{number}")[0] == []


def doctor(server: Server) -> dict[str, Any]:
    question = {"name": "x", "key": "registry_gate.doctor", "value": "1"}
    answer = requests.post(f"{server.uri}/api/2.0/mlflow/registered-models/set-tag", json=question, timeout=30)
    status: dict[str, Any] = answer.json()["registry_gate"]["status"]
    return status


def test_a_branch_in_git(installation: Callable[..., Installation], clinical: str) -> None:
    def address(directory: Path) -> str:
        git(directory, "init", "--quiet")
        commit(directory)
        return f"git+file://{directory}@main"

    with server_at(installation, address, {}) as (server, directory):
        batteries = server.installation.settings().battery_dirs
        follow(server, Written(directory, lambda: commit(directory), batteries), clinical)
        head = subprocess.run(["git", "-C", str(directory), "rev-parse", "main"], capture_output=True, check=True)
        status = doctor(server)
        assert (status["policy_place"], status["policy_revision"]) == ("git", f"commit {head.stdout.decode().strip()}")
        # What is not committed does not count, and a repository that is gone denies.
        (directory / "medical.yaml").write_text("broken")
        time.sleep(GRACE_S)
        version = server.registered(clinical)
        assert ask(server, clinical, version, "champion")[0] == []
        directory.rename(directory.with_name("away"))
        time.sleep(GRACE_S)
        codes, text = ask(server, clinical, version, "live")
        assert codes == ["policies_invalid"] and "expected a git repository at " in text


def test_a_set_that_must_be_signed(installation: Callable[..., Installation], clinical: str) -> None:
    def made(**arguments: Any) -> Installation:
        one = installation(**arguments)
        generate_key(one.directory / "office.key", one.directory / "office.pem")
        one.config.write_text(one.config.read_text().replace("[gate]", '[gate]\npolicies_key = "office.pem"', 1))
        return one

    with gated_server("sqlite", made, options=AS_README) as server:
        mlflow.set_tracking_uri(server.uri)
        here = server.installation
        version = server.registered(clinical)

        key = here.directory / "office.key"

        def sign(reason: str) -> None:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "registry_gate",
                    "policy",
                    "sign",
                    here.policies,
                    "--key",
                    key,
                    "--reason",
                    reason,
                ],
                check=True,
                capture_output=True,
            )

        for number in range(ASKED // 3):
            codes, text = ask(server, clinical, version, f"a{number}")
            assert codes == ["policies_unsigned"] and "expected a signature by" in text
        sign("GOV-1")
        for number in range(ASKED // 3):
            assert ask(server, clinical, version, f"b{number}")[0] == []
        # Whoever may write the directory, but has no key, changes nothing that is allowed.
        policy = here.policies / "medical.yaml"
        policy.write_text(policy.read_text() + "# looser\n")
        for number in range(ASKED // 3):
            codes, text = ask(server, clinical, version, f"c{number}")
            assert codes == ["policies_unsigned"] and "medical.yaml changed" in text
        sign("GOV-2")
        for number in range(ASKED // 3):
            assert ask(server, clinical, version, f"d{number}")[0] == []
        said = subprocess.run(
            [sys.executable, "-m", "registry_gate", "policy", "history", "--format", "json"],
            cwd=here.directory,
            check=True,
            capture_output=True,
        )
        assert [row["signed"]["reason"] for row in json.loads(said.stdout)] == ["GOV-1", "GOV-2"]
        mlflow.set_tracking_uri(None)
        assert_invariant(server)


def test_a_set_in_s3_and_what_happens_when_s3_is_away(
    installation: Callable[..., Installation], clinical: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        **{f"AWS_{name}": "us-east-1" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION")},
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def publish(directory: Path) -> str:
        return S3Place.parse("s3://governance/policies").publish(read_directory(directory))

    def address(directory: Path) -> str:
        boto3.client("s3").create_bucket(Bucket="governance")
        publish(directory)
        return "s3://governance/policies"

    with moto(port) as process, server_at(installation, address, environment) as (server, directory):
        batteries = server.installation.settings().battery_dirs
        follow(server, Written(directory, lambda: publish(directory), batteries), clinical)
        assert doctor(server)["policy_place"] == "s3"
        version = server.registered(clinical)
        process.kill()
        process.wait()
        time.sleep(GRACE_S)
        codes, text = ask(server, clinical, version, "live", away=True)
        assert codes == ["policies_unreachable"]
        assert "nobody knows which policies are in force: s3://governance/policies" in text
        # Rollback works all the same.
        assert ask(server, clinical, 1, "champion")[0] == []
        with moto(port):
            address(directory)
            time.sleep(GRACE_S)
            assert ask(server, clinical, version, "live")[0] == []
