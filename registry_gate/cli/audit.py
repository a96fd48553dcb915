"""`audit list`, `audit verify`, `audit export` and `audit reconcile`."""

from __future__ import annotations

import getpass
import json
import os
import signal
import sys
import threading
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from registry_gate.cli.common import (
    format_option,
    give_up_soon,
    print_json,
    require_known,
    root_cause,
    settings_of,
    tracking_uri_option,
)
from registry_gate.config import Settings
from registry_gate.errors import ConfigError, IntegrityError, RegistryGateError


@click.group()
def audit() -> None:
    """List, export, verify and reconcile decisions."""


@audit.command(name="list")
@click.option("--model", help="Only this registered model.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Newest first.")
@format_option
@click.pass_context
def list_decisions(ctx: click.Context, model: str | None, limit: int, output: str) -> None:
    """List recorded decisions, newest first, and what remains promoted because of break-glass.

    In JSON, each decision that break-glass let through says whether its name still means that (`remains`). Exit code 5
    when there is none.
    """
    from registry_gate.cli.break_glass import announce, override_line, overrides
    from registry_gate.ledger import Ledger

    settings = settings_of(ctx)
    ledger = Ledger.connect(settings.require_ledger())
    announce(ledger, settings)
    decisions = ledger.decisions(model=model, limit=limit)
    remaining = [use for use in overrides(ledger) if use.remains and model in (None, use.target.model)]
    if output == "json":
        ids = {use.decision_id for use in remaining}
        print_json([{**one, "remains": one["id"] in ids} if "break_glass" in one else one for one in decisions])
    else:
        for one in decisions:
            click.echo(
                f"{one['decided_at'][:19]}Z  {one['decision']:<8} {one['verdict']:<15} {one['target']['key']} -> "
                f"{one['version']['version']}  by {one['actor']['name']}  {one['id']}"
            )
        for line in _counts(decisions):
            click.echo(line, err=True)
        for use in remaining:
            click.echo(f"remains promoted because of break-glass {use.break_glass}: {override_line(use)}", err=True)
    ctx.exit(0 if decisions else 5)


def _counts(decisions: list[dict[str, Any]]) -> list[str]:
    """How many rest on waivers, approvals or break-glass, and how many would be denied by what is only staged."""
    allowed = [one for one in decisions if one["decision"] == "allowed"]
    waived = sum(bool(one.get("waivers")) for one in allowed)
    lines = [f"{waived} of {len(allowed)} allowed decisions rest on waivers"] if waived else []
    approved = sum(bool(one.get("approvals")) for one in allowed)
    if approved:
        lines.append(f"{approved} of {len(allowed)} allowed decisions were approved by people, as their policies ask")
    overridden = sum("break_glass" in one for one in allowed)
    if overridden:
        lines.append(f"{overridden} of {len(allowed)} allowed decisions were let through by break-glass alone")
    staged = [{_rule_of(reason) for reason in one["reasons"] if reason.get("staged")} for one in allowed]
    hit = sum(bool(rules) for rules in staged)
    if hit:
        by_rule = Counter(rule for rules in staged for rule in rules)
        named = ", ".join(f"{rule} {count}" for rule, count in sorted(by_rule.items()))
        lines.append(f"{hit} of {len(allowed)} allowed decisions would be denied by what is only staged: {named}")
    return lines


def _rule_of(reason: dict[str, Any]) -> str:
    return " ".join(str(reason[key]) for key in ("policy", "rule") if reason.get(key))


@audit.command()
@format_option
@click.pass_context
def verify(ctx: click.Context, output: str) -> None:
    """Verify the audit chain. Exit code 6 when an entry was changed, removed or added from outside.

    Keep the printed head somewhere else: whoever can write the database can rewrite the whole chain, but not your copy.
    """
    from registry_gate.ledger import Ledger

    entries, head = Ledger.connect(settings_of(ctx).require_ledger()).verify_chain()
    if output == "json":
        print_json({"entries": entries, "head": head})
    else:
        click.echo(f"{entries} entries verify; head {head}")


@audit.command()
@click.argument("decision")
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@click.pass_context
def export(ctx: click.Context, decision: str, out: Path) -> None:
    """Write the signed DECISION (an id) to a file, for `registry-gate verify PATH --decision FILE`.

    A rollback that is not signed itself gives the signed decision that it rests on. Overwrites nothing.

    \b
    Example:  registry-gate audit export 6f1c…-… -o decision.dsse.json
    """
    from registry_gate.ledger import Ledger
    from registry_gate.standing import target_of

    ledger = Ledger.connect(settings_of(ctx).require_ledger())
    recorded = require_known(ledger.decision(decision), f"decision {decision}")
    if recorded.envelope is None and recorded.allowed and recorded.form_digest is not None:
        recorded = ledger.signed_before(target_of(json.loads(recorded.body)), recorded.form_digest) or recorded
    if recorded.envelope is None:
        raise IntegrityError(
            f"expected decision {decision} to be signed, got one without a signature: denials and what nothing governs "
            "are not signed, nor is what was decided before the gate had a key",
            code="unsigned",
        )
    try:
        with out.open("xb") as file:
            file.write(recorded.envelope)
    except OSError as err:
        raise ConfigError(f"expected to write {out}, got: {err.strerror}. Nothing was overwritten") from err
    click.echo(f"{out}  decision {recorded.id}")


