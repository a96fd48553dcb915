"""A process that dies between decision and pointer leaves neither, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from attack_world import World, world
from killing import killed_at


@pytest.fixture(scope="module")
def attacked() -> Iterator[World]:
    with world() as made:
        yield made


CALLS: dict[str, Callable[[World], object]] = {
    "alias": lambda w: w.store.set_registered_model_alias("clinical-a", "champion", 1),
    "stage": lambda w: w.store.transition_model_version_stage("clinical-a", 1, "Production", True),
    "rename": lambda w: w.store.rename_registered_model("chat-a", "chat-new"),
    "denied": lambda w: w.store.set_registered_model_alias("clinical-a", "champion", 2),
    "demotion": lambda w: w.store.delete_registered_model_alias("chat-a", "champion"),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_killed_before_any_statement_a_call_leaves_nothing_or_everything(attacked: World, name: str) -> None:
    points = 0
    for point in range(200):
        attacked.reset()
        for battery in ("ward", "house"):
            attacked.file_evidence("c0", battery)
        attacked.store.set_registered_model_alias("chat-a", "champion", 1)
        attacked.check("prepare")
        killed = killed_at(attacked, lambda: CALLS[name](attacked), point)
        # Pointer without decision, decision without pointer and a broken chain are all found here.
        attacked.check(f"{name}, killed before statement {point}")
        attacked.check_whole_chain()
        if not killed:
            break
        points += 1
        # Whoever comes next is not held up by what the dead one left.
        attacked.call("alias", lambda: attacked.store.set_registered_model_alias("clinical-b", "champion", 1))
        attacked.check("next caller")
    assert 5 < points < 200
