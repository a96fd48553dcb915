"""`init` and `doctor`: set up an installation, and check one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry_gate.cli.common import format_option, print_json, root_cause, settings_of, tracking_uri_option
from registry_gate.config import CONFIG_FILE, Settings
from registry_gate.errors import ConfigError, RegistryGateError

if TYPE_CHECKING:
    from registry_gate.policy.files import PolicyFiles

_HERE = Path(__file__).resolve()

SHIPPED_POLICIES = (_HERE.parents[1] / "shipped_policies", _HERE.parents[2] / "policies")
"""Where the shipped policies lie: inside an installed package, or beside it in a checkout."""

CONFIG_TEXT = """\
# Settings of this installation: locations and timeouts, never thresholds (those are in the policies).
# Relative paths are relative to this file. Every setting can be given as REGISTRY_GATE_<NAME> too.

[gate]
policies = "policies"             # a directory, git+file:///REPOSITORY@BRANCH#FOLDER, or s3://BUCKET/PREFIX
# policies_key = "keys/policies.pem"  # then only policies that this key signed are in force (registry-gate policy sign)
# limit_s = 2                     # longest wait of a decision for files and policies before it denies, 0.5 to 60
signing_key = "keys/gate.key"     # MLflow server only; deployments verify with its public half, keys/gate.pem

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
# grader_dirs = ["graders"]         # graders beside the shipped ones, and where `registry-gate grader pull` puts them
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
    """Write settings, policies and two key pairs into a directory. Nothing that exists is overwritten.

    Raises:
        ConfigError: Something is there already, or the directory cannot be written.
    """
    # Here, because the key library takes a moment that `--help` should not.
    from registry_gate.evidence.keys import generate_key

    config = directory / CONFIG_FILE
    keys = directory / "keys"
    parts = (config, directory / "policies", keys / "worker.key", keys / "gate.key", keys / "gate.pem")
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
        keys.mkdir(mode=0o700, exist_ok=True)
        generate_key(keys / "worker.key", directory / "policies" / "signers" / "worker.pem")
        generate_key(keys / "gate.key", keys / "gate.pem")
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
@click.option(
    "--gate-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Make this key of the gate (and its public half, ending in .pem) and nothing else.",
)
def init(directory: Path, ledger_uri: str, tracking_uri: str, gate_key: Path | None) -> None:
    """Make settings, policies and signing keys in DIRECTORY.

    Writes registry-gate.toml, policies/ (a copy of the shipped ones, yours to edit), keys/worker.key (mode 0600, for
    the worker alone), with its public half in policies/signers/, and keys/gate.key (mode 0600, for the MLflow server
    alone) with its public half keys/gate.pem, by which deployments verify what was allowed. Overwrites nothing.

    \b
    An installation from before the gate had a key:  registry-gate init --gate-key keys/gate.key

    \b
    Example:  registry-gate init && mlflow server --backend-store-uri sqlite:///mlflow.db \\
                --registry-store-uri gated:sqlite:///mlflow.db --artifacts-destination gated:./artifacts
    """
    if gate_key is not None:
        from registry_gate.evidence.keys import generate_key

        identity = generate_key(gate_key, gate_key.with_suffix(".pem"))
        click.echo(f"signing    {gate_key}  (for the MLflow server only)")
        click.echo(f"public     {gate_key.with_suffix('.pem')}  (key {identity[:16]}; for whoever deploys)")
        return
    if ledger_uri.startswith("sqlite:///") and not ledger_uri.startswith("sqlite:////"):
        # A relative SQLite path means another file in every working directory.
        ledger_uri = "sqlite:///" + str((directory / ledger_uri.removeprefix("sqlite:///")).absolute())
    make_installation(directory, ledger_uri=ledger_uri, tracking_uri=tracking_uri)
    click.echo(f"settings   {directory / CONFIG_FILE}")
    click.echo(f"policies   {directory / 'policies'}  (read policies/README.md, then: registry-gate policy lint)")
    click.echo(f"evidence   {directory / 'keys' / 'worker.key'}  (keep it on the worker's machine only)")
    click.echo(f"decisions  {directory / 'keys' / 'gate.key'}  (keep it on the MLflow server's machine only)")
    click.echo(f"deploying  {directory / 'keys' / 'gate.pem'}  (public: registry-gate verify needs nothing else)")
    click.echo(f"ledger     {ledger_uri}")


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Args:
        name: What was looked at.
        ok: False when something must be put right.
        detail: What was found.
        note: Whether it is right but worth knowing.
    """

    name: str
    ok: bool
    detail: str
    note: bool = False


@click.command()
@tracking_uri_option
@format_option
@click.pass_context
def doctor(ctx: click.Context, tracking_uri: str | None, output: str) -> None:
    """Check this installation, and ask the running server from outside whether it is gated, and with what.

    The server says which policy set it decides by, which keys it trusts and signs with, whether its artifact root is
    frozen, its ledger's schema and its versions; that is compared with this installation. MLflow's /health answers 200
    even when the plugin is missing, so it is not asked. A server with log-in is asked with MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD (or whatever MLflow's client would use).

    Exit code 0 when all is well, 4 otherwise.
    """
    settings = settings_of(ctx, mlflow__tracking_uri=tracking_uri)
    checks = [
        _check("settings", lambda: str(settings.source or "none found; defaults and REGISTRY_GATE_* variables")),
        _check("policies", lambda: _policies(settings)),
        _check("ledger", lambda: _ledger(settings)),
        _check("signing key", lambda: _key(settings)),
        _check("gate key", lambda: _gate_key(settings)),
        _check("worker", lambda: _worker(settings)),
        *_break_glass(settings),
    ]
    status: dict[str, Any] | None = None
    try:
        status = _ask_server(settings)
    except RegistryGateError as err:
        checks.append(Check("server", False, str(err)))
    else:
        checks += _of_server(status, settings)
    told = None if status is None else status.get("artifacts_gated")
    checks.append(_check("artifacts", lambda: _artifacts(settings, told)))
    if output == "json":
        print_json([vars(check) for check in checks])
    else:
        for check in checks:
            mark = "BAD " if not check.ok else "note" if check.note else "ok  "
            click.echo(f"{mark} {check.name:<16} {check.detail}")
    ctx.exit(0 if sum(check.ok for check in checks) == len(checks) else 4)


def _check(name: str, probe: Callable[[], str]) -> Check:
    try:
        return Check(name, True, probe())
    except RegistryGateError as err:
        return Check(name, False, str(err))


def _policies(settings: Settings) -> str:
    from registry_gate.policy.document import load_policy_set

    loaded = load_policy_set(settings.gate.policies, settings.battery_dirs)
    revision = f" at {loaded.files.revision}" if loaded.files.revision else ""
    counts = f"{len(loaded.policies)} policies, {len(loaded.batteries)} batteries"
    return f"{counts}, digest {loaded.digest}, from {loaded.files.place}{revision}{_signature(settings, loaded.files)}"


def _signature(settings: Settings, files: PolicyFiles) -> str:
    """By whom the policies are signed, and until when."""
    from registry_gate.signed_policies import require_signature

    if settings.gate.policies_key is None:
        return ""
    signature = require_signature(files, settings.gate.policies_key, datetime.now(UTC))
    until = "" if signature.expires_at is None else f", until {signature.expires_at:%Y-%m-%d %H:%M} UTC"
    return f", signed by {', '.join(signature.signers)} on {signature.signed_at:%Y-%m-%d}{until}"


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
    signers = load_policy_set(settings.gate.policies, settings.battery_dirs).signers
    names = [name for name, pem in signers.items() if pem == signer.public_pem]
    if not names:
        raise ConfigError("expected the key's public half among the policy set's signers, got another key")
    return f"signs as {names[0]} ({signer.key_id[:16]})"


def _gate_key(settings: Settings) -> str:
    from registry_gate.evidence.keys import gate_public_keys, key_id, load_decision_signer

    path = settings.gate.signing_key
    if not path.exists():
        # Only the server signs; whoever verifies has the public half, and a worker neither.
        if path.with_suffix(".pem").exists():
            names = ", ".join(f"{name} ({key_id(pem)[:16]})" for name, pem in gate_public_keys(path).items())
            return f"public only: {names}"
        return f"none at {path} (needed on the MLflow server; deployments need its public half)"
    signer = load_decision_signer(path)
    public = path.with_suffix(".pem")
    if public.exists() and key_id(public.read_bytes()) != signer.key_id:
        raise ConfigError(
            f"expected {public} to be the public half of {path}, got another key: decisions signed now would not "
            "verify with it"
        )
    return f"signs decisions ({signer.key_id[:16]})"


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


def _break_glass(settings: Settings) -> list[Check]:
    """That it is open, and what remains promoted because of it; nothing where neither is so, or nobody can tell."""
    from registry_gate.cli.break_glass import overrides
    from registry_gate.grants import open_now
    from registry_gate.ledger import Ledger
    from registry_gate.policy.document import load_policy_set

    try:
        ledger = Ledger.connect(settings.require_ledger())
        policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
        said = [
            f"OPEN until {one.expires_at.isoformat()} for {', '.join(one.models)} (by {one.person} as {one.role}, "
            f"{one.ticket})"
            for one in open_now(ledger, policy_set, datetime.now(UTC))
        ]
        remaining = sum(use.remains for use in overrides(ledger))
    except RegistryGateError:
        # Each of these has a check of its own, which says so.
        return []
    if remaining:
        said.append(f"{remaining} names remain promoted because of it (registry-gate break-glass list)")
    return [Check("break-glass", True, "; ".join(said), note=True)] if said else []


QUESTIONS = (
    ("registered-models/set-tag", {"name": "registry-gate-doctor-asks", "key": "registry_gate.doctor", "value": "1"}),
    # Whoever may not set tags may still register models. MLflow itself refuses this name, so nothing is made.
    (
        "registered-models/create",
        {"name": "registry-gate:doctor/asks", "tags": [{"key": "registry_gate.doctor", "value": "1"}]},
    ),
)
"""Calls that the gate refuses with its status, and that change nothing on a server without it."""


def _ask_server(settings: Settings) -> dict[str, Any]:
    """What the gate of the running server says about itself; empty when it is an older gate that says nothing.

    Raises:
        ConfigError: Nobody answers, it is no MLflow, it wants a log-in, or it is not gated; each in its own words.
    """
    uri = settings.require_tracking()
    forbidden = False
    for path, question in QUESTIONS:
        status, body = _ask(uri, "POST", f"/api/2.0/mlflow/{path}", question)
        if isinstance(body, dict) and isinstance(body.get("registry_gate"), dict):
            told = body["registry_gate"].get("status")
            return {"uri": uri, **(told if isinstance(told, dict) else {})}
        if status == 401:
            raise ConfigError(
                f"{uri} wants a log-in (HTTP 401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a "
                "user of this server, then ask again"
            )
        forbidden = status == 403
        if not forbidden:
            break
    if forbidden:
        raise ConfigError(
            f"{uri} answered HTTP 403 before the gate could be asked: this user may not register models, or MLflow "
            "does not know the host by that name (--allowed-hosts). Ask as a user who may, or on the server's own host"
        )
    if not _is_mlflow(status, body):
        raise ConfigError(
            f"{uri} is no MLflow server: it answered HTTP {status} to a question of MLflow's registry. Correct "
            "[mlflow] tracking_uri (with the --static-prefix, if there is one)"
        )
    code = body.get("error_code") if isinstance(body, dict) else None
    raise ConfigError(
        f"{uri} is NOT gated: it is an MLflow server that answered HTTP {status}{f' ({code})' if code else ''} where "
        "the gate refuses. Start it with --registry-store-uri gated:<database uri>, or correct the plugin if it was"
    )


def _is_mlflow(status: int, body: Any) -> bool:
    """MLflow's registry answers with an object: an error code, or what it made."""
    return isinstance(body, dict) and ("error_code" in body or (status == 200 and not body))


def _artifacts(settings: Settings, told: bool | None) -> str:
    """Ask for the deletion of a file that never exists, which only a gated artifact root refuses."""
    uri = settings.require_tracking()
    status, answer = _ask(uri, "DELETE", "/api/2.0/mlflow-artifacts/artifacts/.registry-gate/doctor", None)
    body = answer if isinstance(answer, dict) else {}
    reasons = body.get("registry_gate", {}).get("reasons", [])
    code = reasons[0]["code"] if reasons else None
    if code == "reserved_path":
        return "files of approved versions are frozen"
    if code is not None:
        raise ConfigError(f"nothing can be written to the artifact root of {uri}: {reasons[0]['message']}")
    if told and status in (401, 403):
        return "the server says that files of approved versions are frozen; this user may not try it"
    if status == 503:
        return f"{uri} serves no artifacts: what versions point to is read anew at each promotion, and not frozen"
    raise ConfigError(
        f"files of approved versions are NOT frozen: {uri} answered HTTP {status} where a gated artifact root refuses. "
        "Start it with --artifacts-destination gated:<root>; until then changed bytes are found at the next promotion"
    )


def _ask(uri: str, method: str, path: str, question: Mapping[str, Any] | None) -> tuple[int, Any]:
    """HTTP status and JSON body (None where it is no JSON), with the credentials that MLflow's client would send.

    Raises:
        ConfigError: Nobody answers.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking._tracking_service.utils import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(
            get_default_host_creds(uri),
            path,
            method,
            max_retries=0,
            timeout=10,
            raise_on_status=False,
            **({} if question is None else {"json": question}),
        )
    except (MlflowException, ValueError) as err:
        raise ConfigError(
            f"expected the MLflow server at {uri} to answer, got: {root_cause(err)}. Start it, or correct [mlflow] "
            "tracking_uri"
        ) from err
    try:
        return int(answer.status_code), answer.json()
    except ValueError:
        return int(answer.status_code), None


def _of_server(status: dict[str, Any], settings: Settings) -> list[Check]:
    """What the server said, and where it differs from what is here."""
    uri = status["uri"]
    if "version" not in status:
        return [
            Check("server", True, f"{uri} is gated by an older registry-gate that says no more: upgrade it", note=True)
        ]
    checks = [Check("server", True, f"{uri} is gated: registry-gate {status['version']}, MLflow {status['mlflow']}")]
    here = _here(settings)

    def compare(name: str, said: Any, error: Any, what: str, local: Any) -> None:
        if said is None:
            checks.append(Check(name, False, f"the server has no usable {what} ({error}): promotions are denied"))
        elif local is not None and said != local:
            checks.append(Check(name, False, f"the server has {what} {_shown(said)}, but here is {_shown(local)}"))
        else:
            same = "" if local is None else ", the same as here"
            checks.append(Check(name, True, f"{what} {_shown(said)}{same}"))

    compare("server policies", status["policy_set"], status["policy_error"], "policy set", here["policy_set"])
    if status["policy_set"] is not None:
        compare("server signers", status["signers"], None, "signers", here["signers"])
    compare("server gate key", status["gate_key"], status["gate_key_error"], "signing key", here["gate_key"])
    compare("server ledger", status["ledger_schema"], status["ledger_error"], "ledger schema", here["ledger_schema"])
    return checks


def _here(settings: Settings) -> dict[str, Any]:
    """The same of this installation; None for what is not here, which `doctor` says in lines of their own."""
    from registry_gate.evidence.keys import gate_public_keys, key_id
    from registry_gate.ledger.migrate import newest_version
    from registry_gate.policy.document import load_policy_set

    found: dict[str, Any] = {"policy_set": None, "signers": None, "gate_key": None, "ledger_schema": newest_version()}
    with contextlib.suppress(RegistryGateError):
        policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
        found["policy_set"] = policy_set.digest
        found["signers"] = {name: key_id(pem) for name, pem in policy_set.signers.items()}
    with contextlib.suppress(RegistryGateError):
        found["gate_key"] = key_id(gate_public_keys(settings.gate.signing_key)["gate"])
    return found


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({str(identity)[:16]})" for name, identity in sorted(value.items())) or "none"
    text = str(value)
    return text if len(text) <= 24 else text[: 23 if text.startswith("sha256:") else 16]
