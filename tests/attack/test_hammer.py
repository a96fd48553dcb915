"""Many clients at once: every transition is explained, and the invariant holds."""

from __future__ import annotations

from conftest import Server
from hammer import account, hammer, prepare

DATABASES = ("sqlite", "postgresql")


def test_many_clients_at_once_leave_only_transitions_that_are_explained(server_alone: Server, clinical: str) -> None:
    server = server_alone
    sources, _ = prepare(server, clinical)
    changed = 0
    # A busy machine needs more rounds until it was no walk-over.
    for seed in range(1, 13):
        outcome = hammer(server, clinical, sources, clients=32, seconds=6, seed=seed)
        seen = account(server)
        assert not outcome.unexplained(), outcome.unexplained()[:3]
        changed += outcome.answers["rename", "200"] + outcome.answers["recreate", "200"]
        if seen["allowed"] > 5 and seen["denied"] > 5 and changed:
            break
    # Promotions went through and were denied, and the model was renamed or made again.
    assert seen["allowed"] > 5, outcome.answers
    assert seen["denied"] > 5, outcome.answers
    assert changed, outcome.answers
    # Nothing without evidence was ever allowed, whatever came between.
    allowed = server.sql(
        "SELECT DISTINCT form_digest FROM registry_gate_decision WHERE allowed AND form_digest IS NOT NULL"
    )
    filed = server.sql("SELECT DISTINCT form_digest FROM registry_gate_evidence")
    assert {row[0] for row in allowed} <= {row[0] for row in filed}
