"""`promote` asks the registry, which asks the gate; `decide` is the decision alone, from files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry_gate.cli.common import (
    PLACE,
    exit_code,
    exit_code_of_decision,
    format_option,
    give_up_soon,
    parse_version,
    print_json,
    root_cause,
    settings_of,
    tracking_uri_option,
)
from registry_gate.decision import Grants, Verdict
from registry_gate.errors import ConfigError, EvidenceError, FormError, RegistryError
from registry_gate.promotion import PROMOTED_STAGES, Target, TargetKind

if TYPE_CHECKING:
    from registry_gate.policy.document import PolicySet

POLL_S = 2.0


@click.command()
@click.argument("version")
@click.option("--alias", help="Alias to set.")
@click.option("--stage", type=click.Choice(PROMOTED_STAGES, case_sensitive=False), help="Stage to move to.")
@click.option("--wait", is_flag=True, help="Wait for the evidence that is missing, then ask again.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=3600, show_default=True, help="Seconds.")
@tracking_uri_option
@format_option
@click.pass_context
def promote(
    ctx: click.Context,
    version: str,
    alias: str | None,
    stage: str | None,
    wait: bool,
    timeout_s: float,
    tracking_uri: str | None,
    output: str,
) -> None:
    """Let an alias or stage mean VERSION (models:/NAME/NUMBER), if the gate allows it.

    The same as setting the alias in MLflow: the server decides. With --wait, it is asked again until the assessments
    that it queued have ended. Safe to repeat.

    \b
    Example:  registry-gate promote models:/clinical-triage/7 --alias champion --wait
    Exit:     0 allowed, 3 denied, 4 not decided yet or not decidable, 6 integrity
    """
    if (alias is None) == (stage is None):
        raise click.UsageError("expected one of --alias and --stage, got " + ("both" if alias else "none"))
    settings = settings_of(ctx, mlflow__tracking_uri=tracking_uri)
    name, number = parse_version(version)
    target = f"{name}@{alias}" if alias else f"{name}/{stage}"
    deadline = time.monotonic() + timeout_s
    said: Any = None
    while True:
        denial = _ask(settings.require_tracking(), name, number, alias, stage)
        if denial is None:
            if output == "json":
                print_json({"decision": "allowed", "target": target, "version": version})
            else:
                click.echo(f"allowed: {target} is version {number}")
            return
        pending = [r for r in denial.get("requests", []) if r["state"] in ("queued", "running")]
        if not wait or not pending or time.monotonic() > deadline:
            break
        states = ", ".join(f"{r['battery']} {r['state']}" for r in pending)
        if states != said:
            said = states
            click.echo(f"waiting for {states} …", err=True)
        time.sleep(POLL_S)
    if output == "json":
        print_json(denial)
    else:
        click.echo(denial["message"])
        if wait and pending:
            click.echo(f"still pending after {timeout_s:.0f} s; ask again later", err=True)
    codes = {reason["code"] for reason in denial["reasons"] if reason.get("blocking")}
    ctx.exit(exit_code(Verdict(denial["verdict"]), allowed=False, codes=codes))


def _ask(uri: str, name: str, number: int, alias: str | None, stage: str | None) -> dict[str, Any] | None:
    """Ask the registry once. None when allowed, else the gate's payload with the message.

    Raises:
        RegistryError: The server cannot be reached or refuses for a reason of its own.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException, RestException

    give_up_soon()
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        if alias is not None:
            client.set_registered_model_alias(name, alias, str(number))
        else:
            client.transition_model_version_stage(name, str(number), str(stage))
    except RestException as err:
        payload = (err.json or {}).get("registry_gate")
        if payload is None:
            raise RegistryError(f"expected {uri} to move the name, got {err.error_code}: {err.message}") from err
        return {**payload, "message": str(err.json.get("message", ""))}
    except MlflowException as err:
        payload = err.json_kwargs.get("registry_gate")
        if payload is None:
            raise RegistryError(f"expected the MLflow server at {uri} to answer, got: {root_cause(err)}") from err
        return {**payload, "message": str(err.message)}
    return None


