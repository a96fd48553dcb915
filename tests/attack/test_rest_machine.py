"""No sequence of HTTP calls leaves a governed name on a model that was not allowed there; the search would see it.

A few sequences are all that a test run has time for; `bench_attack_server.py` runs as many as it is asked for.
"""

from __future__ import annotations

import pytest
from attack_world import BrokenError
from conftest import Server
from rest_machine import Attacked, run_rest

DATABASES = ("sqlite", "postgresql")


def test_no_sequence_of_http_calls_gets_a_model_through(server: Server) -> None:
    attacked = Attacked(server)
    run_rest(attacked, sequences=5, steps=15, seed=0)
    for kind in ("alias", "stage"):  # it went where it matters
        assert attacked.counts[kind, "done"], attacked.counts
        assert attacked.counts[kind, "denied"], attacked.counts


def test_search_sees_what_was_written_past_the_server(server: Server) -> None:
    class Careless(Attacked):
        """Somebody with access to the database, who helps where the gate denied."""

        def call(self, kind: str, method: str, path: str, body: dict[str, str], *, route: str = "") -> str:
            outcome = super().call(kind, method, path, body, route=route or "/api/2.0/mlflow")
            if (kind, outcome) == ("stage", "denied"):
                self.server.sql(
                    "INSERT INTO registered_model_aliases (workspace, name, alias, version) "
                    "VALUES ('default', :name, 'helped', :version)",
                    name=body["name"],
                    version=int(body["version"]),
                )
            return outcome

    attacked = Careless(server)
    try:
        with pytest.raises(BrokenError, match="has nothing that allows it"):
            run_rest(attacked, sequences=5, steps=15, seed=0)
    finally:  # the server is shared, and its invariant is checked after each test
        server.sql("DELETE FROM registered_model_aliases WHERE alias = 'helped'")
