"""`policy explain`, `policy diff` and `policy schema`: read policies, decide nothing."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_gate.cli.common import PLACE, format_option, parse_version, print_json, settings_of
from registry_gate.errors import EvidenceError, PolicyError, RegistryError

if TYPE_CHECKING:
    from registry_gate.config import Settings
    from registry_gate.decision import Decision
    from registry_gate.policy.document import PolicySet
    from registry_gate.promotion import Target

KIND_NAMES = ("PromotionPolicy", "PolicySet", "PolicyTest", "Battery", "ControlCatalogue")


@click.command()
@click.argument("name", required=False)
@click.option("--policies", type=PLACE, help="Policy directory, git+file:// or s3:// address.")
@click.option("--for", "version", help="A model version, models:/NAME/NUMBER: what is known and missing of it.")
@click.option("--target", "target_name", help="With --for: the alias or stage that it is to become.")
@format_option
@click.pass_context
def explain(
    ctx: click.Context,
    name: str | None,
    policies: Path | str | None,
    version: str | None,
    target_name: str | None,
    output: str,
) -> None:
    """Say in plain sentences what the policies demand: all of them, the one called NAME, or of one model version.

    Also what each battery measures, by which graders and in which categories; NAME may be that of a battery.

    With --for and --target: which policies apply, what the ledger knows of that version, what is missing, and what to
    run. The evidence is judged by the function that decides promotions; the server reads the bytes again.

    \b
    Examples:
      registry-gate policy explain
      registry-gate policy explain medical
      registry-gate policy explain general@2
      registry-gate policy explain --for models:/clinical-triage/7 --target champion
    """
    settings = settings_of(ctx, gate__policies=policies)
    from registry_gate.policy.document import load_policy_set
    from registry_gate.policy.explain import explain_battery, explain_policy, explain_set, explain_version

    if (version is None) != (target_name is None):
        raise click.UsageError("expected --for and --target together, got one of them")
    if version is not None and name is not None:
        raise click.UsageError("expected the NAME of a policy or --for, got both")
    decides = version is not None
    policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs, keys=decides)
    decision: Decision | None = None
    if version is not None and target_name is not None:
        target = _target(version, target_name)
        decision = _decision(settings, policy_set, version, target)
        said = explain_version(version, target, policy_set.governing(target), decision, policy_set.batteries)
    elif name is not None and name in policy_set.batteries:
        said = explain_battery(policy_set.batteries[name])
    elif name is not None:
        if name not in policy_set.policies:
            known, batteries = ", ".join(policy_set.policies), ", ".join(policy_set.batteries)
            raise PolicyError(f"expected the name of a policy ({known}) or of a battery ({batteries}), got {name!r}")
        policy = policy_set.policies[name]
        said = explain_policy(policy, policy_set.batteries)
        said += ["", *explain_battery(policy_set.batteries[policy.spec.evidence.battery])]
    else:
        said = explain_set(policy_set)
        for policy in policy_set.policies.values():
            said += ["", *explain_policy(policy, policy_set.batteries)]
        for battery in policy_set.batteries.values():
            said += ["", *explain_battery(battery)]
    if output == "json":
        print_json(
            {
                "policy_set": policy_set.digest,
                "sentences": [line for line in said if line],
                "decision": None if decision is None else decision.to_dict(),
            }
        )
    else:
        click.echo("\n".join(said))


def _target(version: str, name: str) -> Target:
    from registry_gate.promotion import PROMOTED_STAGES, Target, TargetKind

    model, _ = parse_version(version)
    stage = next((stage for stage in PROMOTED_STAGES if stage.lower() == name.lower()), None)
    if stage is not None:
        return Target(kind=TargetKind.STAGE, model=model, name=stage)
    return Target(kind=TargetKind.ALIAS, model=model, name=name)


def _decision(settings: Settings, policy_set: PolicySet, version: str, target: Target) -> Decision | None:
    """What the newest evidence of each battery that is asked for makes of a version; None without any."""
    from registry_gate.calibrations import calibrations_of
    from registry_gate.evidence.envelope import verify
    from registry_gate.grants import grants_for
    from registry_gate.ledger import Ledger
    from registry_gate.policy.inputs import EvidenceItem, UnverifiedEvidence, VerifiedEvidence
    from registry_gate.policy.rules import decide

    policies = policy_set.governing(target).policies
    if not policies:
        return None
    ledger = Ledger.connect(settings.require_ledger())
    wanted = parse_version(version)
    requests = [r for r in ledger.requests(limit=1000) if (r.model, r.version) == wanted and r.evidence_digest]
    items: list[EvidenceItem] = []
    form = None
    for request in sorted(requests, key=lambda r: r.updated_at, reverse=True):
        stored = ledger.evidence(str(request.evidence_digest))
        if stored is None:
            continue
        try:
            verified = verify(stored.envelope, policy_set.signers)
        except EvidenceError as err:
            items.append(UnverifiedEvidence(digest=stored.digest, cause=str(err)))
            continue
        form = form or verified.statement.manifest
        items.append(VerifiedEvidence(digest=verified.digest, assessment=verified.assessment, signers=verified.signers))
    if form is None:
        if items:
            raise RegistryError(f"expected evidence of {version} that verifies, got only some that does not")
        return None
    return decide(
        policies=policies,
        batteries=policy_set.batteries,
        form=form,
        evidence=items,
        calibrations=calibrations_of(policy_set),
        grants=grants_for(ledger, policy_set, policies, target.workspace, target.model, form.digest),
        break_glass=policy_set.break_glass,
        now=datetime.now(UTC),
    )


@click.command()
@click.argument("old")
@click.argument("new", required=False)
@format_option
@click.pass_context
def diff(ctx: click.Context, old: str, new: str | None, output: str) -> None:
    """Say what changed in meaning from policy set OLD to NEW: stricter, looser or neither; never what changed in text.

    OLD and NEW are directories, or REV:DIRECTORY in a git repository. One argument, REV..REV, compares two revisions of
    the policy directory. The signers' public keys are not compared and need not be there.

    \b
    Examples:
      registry-gate policy diff policies new-policies
      registry-gate policy diff main..HEAD
      registry-gate policy diff v1.2:policies policies

    Exit code 0 when no decision changes, 3 when some may, 2 when one of the two is invalid.
    """
    settings = settings_of(ctx)
    from registry_gate.cli.policy_places import policy_set_at, two_places
    from registry_gate.policy.meaning import Direction, compare

    places = two_places(old, new, settings)
    with (
        policy_set_at(places[0], settings.battery_dirs) as before,
        policy_set_at(places[1], settings.battery_dirs) as after,
    ):
        changes = compare(before, after)
    counts = Counter(change.direction for change in changes)
    if output == "json":
        print_json(
            {
                "old": before.digest,
                "new": after.digest,
                "counts": {str(direction): counts[direction] for direction in Direction},
                "changes": [change.to_dict() for change in changes],
            }
        )
    else:
        for change in changes:
            where = " ".join(part for part in (change.policy, change.rule) if part) or "policy set"
            click.echo(f"{change.direction:<8}  {where}: {change.sentence}")
        said = ", ".join(f"{counts[direction]} {direction}" for direction in Direction)
        click.echo(said if changes else "nothing changed")
    ctx.exit(3 if any(change.direction is not Direction.WORDING for change in changes) else 0)


@click.command()
@click.argument("kind", type=click.Choice(KIND_NAMES), default="PromotionPolicy")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the schemas of all kinds into this folder.",
)
def schema(kind: str, out: Path | None) -> None:
    """Print the JSON Schema of a KIND of file, for editors.

    In an editor with the YAML language server, the first line of a policy names it:
    # yaml-language-server: $schema=schema/promotion-policy.json
    """
    from registry_gate.policy.json_schema import KINDS, file_name, json_schema

    if out is None:
        print_json(json_schema(kind))
        return
    out.mkdir(parents=True, exist_ok=True)
    for one in KINDS:
        path = out / file_name(one)
        path.write_text(json.dumps(json_schema(one), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        click.echo(f"schema: {path}", err=True)
