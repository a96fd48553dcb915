"""What `waiver`, `approval` and `break-glass` share: who signs, for which form, and what is filed."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry_gate.cli.common import parse_version
from registry_gate.errors import ConfigError, PolicyError, RegistryError

if TYPE_CHECKING:
    from registry_gate.config import Settings
    from registry_gate.decision import RefusedGrant
    from registry_gate.evidence.keys import DecisionSigner
    from registry_gate.grants import Grant
    from registry_gate.ledger import Ledger, StoredGrant
    from registry_gate.policy.document import PolicySet

COMMANDS = {"waiver": "waiver", "approval": "approval", "opening": "break-glass"}
"""Groups of commands, by kind of grant."""

key_option = click.option(
    "--key",
    # Whether it is there is asked where it is read, which also says how to make one.
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Private key of whoever signs.",
)


def opened(settings: Settings) -> tuple[PolicySet, Ledger]:
    """The policy set in force and the ledger."""
    from registry_gate.ledger import Ledger
    from registry_gate.policy.document import load_policy_set

    policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
    return policy_set, Ledger.connect(settings.require_ledger())


def form_of(ledger: Ledger, version: str, workspace: str) -> str:
    """Digest of the form that a version was last assessed as.

    Raises:
        RegistryError: It never was.
    """
    wanted = parse_version(version)
    requests = [
        r
        for r in ledger.requests(limit=1000)
        if (r.model, r.version) == wanted and r.workspace == workspace and r.evidence_digest
    ]
    newest = max(requests, key=lambda r: r.updated_at, default=None)
    if newest is None:
        raise RegistryError(
            f"expected evidence of {version}, which says what it is, got none: run "
            f"`registry-gate assess {version} --wait` first"
        )
    return newest.form_digest


def moment(text: str) -> datetime:
    """A moment with zone, of `--expires`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as err:
        raise click.BadParameter(f"--expires: expected a date such as 2026-12-24T18:00:00Z, got {text!r}") from err
    if found.tzinfo is None:
        raise click.BadParameter(f"--expires: expected a date with its zone (a Z at the end for UTC), got {text!r}")
    return found


def signer_of(name: str, key: Path, policy_set: PolicySet) -> DecisionSigner:
    """The key, which must be that of the person.

    Raises:
        PolicyError: The policy set does not know the person.
        ConfigError: It is another key.
    """
    from registry_gate.evidence.keys import key_id, load_decision_signer

    if name not in policy_set.people:
        known = ", ".join(policy_set.people) or "nobody"
        raise PolicyError(f"expected somebody under 'people' of policy-set.yaml ({known}), got {name!r}")
    signer = load_decision_signer(key)
    if signer.key_id != key_id(policy_set.people[name]):
        raise ConfigError(f"{key}: expected the private key of {name}, got another one")
    return signer


def stored_grant(ledger: Ledger, kind: str, grant_id: str) -> StoredGrant:
    """What is filed under an id.

    Raises:
        RegistryError: Nothing of that kind.
    """
    for grant in ledger.grants():
        if grant.kind == kind and grant.id == grant_id:
            return grant
    command = COMMANDS[kind]
    raise RegistryError(f"expected an id that `registry-gate {command} list` shows, got {grant_id!r}")


def words(**said: str) -> dict[str, str]:
    """What somebody said, without the blanks around it.

    Raises:
        click.BadParameter: One says nothing.
    """
    for name, text in said.items():
        if not text.strip():
            raise click.BadParameter(f"--{name}: expected words, got none")
    return {name: text.strip() for name, text in said.items()}


def write_envelope(envelope: bytes, out: Path | None, said: str, *, remark: bool = False) -> None:
    """To a file that is not there yet, or to the terminal.

    Args:
        envelope: The bytes.
        out: The file.
        said: What is said of it.
        remark: Whether that goes beside the answer, which is JSON then.
    """
    if out is None:
        click.echo(envelope.decode())
        return
    try:
        with out.open("xb") as file:
            file.write(envelope)
    except OSError as err:
        hint = "" if out.parent.is_dir() else f": make the directory {out.parent} first"
        raise ConfigError(f"expected to write {out}, got: {err.strerror}{hint}. Nothing was overwritten") from err
    click.echo(f"{out}  {said}", err=remark)


def take_back(
    settings: Settings, kind: str, grant_id: str, *, reason: str, person: str, key: Path, closing: bool = False
) -> None:
    """File who takes a grant back, and why; once."""
    import uuid
    from datetime import UTC

    from registry_gate.evidence.grants import Revocation, sign_revocation
    from registry_gate.ledger import StoredGrant
    from registry_gate.ledger.store import ANY

    policy_set, ledger = opened(settings)
    stored = stored_grant(ledger, kind, grant_id)
    if any(grant.revokes == grant_id for grant in ledger.grants()):
        raise RegistryError(
            f"expected one that stands, got {grant_id}, which is {'closed' if closing else 'revoked'} already"
        )
    said = words(reason=reason)["reason"]
    signer = signer_of(person, key, policy_set)
    revocation = Revocation(revokes=grant_id, person=person, reason=said, revoked_at=datetime.now(UTC))
    form = None if stored.form_digest == ANY else stored.form_digest
    ledger.store_grant(
        StoredGrant(
            id=str(uuid.uuid4()),
            kind="closing" if closing else "revocation",
            workspace=stored.workspace,
            form_digest=stored.form_digest,
            policy=stored.policy,
            revokes=grant_id,
            envelope=sign_revocation(revocation, form, signer),
        )
    )
    click.echo(f"{'closed' if closing else 'revoked'} {grant_id}")


def row_of(one: Grant | RefusedGrant, fault: str | None) -> dict[str, Any]:
    """As JSON values, with whether it counts today and why not."""
    said = json.loads(json.dumps(vars(one), default=str))
    return {**said, "counts": fault is None, "fault": fault}
