"""`label`: people label answers of both arms, and what they say becomes evidence."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from registry_gate.cli.common import (
    F,
    format_option,
    give_up_soon,
    parse_version,
    print_json,
    require_known,
    settings_of,
    tracking_uri_option,
)
from registry_gate.errors import PolicyError, RegistryError

if TYPE_CHECKING:
    from registry_gate.config import Settings
    from registry_gate.evidence.envelope import Verified
    from registry_gate.ledger import Ledger, StoredEvidence
    from registry_gate.policy.document import PolicySet
    from registry_gate.worker.labels import LabelSession, Material

PAIRS = 100
"""Probes of each measure that people label unless a policy asks for more (METHOD.md section 6)."""

KEYS = {"y": "bad", "n": "good", "s": "skip"}


class _Group(click.Group):
    """`label SUBJECT` is short for `label start SUBJECT`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `start` before a subject."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["start", *args]
        return super().parse_args(ctx, args)


def _subject(function: F) -> F:
    options = (
        click.argument("subject"),
        click.option("--battery", help="Battery id, where a version was assessed with several."),
        tracking_uri_option,
        click.pass_context,
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(cls=_Group)
def label() -> None:
    """Label answers of the adapted form and of its base, blind to which is which.

    People see the answers to a random sample of the probes, the same of both arms, in a mixed order. What they say
    becomes new evidence of the same measurement: margins are then judged by it (PPI++), ceilings must hold by it too.
    Runs where the worker keeps its work directory, because the answers lie there and nowhere else.

    \b
    Example:  registry-gate label models:/clinical-triage/7          # or --page, for a page in the browser
              registry-gate label status models:/clinical-triage/7
              registry-gate label submit models:/clinical-triage/7
    """


@label.command()
@_subject
@click.option("--measure", "measures", multiple=True, help="Only this measure (default: all that graders judge).")
@click.option(
    "--pairs", type=click.IntRange(min=1), help=f"Probes of each measure (default: the policy's, or {PAIRS})."
)
@click.option("--as", "labeller", help="Your name in the labels (default: your login).")
@click.option("--page", is_flag=True, help="Label on a page in the browser of this machine.")
def start(
    ctx: click.Context,
    subject: str,
    battery: str | None,
    tracking_uri: str | None,
    measures: tuple[str, ...],
    pairs: int | None,
    labeller: str | None,
    page: bool,
) -> None:
    """Label answers of SUBJECT: models:/NAME/NUMBER, models:/NAME@ALIAS, an evidence digest or a request id.

    Keys: y yes, n no, s cannot tell, u undo, q quit. Each label is on the disk at once: quit, or kill it, and go on
    later. An answer that you skip counts against the form until somebody else can tell.
    """
    from registry_gate.worker.labels import LabelSession, open_book

    settings, policy_set, stored = _found(ctx, subject, battery, tracking_uri)
    material, verified = _material(settings, policy_set, stored)
    who = (labeller if labeller is not None else getpass.getuser()).strip()
    if not who or len(who) > 200 or not who.isprintable():
        raise click.BadParameter(f"expected a name of 1 to 200 printable characters, got {who!r}", param_hint="--as")
    sheet = material.sheet(pairs or _asked_pairs(policy_set, verified), measures)
    with open_book(settings.worker, material.statement, who) as book:
        session = LabelSession(sheet, book, lambda: datetime.now(UTC))
        if session.refused:
            click.echo(
                f"{session.refused} labels of {who} are of answers that this assessment does not have: refused",
                err=True,
            )
        if page:
            _on_page(session)
        else:
            _on_terminal(session)
        click.echo(
            f"{session.done} of {session.total} answers done, {session.skipped} of them skipped; labels: {book.path}",
            err=True,
        )
    if session.current() is None:
        click.echo(f"next: registry-gate label submit {subject}", err=True)


def _on_page(session: LabelSession) -> None:
    from registry_gate.web.labelling import serve

    with serve(session) as served:
        click.echo(served.url)
        click.echo("open this address on this machine; end with Stop on the page or Ctrl-C", err=True)
        try:
            served.wait()
        except KeyboardInterrupt:
            click.echo("stopped", err=True)


def _on_terminal(session: LabelSession) -> None:
    while (item := session.current()) is not None:
        click.echo()
        click.echo(f"{session.done + 1} of {session.total} · {item.measure}")
        click.echo(f"request:\n{_indented(item.request)}")
        click.echo(f"answer:\n{_indented(item.answer)}")
        click.echo(f"{item.question} [y]es [n]o [s]kip [u]ndo [q]uit: ", nl=False)
        key = click.getchar().lower()
        if key in ("q", "\x03", "\x04", ""):
            click.echo("quit")
            return
        if key in KEYS:
            word: Any = KEYS[key]
            session.label(item.id, word)
            click.echo({"bad": "yes", "good": "no", "skip": "skipped"}[word])
        elif key == "u":
            click.echo("undone" if session.undo() else "nothing to undo")
        else:
            click.echo(f"expected one of y, n, s, u, q, got {key!r}")
    click.echo("every answer of this sheet is labelled")


def _indented(text: str) -> str:
    # An answer must not be able to steer the terminal.
    shown = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
    return "\n".join(f"  │ {line}" for line in (shown or "(empty)").split("\n"))


@label.command()
@_subject
@format_option
def status(ctx: click.Context, subject: str, battery: str | None, tracking_uri: str | None, output: str) -> None:
    """Say how far the labels of SUBJECT are, and how far people agree.

    A probe counts when the answers of both arms are done, and those of every probe before it in the sample.
    """
    from registry_gate.worker.labels import progress_of, read_books

    settings, policy_set, stored = _found(ctx, subject, battery, tracking_uri)
    material, verified = _material(settings, policy_set, stored)
    books = read_books(settings.worker, material.statement)
    said = progress_of(material, books, _asked_pairs(policy_set, verified))
    refused = said["refused"]
    labelled = [one.measure for one in verified.assessment.measurements if getattr(one, "labels", None)]
    if output == "json":
        print_json({"evidence": verified.digest, "labelled": labelled, **said})
        return
    for name, one in said["measures"].items():
        click.echo(
            f"{name}: {one['finished']} of {one['wanted']} probes finished, {one['skipped']} answers skipped by all, "
            f"{one['disputed']} disputed"
        )
    for pair in said["agreement"]:
        kappa = "not defined" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
        click.echo(f"{' and '.join(pair['labellers'])}: agree on {pair['agreed']} of {pair['compared']}, kappa {kappa}")
    if refused:
        click.echo(f"{refused} labels are of answers that this assessment does not have: refused")
    click.echo(f"evidence {verified.digest} holds people's labels of: {', '.join(labelled) or 'nothing'}")


@label.command()
@_subject
@format_option
def submit(ctx: click.Context, subject: str, battery: str | None, tracking_uri: str | None, output: str) -> None:
    """Make evidence of the labels of SUBJECT, signed with the worker's key.

    It takes the place of the evidence without these labels; that one stays in the ledger. Nothing is measured again,
    and the evidence is as old as its measurement. Disputed and skipped answers count against the form.

    Exit code 0 when the policies would allow the form now, 3 or 4 as for `decide` when they would not.
    """
    from registry_gate.cli.common import exit_code_of_decision
    from registry_gate.evidence.envelope import envelope_digest, sign, verify
    from registry_gate.evidence.files import store_evidence
    from registry_gate.evidence.keys import load_signer
    from registry_gate.ledger import Ledger
    from registry_gate.web.summary import policies_for, summarise
    from registry_gate.worker.assess import evidence_dir
    from registry_gate.worker.labels import labelled_statement, read_books, votes_of
    from registry_gate.worker.publish import write_report

    settings, policy_set, stored = _found(ctx, subject, battery, tracking_uri)
    material, _ = _material(settings, policy_set, stored)
    signer = load_signer(settings.worker.signing_key)
    books = read_books(settings.worker, material.statement)
    votes, refused = votes_of(books, material.sheet(material.most))
    if refused:
        click.echo(f"{refused} labels are of answers that this assessment does not have: refused", err=True)
    said: set[str] = set()

    def progress(what: str, _done: int, total: int) -> None:
        if what not in said:
            said.add(what)
            click.echo(f"  {what}: {total}", err=True)

    statement = labelled_statement(material, votes, settings.worker, progress)
    envelope = sign(statement, signer)
    digest = envelope_digest(envelope)
    verified = verify(envelope, policy_set.signers)
    directory = evidence_dir(settings.worker)
    directory.mkdir(parents=True, exist_ok=True)
    store_evidence(directory, envelope)
    Ledger.connect(settings.require_ledger()).store_evidence(
        digest=digest,
        form_digest=stored.form_digest,
        battery=stored.battery,
        workspace=stored.workspace,
        envelope=envelope,
        supersedes=None if digest == stored.digest else stored.digest,
    )
    model = statement.name.removeprefix("models:/").split("/")[0]
    summary = summarise(policy_set, policies_for(policy_set, model, stored.battery), verified, datetime.now(UTC))
    report = write_report(summary, settings.worker.work_dir / "reports")
    if output == "json":
        print_json(
            {
                "evidence": digest,
                "supersedes": stored.digest,
                "decision": summary.decision.to_dict(),
                "rules": [outcome.to_dict() for outcome in summary.outcomes],
                "report": str(report),
            }
        )
    else:
        from rich.console import Console

        from registry_gate.cli.console import outcome_table, print_decision

        console = Console(soft_wrap=True)
        console.print(outcome_table(summary.outcomes, f"{statement.name} · {stored.battery} · {digest[:19]}…"))
        print_decision(console, summary.decision, "under these policies")
        click.echo(f"evidence {digest}\n  takes the place of {stored.digest}\nreport: {report}")
    ctx.exit(exit_code_of_decision(summary.decision))


# -- what is labelled -------------------------------------------------------------------------------------------------


def _found(
    ctx: click.Context, subject: str, battery: str | None, tracking_uri: str | None
) -> tuple[Settings, PolicySet, StoredEvidence]:
    from registry_gate.ledger import Ledger
    from registry_gate.policy.document import load_policy_set

    settings = settings_of(ctx, mlflow__tracking_uri=tracking_uri)
    ledger = Ledger.connect(settings.require_ledger())
    policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
    digest = _evidence_of(ledger, settings, subject, battery)
    return settings, policy_set, require_known(ledger.evidence(digest), f"evidence {digest}")


def _evidence_of(ledger: Ledger, settings: Settings, subject: str, battery: str | None) -> str:
    if subject.startswith("sha256:"):
        return subject
    if subject.startswith("models:"):
        wanted = _version_of(settings, subject)
        found = [r for r in ledger.requests(limit=1000) if (r.model, r.version) == wanted and r.evidence_digest]
    else:
        request = ledger.request(subject)
        found = [] if request is None or request.evidence_digest is None else [request]
    found = [request for request in found if battery is None or request.battery == battery]
    names = sorted({request.battery for request in found})
    if len(names) > 1:
        raise click.UsageError(f"expected one battery, got evidence by {', '.join(names)}: choose with --battery")
    newest = max(found, key=lambda request: request.updated_at, default=None)
    if newest is None or newest.evidence_digest is None:
        raise RegistryError(
            f"expected evidence for {subject}{f' by {battery}' if battery else ''}, got none: run "
            f"`registry-gate assess {subject} --wait`"
        )
    return newest.evidence_digest


def _version_of(settings: Settings, subject: str) -> tuple[str, int]:
    name, at, alias = subject.removeprefix("models:/").partition("@")
    if not at:
        return parse_version(subject)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    give_up_soon()
    uri = settings.require_tracking()
    try:
        row = MlflowClient(tracking_uri=uri, registry_uri=uri).get_model_version_by_alias(name, alias)
    except MlflowException as err:
        raise RegistryError(f"expected {subject} in the registry at {uri}, got: {err.message}") from err
    return name, int(row.version)


def _material(settings: Settings, policy_set: PolicySet, stored: StoredEvidence) -> tuple[Material, Verified]:
    from registry_gate.evidence.envelope import verify
    from registry_gate.worker.labels import find_material

    verified = verify(stored.envelope, policy_set.signers)
    battery = policy_set.batteries.get(verified.assessment.battery)
    if battery is None:
        raise PolicyError(
            f"expected battery {verified.assessment.battery}, got none (there are: "
            f"{', '.join(sorted(policy_set.batteries))})",
            code="battery_missing",
        )
    return find_material(verified.statement, battery, settings.worker), verified


def _asked_pairs(policy_set: PolicySet, verified: Verified) -> int:
    from registry_gate.web.summary import policies_for

    model = verified.statement.name.removeprefix("models:/").split("/")[0]
    policies = policies_for(policy_set, model, verified.assessment.battery)
    return max((policy.spec.evidence.labelled_pairs or 0 for policy in policies), default=0) or PAIRS
