"""The ledger: tables in MLflow's own database that hold evidence, decisions, requests and the audit chain.

`tables` describes them, `migrations/` creates them, `store` reads and writes them, `chain` makes the audit append-only.
"""

from registry_gate.ledger.store import AssessmentRequest, Ledger, RequestState, StoredDecision, StoredEvidence

__all__ = ["AssessmentRequest", "Ledger", "RequestState", "StoredDecision", "StoredEvidence"]