@audit.command()
@click.option(
    "--watch", "watch_s", type=click.FloatRange(min=1), help="Go on, every so many seconds; say what changes."
)
@click.option("--revoke", is_flag=True, help="Take away every name that means something that was not allowed.")
@click.option("--artifacts", help="The server's --artifacts-destination, if it can be read here (default: download).")
@click.option("--pointers-only", is_flag=True, help="Do not read the artifacts: changed bytes go unnoticed.")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The gate's public key (default: keys/gate.pem beside [gate] signing_key).",
)
@tracking_uri_option
@format_option
@click.pass_context
def reconcile(
    ctx: click.Context,
    watch_s: float | None,
    revoke: bool,
    artifacts: str | None,
    pointers_only: bool,
    key: Path | None,
    tracking_uri: str | None,
    output: str,
) -> None:
    """Compare every promoted name in the registry's database with the decisions.

    Whoever has the database's password can write pointers past the gate, and whoever can write the artifact store can
    change bytes. This finds: names without a decision (ungoverned), with the decision of another version (mismatched),
    with other bytes than were decided on (changed), with an edited decision (forged) or an unsigned one, and decisions
    that no longer hold (expired). Free aliases and prompts are left out.

    With --revoke, aliases with such findings are removed and stages archived through MLflow, and that is recorded.
    Expired decisions are reported, never revoked. It needs a database role that may read MLflow's own tables.

    \b
    Example:  registry-gate audit reconcile --artifacts /srv/mlflow/artifacts
              registry-gate audit reconcile --watch 300
    Exit:     0 all stand, 4 expired or not readable, 5 nothing to compare, 6 integrity is broken
    """
    from registry_gate.cli.break_glass import announce
    from registry_gate.ledger import Ledger
    from registry_gate.ledger.store import utc_now
    from registry_gate.policy.source import PATIENT_S
    from registry_gate.reconcile import Reconciler
    from registry_gate.signed_policies import policy_source

    settings = settings_of(ctx, mlflow__tracking_uri=tracking_uri)
    ledger = Ledger.connect(settings.require_ledger())
    announce(ledger, settings)
    reconciler = Reconciler(
        ledger=ledger,
        policies=policy_source(settings, wait_s=PATIENT_S),
        forms=None if pointers_only else _forms(settings, ledger, artifacts),
        keys=lambda: _public_keys(settings, key),
        clock=utc_now,
    )
    if revoke:
        settings.require_tracking()  # say so now rather than when something is found
    if watch_s is not None:
        _watch(reconciler, watch_s, settings if revoke else None, ledger, output)
        return
    found = reconciler.run(progress=_progress())
    revoked = _revoke(found, settings, ledger) if revoke else []
    if output == "json":
        print_json({**_report(found), "revoked": revoked})
    else:
        for line in [*_lines(found), *(_revoked_line(one) for one in revoked), _summary(found)]:
            click.echo(line)
    worst = found.worst()
    if worst is None and not found.standings:
        click.echo("nothing to compare: no governed name means anything", err=True)
    ctx.exit(5 if worst is None and not found.standings else 0 if worst is None else 6 if worst == "integrity" else 4)


def _public_keys(settings: Settings, key: Path | None) -> dict[str, bytes]:
    from registry_gate.evidence.keys import gate_public_keys, load_public_key

    return gate_public_keys(settings.gate.signing_key) if key is None else {key.stem: load_public_key(key)}


def _forms(settings: Settings, ledger: Any, artifacts: str | None) -> Any:
    import mlflow

    from registry_gate.mlflow_plugin.outside import OutsideForms

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if artifacts is None:
        give_up_soon()
        mlflow.set_tracking_uri(settings.require_tracking())
    elif "://" not in artifacts:
        artifacts = str(Path(artifacts.removeprefix("gated:")).absolute())
    return OutsideForms(ledger.engine, artifacts)


