"""Workers of a real server die at random while clients promote."""

from __future__ import annotations

from conftest import Server
from hammer import account
from killing import kill_at_random

DATABASES = ("sqlite", "postgresql")


def test_workers_killed_at_random_leave_no_pointer_without_its_decision(server_alone: Server, clinical: str) -> None:
    server = server_alone
    for _ in range(2):
        server.registered(clinical)
    killed = kill_at_random(server, clinical, kills=8, seed=1)
    account(server)
    assert killed.kills == 8
    assert killed.answers["200"] > 8, killed.answers
