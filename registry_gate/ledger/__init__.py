"""The ledger: tables in MLflow's own database that hold evidence, decisions, requests and the audit chain.

`tables` describes them, `migrations/` creates them, `store` reads and writes them, `chain` makes the audit append-only.
"""

from registry_gate.ledger.store import (
    AssessmentRequest,
    Ledger,
    RecordedDecision,
    RequestState,
    StoredDecision,
    StoredEvidence,
    StoredGrant,
)

__all__ = [
    "AssessmentRequest",
    "Ledger",
    "RecordedDecision",
    "RequestState",
    "StoredDecision",
    "StoredEvidence",
    "StoredGrant",
]
