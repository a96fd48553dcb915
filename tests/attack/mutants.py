"""Bypasses planted into the real classes, one at a time, to show that the state machine would find them.

Each is a mistake that somebody could make in the plugin. Where a second layer (mostly the tripwire) catches the mistake
on its own, the mutant takes that layer away as well: what is to be found is a model that gets through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from attack_world import World
from sqlalchemy import select

import registry_gate.gate as gate_module
import registry_gate.mlflow_plugin.store as store_module
import registry_gate.policy.document as document_module
import registry_gate.policy.rules as rules_module
from registry_gate.decision import Decision
from registry_gate.errors import EvidenceError, PolicyError
from registry_gate.evidence.envelope import verify
from registry_gate.gate import Gate, Review
from registry_gate.ledger import Ledger, StoredEvidence
from registry_gate.ledger.store import target_key
from registry_gate.ledger.tables import AUDIT, DECISION, EVIDENCE
from registry_gate.mlflow_plugin import tripwire
from registry_gate.mlflow_plugin.form_cache import FormCache
from registry_gate.mlflow_plugin.store import GatedStore
from registry_gate.policy.inputs import VerifiedEvidence
from registry_gate.policy.source import PolicySource
from registry_gate.promotion import TargetKind

Mutant = Callable[[World], AbstractContextManager[None]]
MUTANTS: dict[str, Mutant] = {}


def mutant(make: Callable[[World], Iterator[None]]) -> Mutant:
    made = contextmanager(make)
    MUTANTS[make.__name__] = made
    return made


def _unreviewed(applies: Callable[[str, dict[str, Any]], bool]) -> AbstractContextManager[Any]:
    """Some promotions are written as if nobody governed them."""
    original: Any = GatedStore._promote

    def promote(self: Any, model: str, operation: str, moves: Any, write: Any, **more: Any) -> Any:
        if not applies(operation, more):
            return original(self, model, operation, moves, write, **more)
        with patch.object(GatedStore, "_is_prompt", lambda *_: True):
            return original(self, model, operation, moves, write, **more)

    return patch.object(GatedStore, "_promote", promote)


@contextmanager
def _blind_to_pointers() -> Iterator[None]:
    with patch.object(tripwire, "_require", _nothing):
        yield


def _nothing(*_args: object, **_more: object) -> None:
    return None


# -- the store's reviews -----------------------------------------------------------------------------------------------


@mutant
def rename_is_not_reviewed(_: World) -> Iterator[None]:
    with _unreviewed(lambda operation, _more: operation == "rename_registered_model"):
        yield


@mutant
def stage_is_compared_with_its_letter_case(_: World) -> Iterator[None]:
    with patch.object(store_module, "get_canonical_stage", lambda stage: stage), _blind_to_pointers():
        yield


@mutant
def staging_counts_as_a_demotion(_: World) -> Iterator[None]:
    production = ("Production",)
    with (
        patch.object(store_module, "PROMOTED_STAGES", production),
        patch.object(tripwire, "PROMOTED_STAGES", production),
    ):
        yield


@mutant
def archiving_transition_is_not_reviewed(_: World) -> Iterator[None]:
    original = GatedStore.transition_model_version_stage

    def transition(self: Any, name: str, version: Any, stage: str, archive_existing_versions: bool) -> Any:
        with _unreviewed(lambda *_: archive_existing_versions):
            return original(self, name, version, stage, archive_existing_versions)

    with patch.object(GatedStore, "transition_model_version_stage", transition):
        yield


@mutant
def prompt_tag_is_trusted(_: World) -> Iterator[None]:
    with patch.object(GatedStore, "_is_prompt", lambda self, model, _version: self._prompt_tag(model) == "true"):
        yield


@mutant
def prompt_source_is_trusted(_: World) -> Iterator[None]:
    sources = ("prompt-template", "dummy-source")
    with patch.object(GatedStore, "_is_prompt", lambda _self, _model, version: version.source in sources):
        yield


@mutant
def permit_outlives_its_call(_: World) -> Iterator[None]:
    @contextmanager
    def permitted(permit: Any) -> Iterator[None]:
        tripwire._PERMIT.set(permit)
        yield

    original = tripwire._require

    def require(session: Any, *more: Any) -> None:
        original(session, *more)
        session.info.pop(tripwire._MOVED, None)  # the second layer: that a pointer comes with its decision

    with patch.object(store_module, "permitted", permitted), patch.object(tripwire, "_require", require):
        try:
            yield
        finally:
            tripwire._PERMIT.set(None)


# -- the tripwire ------------------------------------------------------------------------------------------------------


@mutant
def tripwire_is_off(_: World) -> Iterator[None]:
    with _blind_to_pointers(), patch.object(tripwire, "_require_rename", _nothing):
        yield


@mutant
def row_is_not_looked_at_again(_: World) -> Iterator[None]:
    with patch.object(tripwire, "_require_same_row", _nothing):
        yield


@mutant
def bulk_writes_are_not_guarded(_: World) -> Iterator[None]:
    with patch.object(tripwire, "_BULK_GUARDED", {}):
        yield


@mutant
def old_bulk_methods_are_not_guarded(_: World) -> Iterator[None]:
    class Unseen:
        pass

    with patch.object(tripwire, "Insert", Unseen), patch.object(tripwire, "Update", Unseen):
        yield


@mutant
def version_can_be_given_other_files(_: World) -> Iterator[None]:
    with patch.object(tripwire, "_require_same_identity", _nothing):
        yield


# -- evidence ----------------------------------------------------------------------------------------------------------


@mutant
def evidence_of_another_form_counts(_: World) -> Iterator[None]:
    """As if it were looked up by the name of the model and not by the digest of its bytes."""

    def evidence(self: Gate, form: Any, workspace: str, policy_set: Any) -> list[Any]:
        keys = tuple(sorted(policy_set.signers.items()))
        with self.ledger.connection() as connection:
            rows = connection.execute(select(EVIDENCE).where(EVIDENCE.c.workspace == workspace)).all()
        items = [gate_module._verify_bytes(row.digest, row.envelope.encode(), keys) for row in rows]
        return [
            replace(item, assessment=replace(item.assessment, form_digest=form.digest))
            for item in items
            if isinstance(item, VerifiedEvidence) and hasattr(form, "digest")
        ]

    with patch.object(Gate, "_evidence", evidence):
        yield


@mutant
def evidence_of_another_workspace_counts(_: World) -> Iterator[None]:
    def evidence_for(self: Ledger, form_digest: str, _workspace: str) -> list[StoredEvidence]:
        with self.connection() as connection:
            rows = connection.execute(select(EVIDENCE).where(EVIDENCE.c.form_digest == form_digest)).all()
        return [
            StoredEvidence(
                digest=row.digest,
                form_digest=row.form_digest,
                battery=row.battery,
                workspace=row.workspace,
                envelope=row.envelope.encode(),
                stored_at=row.stored_at,
            )
            for row in rows
        ]

    with patch.object(Ledger, "evidence_for", evidence_for):
        yield


@mutant
def anybody_may_sign(world: World) -> Iterator[None]:
    keys = {"worker": world._publics["worker"]}, {"worker": world._publics["stranger"]}

    def verify_any(envelope: bytes, _signers: Any) -> Any:
        try:
            return verify(envelope, keys[0])
        except EvidenceError:
            return verify(envelope, keys[1])

    gate_module._verify_bytes.cache_clear()
    try:
        with patch.object(gate_module, "verify", verify_any):
            yield
    finally:
        gate_module._verify_bytes.cache_clear()


@mutant
def evidence_never_expires(_: World) -> Iterator[None]:
    original = rules_module._formal_problems

    def problems(*args: Any) -> Any:
        return [problem for problem in original(*args) if problem[0] != "evidence_expired"]

    with patch.object(rules_module, "_formal_problems", problems):
        yield


@mutant
def best_evidence_is_taken_instead_of_the_newest(_: World) -> Iterator[None]:
    original = rules_module.decide

    def decide(*, evidence: Any, **more: Any) -> Decision:
        decisions = [original(evidence=[item], **more) for item in evidence]
        return next((d for d in decisions if d.allowed), original(evidence=evidence, **more))

    with patch.object(gate_module, "decide", decide):
        yield


# -- bytes -------------------------------------------------------------------------------------------------------------


@mutant
def form_is_read_only_once(_: World) -> Iterator[None]:
    original, known = FormCache.read, {}

    def read(self: FormCache, find: Any, key: str, version_tree: Any) -> Any:
        if key not in known:
            known[key] = original(self, find, key, version_tree)
        return known[key]

    with patch.object(FormCache, "read", read), patch.object(FormCache, "unchanged", lambda *_: True):
        yield


@mutant
def nothing_is_looked_at_again_before_the_write(_: World) -> Iterator[None]:
    with patch.object(Gate, "_require_still_so", _nothing):
        yield


# -- policies and clock ------------------------------------------------------------------------------------------------


@mutant
def free_alias_ignores_letter_case(_: World) -> Iterator[None]:
    original = document_module.matches

    def matches(value: str, patterns: Any) -> bool:
        return original(value.casefold(), patterns)

    with patch.object(document_module, "matches", matches):
        yield


@mutant
def free_alias_matches_anywhere(_: World) -> Iterator[None]:
    original = document_module.matches

    def matches(value: str, patterns: Any) -> bool:
        return original(value, patterns) or any(pattern.rstrip("*") in value for pattern in patterns)

    with patch.object(document_module, "matches", matches):
        yield


@mutant
def first_policy_decides_alone(_: World) -> Iterator[None]:
    original: Any = document_module.PolicySet.governing

    def governing(self: Any, target: Any) -> Any:
        found = original(self, target)
        return replace(found, policies=found.policies[:1])

    with patch.object(document_module.PolicySet, "governing", governing):
        yield


@mutant
def stages_are_not_governed(_: World) -> Iterator[None]:
    original = Gate._free

    def free(self: Gate, move: Any, policy_set: Any) -> Any:
        if move.target.kind is TargetKind.STAGE:
            return gate_module._ungoverned("stages are deprecated")
        return original(self, move, policy_set)

    with patch.object(Gate, "_free", free):
        yield


@mutant
def last_good_policies_stay_in_force(_: World) -> Iterator[None]:
    original, good = PolicySource.current, []

    def current(self: PolicySource) -> Any:
        try:
            good.append(original(self))
        except PolicyError:
            if not good:
                raise
        return good[-1]

    with patch.object(PolicySource, "current", current):
        yield


@mutant
def clock_set_back_is_believed(_: World) -> Iterator[None]:
    with patch.object(Gate, "_clock_fault", _nothing):
        yield


@mutant
def denial_makes_a_clock_set_back_good(_: World) -> Iterator[None]:
    from datetime import datetime

    def latest(self: Ledger) -> datetime | None:
        with self.connection() as connection:
            at = connection.execute(select(AUDIT.c.at).order_by(AUDIT.c.seq.desc()).limit(1)).scalar()
        return None if at is None else datetime.fromisoformat(str(at))

    with patch.object(Ledger, "latest_moment", latest):
        yield


# -- rollback and recording --------------------------------------------------------------------------------------------


def _before(*, target: bool, allowed: bool) -> AbstractContextManager[Any]:
    def before(self: Ledger, wanted: Any, form_digest: str) -> str | None:
        query = select(DECISION.c.id).where(DECISION.c.form_digest == form_digest)
        if target:
            query = query.where(DECISION.c.target_key == target_key(wanted))
        if allowed:
            query = query.where(DECISION.c.allowed.is_(True))
        with self.connection() as connection:
            return connection.execute(query.limit(1)).scalar()

    return patch.object(Ledger, "allowed_before", before)


@mutant
def denied_decision_is_ground_for_a_rollback(_: World) -> Iterator[None]:
    with _before(target=True, allowed=False):
        yield


@mutant
def rollback_forgets_the_target(_: World) -> Iterator[None]:
    with _before(target=False, allowed=True):
        yield


@mutant
def rollback_overrides_tampering(_: World) -> Iterator[None]:
    with patch.object(gate_module, "INTEGRITY_CODES", frozenset()):
        yield


@mutant
def one_allowed_move_is_enough(_: World) -> Iterator[None]:
    with patch.object(Review, "allowed", property(lambda self: any(d.decision.allowed for d in self.decisions))):
        yield


@mutant
def allowed_half_of_a_denied_call_is_recorded(_: World) -> Iterator[None]:
    original = Gate.record_denied

    def record(self: Gate, review: Review) -> Any:
        with self.ledger.transaction() as connection:
            for stored in review.decisions:
                if stored.decision.allowed:
                    self.ledger.record_decision(connection, stored)
        return original(self, review)

    with patch.object(Gate, "record_denied", record):
        yield


@mutant
def decision_is_recorded_before_the_pointer(_: World) -> Iterator[None]:
    original = Gate.review

    @functools.wraps(original)
    def review(self: Gate, request: Any) -> Review:
        reviewed = original(self, request)
        if reviewed.allowed:
            with self.ledger.transaction() as connection:
                for stored in reviewed.decisions:
                    self.ledger.record_decision(connection, stored)
        return reviewed

    with ExitStack() as stack:
        stack.enter_context(patch.object(Gate, "review", review))
        stack.enter_context(patch.object(Gate, "record_allowed", lambda *_: ()))
        yield


@mutant
def pointer_is_written_without_a_record(_: World) -> Iterator[None]:
    with patch.object(Gate, "record_allowed", lambda *_: ()):
        yield