def _progress() -> Any:
    """What is left, on a terminal; silent elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        click.echo(f"\r{done} of {total} names" + ("\n" if done == total else ""), err=True, nl=False)

    return show


def _standing(standing: Any) -> dict[str, Any]:
    target = standing.pointer.target
    return {
        "workspace": target.workspace,
        "target": str(target),
        "kind": str(target.kind),
        "version": standing.pointer.number,
        "decision": standing.decision_id,
        "severity": standing.severity and str(standing.severity),
        "findings": [vars(finding) for finding in standing.findings],
    }


def _report(found: Any) -> dict[str, Any]:
    worst = found.worst()
    return {
        "at": found.at.isoformat(),
        "compared": len(found.standings),
        "stand": sum(standing.severity is None for standing in found.standings),
        "ungoverned": found.ungoverned,
        "worst": worst and str(worst),
        "policy_set": found.policy_set,
        "chain": {
            "problem": found.chain,
            "entries": found.head and found.head.seq,
            "head": found.head and found.head.hash,
        },
        "bytes_read": found.bytes_read,
        "names": [_standing(standing) for standing in found.standings if standing.findings],
    }


def _lines(found: Any) -> list[str]:
    lines = [] if found.chain is None else [f"integrity  {found.chain}"]
    for standing in found.standings:
        lines += [
            f"{finding.severity:<10} {_named(standing)}  {finding.code}: {finding.message}"
            for finding in standing.findings
        ]
    return lines


def _named(standing: Any) -> str:
    target = standing.pointer.target
    workspace = "" if target.workspace == "default" else f"[{target.workspace}] "
    return f"{workspace}{target} -> {standing.pointer.number}"


def _summary(found: Any) -> str:
    stand = sum(standing.severity is None for standing in found.standings)
    read = "" if found.bytes_read else "; bytes not read"
    chain = (
        "does not verify"
        if found.head is None
        else f"of {found.head.seq} entries verifies, head {found.head.hash[:16]}"
    )
    return (
        f"{stand} of {len(found.standings)} governed names stand{read}; {found.ungoverned} names are governed by "
        f"nothing; audit chain {chain}"
    )


def _revoked_line(one: dict[str, Any]) -> str:
    return (
        f"revoked    {one['target']} -> {one['version']}"
        if one["problem"] is None
        else (f"NOT revoked {one['target']} -> {one['version']}: {one['problem']}")
    )


def _revoke(found: Any, settings: Settings, ledger: Any) -> list[dict[str, Any]]:
    """Take away what was not allowed, through MLflow's API, and record it."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.utils.workspace_context import WorkspaceContext

    from registry_gate.promotion import TargetKind
    from registry_gate.reconcile import broken

    give_up_soon()
    uri = settings.require_tracking()
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    done = []
    for standing in broken(found.standings):
        target, number = standing.pointer.target, standing.pointer.number
        problem = None
        try:
            with nullcontext() if target.workspace == "default" else WorkspaceContext(target.workspace):
                # What it means by now: somebody may have put it right already.
                if target.kind is TargetKind.ALIAS:
                    if int(client.get_registered_model(target.model).aliases.get(target.name, -1)) != number:
                        problem = "it means something else by now"
                    else:
                        client.delete_registered_model_alias(target.model, target.name)
                elif client.get_model_version(target.model, str(number)).current_stage != target.name:
                    problem = "it is in another stage by now"
                else:
                    client.transition_model_version_stage(target.model, str(number), "Archived")
        except MlflowException as err:
            problem = root_cause(err)
        if problem is None:
            body = {
                "target": str(target),
                "kind": str(target.kind),
                "workspace": target.workspace,
                "version": number,
                "decision": standing.decision_id,
                "findings": [{"code": f.code, "message": f.message} for f in standing.findings],
                "actor": _user(),
            }
            with ledger.transaction() as connection:
                ledger.record_event(connection, "revoked", body)
        done.append({"target": str(target), "workspace": target.workspace, "version": number, "problem": problem})
    return done


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process whose user id has no name
        return "unknown"


def _watch(reconciler: Any, every_s: float, revoking: Settings | None, ledger: Any, output: str) -> None:
    """Compare again and again, and print one line for each thing that begins or ends."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    before: dict[str, dict[str, Any]] = {}
    known, first = None, True

    def say(state: str, one: dict[str, Any]) -> None:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if output == "json":
            click.echo(json.dumps({"at": at, "state": state, **one}, ensure_ascii=False, default=str))
        else:
            click.echo(f"{at}  {state:<5}  {one['text']}")
        sys.stdout.flush()

    while not stop.is_set():
        now: dict[str, dict[str, Any]] = {}
        try:
            found = reconciler.run(known)
            # Never forgotten: a chain that was rewritten stays rewritten, also for the next look.
            known = found.head or known
            if found.chain is not None:
                now["chain"] = {"code": "chain_broken", "severity": "integrity", "text": f"integrity  {found.chain}"}
            for standing in found.standings:
                for finding in standing.findings:
                    name = f"{_named(standing)}  {finding.code}"
                    text = f"{finding.severity:<10} {name}: {finding.message}"
                    now[name] = {**_standing(standing), "code": finding.code, "text": text}
            if first:
                say("begin", {"code": "compared", "text": _summary(found)})
                first = False
            if revoking is not None:
                for one in _revoke(found, revoking, ledger):
                    say("done", {"code": "revoked", **one, "text": _revoked_line(one)})
        except RegistryGateError as err:
            # A service goes on: what cannot be read now may be readable at the next look, and it says so meanwhile.
            now = {**before, "error": {"code": err.code, "severity": "undecided", "text": f"undecided  {err}"}}
        for name in now.keys() - before.keys():
            say("new", now[name])
        for name in before.keys() - now.keys():
            say("gone", before[name])
        before = now
        stop.wait(every_s)
