"""`approval`: people approve one form under one policy, on top of what its evidence shows."""

from __future__ import annotations

import getpass
import uuid
from datetime import UTC, datetime
from pathlib import Path

import click

from registry_gate.cli.common import format_option, print_json, settings_of
from registry_gate.cli.signing import (
    form_of,
    key_option,
    opened,
    row_of,
    signer_of,
    stored_grant,
    take_back,
    words,
    write_envelope,
)
from registry_gate.errors import PolicyError


@click.group()
def approval() -> None:
    """Approve one form under one policy, where the policy asks for that. policies/README.md says how."""


@approval.command()
@click.argument("version")
@click.option("--policy", "policy_name", required=True, help="Policy that asks for approvals.")
@click.option("--approver", required=True, help="Who approves: a name of the policy's list; theirs is the key.")
@click.option("--reason", required=True, help="Why, e.g. what was looked at.")
@click.option("--requester", help="Who asks for it, never the approver (default: the user of this process).")
@click.option("--form", "form_digest", help="Digest of the form (default: that of the version's newest evidence).")
@click.option("--workspace", default="default", show_default=True, help="MLflow workspace of the model.")
@key_option
@format_option
@click.pass_context
def grant(
    ctx: click.Context,
    version: str,
    policy_name: str,
    approver: str,
    reason: str,
    requester: str | None,
    form_digest: str | None,
    workspace: str,
    key: Path,
    output: str,
) -> None:
    """Approve the form that VERSION (models:/NAME/NUMBER) was assessed as, under a policy as it is written now.

    A changed byte, or a change of what the policy says, voids it. It lets nothing through that the evidence does not.
    Whoever asks the registry for the promotion does not count as an approver. Look at `registry-gate report VERSION`
    first.

    \b
    Example:
      registry-gate approval grant models:/clinical-triage/7 --policy medical --approver dana --requester alex \\
        --reason "report and ten answers read" --key dana.key
    """
    settings = settings_of(ctx)
    from registry_gate.decision import Approval
    from registry_gate.evidence.grants import sign_approval
    from registry_gate.ledger import StoredGrant
    from registry_gate.policy.grants import approval_faults

    policy_set, ledger = opened(settings)
    if policy_name not in policy_set.policies:
        known = ", ".join(policy_set.policies)
        raise PolicyError(f"expected the name of a policy ({known}), got {policy_name!r}")
    policy = policy_set.policies[policy_name]
    new = Approval(
        id=str(uuid.uuid4()),
        form_digest=form_digest or form_of(ledger, version, workspace),
        policy=policy_name,
        policy_digest=policy.digest,
        approver=approver,
        requester=requester or getpass.getuser(),
        approved_at=datetime.now(UTC),
        **words(reason=reason),
    )
    fault = approval_faults(policy, [new], None, new.approved_at)[new.id]
    if fault is not None:
        raise PolicyError(f"expected an approval that would count, got one of which the gate would say: {fault}")
    signer = signer_of(approver, key, policy_set)
    ledger.store_grant(
        StoredGrant(
            id=new.id,
            kind="approval",
            workspace=workspace,
            form_digest=new.form_digest,
            policy=policy_name,
            envelope=sign_approval(new, workspace, signer),
        )
    )
    if output == "json":
        print_json(row_of(new, None))
    else:
        click.echo(f"approval {new.id}  {policy_name} by {approver}\n  form {new.form_digest}")


@approval.command("list")
@click.option("--policy", "policy_name", help="Only approvals under this policy.")
@format_option
@click.pass_context
def list_approvals(ctx: click.Context, policy_name: str | None, output: str) -> None:
    """List every approval with whether it counts today and why not. Exit code 5 when there is none."""
    settings = settings_of(ctx)
    from registry_gate.decision import Approval, RefusedGrant
    from registry_gate.grants import read_grants
    from registry_gate.policy.grants import approval_faults

    policy_set, ledger = opened(settings)
    rows: list[tuple[str, Approval | RefusedGrant, str | None]] = []
    for stored, one in read_grants(ledger.grants(), policy_set.people):
        if stored.kind != "approval" or policy_name not in (None, stored.policy):
            continue
        policy = policy_set.policies.get(stored.policy)
        if isinstance(one, RefusedGrant):
            rows.append((stored.policy, one, one.cause))
        elif isinstance(one, Approval) and policy is None:
            rows.append((stored.policy, one, f"there is no policy {stored.policy} any more"))
        elif isinstance(one, Approval) and policy is not None:
            rows.append((stored.policy, one, approval_faults(policy, [one], None, datetime.now(UTC))[one.id]))
    if output == "json":
        print_json([row_of(one, fault) for _, one, fault in rows])
    else:
        for name, one, fault in rows:
            state = "counts" if fault is None else f"does not count: {fault}"
            said = ""
            if isinstance(one, Approval):
                said = f"  form {one.form_digest[:19]}…  by {one.approver} for {one.requester} ({one.reason})"
            click.echo(f"{one.id}  {name}{said}  {state}")
        click.echo(f"{sum(fault is None for _, _, fault in rows)} of {len(rows)} count today")
    ctx.exit(0 if rows else 5)


@approval.command()
@click.argument("approval_id")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write (default: stdout).")
@click.pass_context
def export(ctx: click.Context, approval_id: str, out: Path | None) -> None:
    """Write the signed APPROVAL_ID, for `registry-gate decide --approval FILE`. Overwrites nothing."""
    _, ledger = opened(settings_of(ctx))
    write_envelope(stored_grant(ledger, "approval", approval_id).envelope, out, f"approval {approval_id}")


@approval.command()
@click.argument("approval_id")
@click.option("--reason", required=True, help="Why it is taken back.")
@click.option("--by", "person", required=True, help="Who takes it back: anybody under 'people' of policy-set.yaml.")
@key_option
@click.pass_context
def revoke(ctx: click.Context, approval_id: str, reason: str, person: str, key: Path) -> None:
    """Take APPROVAL_ID back. `registry-gate audit reconcile` reports names that rest on it."""
    take_back(settings_of(ctx), "approval", approval_id, reason=reason, person=person, key=key)
