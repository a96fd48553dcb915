"""`verify`: check at deploy time that what will be served is what the gate allowed."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from registry_gate.cli.common import (
    exit_code,
    format_option,
    give_up_soon,
    print_json,
    root_cause,
    settings_of,
    tracking_uri_option,
)
from registry_gate.config import Settings
from registry_gate.decision import Verdict
from registry_gate.errors import EvidenceError, FormError, RegistryError
from registry_gate.form import BaseReference, FormManifest
from registry_gate.promotion import PROMOTED_STAGES, ModelVersionRef, Target, TargetKind

EXIT_CODES = {"integrity": 6, "expired": 4, "undecided": 4, "note": 0}


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found, ready to print.

    Args:
        what: What was asked about.
        target: The promoted name, or None.
        version: Number of the version, or None.
        form: Digest of the form as its bytes are now, or None.
        signed: The signed decision that vouches for it, or None.
        findings: What does not hold, worst first.
        denied: Whether the last word about it was a denial.
    """

    what: str
    target: Target | None
    version: int | None
    form: str | None
    signed: Any
    findings: tuple[Any, ...]
    denied: bool = False

    @property
    def code(self) -> int:
        """The exit code."""
        worst = max((EXIT_CODES[finding.severity] for finding in self.findings), default=0)
        return 3 if self.denied and worst != 6 else worst

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        signed = self.signed
        return {
            "verified": self.code == 0,
            "what": self.what,
            "target": None if self.target is None else str(self.target),
            "workspace": None if self.target is None else self.target.workspace,
            "version": self.version,
            "form": self.form,
            "decision": None if signed is None else signed.id,
            "decided_at": None if signed is None else signed.decided_at,
            "verdict": None if signed is None else signed.verdict,
            "valid_until": None if signed is None or signed.valid_until is None else signed.valid_until.isoformat(),
            "policies": [] if signed is None else [{"name": n, "digest": d} for n, d in signed.policies],
            "evidence": [] if signed is None else list(signed.evidence),
            "key": None if signed is None else signed.key_id,
            "findings": [vars(finding) for finding in self.findings],
        }


@click.command()
@click.argument("what")
@click.option("--target", help="NAME@ALIAS or NAME/Stage that it is deployed as; required with a version number.")
@click.option("--decision", help="With a PATH: a file that `audit export` wrote, or the id of a decision.")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The gate's public key (default: keys/gate.pem beside [gate] signing_key).",
)
@click.option(
    "--base",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the base of an adapter lies on this machine.",
)
@tracking_uri_option
@format_option
@click.pass_context
def verify(
    ctx: click.Context,
    what: str,
    target: str | None,
    decision: str | None,
    key: Path | None,
    base: Path | None,
    tracking_uri: str | None,
    output: str,
) -> None:
    """Verify that WHAT is exactly what the gate allowed: bytes, version, target, signature, and that it still holds.

    WHAT is a promoted name (models:/NAME@ALIAS, models:/NAME/STAGE, or models:/NAME/7 with --target), looked up in
    MLflow and in the ledger and downloaded; or a PATH to a downloaded artifact, with --decision. With a decision file
    and --key, that needs no network, no settings, no ledger and no policies.

    \b
    Example:  registry-gate verify models:/clinical-triage@champion
              registry-gate audit export DECISION_ID -o decision.dsse.json     # where the ledger is
              registry-gate verify ./model --decision decision.dsse.json --key gate.pem \\
                --target clinical-triage@champion                              # where it is deployed
    Exit:     0 verified, 3 denied, 4 expired or could not tell, 6 bytes, signature or chain do not verify
    """
    wanted = None if target is None else _parse_target(target)
    if what.startswith("models:/"):
        if decision is not None:
            raise click.UsageError("--decision goes with a PATH; for models:/ the ledger has it")
        settings = settings_of(ctx, mlflow__tracking_uri=tracking_uri)
        found = _registered(what, wanted, _keys(key, settings), settings, base)
    else:
        path = Path(what)
        if not path.is_dir():
            raise click.BadParameter(f"expected models:/NAME@ALIAS or the directory of an artifact, got {what!r}")
        if decision is None:
            raise click.UsageError("expected --decision FILE (from `registry-gate audit export`) or --decision ID")
        found = _local(path, decision, wanted, key, base, ctx)
    if output == "json":
        print_json(found.to_dict())
    else:
        _print(found)
    ctx.exit(found.code)


