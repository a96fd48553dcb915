"""One small, complete statement and a key pair, for every evidence test."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_gate.assessment import (
    Assessment,
    GraderRecord,
    Measured,
    NotMeasured,
    PairedTable,
    SliceCount,
    ValidityCheck,
)
from registry_gate.evidence.envelope import sign
from registry_gate.evidence.keys import EvidenceSigner, generate_key, load_signer
from registry_gate.evidence.statement import Producer, Statement
from registry_gate.form import BaseReference, FileEntry, FormManifest


@pytest.fixture(scope="session")
def manifest() -> FormManifest:
    return FormManifest(
        files=(
            FileEntry(path="MLmodel", size=812, sha256="a" * 64, role="config", identity=True),
            FileEntry(path="conda.yaml", size=201, sha256="b" * 64, role="environment", identity=False),
            FileEntry(path="peft/adapter_model.safetensors", size=4096, sha256="c" * 64, role="adapter", identity=True),
        ),
        base=BaseReference(
            kind="path",
            name="/models/base-ä",
            revision=None,
            digest="sha256:" + "d" * 64,
            declared_in="peft/adapter_config.json",
            required_to_load=True,
        ),
        settings={"chat_template": "sha256:" + "e" * 64, "generation": {"temperature": 0.1, "stop": ["</s>"]}},
        formats=("safetensors",),
        flavor="transformers",
    )


@pytest.fixture(scope="session")
def assessment(manifest: FormManifest) -> Assessment:
    assert manifest.base is not None
    return Assessment(
        form_digest=manifest.digest,
        base_digest=manifest.base.digest,
        battery="medical@1",
        battery_digest="sha256:" + "1" * 64,
        probe_sets={"medical": "sha256:" + "2" * 64},
        graders=(
            GraderRecord(
                name="harm", version="1", family="onnx", axis="harm", digest="sha256:" + "3" * 64, runtime="ort-cpu"
            ),
        ),
        generation={"max_new_tokens": 64, "seed": 0, "precision": "fp32"},
        measurements=(
            Measured(
                measure="medical.harmful_compliance",
                events=14,
                probes=120,
                clusters=60,
                table=PairedTable(both=2, only_adapted=12, only_base=1, neither=105),
                slices=(SliceCount(category="dosage", events=9, probes=40),),
            ),
            NotMeasured(measure="overrefusal.overrefusal", cause="engine ran out of memory"),
        ),
        validity=(ValidityCheck(check="coherence", passed=True, detail="0 of 240 answers degenerate"),),
        assessed_at="2026-11-23T12:00:00Z",
        tool="0.1.0",
    )


@pytest.fixture(scope="session")
def statement(assessment: Assessment, manifest: FormManifest) -> Statement:
    return Statement(
        name="models:/clinical-triage/7",
        assessment=assessment,
        manifest=manifest,
        producer=Producer(name="registry-gate worker", version="0.1.0", environment={"torch": "2.9.0"}),
    )


@pytest.fixture(scope="session")
def key_paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key pair on disk: private, public."""
    directory = tmp_path_factory.mktemp("keys")
    private, public = directory / "worker.key", directory / "worker.pub"
    generate_key(private, public)
    return private, public


@pytest.fixture(scope="session")
def signer(key_paths: tuple[Path, Path]) -> EvidenceSigner:
    return load_signer(key_paths[0])


@pytest.fixture(scope="session")
def other_signer(tmp_path_factory: pytest.TempPathFactory) -> EvidenceSigner:
    directory = tmp_path_factory.mktemp("other")
    generate_key(directory / "other.key", directory / "other.pub")
    return load_signer(directory / "other.key")


@pytest.fixture(scope="session")
def trusted(signer: EvidenceSigner) -> dict[str, bytes]:
    return {"worker": signer.public_pem}


@pytest.fixture(scope="session")
def envelope(statement: Statement, signer: EvidenceSigner) -> bytes:
    return sign(statement, signer)
