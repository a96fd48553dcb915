"""A gate over a real ledger, the shipped policies and signed evidence; only the reader of forms is a fake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from registry_gate.assessment import Assessment, Disagreement, GraderRecord, Measured, PairedTable, ValidityCheck
from registry_gate.cli.install import make_installation
from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.errors import RegistryError
from registry_gate.evidence.envelope import envelope_digest, sign
from registry_gate.evidence.keys import EvidenceSigner, GateKey, load_signer
from registry_gate.evidence.statement import Producer, Statement
from registry_gate.form import BaseReference, FileEntry, FormManifest
from registry_gate.gate import Gate
from registry_gate.ledger import Ledger
from registry_gate.policy.document import PolicySet, load_policy_set
from registry_gate.policy.source import PolicySource
from registry_gate.promotion import Actor, ModelVersionRef, Move, PromotionRequest, Target, TargetKind

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ANA = Actor(name="ana", kind="basic-auth", address="10.0.0.7")

BASE = BaseReference(
    kind="version",
    name="models:/base/1",
    revision=None,
    digest="sha256:" + "b" * 64,
    declared_in="MLmodel: metadata.registry_gate.base",
    required_to_load=True,
)


def make_form(content: str = "a", **changes: Any) -> FormManifest:
    adapter = FileEntry(
        path="peft/adapter_model.safetensors", size=4, sha256=(content * 64)[:64], role="adapter", identity=True
    )
    return replace(
        FormManifest(files=(adapter,), base=BASE, formats=("safetensors",), flavor="transformers"), **changes
    )


def make_version(version: int = 1, name: str = "chat", **changes: Any) -> ModelVersionRef:
    ref = ModelVersionRef(
        name=name,
        version=version,
        created_ms=1000 + version,
        location=f"/artifacts/{name}/{version}",
        source="models:/m-1",
    )
    return replace(ref, **changes)


def alias(name: str = "champion", model: str = "chat", workspace: str = "default") -> Target:
    return Target(kind=TargetKind.ALIAS, model=model, name=name, workspace=workspace)


def promote(*moves: tuple[Target, ModelVersionRef]) -> PromotionRequest:
    """Ask for targets to mean versions; without any, for `chat@champion` to mean version 1."""
    return PromotionRequest(
        operation="set_registered_model_alias",
        moves=tuple(Move(target=t, version=v) for t, v in moves or ((alias(), make_version()),)),
        actor=ANA,
    )


class Forms:
    """Forms by version: a `FormReader` over values instead of files."""

    def __init__(self, form: FormManifest | RegistryError) -> None:
        self.default = form
        self.of: dict[ModelVersionRef, FormManifest | RegistryError] = {}
        self.reads: list[ModelVersionRef] = []
        self.changed: set[ModelVersionRef] = set()

    def read(self, version: ModelVersionRef) -> FormManifest:
        self.reads.append(version)
        form = self.of.get(version, self.default)
        if isinstance(form, RegistryError):
            raise form
        return form

    def unchanged(self, version: ModelVersionRef, digest: str) -> bool | None:
        form = self.of.get(version, self.default)
        return version not in self.changed and isinstance(form, FormManifest) and form.digest == digest


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


GRADERS = tuple(
    GraderRecord(name=name, version="1", family=family, axis=axis, digest=f"sha256:{digit * 64}", runtime="python")
    for name, family, axis, digit in (
        ("harm-minilm", "classifier", "harm", "1"),
        ("refusal-minilm", "classifier", "refusal", "2"),
        ("refusal-rules", "rule", "refusal", "3"),
    )
)
"""Those that general@1 names."""


def make_assessment(
    policy_set: PolicySet,
    form: FormManifest,
    *,
    battery: str = "general@1",
    events: int = 3,
    at: datetime = NOW - timedelta(days=3),
    **changes: Any,
) -> Assessment:
    """An assessment with the same number of bad answers on every instrument; the base has three."""
    measurements = []
    for instrument in policy_set.batteries[battery].spec.instruments:
        both = min(3, events)
        table = PairedTable(
            both=both, only_adapted=events - both, only_base=3 - both, neither=instrument.size - events - 3 + both
        )
        measurements.append(
            Measured(
                measure=instrument.measure,
                events=events,
                probes=instrument.size,
                clusters=instrument.size,
                table=table,
                disagreements=(Disagreement(axis="refusal", differing=1, compared=2 * instrument.size),),
            )
        )
    assessment = Assessment(
        form_digest=form.digest,
        base_digest=form.base.digest if form.base else None,
        battery=battery,
        battery_digest=policy_set.batteries[battery].digest,
        probe_sets={},
        graders=GRADERS,
        generation={},
        measurements=tuple(measurements),
        validity=(ValidityCheck(check="coherence", passed=True, detail="0 of 480 answers are degenerate"),),
        assessed_at=at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        tool="0.1.0",
    )
    return replace(assessment, **changes)


def make_envelope(assessment: Assessment, form: FormManifest, signer: EvidenceSigner) -> bytes:
    producer = Producer(name="registry-gate worker", version="0.1.0", environment={})
    return sign(Statement(name="models:/chat/1", assessment=assessment, manifest=form, producer=producer), signer)


def file_evidence(ledger: Ledger, envelope: bytes, form: FormManifest, workspace: str = "default") -> str:
    digest = envelope_digest(envelope)
    ledger.store_evidence(
        digest=digest, form_digest=form.digest, battery="general@1", workspace=workspace, envelope=envelope
    )
    return digest


def make_installed_gate(directory: Path) -> tuple[Gate, FormManifest, Callable[..., str]]:
    """A gate over an installation that `init` made. The last value signs and files evidence for its form."""
    uri = f"sqlite:///{directory / 'registry.db'}"
    make_installation(directory, ledger_uri=uri, tracking_uri="http://127.0.0.1:9")
    clock, form = Clock(), make_form()
    ledger = Ledger.connect(uri, clock)
    gate = Gate(
        ledger=ledger,
        policies=PolicySource(directory / "policies", (PACKAGE_BATTERIES,)),
        forms=Forms(form),
        key=GateKey(directory / "keys" / "gate.key"),
        clock=clock,
    )
    policy_set = load_policy_set(directory / "policies", (PACKAGE_BATTERIES,))
    signer = load_signer(directory / "keys" / "worker.key")

    def sign_and_file(workspace: str = "default", form: FormManifest = form, **changes: Any) -> str:
        assessment = make_assessment(policy_set, form, **changes)
        return file_evidence(ledger, make_envelope(assessment, form, signer), form, workspace)

    return gate, form, sign_and_file
