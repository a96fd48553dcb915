"""`init` and `doctor`: set up an installation, and check one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from registry_gate.cli.common import format_option, print_json, settings_of, tracking_uri_option
from registry_gate.config import CONFIG_FILE, Settings
from registry_gate.errors import ConfigError, RegistryGateError

_HERE = Path(__file__).resolve()

SHIPPED_POLICIES = (_HERE.parents[1] / "shipped_policies", _HERE.parents[2] / "policies")
"""Where the shipped policies lie: inside an installed package, or beside it in a checkout."""

CONFIG_TEXT = """\
# Settings of this installation: locations and timeouts, never thresholds (those are in the policies).
# Relative paths are relative to this file. Every setting can be given as REGISTRY_GATE_<NAME> too.

[gate]
policy_dir = "policies"

[ledger]
# MLflow's registry database: what stands after `gated:` in the server's --registry-store-uri.
# Keep passwords out of it (use a PostgreSQL service or password file).
uri = "{ledger_uri}"

[mlflow]
tracking_uri = "{tracking_uri}"

[worker]
id = "worker-1"
signing_key = "keys/worker.key"   # worker side only; the MLflow server never needs it
work_dir = "work"
threads = {threads}
"""


def shipped_policies() -> Path:
    """Directory of the shipped policies.

    Raises:
        ConfigError: The installation is incomplete.
    """
    for directory in SHIPPED_POLICIES:
        if (directory / "policy-set.yaml").is_file():
            return directory
    raise ConfigError("expected the shipped policies in the installed package, got none: install registry-gate again")


def make_installation(directory: Path, *, ledger_uri: str, tracking_uri: str) -> None:
    """Write settings, policies and a key pair into a directory. Nothing that exists is overwritten.

    Raises:
        ConfigError: Something is there already, or the directory cannot be written.
    """
    # Here, because the key library takes a moment that `--help` should not.
    from registry_gate.evidence.keys import generate_key

    config = directory / CONFIG_FILE
    parts = (config, directory / "policies", directory / "keys" / "worker.key")
    there = [str(path) for path in parts if path.exists()]
    if there:
        raise ConfigError(f"expected a directory without an installation, got {', '.join(there)}: nothing was changed")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copytree(shipped_policies(), directory / "policies")
        # Shipped policies may be read-only for this user; the copy is theirs to edit.
        for path in [directory / "policies", *(directory / "policies").rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        (directory / "policies" / "signers").mkdir(exist_ok=True)
        (directory / "keys").mkdir(mode=0o700, exist_ok=True)
        generate_key(directory / "keys" / "worker.key", directory / "policies" / "signers" / "worker.pem")
        threads = max(1, min(8, os.cpu_count() or 1))
        config.write_text(
            CONFIG_TEXT.format(ledger_uri=ledger_uri, tracking_uri=tracking_uri, threads=threads), encoding="utf-8"
        )
    except (OSError, ConfigError) as err:
        _remove(*parts)
        if isinstance(err, ConfigError):
            raise
        raise ConfigError(f"expected to write the installation into {directory}, got: {err}. Nothing was kept") from err


def _remove(*made: Path) -> None:
    """Take back what a failed call made; none of it was there before."""
    for path in made:
        with contextlib.suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            if path.parent.name == "keys":
                path.parent.rmdir()


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--ledger-uri", default="sqlite:///mlflow.db", show_default=True, help="MLflow's registry database.")
@click.option(
    "--tracking-uri", default="http://127.0.0.1:5000", show_default=True, help="Address of the MLflow server."
)
def init(directory: Path, ledger_uri: str, tracking_uri: str) -> None:
    """Make settings, policies and a signing key in DIRECTORY.

    Writes registry-gate.toml, policies/ (a copy of the shipped ones, yours to edit) and keys/worker.key (mode 0600,
    for the worker alone), with its public half in policies/signers/. Overwrites nothing.

    \b
    Example:  registry-gate init && mlflow server --backend-store-uri sqlite:///mlflow.db \\
                --registry-store-uri gated:sqlite:///mlflow.db --artifacts-destination ./artifacts
    """
    if ledger_uri.startswith("sqlite:///") and not ledger_uri.startswith("sqlite:////"):
        # A relative SQLite path means another file in every working directory.
        ledger_uri = "sqlite:///" + str((directory / ledger_uri.removeprefix("sqlite:///")).absolute())
    make_installation(directory, ledger_uri=ledger_uri, tracking_uri=tracking_uri)
    click.echo(f"settings   {directory / CONFIG_FILE}")
    click.echo(f"policies   {directory / 'policies'}  (read policies/README.md, then: registry-gate policy lint)")
    click.echo(f"signing    {directory / 'keys' / 'worker.key'}  (keep it on the worker's machine only)")
    click.echo(f"ledger     {ledger_uri}")


@dataclass(frozen=True)
class Check:
    """One line of the doctor."""

    name: str
    ok: bool
    detail: str


@click.command()
@tracking_uri_option
@format_option
@click.pass_context
def doctor(ctx: click.Context, tracking_uri: str | None, output: str) -> None:
    """Check this installation, and ask the server from outside whether it is gated.

    Exit code 0 when all is well, 4 otherwise. MLflow's /health answers 200 even when the plugin is missing, so it is
    not asked.
    """
    settings = settings_of(ctx, mlflow__tracking_uri=tracking_uri)
    checks = [
        _check("settings", lambda: str(settings.source or "none found; defaults and REGISTRY_GATE_* variables")),
        _check("policies", lambda: _policies(settings)),
        _check("ledger", lambda: _ledger(settings)),
        _check("signing key", lambda: _key(settings)),
        _check("worker", lambda: _worker(settings)),
        _check("server", lambda: _server(settings)),
    ]
    if output == "json":
        print_json([vars(check) for check in checks])
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.ok else 'BAD '} {check.name:<12} {check.detail}")
    ctx.exit(0 if sum(check.ok for check in checks) == len(checks) else 4)


def _check(name: str, probe: Callable[[], str]) -> Check:
    try:
        return Check(name, True, probe())
    except RegistryGateError as err:
        return Check(name, False, str(err))


def _policies(settings: Settings) -> str:
    from registry_gate.policy.document import load_policy_set

    loaded = load_policy_set(settings.gate.policy_dir, settings.battery_dirs)
    return f"{len(loaded.policies)} policies, {len(loaded.batteries)} batteries, digest {loaded.digest}"


def _ledger(settings: Settings) -> str:
    from registry_gate.ledger import Ledger

    ledger = Ledger.connect(settings.require_ledger())
    entries, head = ledger.verify_chain()
    return f"schema {ledger.schema()[0]}, audit chain of {entries} entries verifies, head {head[:16]}"


def _key(settings: Settings) -> str:
    from registry_gate.evidence.keys import load_signer
    from registry_gate.policy.document import load_policy_set

    if not settings.worker.signing_key.exists():
        return f"none at {settings.worker.signing_key} (needed on the worker's machine only)"
    signer = load_signer(settings.worker.signing_key)
    signers = load_policy_set(settings.gate.policy_dir, settings.battery_dirs).signers
    names = [name for name, pem in signers.items() if pem == signer.public_pem]
    if not names:
        raise ConfigError("expected the key's public half among the policy set's signers, got another key")
    return f"signs as {names[0]} ({signer.key_id[:16]})"


def _worker(settings: Settings) -> str:
    from registry_gate.ledger import Ledger

    workers = Ledger.connect(settings.require_ledger()).workers()
    if not workers:
        raise ConfigError("expected a worker that was seen, got none: start one with `registry-gate worker`")
    name, seen, state = workers[0]
    age = (datetime.now(UTC) - datetime.fromisoformat(seen)).total_seconds()
    if age > max(60.0, settings.worker.lease_s):
        raise ConfigError(f"expected a worker that is alive, but {name} was last seen {seen}: start it again")
    return f"{name} is {state}, seen {age:.0f} s ago"


def _server(settings: Settings) -> str:
    """Ask for something that only the gate refuses: a reserved tag on a model that does not exist."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking._tracking_service.utils import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    uri = settings.require_tracking()
    question = {"name": "registry-gate-doctor-asks", "key": "registry_gate.doctor", "value": "1"}
    try:
        # MLflow's own request function brings the credentials that its client would use.
        answer = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/registered-models/set-tag",
            "POST",
            json=question,
            max_retries=0,
            timeout=10,
            raise_on_status=False,
        )
        body = answer.json()
    except (MlflowException, ValueError) as err:
        raise ConfigError(f"expected the MLflow server at {uri} to answer, got: {str(err).splitlines()[0]}") from err
    if isinstance(body, dict) and "registry_gate" in body:
        return f"{uri} is gated"
    raise ConfigError(
        f"{uri} is NOT gated: it answered HTTP {answer.status_code} where the gate refuses. Start it with "
        "--registry-store-uri gated:<database uri>"
    )
