"""Many clients at once on one model, and an account of every transition afterwards.

Clients are threads with real HTTP requests to a real server. Afterwards the audit chain is replayed: each pointer in
the database must be where the last recorded event about it put it, and each promotion must have its decision.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import requests
from conftest import Server, assert_invariant

API = "/api/2.0/mlflow"
ALIASES = ("champion", "live", "candidate")


@dataclass
class Outcome:
    """What the clients saw.

    Args:
        answers: Answers by call and by HTTP status, with MLflow's error code.
        server_errors: Bodies of the answers of 500 and above.
    """

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    server_errors: list[str] = field(default_factory=list)

    def locked(self) -> int:
        """Server errors that are SQLite's or the database's refusal to wait, which plain MLflow gives too."""
        words = ("database is locked", "deadlock detected", "could not serialize", "lock timeout", "QueuePool limit")
        return sum(any(word in body for word in words) for body in self.server_errors)

    def unexplained(self) -> list[str]:
        """Server errors of any other kind."""
        words = ("database is locked", "deadlock detected", "could not serialize", "lock timeout", "QueuePool limit")
        return [body for body in self.server_errors if not any(word in body for word in words)]


def prepare(server: Server, name: str, *, gated: bool = True) -> tuple[list[str], dict[str, str]]:
    """Logged models: two that may be promoted and two that may not. Returns sources and, by source, which they are."""
    sources, kinds = [], {}
    for number in range(4):
        source = server.log_model(server.form_files())
        version = server.register(name, source=source)
        if gated and number < 2:
            for battery in ("medical@1", "general@1"):
                server.assess(name, version, battery=battery)
        sources.append(source)
        kinds[source] = "good" if number < 2 else "unknown"
    return sources, kinds


def hammer(server: Server, name: str, sources: list[str], *, clients: int, seconds: float, seed: int) -> Outcome:
    """Let clients promote, demote, rename, delete, recreate and transition for a while.

    Args:
        server: Gated or plain.
        name: The model; also known as `<name>-b` while it is renamed.
        sources: What versions are registered from when the model is made again.
        clients: How many at once.
        seconds: How long.
        seed: Of their choices.
    """
    outcome, lock = Outcome(), threading.Lock()
    end = time.monotonic() + seconds
    names = (name, f"{name}-b")

    def client(number: int) -> None:
        choose = random.Random(seed * 1000 + number)
        session = requests.Session()
        while time.monotonic() < end:
            kind, method, path, body = _call(choose, names, sources)
            try:
                answer = session.request(method, f"{server.uri}{API}/{path}", json=body, timeout=120)
            except requests.RequestException as err:
                with lock:
                    outcome.answers[kind, type(err).__name__] += 1
                continue
            if kind == "recreate":
                begin = [("registered-models/create", {})]
                for tail, more in begin + [("model-versions/create", _version_of(source)) for source in sources]:
                    session.post(f"{server.uri}{API}/{tail}", json={"name": body["name"], **more}, timeout=120)
            code = "" if answer.status_code == 200 else f" {_code(answer)}"
            with lock:
                outcome.answers[kind, f"{answer.status_code}{code}"] += 1
                if answer.status_code >= 500:
                    outcome.server_errors.append(answer.text[:2000])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def _call(choose: random.Random, names: tuple[str, str], sources: list[str]) -> tuple[str, str, str, dict[str, Any]]:
    name, version = choose.choice((names[0], names[0], names[1])), str(choose.randint(1, 5))
    what = choose.choices(
        ["promote", "demote", "stage", "archive", "rename", "delete version", "recreate", "register"],
        [40, 10, 25, 5, 4, 1, 1, 6],
    )[0]
    match what:
        case "promote":
            body = {"name": name, "alias": choose.choice(ALIASES), "version": version}
            return what, "POST", "registered-models/alias", body
        case "demote":
            return what, "DELETE", "registered-models/alias", {"name": name, "alias": choose.choice(ALIASES)}
        case "stage" | "archive":
            stage = choose.choice(["Production", "staging"]) if what == "stage" else "Archived"
            archive = what == "stage" and choose.random() < 0.5
            body = {"name": name, "version": version, "stage": stage, "archive_existing_versions": archive}
            return what, "POST", "model-versions/transition-stage", body
        case "rename":
            new = next(other for other in names if other != name)
            return what, "POST", "registered-models/rename", {"name": name, "new_name": new}
        case "delete version":
            return what, "DELETE", "model-versions/delete", {"name": name, "version": version}
        case "recreate":
            return what, "DELETE", "registered-models/delete", {"name": name}
        case _:
            return what, "POST", "model-versions/create", {"name": name, **_version_of(choose.choice(sources))}


def _version_of(source: str) -> dict[str, str]:
    return {"source": source, "model_id": source.removeprefix("models:/")}


def _code(answer: requests.Response) -> str:
    try:
        return str(answer.json().get("error_code"))
    except ValueError:
        return "no JSON"


def account(server: Server) -> Counter[str]:
    """Replay the audit chain and compare it with the database. Returns how many events of each kind there were.

    Raises:
        AssertionError: A pointer, decision or event is unexplained.
    """
    assert_invariant(server)
    rows = server.sql("SELECT seq, event, body FROM registry_gate_audit ORDER BY seq")
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    decisions = {
        str(i): (bool(allowed), json.loads(body))
        for i, allowed, body in server.sql("SELECT id, allowed, body FROM registry_gate_decision")
    }
    # (kind, model, name) -> (version, its creation) that the last allowed decision gave it.
    last: dict[tuple[str, str, str], set[tuple[int, int]]] = {}
    seen: Counter[str] = Counter()
    told = set()
    for _, event, text in rows:
        body = json.loads(text)
        seen[event] += 1
        if event != "decision":
            continue
        allowed, stored = decisions[body["id"]]
        assert stored == body, f"decision {body['id']} differs from its audit entry"
        assert body["id"] not in told
        told.add(body["id"])
        seen["allowed" if allowed else "denied"] += 1
        if allowed:
            kind, target = body["target"]["kind"], body["target"]["name"]
            model = body["target"]["key"][: -len(target) - 1]
            row = (body["version"]["version"], body["version"]["created_ms"])
            # An alias means one version; a stage can hold several.
            places = last.setdefault((kind, model, target), set())
            if kind == "alias":
                places.clear()
            places.add(row)
    assert told == decisions.keys(), "a decision has no audit entry"
    pointers = server.sql(
        "SELECT 'alias', a.name, a.alias, v.version, v.creation_time, v.source FROM registered_model_aliases a "
        "JOIN model_versions v ON v.name = a.name AND v.version = a.version AND v.workspace = a.workspace "
        "UNION ALL SELECT 'stage', name, current_stage, version, creation_time, source FROM model_versions "
        "WHERE current_stage IN ('Production', 'Staging')"
    )
    for kind, model, name, version, created, _ in pointers:
        replayed = last.get((kind, model, name), set())
        assert (version, created) in replayed, f"{kind} {name} of {model} is at {version}, replayed: {replayed}"
    return seen
