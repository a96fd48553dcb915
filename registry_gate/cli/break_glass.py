"""`break-glass`: override every policy for a short time, loudly; close it; see what it let through."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_gate.cli.common import format_option, print_json, settings_of
from registry_gate.cli.signing import (
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

if TYPE_CHECKING:
    from registry_gate.config import Settings
    from registry_gate.decision import BreakGlass, RefusedGrant
    from registry_gate.ledger import Ledger
    from registry_gate.standing import Override

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@click.group("break-glass")
def break_glass() -> None:
    """Override every policy for a short time, in an emergency: signed, told in every decision, recorded at each use."""


@break_glass.command("open")
@click.option("--reason", required=True, help="What the emergency is.")
@click.option("--ticket", required=True, help="Where it is followed up.")
@click.option("--ttl", required=True, help="How long, e.g. 30m or 2h; at most what the policy set allows.")
@click.option("--role", required=True, help="A role under 'breakGlass' of policy-set.yaml.")
@click.option("--by", "person", required=True, help="Who opens it: somebody of that role; theirs is the key.")
@click.option("--models", multiple=True, help="Only models of this name or pattern; repeat for several (default: all).")
@click.option("--workspace", default="default", show_default=True, help="The MLflow workspace that it covers.")
@key_option
@format_option
@click.pass_context
def open_it(
    ctx: click.Context,
    reason: str,
    ticket: str,
    ttl: str,
    role: str,
    person: str,
    models: tuple[str, ...],
    workspace: str,
    key: Path,
    output: str,
) -> None:
    """Open break-glass: until it ends or is closed, promotions that policies deny are allowed, and say so.

    It overrides whatever evidence and policies say. Never: files that cannot be read, policies that do not load, a gate
    without its key. What it lets through holds no longer than it is open (`verify` fails from then on) and is never
    grounds for a rollback. Refused, and nothing is signed, when the gate would not count it.

    \b
    Example:
      registry-gate break-glass open --role incident-commander --by dana --ttl 30m --reason "triage model answers \\
        nothing since the upgrade" --ticket INC-7 --models "clinical-*" --key dana.key
    """
    settings = settings_of(ctx)
    from registry_gate.decision import BreakGlass
    from registry_gate.evidence.grants import sign_break_glass
    from registry_gate.ledger import StoredGrant
    from registry_gate.ledger.store import ANY
    from registry_gate.policy.grants import break_glass_fault

    policy_set, ledger = opened(settings)
    now = datetime.now(UTC)
    new = BreakGlass(
        id=str(uuid.uuid4()),
        person=person,
        role=role,
        workspace=workspace,
        models=models or ("*",),
        opened_at=now,
        expires_at=now + _ttl(ttl),
        **words(reason=reason, ticket=ticket),
    )
    fault = break_glass_fault(policy_set.break_glass, new, now)
    if fault is not None:
        raise PolicyError(f"expected break-glass that would count, got one of which the gate would say: {fault}")
    signer = signer_of(person, key, policy_set)
    ledger.store_grant(
        StoredGrant(
            id=new.id,
            kind="opening",
            workspace=workspace,
            form_digest=ANY,
            policy=ANY,
            envelope=sign_break_glass(new, signer),
        )
    )
    if output == "json":
        print_json(row_of(new, None))
    else:
        click.echo(f"BREAK-GLASS {new.id} is open until {new.expires_at.isoformat()} for {', '.join(new.models)}")
        click.echo(
            f"close it with: registry-gate break-glass close {new.id} --by NAME --reason WHY --key KEY", err=True
        )


@break_glass.command("close")
@click.argument("opening_id")
@click.option("--reason", required=True, help="Why, e.g. what was done.")
@click.option("--by", "person", required=True, help="Who closes it: anybody under 'people' of policy-set.yaml.")
@key_option
@click.pass_context
def close(ctx: click.Context, opening_id: str, reason: str, person: str, key: Path) -> None:
    """Close OPENING_ID before it ends by itself. What it let through is listed, and stays until somebody demotes it."""
    settings = settings_of(ctx)
    take_back(settings, "opening", opening_id, reason=reason, person=person, key=key, closing=True)
    _, ledger = opened(settings)
    for use in overrides(ledger):
        if use.break_glass == opening_id and use.remains:
            click.echo(f"remains promoted: {override_line(use)}")


@break_glass.command("list")
@format_option
@click.pass_context
def list_openings(ctx: click.Context, output: str) -> None:
    """List every opening: whether it is open, each use of it, and what remains promoted because of it.

    Exit code 5 when there never was one.
    """
    settings = settings_of(ctx)
    from registry_gate.decision import RefusedGrant
    from registry_gate.grants import openings, record_ends
    from registry_gate.policy.grants import break_glass_fault

    policy_set, ledger = opened(settings)
    now = datetime.now(UTC)
    record_ends(ledger, policy_set, now)
    uses = overrides(ledger)
    rows: list[tuple[BreakGlass | RefusedGrant, str | None, list[Override]]] = []
    for _, one in openings(ledger, policy_set):
        fault = one.cause if isinstance(one, RefusedGrant) else break_glass_fault(policy_set.break_glass, one, now)
        rows.append((one, fault, [use for use in uses if use.break_glass == one.id]))
    if output == "json":
        print_json([{**row_of(one, fault), "uses": [use.to_dict() for use in used]} for one, fault, used in rows])
    else:
        for one, fault, used in rows:
            state = "OPEN" if fault is None else f"not open: {fault}"
            said = ""
            if not isinstance(one, RefusedGrant):
                said = f"  by {one.person} as {one.role} ({one.ticket}: {one.reason})"
            click.echo(f"{one.id}{said}  {state}")
            for use in used:
                click.echo(f"  used {use.at}  {override_line(use)}{'  remains promoted' if use.remains else ''}")
        click.echo(f"{sum(fault is None for _, fault, _ in rows)} of {len(rows)} are open")
    ctx.exit(0 if rows else 5)


@break_glass.command()
@click.argument("opening_id")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write (default: stdout).")
@click.pass_context
def export(ctx: click.Context, opening_id: str, out: Path | None) -> None:
    """Write the signed OPENING_ID, for `registry-gate decide --break-glass FILE`. Overwrites nothing."""
    _, ledger = opened(settings_of(ctx))
    write_envelope(stored_grant(ledger, "opening", opening_id).envelope, out, f"break-glass {opening_id}")


def _ttl(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,3})([mhd])", text, re.ASCII)
    if found is None:
        raise click.BadParameter(f"--ttl: expected a time such as 30m, 2h or 1d, got {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def overrides(ledger: Ledger) -> list[Override]:
    """Everything that break-glass ever let through."""
    from registry_gate.standing import Overrides

    found = Overrides()
    ledger.visit_audit(found.visit)
    return found.found()


def override_line(use: Override) -> str:
    """One use, as people read it."""
    return f"{use.target} -> version {use.version}  by {use.actor}  decision {use.decision_id}"


def announce(ledger: Ledger, settings: Settings) -> None:
    """Say on stderr that break-glass is open, where it is: whatever is shown beside it may be because of it."""
    from registry_gate.grants import open_now
    from registry_gate.policy.document import load_policy_set

    try:
        policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
    except PolicyError:
        # Without policies that load nothing overrides them; that they do not load is for `doctor` to say.
        return
    for one in open_now(ledger, policy_set, datetime.now(UTC)):
        click.echo(
            f"BREAK-GLASS {one.id} is open until {one.expires_at.isoformat()} for {', '.join(one.models)} (by "
            f"{one.person} as {one.role}, {one.ticket}: {one.reason})",
            err=True,
        )
