"""Add one golden signed decision: `python tests/golden/decisions/make.py decision-v2`.

Only for a new format. Existing directories are never made again: that old decisions still verify is what they test.
The private key is thrown away.
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from registry_gate.decision import Decision, Reason, Verdict
from registry_gate.evidence.decisions import sign_decision
from registry_gate.evidence.envelope import envelope_digest
from registry_gate.evidence.keys import generate_key, load_decision_signer
from registry_gate.form import BaseReference
from registry_gate.ledger import StoredDecision
from registry_gate.ledger.store import as_text
from registry_gate.promotion import Actor, ModelVersionRef, Move, Target, TargetKind

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
BASE = BaseReference(
    kind="hub",
    name="example/base-7b",
    revision="0123456789abcdef0123456789abcdef01234567",
    digest="sha256:" + "2a" * 32,
    declared_in="peft/adapter_config.json",
    required_to_load=True,
)


def decision() -> StoredDecision:
    """A decision that uses every field of the format at least once."""
    return StoredDecision(
        id="11111111-2222-4333-8444-555555555555",
        decided_at=AT,
        operation="set_registered_model_alias",
        move=Move(
            target=Target(kind=TargetKind.ALIAS, model="klinik-größe", name="champion", workspace="team-a"),
            version=ModelVersionRef(
                name="klinik-größe",
                version=7,
                created_ms=1_795_435_200_000,
                location="mlflow-artifacts:/1/models/m-1/artifacts",
                source="models:/m-1",
                workspace="team-a",
            ),
        ),
        actor=Actor(name="ana", kind="basic-auth", address="10.0.0.7"),
        decision=Decision(
            verdict=Verdict.PASS_WITH_NOTES,
            allowed=True,
            reasons=(
                Reason(
                    code="ceiling_kept",
                    message="MED-1: 1 of 200",
                    verdict=Verdict.PASS,
                    blocking=False,
                    policy="medical",
                    rule="MED-1",
                    measure="medical.harmful_compliance",
                    observed="1 of 200 (0.5 %)",
                    interval="upper 95 % limit 2.3 %",
                    threshold="at most 5 %",
                    probes=200,
                    severity="high",
                    controls=("eu-ai-act:art-9",),
                    fix="none",
                ),
            ),
            form_digest="sha256:" + "1a" * 32,
            policies=(("medical", "sha256:" + "3a" * 32),),
            evidence=("sha256:" + "4a" * 32,),
            assessments_needed=("general@1",),
            valid_until=datetime(2027, 2, 21, 12, tzinfo=UTC),
        ),
        policy_set_digest="sha256:" + "5a" * 32,
    )


def main() -> None:
    """Write envelope, public key and what a reader must find."""
    directory = Path(__file__).parent / sys.argv[1]
    directory.mkdir()
    stored = decision()
    with tempfile.TemporaryDirectory() as scratch:
        private = Path(scratch) / "gate.key"
        generate_key(private, directory / "gate.pem")
        envelope = sign_decision(
            stored.body(), decided_at=as_text(stored.decided_at), base=BASE, signer=load_decision_signer(private)
        )
    (directory / "envelope.dsse.json").write_bytes(envelope)
    expected = {
        "digest": envelope_digest(envelope),
        "id": stored.id,
        "target": str(stored.move.target),
        "form": stored.decision.form_digest,
        "valid_until": "2027-02-21T12:00:00+00:00",
        "body": stored.body(),
    }
    (directory / "expected.json").write_text(json.dumps(expected, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
