"""Add one golden evidence directory: `python tests/golden/evidence/make.py assessment-v2`.

Only for a new format. Existing directories are never made again: that old evidence still verifies is what they test.
The private key is thrown away.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from registry_gate.assessment import (
    Assessment,
    Disagreement,
    GraderRecord,
    LabelledCell,
    LabelledCluster,
    LabellerAgreement,
    Measured,
    NotMeasured,
    PairedTable,
    PassedOn,
    PeopleLabels,
    SliceCount,
    ValidityCheck,
)
from registry_gate.evidence.envelope import envelope_digest, sign
from registry_gate.evidence.keys import generate_key, load_signer
from registry_gate.evidence.statement import Producer, Statement
from registry_gate.form import BaseReference, FileEntry, FormManifest


def statement() -> Statement:
    """A statement that uses every field of the format at least once."""
    manifest = FormManifest(
        files=(
            FileEntry(path="MLmodel", size=812, sha256="1a" * 32, role="config", identity=True),
            FileEntry(path="README.md", size=90, sha256="1b" * 32, role="description", identity=False),
            FileEntry(path="peft/adapter_config.json", size=640, sha256="1c" * 32, role="config", identity=True),
            FileEntry(
                path="peft/adapter_model.safetensors", size=98304, sha256="1d" * 32, role="adapter", identity=True
            ),
            FileEntry(path="requirements.txt", size=44, sha256="1e" * 32, role="environment", identity=False),
        ),
        base=BaseReference(
            kind="hub",
            name="example/base-7b",
            revision="0123456789abcdef0123456789abcdef01234567",
            digest="sha256:" + "2a" * 32,
            declared_in="peft/adapter_config.json",
            required_to_load=True,
        ),
        settings={
            "chat_template": "sha256:" + "3a" * 32,
            "generation": {"do_sample": False, "max_new_tokens": 64, "temperature": 0.7, "eos": [2, 107]},
            "note": "Größe, 温度",
        },
        formats=("safetensors",),
        remote_code=(),
        flavor="transformers",
    )
    return Statement(
        name="models:/clinical-triage/7",
        assessment=Assessment(
            form_digest=manifest.digest,
            base_digest="sha256:" + "2a" * 32,
            battery="medical@1",
            battery_digest="sha256:" + "4a" * 32,
            probe_sets={"medical": "sha256:" + "5a" * 32, "overrefusal": "sha256:" + "5b" * 32},
            graders=(
                GraderRecord(
                    name="harm-small",
                    version="1.0.0",
                    family="onnx",
                    axis="harm",
                    digest="sha256:" + "6a" * 32,
                    runtime="onnxruntime 1.22 CPUExecutionProvider",
                ),
                GraderRecord(
                    name="refusal-rules",
                    version="1",
                    family="rule",
                    axis="refusal",
                    digest="sha256:" + "6b" * 32,
                    runtime="python 3.11",
                ),
            ),
            generation={"max_new_tokens": 64, "precision": "fp32", "seed": 0, "batch_size": 32},
            measurements=(
                Measured(
                    measure="medical.harmful_compliance",
                    events=14,
                    probes=120,
                    clusters=60,
                    table=PairedTable(both=2, only_adapted=12, only_base=1, neither=105),
                    slices=(
                        SliceCount(category="dosage", events=9, probes=40),
                        SliceCount(category="self-treatment", events=5, probes=80),
                    ),
                    disagreements=(Disagreement(axis="refusal", differing=3, compared=240),),
                    passed_on=(PassedOn(grader="refusal-steps", axis="refusal", passed_on=20, answers=240),),
                    ungraded=1,
                    labels=PeopleLabels(
                        cells=(
                            LabelledCell(adapted=False, base=False, graded_adapted=False, graded_base=False, probes=34),
                            LabelledCell(adapted=False, base=False, graded_adapted=True, graded_base=False, probes=1),
                            LabelledCell(adapted=True, base=False, graded_adapted=True, graded_base=False, probes=5),
                        ),
                        labellers=2,
                        labelled_at="2026-11-25T09:30:00Z",
                        skipped=1,
                        disputed=1,
                        agreements=(LabellerAgreement(both_bad=4, only_first=1, only_second=0, both_good=35),),
                        clusters=(
                            LabelledCluster(clusters=34, probes=1, events=0, difference=0, graded_difference=0),
                            LabelledCluster(clusters=1, probes=6, events=5, difference=5, graded_difference=6),
                        ),
                    ),
                ),
                NotMeasured(measure="overrefusal.overrefusal", cause="engine ran out of memory"),
            ),
            validity=(
                ValidityCheck(check="completeness", passed=True, detail="240 of 240 answers"),
                ValidityCheck(check="coherence", passed=False, detail="expected at most 5 %, got 7 %"),
            ),
            assessed_at="2026-11-23T12:00:00Z",
            tool="0.1.0",
        ),
        manifest=manifest,
        producer=Producer(
            name="registry-gate worker", version="0.1.0", environment={"device": "cpu", "torch": "2.9.0"}
        ),
    )


def main() -> None:
    """Write envelope, public key and what a reader must find."""
    directory = Path(__file__).parent / sys.argv[1]
    directory.mkdir()
    stated = statement()
    with tempfile.TemporaryDirectory() as scratch:
        private = Path(scratch) / "worker.key"
        generate_key(private, directory / "worker.pub")
        envelope = sign(stated, load_signer(private))
    (directory / "envelope.dsse.json").write_bytes(envelope)
    expected = {
        "evidence": envelope_digest(envelope),
        "form": stated.subject,
        "measurements": stated.assessment.to_dict()["measurements"],
    }
    (directory / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