def _print(found: Verification) -> None:
    word = "verified" if found.code == 0 else "denied" if found.code == 3 else "NOT verified"
    version = "" if found.version is None else f" version {found.version}"
    click.echo(f"{word}: {found.target or found.what}{version}")
    if found.form is not None:
        click.echo(f"  form      {found.form}")
    if found.signed is not None:
        until = "without end" if found.signed.valid_until is None else f"until {found.signed.valid_until.isoformat()}"
        click.echo(
            f"  decision  {found.signed.id} of {found.signed.decided_at}, verdict {found.signed.verdict}, {until}"
        )
        click.echo(f"  signed    by the gate's key {found.signed.key_id[:16]}")
    for finding in found.findings:
        click.echo(f"  {finding.code}: {finding.message}")


def _keys(key: Path | None, settings: Settings | None) -> Mapping[str, bytes]:
    from registry_gate.evidence.keys import gate_public_keys, load_public_key

    if key is not None:
        return {key.stem: load_public_key(key)}
    assert settings is not None  # noqa: S101 - for the type checker: without a key the settings were read
    return gate_public_keys(settings.gate.signing_key)


def _parse_target(text: str) -> Target:
    from registry_gate.cli.promotion import parse_target

    return replace(parse_target(text), workspace=_workspace())


def _workspace() -> str:
    """The workspace that MLflow's client works in."""
    return os.environ.get("MLFLOW_WORKSPACE") or "default"


# -- a name in the registry -------------------------------------------------------------------------------------------


def _registered(
    what: str, wanted: Target | None, keys: Mapping[str, bytes], settings: Settings, base: Path | None
) -> Verification:
    from registry_gate.ledger import Ledger
    from registry_gate.policy.inputs import UnreadableForm
    from registry_gate.standing import AuditView, Pointer, judge, target_of

    registry = _Registry(settings.require_tracking())
    ledger = Ledger.connect(settings.require_ledger())
    target, version = registry.resolve(what, wanted)
    if target.model != version.name:
        raise click.BadParameter(f"expected a target of {version.name!r}, got {target}")
    # (1) What the ledger says: the whole chain is verified on the way.
    view = AuditView({(target.workspace, target.model)})
    ledger.verify_chain(view.visit)
    change = view.last_change(target, version.version)
    denied = None
    if re.fullmatch(r"models:/.+/[0-9]+", what) and (change is None or change.body is None):
        # Nobody says that this version is promoted: a denial, or nothing at all, is the answer.
        denied = next(
            (
                body
                for body in ledger.decisions(model=target.model, version=version.version, limit=1000)
                if target_of(body) == target and body["version"]["created_ms"] == version.created_ms
            ),
            None,
        )
        return _not_promoted(what, target, version, denied)
    row = None if change is None or change.decision_id is None else ledger.decision(change.decision_id)
    grounds = None if row is None or row.form_digest is None else ledger.signed_before(target, row.form_digest)
    pointer = Pointer(target=target, number=version.version, version=version)
    now = datetime.now(UTC)

    def judged(form: FormManifest | UnreadableForm | None) -> Any:
        return judge(pointer, change=change, recorded=row, grounds=grounds, form=form, keys=keys, now=now)

    # (2) The bytes that would be served, with the base as it was signed.
    signed = judged(None).signed
    form: FormManifest | UnreadableForm
    try:
        form = registry.form(version, signed, base)
    except FormError as err:
        form = UnreadableForm(code=err.code, message=str(err))
    # (3) Everything compared.
    standing = judged(form)
    findings = standing.findings
    if re.fullmatch(r"models:/.+/[0-9]+", what):
        # No name was read that could have been written past the gate: it is only not the version that was asked for.
        findings = tuple(replace(f, severity="undecided") if f.code == "mismatched" else f for f in findings)
    return Verification(
        what=what,
        target=target,
        version=version.version,
        form=form.digest if isinstance(form, FormManifest) else None,
        signed=standing.signed,
        findings=findings,
    )


def _not_promoted(what: str, target: Target, version: ModelVersionRef, last: Mapping[str, Any] | None) -> Verification:
    from registry_gate.standing import Finding, Severity

    if last is not None and last["decision"] == "denied":
        reasons = "; ".join(reason["message"] for reason in last["reasons"] if reason.get("blocking"))
        finding = Finding(
            code="denied", severity=Severity.UNDECIDED, message=f"decision {last['id']} denied {target}: {reasons}"
        )
        codes = {reason["code"] for reason in last["reasons"] if reason.get("blocking")}
        refused = exit_code(Verdict(last["verdict"]), allowed=False, codes=codes) == 3
    else:
        finding = Finding(
            code="ungoverned",
            severity=Severity.UNDECIDED,
            message=f"{target} does not mean version {version.version}, and the ledger does not say that it may",
        )
        refused = False
    return Verification(
        what=what,
        target=target,
        version=version.version,
        form=None,
        signed=None,
        findings=(finding,),
        denied=refused,
    )