@click.command()
@click.option(
    "--evidence",
    "evidence_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Evidence file (*.dsse.json); repeat for several.",
)
@click.option("--target", required=True, help="What would be promoted: NAME@ALIAS or NAME/Stage.")
@click.option(
    "--form",
    type=click.Path(exists=True, path_type=Path),
    help="The form: an artifact directory, or an evidence file that lists it (default: the first evidence's form).",
)
@click.option(
    "--waiver",
    "waiver_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Signed waiver (`registry-gate waiver export`); repeat for several.",
)
@click.option(
    "--approval",
    "approval_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Signed approval (`registry-gate approval export`); repeat for several.",
)
@click.option(
    "--break-glass",
    "break_glass_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Signed opening (`registry-gate break-glass export`).",
)
@click.option("--requester", help="Who asks for the promotion; never counts as an approver.")
@click.option("--workspace", default="default", show_default=True, help="MLflow workspace, for which people sign.")
@click.option("--policies", type=PLACE, help="Policy directory, git+file:// or s3:// address.")
@click.option("--now", help="Decide as of this moment, e.g. 2026-11-23T12:00:00Z (default: now).")
@format_option
@click.pass_context
def decide(
    ctx: click.Context,
    evidence_files: tuple[Path, ...],
    target: str,
    form: Path | None,
    waiver_files: tuple[Path, ...],
    approval_files: tuple[Path, ...],
    break_glass_files: tuple[Path, ...],
    requester: str | None,
    workspace: str,
    policies: Path | str | None,
    now: str | None,
    output: str,
) -> None:
    """Apply the policies to evidence files. Pure: no server, no ledger, nothing is changed.

    The same function decides in the registry. Without --form, the form that the first evidence is of is decided on.

    \b
    Example:  registry-gate decide --evidence 3f2a….dsse.json --target clinical-triage@champion
    Exit:     0 allowed, 3 denied, 4 not decidable, 6 integrity
    """
    settings = settings_of(ctx, gate__policies=policies)
    from rich.console import Console

    from registry_gate.artifact import HashCache, LocalTree, read_manifest
    from registry_gate.calibrations import calibrations_of
    from registry_gate.cli.console import outcome_table, print_decision
    from registry_gate.evidence.envelope import envelope_digest, verify
    from registry_gate.policy.document import load_policy_set
    from registry_gate.policy.inputs import EvidenceItem, UnreadableForm, UnverifiedEvidence, VerifiedEvidence
    from registry_gate.policy.outcomes import rule_outcomes
    from registry_gate.policy.rules import decide as apply

    moment = _moment(now)
    policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
    wanted = parse_target(target)
    governance = policy_set.governing(wanted)
    if not governance.policies:
        raise ConfigError(
            f"expected a target that a policy governs, got {target} "
            f"({'free by ' + governance.free if governance.free else 'unmatched: ' + str(governance.unmatched)})"
        )
    items: list[EvidenceItem] = []
    manifest: Any = None
    for path in evidence_files:
        data = path.read_bytes()
        try:
            verified = verify(data, policy_set.signers)
        except EvidenceError as err:
            items.append(UnverifiedEvidence(digest=envelope_digest(data), cause=str(err)))
            continue
        manifest = manifest or verified.statement.manifest
        items.append(VerifiedEvidence(digest=verified.digest, assessment=verified.assessment, signers=verified.signers))
    if form is not None and form.is_file():
        manifest = verify(form.read_bytes(), policy_set.signers).statement.manifest
    elif form is not None:
        try:
            manifest = read_manifest(LocalTree(form.absolute(), HashCache()), _no_registry)
        except FormError as err:
            manifest = UnreadableForm(code=err.code, message=str(err))
    refused = next((item for item in items if isinstance(item, UnverifiedEvidence)), None)
    if manifest is None and refused is not None:
        # The form would have been taken from this evidence: that it does not verify is the answer.
        manifest = UnreadableForm(
            code="signature_invalid", message=f"evidence {refused.digest} does not verify: {refused.cause}"
        )
    elif manifest is None:
        manifest = UnreadableForm(
            code="form_unknown",
            message="no form to decide on: give --form DIRECTORY, or evidence that verifies",
        )
    decision = apply(
        policies=governance.policies,
        batteries=policy_set.batteries,
        form=manifest,
        evidence=items,
        calibrations=calibrations_of(policy_set),
        grants=_grants(
            {"waiver": waiver_files, "approval": approval_files, "opening": break_glass_files},
            policy_set,
            workspace,
            wanted.model,
        ),
        break_glass=policy_set.break_glass,
        requester=requester,
        now=moment,
    )
    if output == "json":
        print_json({"target": target, "policy_set": policy_set.digest, **decision.to_dict()})
    else:
        console = Console(soft_wrap=True)
        for policy in governance.policies:
            for item in items:
                if isinstance(item, VerifiedEvidence) and item.assessment.battery == policy.spec.evidence.battery:
                    battery = policy_set.batteries[policy.spec.evidence.battery]
                    outcomes = rule_outcomes(policy.as_of(moment), item.assessment, battery)
                    console.print(outcome_table(outcomes, f"{policy.name} · {item.digest[:19]}…"))
        print_decision(console, decision, target)
    ctx.exit(exit_code_of_decision(decision))


def _grants(files: Mapping[str, tuple[Path, ...]], policy_set: PolicySet, workspace: str, model: str) -> Grants:
    """What people signed, from files; what does not verify is told, and counts nothing."""
    from registry_gate.grants import grants_of, read_grant
    from registry_gate.ledger import StoredGrant

    found = []
    for kind, paths in files.items():
        for path in paths:
            row = StoredGrant(
                id=path.name, kind=kind, workspace=workspace, form_digest="", policy="", envelope=path.read_bytes()
            )
            found.append((row, read_grant(row, policy_set.people)))
    return grants_of(found, workspace, model)


def parse_target(text: str) -> Target:
    """`NAME@ALIAS` or `NAME/Stage` as a target."""
    if "@" in text:
        model, _, alias = text.partition("@")
        if model and alias:
            return Target(kind=TargetKind.ALIAS, model=model, name=alias)
    model, _, stage = text.rpartition("/")
    canonical = next((s for s in PROMOTED_STAGES if s.lower() == stage.lower()), None)
    if model and canonical:
        return Target(kind=TargetKind.STAGE, model=model, name=canonical)
    raise click.BadParameter(f"expected NAME@ALIAS or NAME/Staging or NAME/Production, got {text!r}")


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as err:
        raise click.BadParameter(f"expected a date such as 2026-11-23T12:00:00Z, got {text!r}") from err
    if moment.tzinfo is None:
        raise click.BadParameter(f"expected a date with its zone (a Z at the end for UTC), got {text!r}")
    return moment


def _no_registry(name: str, version: int) -> Any:
    raise FormError(
        f"expected a base that can be resolved offline, got models:/{name}/{version}: give an evidence file as --form",
        code="base_unresolved",
    )
