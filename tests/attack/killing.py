"""Processes of the gate are killed between decision and pointer: at each statement of a promotion, and at random."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import requests
from attack_world import World
from conftest import Server, assert_invariant
from sqlalchemy import event

API = "/api/2.0/mlflow"


def killed_at(world: World, action: Callable[[], object], point: int) -> bool:
    """Run a call in a child process that is killed right before its n-th statement or commit.

    Args:
        world: Whose store makes the call.
        action: The call.
        point: Which statement, from 0; commits count as statements.

    Returns:
        Whether the child was killed; False when the call ended first.
    """
    child = os.fork()
    if child == 0:
        # Never the parent's connections; and never its exit handlers.
        world.store.engine.dispose(close=False)
        passed = [0]

        def tick(*_: object) -> None:
            if passed[0] == point:
                os.kill(os.getpid(), signal.SIGKILL)
            passed[0] += 1

        event.listen(world.store.engine, "before_cursor_execute", tick)
        event.listen(world.store.engine, "commit", tick)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@dataclass
class Killed:
    """What came of killing servers' workers at random."""

    kills: int = 0
    answers: Counter[str] = field(default_factory=Counter)


def workers_of(server: Server) -> list[psutil.Process]:
    """The processes that answer requests: children of the server's own supervisor, without helpers."""
    port = server.uri.rsplit(":", 1)[1].split("/")[0]
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if "uvicorn" in " ".join(command) and port in command:
            for child in process.children():
                with contextlib.suppress(psutil.Error):  # killed, and not collected yet
                    found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def kill_at_random(server: Server, name: str, *, kills: int, seed: int, clients: int = 4) -> Killed:
    """Promote and roll back without pause while workers are killed; the supervisor starts new ones.

    Args:
        server: With at least two versions of `name` that may be promoted.
        name: The model.
        kills: How often.
        seed: Of the moments.
        clients: How many promote at once.
    """
    choose, outcome, stop = random.Random(seed), Killed(), threading.Event()

    def promote(number: int) -> None:
        round_ = number
        while not stop.is_set():
            round_ += 1
            body = {"name": name, "alias": f"champion-{number}", "version": str(1 + round_ % 2)}
            stage = {"name": name, "version": str(1 + round_ % 2), "stage": "Production"}
            calls = (("registered-models/alias", body), ("model-versions/transition-stage", stage))
            path, content = calls[round_ % 3 == 0]
            try:
                answer = requests.post(f"{server.uri}{API}/{path}", json=content, timeout=120)
                outcome.answers[str(answer.status_code)] += 1
            except requests.RequestException as err:
                outcome.answers[type(err).__name__] += 1
                time.sleep(0.05)

    threads = [threading.Thread(target=promote, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + 60 + 20 * kills
        while outcome.kills < kills:
            assert time.monotonic() < deadline, "the server's workers did not come back"
            before = outcome.answers["200"]
            waited = time.monotonic()
            while outcome.answers["200"] < before + 2 and time.monotonic() < waited + 60:
                time.sleep(0.002)  # somebody is being served
            time.sleep(choose.random() * 0.03)
            alive = workers_of(server)
            if len(alive) < 2:
                time.sleep(0.2)
                continue
            choose.choice(alive).send_signal(signal.SIGKILL)
            outcome.kills += 1
            server.ledger.verify_chain()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert_invariant(server)
    return outcome