class _Registry:
    """Looks versions up in MLflow and downloads them."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        give_up_soon()
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self._uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def resolve(self, what: str, wanted: Target | None) -> tuple[Target, ModelVersionRef]:
        """The target, and the row that it means now."""
        named = what.removeprefix("models:/")
        workspace = _workspace()
        if "@" in named:
            model, _, alias = named.partition("@")
            target = Target(kind=TargetKind.ALIAS, model=model, name=alias, workspace=workspace)
            row = self._ask(what, lambda: self._client.get_model_version_by_alias(model, alias))
        else:
            model, _, last = named.rpartition("/")
            stage = next((s for s in PROMOTED_STAGES if s.casefold() == last.casefold()), None)
            if stage is not None and model:
                target = Target(kind=TargetKind.STAGE, model=model, name=stage, workspace=workspace)
                rows = self._ask(what, lambda: self._client.get_latest_versions(model, [stage]))
                if not rows:
                    raise RegistryError(f"expected a version of {model!r} in {stage}, got none")
                row = rows[0]
            elif re.fullmatch(r"[1-9][0-9]*", last) and model:
                if wanted is None:
                    raise click.UsageError(
                        f"expected --target with {what}: whether a version may be deployed depends on as what"
                    )
                target = wanted
                row = self._ask(what, lambda: self._client.get_model_version(model, last))
            else:
                raise click.BadParameter(
                    "expected models:/NAME@ALIAS, models:/NAME/Staging, models:/NAME/Production or models:/NAME/7, "
                    f"got {what!r} (`latest` is whatever was registered last, which nobody allowed)"
                )
        if wanted is not None and wanted != target:
            raise click.BadParameter(f"expected --target {target}, got {wanted}")
        location = self._ask(what, lambda: self._client.get_model_version_download_uri(row.name, row.version))
        return target, ModelVersionRef(
            name=row.name,
            version=int(row.version),
            created_ms=int(row.creation_timestamp),
            location=str(location),
            source=str(row.source or ""),
            workspace=workspace,
        )

    def form(self, version: ModelVersionRef, signed: Any, base: Path | None) -> FormManifest:
        """The form of a version as MLflow hands it out, downloaded and removed again.

        Raises:
            FormError: It cannot be downloaded, or is no form.
        """
        with tempfile.TemporaryDirectory(prefix="registry-gate-verify-") as scratch:
            number = 0

            def tree(name: str, numbered: int) -> Any:
                nonlocal number
                number += 1
                return self._download(name, numbered, Path(scratch) / str(number))

            return _form_at(tree(version.name, version.version), tree, None if signed is None else signed, base)

    def _download(self, name: str, version: int, directory: Path) -> Any:
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException

        from registry_gate.artifact import HashCache, LocalTree

        directory.mkdir()
        try:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{name}/{version}",
                dst_path=str(directory),
                tracking_uri=self._uri,
                registry_uri=self._uri,
            )
        except (MlflowException, OSError) as err:
            raise FormError(
                f"models:/{name}/{version}: expected artifacts that can be downloaded, got: {root_cause(err)}",
                code="artifact_unreadable",
            ) from err
        return LocalTree(directory, HashCache())

    def _ask(self, what: str, call: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return call()
        except MlflowException as err:
            raise RegistryError(f"expected {what} in the registry at {self._uri}, got: {root_cause(err)}") from err


# -- a directory ------------------------------------------------------------------------------------------------------


def _local(
    path: Path, decision: str, wanted: Target | None, key: Path | None, base: Path | None, ctx: click.Context
) -> Verification:
    from registry_gate.evidence.decisions import verify_decision
    from registry_gate.standing import Finding, Severity

    findings: list[Finding] = []
    file = Path(decision)
    signed, denied = None, False
    if file.is_file():
        # Offline: nothing but the file, the key and the artifact is looked at.
        keys = _keys(key, None if key is not None else settings_of(ctx))
        try:
            signed = verify_decision(file.read_bytes(), keys)
        except EvidenceError as err:
            findings.append(Finding(code="forged", severity=Severity.INTEGRITY, message=f"{file}: {err}"))
    elif re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", decision):
        settings = settings_of(ctx)
        signed, found, denied = _from_ledger(decision, _keys(key, settings), settings)
        findings.extend(found)
    else:
        raise click.BadParameter(
            f"expected --decision with a file that exists or the id of a decision, got {decision!r}"
        )
    form = None
    if signed is not None:
        try:
            form = _form_at(_tree(path), _nowhere, signed, base)
        except FormError as err:
            findings.append(Finding(code="unreadable", severity=Severity.UNDECIDED, message=str(err)))
        if form is not None and form.digest != signed.form:
            message = f"expected the form {signed.form} that decision {signed.id} allowed, got {form.digest}"
            findings.append(Finding(code="changed", severity=Severity.INTEGRITY, message=message))
        if wanted is not None and wanted != signed.target:
            message = f"decision {signed.id} allowed {signed.target}, which says nothing about {wanted}"
            findings.append(Finding(code="other_target", severity=Severity.UNDECIDED, message=message))
            denied = True
        if signed.valid_until is not None and signed.valid_until <= datetime.now(UTC):
            message = f"decision {signed.id} held until {signed.valid_until.isoformat()}"
            findings.append(Finding(code="expired", severity=Severity.EXPIRED, message=message))
    order = list(Severity)
    return Verification(
        what=str(path),
        target=None if signed is None else signed.target,
        version=None if signed is None else signed.version,
        form=None if form is None else form.digest,
        signed=signed,
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
        denied=denied,
    )


def _from_ledger(decision: str, keys: Mapping[str, bytes], settings: Settings) -> tuple[Any, list[Any], bool]:
    """The signed decision, what does not hold about it, and whether it is a denial."""
    from registry_gate.evidence.decisions import verify_decision
    from registry_gate.ledger import Ledger
    from registry_gate.standing import Finding, Severity, target_of

    ledger = Ledger.connect(settings.require_ledger())
    recorded = ledger.decision(decision)
    if recorded is None:
        raise RegistryError(f"expected decision {decision} in the ledger, got none")
    texts: list[str] = []

    def visit(entry: Any) -> None:
        if entry.event == "decision" and decision in entry.body and json.loads(entry.body).get("id") == decision:
            texts.append(entry.body)

    ledger.verify_chain(visit)
    if texts != [recorded.body]:
        message = f"the ledger's row of decision {decision} differs from its entry in the audit chain"
        return None, [Finding(code="forged", severity=Severity.INTEGRITY, message=message)], False
    body = json.loads(recorded.body)
    if body["decision"] != "allowed":
        reasons = "; ".join(reason["message"] for reason in body["reasons"] if reason.get("blocking"))
        message = f"decision {decision} is a denial: {reasons}"
        return None, [Finding(code="denied", severity=Severity.UNDECIDED, message=message)], True
    envelope = recorded.envelope
    rollback = any(reason["code"] == "rollback" for reason in body["reasons"])
    if envelope is None and rollback and recorded.form_digest is not None:
        grounds = ledger.signed_before(target_of(body), recorded.form_digest)
        envelope = None if grounds is None else grounds.envelope
    if envelope is None:
        message = f"decision {decision} carries no signature of the gate"
        return None, [Finding(code="unsigned", severity=Severity.INTEGRITY, message=message)], False
    try:
        signed = verify_decision(envelope, keys)
    except EvidenceError as err:
        return None, [Finding(code="forged", severity=Severity.INTEGRITY, message=str(err))], False
    agrees = (
        signed.body == body
        if recorded.envelope is not None
        else (signed.target, signed.form) == (target_of(body), recorded.form_digest)
    )
    if not agrees:
        message = f"decision {decision} says something else than what the gate signed"
        return None, [Finding(code="forged", severity=Severity.INTEGRITY, message=message)], False
    return signed, [], False


def _tree(path: Path) -> Any:
    from registry_gate.artifact import HashCache, LocalTree

    return LocalTree(path.absolute(), HashCache())


def _nowhere(name: str, version: int) -> Any:
    raise FormError(
        f"expected the base models:/{name}/{version} on this machine: say where it lies with --base",
        code="base_unresolved",
    )


def _form_at(tree: Any, version_tree: Any, signed: Any, base: Path | None) -> FormManifest:
    """The form of an artifact, with the base as it was decided on where the artifact can be loaded without it.

    A base that is needed to load is read here and now: what the artifact declares, or `base`. One that is not needed is
    part of the form's digest all the same (evidence compares with it), but none of it is served.

    Raises:
        FormError: The artifact is no form, or a base that it needs is not here.
    """
    from registry_gate.artifact import read_manifest

    if signed is None:
        return read_manifest(tree, version_tree)
    recorded: BaseReference | None = signed.base

    def decided(required: bool) -> BaseReference | None:
        if recorded is None:
            return None
        if not required or base is None:
            return replace(recorded, required_to_load=required)
        return replace(recorded, digest=read_manifest(_tree(base), version_tree).digest, required_to_load=True)

    needed = recorded is not None and recorded.required_to_load
    if not needed or (base is not None and recorded is not None and recorded.kind != "hub"):
        return read_manifest(tree, version_tree, base_of=decided)
    return read_manifest(tree, version_tree)
