"""`waiver`: let one form through named rules until a date, signed by whoever answers for it; list, show, take back."""

from __future__ import annotations

import getpass
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_gate.cli.common import format_option, print_json, settings_of
from registry_gate.cli.signing import (
    form_of,
    key_option,
    moment,
    opened,
    row_of,
    signer_of,
    stored_grant,
    take_back,
    words,
    write_envelope,
)
from registry_gate.errors import PolicyError

if TYPE_CHECKING:
    from registry_gate.decision import RefusedGrant, Waiver
    from registry_gate.ledger import Ledger, StoredGrant
    from registry_gate.policy.document import PolicySet


@click.group()
def waiver() -> None:
    """Let one form through named rules until a date. policies/README.md says who may."""


@waiver.command("key")
@click.argument("name")
@click.option("--private", type=click.Path(dir_okay=False, path_type=Path), help="File for the private key.")
@click.pass_context
def make_key(ctx: click.Context, name: str, private: Path | None) -> None:
    """Make the key pair of a person called NAME.

    The private key (mode 0600) is theirs alone; the public one goes into the policy directory, as people/NAME.pem, and
    counts once policy-set.yaml lists it under 'people'. Nothing is overwritten.
    """
    settings = settings_of(ctx)
    from registry_gate.evidence.keys import generate_key

    public = settings.require_policy_directory() / "people" / f"{name}.pem"
    if Path(name).name != name or not name:
        raise click.BadParameter(f"expected the name of a person, got {name!r}")
    public.parent.mkdir(exist_ok=True)
    private = private or Path(f"{name}.key")
    generate_key(private, public)
    click.echo(f"private  {private}\npublic   {public}")
    click.echo(f"next: in policy-set.yaml: people: [{{name: {name}, publicKey: people/{name}.pem}}]", err=True)


@waiver.command()
@click.argument("version")
@click.option("--policy", "policy_name", required=True, help="Policy whose rules are waived.")
@click.option("--rule", "rules", multiple=True, required=True, help="Id of a rule; repeat for several.")
@click.option("--reason", required=True, help="Why it may go through all the same.")
@click.option("--ticket", required=True, help="Where that is followed up.")
@click.option("--approver", required=True, help="Who approves: a name of the policy's list; theirs is the key.")
@click.option("--requester", help="Who asks for it, never the approver (default: the user of this process).")
@click.option("--expires", required=True, help="When it ends, e.g. 2026-12-24T18:00:00Z.")
@click.option("--form", "form_digest", help="Digest of the form (default: that of the version's newest evidence).")
@click.option("--workspace", default="default", show_default=True, help="MLflow workspace of the model.")
@key_option
@format_option
@click.pass_context
def grant(
    ctx: click.Context,
    version: str,
    policy_name: str,
    rules: tuple[str, ...],
    reason: str,
    ticket: str,
    approver: str,
    requester: str | None,
    expires: str,
    form_digest: str | None,
    workspace: str,
    key: Path,
    output: str,
) -> None:
    """Grant a waiver: the form that VERSION (models:/NAME/NUMBER) was assessed as passes the named rules until a date.

    It counts for exactly these bytes, never for what is invalid or stale, and shows in every decision that it lets
    through. Refused, and nothing is signed, when the gate would not count it.

    \b
    Example:
      registry-gate waiver grant models:/clinical-triage/7 --policy medical --rule MED-2 --reason "pilot, supervised" \\
        --ticket RISK-142 --approver dana --requester alex --expires 2026-12-24T18:00:00Z --key dana.key
    """
    settings = settings_of(ctx)
    from registry_gate.decision import Waiver
    from registry_gate.evidence.grants import sign_waiver
    from registry_gate.ledger import StoredGrant

    policy_set, ledger = opened(settings)
    if policy_name not in policy_set.policies:
        known = ", ".join(policy_set.policies)
        raise PolicyError(f"expected the name of a policy ({known}), got {policy_name!r}")
    chosen = policy_set.policies[policy_name]
    known_rules = [rule.id for rule in chosen.spec.rules]
    for rule in rules:
        if rule not in known_rules:
            raise PolicyError(f"expected a rule of policy {policy_name} ({', '.join(known_rules)}), got {rule!r}")
    said = words(reason=reason, ticket=ticket)
    new = Waiver(
        id=str(uuid.uuid4()),
        form_digest=form_digest or form_of(ledger, version, workspace),
        policy=policy_name,
        rules=tuple(sorted(set(rules))),
        approver=approver,
        requester=requester or getpass.getuser(),
        **said,
        granted_at=datetime.now(UTC),
        expires_at=moment(expires),
    )
    _require_countable(new, policy_set, ledger, workspace)
    signer = signer_of(approver, key, policy_set)
    ledger.store_grant(
        StoredGrant(
            id=new.id,
            kind="waiver",
            workspace=workspace,
            form_digest=new.form_digest,
            policy=policy_name,
            envelope=sign_waiver(new, workspace, signer),
        )
    )
    if output == "json":
        print_json(row_of(new, None))
    else:
        click.echo(f"waiver {new.id}  {policy_name} {', '.join(new.rules)}  until {new.expires_at.isoformat()}")
        click.echo(f"  form {new.form_digest}")


