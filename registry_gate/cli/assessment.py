"""`assess`, `status` and `report`: ask for an assessment, follow it, and show what came of it."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry_gate.cli.common import (
    format_option,
    give_up_soon,
    parse_version,
    print_json,
    require_known,
    settings_of,
    tracking_uri_option,
)
from registry_gate.errors import AssessmentError, PolicyError, RegistryError

if TYPE_CHECKING:
    from registry_gate.config import Settings
    from registry_gate.ledger import AssessmentRequest, Ledger
    from registry_gate.policy.document import PolicySet
    from registry_gate.web.summary import Summary

POLL_S = 1.0

LABELLED = b'"labelled_at":'
"""What stands only in evidence with people's labels, whatever its format."""


@click.command()
@click.argument("version")
@click.option("--battery", "batteries", multiple=True, help="Battery id, e.g. medical@1 (default: of every policy).")
@click.option("--again", is_flag=True, help="Assess anew although there is a result or a failure.")
@click.option("--wait", is_flag=True, help="Wait until a worker is done, and show the result.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=3600, show_default=True, help="Seconds.")
@tracking_uri_option
@format_option
@click.pass_context
def assess(
    ctx: click.Context,
    version: str,
    batteries: tuple[str, ...],
    again: bool,
    wait: bool,
    timeout_s: float,
    tracking_uri: str | None,
    output: str,
) -> None:
    """Ask for VERSION (models:/NAME/NUMBER) to be assessed. A worker does it.

    There is one request per form and battery, however often it is asked for.

    \b
    Example:  registry-gate assess models:/clinical-triage/7 --wait
    """
    settings = settings_of(ctx, mlflow__tracking_uri=tracking_uri)
    name, number = parse_version(version)
    from registry_gate.ledger import Ledger, RequestState
    from registry_gate.policy.document import load_policy_set
    from registry_gate.worker.forms import FormFetcher

    policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
    wanted = sorted(batteries) or sorted(
        {policy.spec.evidence.battery for policy in policy_set.policies.values() if policy.may_govern(name)}
    )
    unknown = [battery for battery in wanted if battery not in policy_set.batteries]
    if unknown or not wanted:
        raise PolicyError(
            f"expected batteries that exist ({', '.join(sorted(policy_set.batteries))}), "
            f"got {', '.join(unknown) or 'no policy that governs ' + name}",
            code="battery_missing",
        )
    from mlflow.utils.workspace_context import get_request_workspace

    ledger = Ledger.connect(settings.require_ledger())
    give_up_soon()
    manifest = FormFetcher(settings.require_tracking(), settings.worker.work_dir / "forms").manifest_of(name, number)
    with ledger.transaction() as connection:
        requests = [
            ledger.request_assessment(
                connection,
                # The client of this very command found the model there.
                workspace=get_request_workspace() or "default",
                form_digest=manifest.digest,
                battery=battery,
                battery_digest=policy_set.batteries[battery].digest,
                model=name,
                version=number,
                again=again,
            )
            for battery in wanted
        ]
    if wait:
        requests = [_followed(ledger, request.id, timeout_s) for request in requests]
    if output == "json":
        print_json([vars(request) for request in requests])
    else:
        for request in requests:
            _print_request(request)
    if wait:
        done = sum(request.state is RequestState.DONE for request in requests)
        ctx.exit(0 if done == len(requests) else 4)


@click.command()
@click.argument("subject")
@click.option("--follow", is_flag=True, help="Wait until the request ends.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=3600, show_default=True, help="Seconds.")
@format_option
@click.pass_context
def status(ctx: click.Context, subject: str, follow: bool, timeout_s: float, output: str) -> None:
    """Show where SUBJECT stands: the id of a request, or models:/NAME/NUMBER.

    Exit code 0 when what was asked is done, 4 when it is pending or failed, 5 when the ledger knows nothing of it.
    """
    settings = settings_of(ctx)
    from registry_gate.cli.break_glass import announce
    from registry_gate.ledger import Ledger, RequestState

    ledger = Ledger.connect(settings.require_ledger())
    announce(ledger, settings)
    if subject.startswith("models:"):
        name, number = parse_version(subject)
        decisions = ledger.decisions(model=name, version=number, limit=20)
        requests = [r for r in ledger.requests(limit=1000) if (r.model, r.version) == (name, number)]
        if output == "json":
            print_json({"decisions": decisions, "requests": [vars(request) for request in requests]})
        else:
            for decision in decisions:
                click.echo(
                    f"{decision['decided_at'][:19]}Z  {decision['decision']:<8} {decision['verdict']:<15} "
                    f"{decision['target']['key']}  by {decision['actor']['name']}  {decision['id']}"
                )
            for request in requests:
                _print_request(request)
                _print_labels(settings, ledger, request)
        if not decisions and not requests:
            click.echo(f"the ledger knows nothing of {subject}", err=True)
            ctx.exit(5)
        return
    if follow:
        request = _followed(ledger, subject, timeout_s)
    else:
        found = ledger.request(subject)
        if found is None:
            click.echo(f"the ledger knows no request {subject}", err=True)
            ctx.exit(5)
        request = found
    if output == "json":
        print_json(vars(request))
    else:
        _print_request(request)
        _print_labels(settings, ledger, request)
        if request.state is RequestState.QUEUED:
            _say_whether_anyone_works(ledger)
    ctx.exit(0 if request.state is RequestState.DONE else 4)


@click.command()
@click.argument("subject")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write (default: stdout).")
@click.option(
    "--by-control", "controls", is_flag=True, help="For each control: status, rules, evidence, what is not shown."
)
@format_option
@click.pass_context
def report(ctx: click.Context, subject: str, out: Path | None, controls: bool, output: str) -> None:
    """Write the HTML report of SUBJECT: models:/NAME/NUMBER, an evidence digest, or a request id.

    The newest evidence is shown, under the policies as they are now. With --by-control, one entry for each control
    that a rule names (text, or --format json): its status, rules, evidence, date, signers and waivers, and what this
    does not show. No entry says that a control is met.
    """
    if output == "json" and not controls:
        raise click.UsageError("expected --by-control with --format json: the report itself is HTML")
    settings = settings_of(ctx)
    from registry_gate.evidence.envelope import verify
    from registry_gate.grants import grants_for
    from registry_gate.ledger import Ledger
    from registry_gate.policy.document import load_policy_set
    from registry_gate.web.summary import policies_for, summarise
    from registry_gate.web.summary import report as render

    ledger = Ledger.connect(settings.require_ledger())
    policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
    stored = require_known(ledger.evidence(_evidence_of(ledger, subject)), f"evidence for {subject}")
    verified = verify(stored.envelope, policy_set.signers)
    model = verified.statement.name.removeprefix("models:/").split("/")[0]
    policies = policies_for(policy_set, model, verified.assessment.battery)
    grants = grants_for(ledger, policy_set, policies, stored.workspace, model, verified.statement.subject)
    summary = summarise(policy_set, policies, verified, datetime.now(UTC), grants)
    page = _controls(summary, policy_set, output) if controls else render(summary)
    if out is None:
        click.echo(page)
    else:
        out.write_text(page, encoding="utf-8")
        click.echo(f"report: {out}", err=True)


def _controls(summary: Summary, policy_set: PolicySet, output: str) -> str:
    from registry_gate.web.by_control import by_control

    rows = by_control(summary, policy_set.controls)
    if output == "json":
        return json.dumps([row.to_dict() for row in rows], indent=2, ensure_ascii=False)
    lines = []
    for row in rows:
        lines.append(f"{row.control}  {row.status}  {row.title or '(not in the catalogue)'}")
        if row.framework:
            lines.append(f"    {row.framework}; entry {row.certainty}")
        lines += [f"    rule {rule}" for rule in row.rules]
        lines.append(f"    evidence {row.evidence}, {row.assessed_at}, signed by {', '.join(row.signers)}")
        lines += [f"    waiver {waiver}" for waiver in row.waivers]
        lines.append(f"    not shown: {row.not_shown}")
    return "\n".join(lines)


def _evidence_of(ledger: Ledger, subject: str) -> str:
    """Digest of the newest evidence that a subject has."""
    if subject.startswith("sha256:"):
        return subject
    if subject.startswith("models:"):
        wanted = parse_version(subject)
        requests = [r for r in ledger.requests(limit=1000) if (r.model, r.version) == wanted and r.evidence_digest]
        newest = max(requests, key=lambda r: r.updated_at, default=None)
    else:
        newest = ledger.request(subject)
    if newest is None or newest.evidence_digest is None:
        raise RegistryError(f"expected evidence for {subject}, got none: run `registry-gate assess {subject} --wait`")
    return newest.evidence_digest


def _followed(ledger: Ledger, request_id: str, timeout_s: float) -> AssessmentRequest:
    from registry_gate.ledger import RequestState

    deadline = time.monotonic() + timeout_s
    said: Any = None
    while True:
        request: AssessmentRequest = require_known(ledger.request(request_id), f"the request {request_id}")
        if request.state in (RequestState.DONE, RequestState.FAILED):
            return request
        if (request.state, request.progress) != said:
            said = (request.state, request.progress)
            click.echo(
                f"{request.battery}: {request.state}{f', {request.progress}' if request.progress else ''}", err=True
            )
            if request.state is RequestState.QUEUED:
                _say_whether_anyone_works(ledger)
        if time.monotonic() > deadline:
            raise AssessmentError(
                f"expected request {request_id} to end within {timeout_s:.0f} s, got {request.state}: it goes on; "
                f"follow it with `registry-gate status {request_id} --follow`",
                code="timeout",
            )
        time.sleep(POLL_S)


def _say_whether_anyone_works(ledger: Ledger) -> None:
    workers = ledger.workers()
    newest = workers[0][1] if workers else None
    alive = newest is not None and (datetime.now(UTC) - datetime.fromisoformat(newest)).total_seconds() < 120
    if not alive:
        click.echo(
            f"no worker is alive (last seen: {newest or 'never'}): start one with `registry-gate worker`", err=True
        )


def _print_request(request: AssessmentRequest) -> None:
    click.echo(f"request {request.id}  {request.state}  models:/{request.model}/{request.version}  {request.battery}")
    click.echo(f"  form {request.form_digest}")
    if request.progress:
        click.echo(f"  {request.worker}: {request.progress}")
    if request.failure:
        click.echo(f"  failed ({request.failure_code}): {request.failure}")
    if request.evidence_digest:
        click.echo(f"  evidence {request.evidence_digest}")
        click.echo(f"  report: registry-gate report {request.id} -o report.html")


def _print_labels(settings: Settings, ledger: Ledger, request: AssessmentRequest) -> None:
    """A line for each measure that people labelled, and how its rules stand by it."""
    stored = None if request.evidence_digest is None else ledger.evidence(request.evidence_digest)
    # Loading policies takes a moment; most evidence holds no labels.
    if stored is None or LABELLED not in _payload(stored.envelope):
        return
    from registry_gate.evidence.envelope import verify
    from registry_gate.policy.document import load_policy_set
    from registry_gate.policy.outcomes import plain_percent, points
    from registry_gate.policy.people import described
    from registry_gate.web.summary import policies_for, summarise

    policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
    verified = verify(stored.envelope, policy_set.signers)
    policies = policies_for(policy_set, request.model, request.battery)
    for outcome in summarise(policy_set, policies, verified, datetime.now(UTC)).outcomes:
        labels, difference = outcome.labels, outcome.difference
        if labels is None:
            continue
        line = f"  {outcome.rule.id} {outcome.rule.measure}: {described(labels)}, {outcome.verdict}"
        if difference is not None and difference.people is not None:
            line += (
                f"; difference {points(difference.value)}, {plain_percent(difference.confidence)} limits "
                f"{points(difference.lower)} and {points(difference.upper)}, lambda {difference.people.weight:.2f}"
            )
        click.echo(line)


def _payload(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])
