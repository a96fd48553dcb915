"""Many clients at once: every transition is explained, and the invariant holds."""

from __future__ import annotations

from conftest import Server
from hammer import account, hammer, prepare

DATABASES = ("sqlite", "postgresql")


def test_many_clients_at_once_leave_only_transitions_that_are_explained(server: Server, clinical: str) -> None:
    sources, _ = prepare(server, clinical)
    outcome = hammer(server, clinical, sources, clients=32, seconds=10, seed=1)
    seen = account(server)
    assert not outcome.unexplained(), outcome.unexplained()[:3]
    # It was no walk-over: promotions went through and were denied, and the model was renamed and made again.
    assert seen["allowed"] > 5, outcome.answers
    assert seen["denied"] > 5, outcome.answers
    assert outcome.answers["rename", "200"] + outcome.answers["recreate", "200"] > 0, outcome.answers
    # Nothing without evidence was ever allowed, whatever came between.
    allowed = server.sql(
        "SELECT DISTINCT form_digest FROM registry_gate_decision WHERE allowed AND form_digest IS NOT NULL"
    )
    filed = server.sql("SELECT DISTINCT form_digest FROM registry_gate_evidence")
    assert {row[0] for row in allowed} <= {row[0] for row in filed}
