"""No sequence of calls leaves a governed name on a model that was not allowed there; and the search would find one.

`make bench` runs thousands of sequences (`bench_attack.py`); here are as many as a test run has time for, always the
same ones, and each planted bypass of `mutants.py` must be found.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from attack_machine import Attack, run
from attack_world import BrokenError, World, raw_writes, world
from mutants import MUTANTS

SEQUENCES, STEPS = 60, 25
SOONER = {
    "allowed_half_of_a_denied_call_is_recorded": 2,
    "anybody_may_sign": 3,
    "evidence_never_expires": 1,
    "evidence_of_another_workspace_counts": 8,
    "first_policy_decides_alone": 2,
    "nothing_is_looked_at_again_before_the_write": 1,
    "old_bulk_methods_are_not_guarded": 1,
    "one_allowed_move_is_enough": 2,
    "row_is_not_looked_at_again": 13,
}
"""Seeds with which a bypass is found in a second or two; with the seed 0 of the others it takes up to a minute."""


@pytest.fixture(scope="module")
def attacked() -> Iterator[World]:
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)  # MLflow and the gate tell about every refused call
    with world() as made:
        yield made
    logging.disable(level)


def test_no_sequence_of_calls_gets_a_model_through(attacked: World) -> None:
    attacked.counts.clear()
    run(attacked, sequences=SEQUENCES, steps=STEPS, seed=0)
    outcomes = {kind for kind, _ in attacked.counts}
    # The search went where it matters: promotions of each kind were allowed and denied. (How often differs from run to
    # run, and more between machines: 22 denied renames on one, 12 on another.)
    for kind in ("set_registered_model_alias", "transition_model_version_stage", "rename_registered_model"):
        assert attacked.counts[kind, "done"] >= 3, outcomes
        assert attacked.counts[kind, "denied"] >= 3, outcomes
    assert attacked.counts["sequence", "begun"] >= SEQUENCES


def test_what_is_promoted_while_a_rename_is_reviewed_travels_along(attacked: World) -> None:
    machine = type("Attack", (Attack,), {"world": attacked})()
    machine.assess_and_promote(alias="champion", pick=0)
    machine.rename(pick=0, new="clinical-new", meanwhile="promote another")  # checks the invariant itself
    assert attacked.counts["rename_registered_model", "done"]
    machine.teardown()


@pytest.mark.parametrize("name", list(MUTANTS))
def test_planted_bypass_is_found(attacked: World, name: str) -> None:
    with MUTANTS[name](attacked), pytest.raises(BrokenError):
        # The first find ends it.
        run(attacked, sequences=4000, steps=30, seed=SOONER.get(name, 0), first_ends=True)


RAW_WRITES = (
    *("orm other location", "orm other source", "orm version number", "update location", "update source"),
    *("update creation time", "bulk save", "bulk insert", "bulk update", "orm version moves to another model"),
)


@pytest.mark.parametrize("kind", RAW_WRITES)
def test_code_in_the_process_cannot_make_a_promoted_name_mean_other_files(attacked: World, kind: str) -> None:
    attacked.reset()
    attacked.file_evidence("c0", "ward")
    attacked.store.set_registered_model_alias("clinical-a", "champion", 1)
    attacked.store.transition_model_version_stage("clinical-a", 1, "Production", False)
    attacked.store.create_registered_model("chat-new")  # somewhere to go
    for version in (1, 2):
        write = raw_writes(attacked, "clinical-a", version, "live", "chat-new")[kind]
        outcome = attacked.call(kind, write, raw=True)
        attacked.check(kind)
        assert outcome in ("denied", "refused") or (kind, version) == ("bulk update", 1)


def test_denial_at_a_clock_set_back_does_not_make_that_clock_good(attacked: World) -> None:
    from datetime import timedelta

    attacked.reset()
    attacked.file_evidence("c0", "ward")
    attacked.now += timedelta(days=100)  # the evidence is too old now, and somebody asks
    late = lambda: attacked.store.set_registered_model_alias("clinical-a", "champion", 1)  # noqa: E731
    assert attacked.call("alias", late) == "denied"
    attacked.now -= timedelta(days=100)
    assert [attacked.call("alias", late) for _ in range(3)] == ["denied"] * 3


def test_rename_records_no_decision_about_a_name_that_was_removed_meanwhile(attacked: World) -> None:
    attacked.reset()
    attacked.file_evidence("c0", "house")
    attacked.store.set_registered_model_alias("chat-a", "champion", 1)
    attacked.check("promote")
    attacked.meanwhile = lambda: attacked.store.delete_registered_model_alias("chat-a", "champion")
    outcome = attacked.call("rename", lambda: attacked.store.rename_registered_model("chat-a", "chat-new"))
    attacked.check("rename")
    assert outcome == "denied"


def test_rename_to_its_own_name_is_no_promotion(attacked: World) -> None:
    attacked.reset()
    attacked.file_evidence("c0", "house")
    attacked.store.set_registered_model_alias("chat-a", "champion", 1)
    attacked.check("promote")
    decisions = len(attacked.book.allowed)
    assert attacked.call("rename", lambda: attacked.store.rename_registered_model("chat-a", "chat-a")) == "done"
    attacked.check("rename")
    assert len(attacked.book.allowed) == decisions