@waiver.command("list")
@click.option("--policy", "policy_name", help="Only waivers of this policy.")
@format_option
@click.pass_context
def list_waivers(ctx: click.Context, policy_name: str | None, output: str) -> None:
    """List every waiver with whether it counts today and why not. Exit code 5 when there is none."""
    settings = settings_of(ctx)
    from registry_gate.decision import RefusedGrant, Waiver
    from registry_gate.grants import read_grants

    policy_set, ledger = opened(settings)
    found = [
        (stored, one)
        for stored, one in read_grants(ledger.grants(), policy_set.people)
        if stored.kind == "waiver" and isinstance(one, Waiver | RefusedGrant)
    ]
    rows = []
    for stored, one in found:
        if policy_name in (None, stored.policy):
            same = [w for s, w in found if s.policy == stored.policy and s.workspace == stored.workspace]
            rows.append((stored, one, _fault(one, stored, same, policy_set)))
    if output == "json":
        print_json([row_of(one, fault) for _, one, fault in rows])
    else:
        for stored, one, fault in rows:
            click.echo(_line(stored, one, fault))
        counting = sum(fault is None for _, _, fault in rows)
        click.echo(f"{counting} of {len(rows)} count today")
    ctx.exit(0 if rows else 5)


@waiver.command()
@click.argument("waiver_id")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write (default: stdout).")
@click.pass_context
def export(ctx: click.Context, waiver_id: str, out: Path | None) -> None:
    """Write the signed WAIVER_ID, for `registry-gate decide --waiver FILE`. Overwrites nothing."""
    _, ledger = opened(settings_of(ctx))
    write_envelope(stored_grant(ledger, "waiver", waiver_id).envelope, out, f"waiver {waiver_id}")


@waiver.command()
@click.argument("waiver_id")
@click.option("--reason", required=True, help="Why it is taken back.")
@click.option("--by", "person", required=True, help="Who takes it back: anybody under 'people' of policy-set.yaml.")
@key_option
@click.pass_context
def revoke(ctx: click.Context, waiver_id: str, reason: str, person: str, key: Path) -> None:
    """Take WAIVER_ID back. What was promoted by it stays where it is until somebody demotes it or asks again.

    `registry-gate audit reconcile` reports names that rest on it.
    """
    take_back(settings_of(ctx), "waiver", waiver_id, reason=reason, person=person, key=key)


def _require_countable(new: Waiver, policy_set: PolicySet, ledger: Ledger, workspace: str) -> None:
    """Refuse what the gate would not count, with its own words.

    Raises:
        PolicyError: It would not count.
    """
    from registry_gate.decision import Waiver
    from registry_gate.grants import read_grants
    from registry_gate.policy.grants import waiver_faults

    filed = read_grants(ledger.grants(workspace=workspace, policies=[new.policy]), policy_set.people)
    standing = [one for _, one in filed if isinstance(one, Waiver)]
    fault = waiver_faults(policy_set.policies[new.policy], [*standing, new], new.granted_at)[new.id]
    if fault is not None:
        raise PolicyError(f"expected a waiver that would count, got one of which the gate would say: {fault}")


def _fault(
    one: Waiver | RefusedGrant, stored: StoredGrant, same: list[Waiver | RefusedGrant], policy_set: PolicySet
) -> str | None:
    from registry_gate.decision import RefusedGrant, Waiver
    from registry_gate.policy.grants import waiver_faults

    if isinstance(one, RefusedGrant):
        return one.cause
    policy = policy_set.policies.get(stored.policy)
    if policy is None:
        return f"there is no policy {stored.policy} any more"
    return waiver_faults(policy, [w for w in same if isinstance(w, Waiver)], datetime.now(UTC))[one.id]


def _line(stored: StoredGrant, one: Waiver | RefusedGrant, fault: str | None) -> str:
    from registry_gate.decision import RefusedGrant

    state = "counts" if fault is None else f"does not count: {fault}"
    if isinstance(one, RefusedGrant):
        return f"{one.id}  {stored.policy}  {state}"
    return (
        f"{one.id}  {one.policy} {', '.join(one.rules)}  form {one.form_digest[:19]}…  by {one.approver} for "
        f"{one.requester} until {one.expires_at.isoformat()} ({one.ticket}: {one.reason})  {state}"
    )
