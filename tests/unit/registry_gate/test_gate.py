"""`Gate.review` over a real ledger, the shipped policies and signed evidence."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_builders import (
    ANA,
    NOW,
    Clock,
    Forms,
    alias,
    file_evidence,
    make_assessment,
    make_envelope,
    make_form,
    make_installed_gate,
    make_version,
    promote,
)
from sqlalchemy import text, update

from registry_gate.assessment import NotMeasured, ValidityCheck
from registry_gate.decision import Decision, Verdict
from registry_gate.errors import FormError, LedgerError, RegistryError
from registry_gate.evidence.keys import generate_key, load_signer
from registry_gate.form import FormManifest
from registry_gate.gate import Denial, Review, is_rollback, unavailable
from registry_gate.ledger import RequestState
from registry_gate.ledger.tables import EVIDENCE
from registry_gate.promotion import ModelVersionRef, Target, TargetKind


class House:
    """A gate with everything around it within reach."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gate, self.form, self.sign = make_installed_gate(directory)
        assert isinstance(self.gate.forms, Forms)
        assert isinstance(self.gate.ledger.clock, Clock)
        self.forms, self.clock, self.ledger = self.gate.forms, self.gate.ledger.clock, self.gate.ledger

    def review(self, *moves: tuple[Target, ModelVersionRef]) -> Review:
        return self.gate.review(promote(*moves))

    def decide(self, *moves: tuple[Target, ModelVersionRef]) -> Decision:
        (stored,) = self.review(*moves).decisions
        return stored.decision

    def allow(self) -> str:
        """Record an allowed promotion of `chat@champion` as the registry would."""
        review = self.review()
        assert review.allowed, review.decisions
        with self.ledger.transaction() as connection:
            (decision,) = self.gate.record_allowed(connection, review, {})
        return decision

    def deny(self, *moves: tuple[Target, ModelVersionRef]) -> Denial:
        review = self.review(*moves)
        assert not review.allowed
        return self.gate.record_denied(review)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "gate")


def codes(decision: Decision) -> list[str]:
    return [reason.code for reason in decision.reasons if reason.blocking]


# -- allowed ----------------------------------------------------------------------------------------------------------


def test_good_evidence_of_exactly_this_form_allows(house: House) -> None:
    digest = house.sign()
    decision = house.decide()
    assert (decision.allowed, decision.verdict) == (True, Verdict.PASS)
    assert (decision.form_digest, decision.evidence) == (house.form.digest, (digest,))
    assert [name for name, _ in decision.policies] == ["general"]


def test_reviewing_writes_nothing(house: House) -> None:
    house.review()
    house.sign()
    house.review()
    assert house.ledger.decisions() == []
    assert house.ledger.requests() == []


def test_an_allowed_decision_is_recorded_with_who_asked(house: House) -> None:
    house.sign()
    decision = house.allow()
    (found,) = house.ledger.decisions()
    assert (found["id"], found["decision"], found["actor"]["name"]) == (decision, "allowed", ANA.name)
    assert found["policy_set"] == house.gate.policies.current().digest


# -- denied, for each reason ------------------------------------------------------------------------------------------


def test_without_evidence_nothing_is_known(house: House) -> None:
    decision = house.decide()
    assert codes(decision) == ["evidence_missing"]
    assert (
        decision.reasons[0].message
        == (f"no evidence: this form ({house.form.digest[:19]}) was never assessed with battery general@1")
        or "was never assessed with battery general@1" in decision.reasons[0].message
    )


def _sign(**changes: Any) -> Callable[[House], object]:
    return lambda house: house.sign(**changes)


def _with_form(**changes: Any) -> Callable[[House], object]:
    def arrange(house: House) -> None:
        form = make_form(**changes)
        house.forms.default = form
        house.sign(form=form)

    return arrange


def _other_battery_digest(house: House) -> None:
    house.sign(battery_digest="sha256:" + "0" * 64)


def _unknown_signer(house: House) -> None:
    generate_key(house.directory / "mallory.key", house.directory / "mallory.pub")
    mallory = load_signer(house.directory / "mallory.key")
    assessment = make_assessment(house.gate.policies.current(), house.form)
    file_evidence(house.ledger, make_envelope(assessment, house.form, mallory), house.form)


def _edited(house: House) -> None:
    """A number in stored evidence is edited by hand, and the digest with it."""
    house.sign(events=40)
    (stored,) = house.ledger.evidence_for(house.form.digest, "default")
    envelope = json.loads(stored.envelope)
    payload = base64.b64decode(envelope["payload"]).replace(b'"events":40', b'"events":3')
    envelope["payload"] = base64.b64encode(payload).decode()
    with house.ledger.transaction() as connection:
        connection.execute(update(EVIDENCE).values(envelope=json.dumps(envelope)))


def _filed_under_another_digest(house: House) -> None:
    house.sign()
    with house.ledger.transaction() as connection:
        connection.execute(update(EVIDENCE).values(digest="sha256:" + "0" * 64))


def _evidence_of_the_base(house: House) -> None:
    """The base's good evidence is filed under the adaptation's digest."""
    base = FormManifest(files=make_form("b").files, base=None, formats=("safetensors",), flavor="transformers")
    house.forms.default = replace(house.form, base=replace(house.form.base, digest=base.digest))  # type: ignore[type-var]
    policy_set = house.gate.policies.current()
    signer = load_signer(house.directory / "keys" / "worker.key")
    envelope = make_envelope(make_assessment(policy_set, base), base, signer)
    file_evidence(house.ledger, envelope, house.forms.default)  # type: ignore[arg-type]


def _unreadable(house: House) -> None:
    house.forms.default = FormError("/a: expected a model, got none", code="artifact_missing")


DENIALS: dict[str, tuple[Callable[[House], object], list[str], Verdict, str]] = {
    "too much harm": (
        _sign(events=40),
        ["ceiling_exceeded", "worse_than_base"] * 2,
        Verdict.FAIL,
        "Refuses clearly harmful",
    ),
    "not provable": (
        _sign(events=13),
        ["ceiling_inconclusive", "margin_inconclusive"] * 2,
        Verdict.INCONCLUSIVE,
        "13 of 120",
    ),
    "not measured": (
        _sign(measurements=(NotMeasured(measure="general.harmful_compliance", cause="out of memory"),)),
        ["measure_missing", "not_measured"],
        Verdict.INVALID,
        "out of memory",
    ),
    "a broken measurement": (
        _sign(validity=(ValidityCheck(check="coherence", passed=False, detail="220 of 240 empty"),)),
        ["validity_failed"],
        Verdict.INVALID,
        "220 of 240 empty",
    ),
    "no validity check": (_sign(validity=()), ["no_validity_checks"], Verdict.INVALID, "lists no validity check"),
    "too old": (_sign(at=NOW - timedelta(days=181)), ["evidence_expired"], Verdict.STALE, "less than 180d"),
    "from the future": (_sign(at=NOW + timedelta(hours=1)), ["clock"], Verdict.INVALID, "in the future"),
    "another battery": (_other_battery_digest, ["battery_changed"], Verdict.STALE, "has changed since"),
    "an unknown signer": (_unknown_signer, ["signature_invalid", "evidence_missing"], Verdict.INVALID, "not trusted"),
    "an edited number": (_edited, ["signature_invalid", "evidence_missing"], Verdict.INVALID, "changed after signing"),
    "another digest": (
        _filed_under_another_digest,
        ["signature_invalid", "evidence_missing"],
        Verdict.INVALID,
        "but its bytes are",
    ),
    "the base's": (
        _evidence_of_the_base,
        ["evidence_for_other_form", "evidence_missing"],
        Verdict.INVALID,
        "is of its base",
    ),
    "an unreadable form": (_unreadable, ["artifact_missing"], Verdict.INVALID, "expected a model, got none"),
    "pickle": (_with_form(formats=("pickle",)), ["format_not_allowed"], Verdict.INVALID, "got pickle"),
    "no weights": (_with_form(files=(), formats=()), ["weights_missing"], Verdict.INVALID, "with weights, got none"),
    "code": (_with_form(remote_code=("m.py",)), ["remote_code"], Verdict.INVALID, "got m.py"),
}


@pytest.mark.parametrize("what", DENIALS)
def test_every_lack_denies_with_its_own_reason(what: str, house: House) -> None:
    arrange, expected, verdict, sentence = DENIALS[what]
    arrange(house)
    decision = house.decide()
    assert sorted(codes(decision)) == sorted(expected), decision.reasons
    assert (decision.allowed, decision.verdict) == (False, verdict)
    assert any(sentence in reason.message for reason in decision.reasons), decision.reasons


def test_evidence_of_another_workspace_never_serves(house: House) -> None:
    house.sign(workspace="other")
    assert codes(house.decide()) == ["evidence_missing"]
    other = (alias(workspace="other"), make_version(workspace="other"))
    assert house.decide(other).allowed


def test_changed_bytes_are_another_form(house: House) -> None:
    house.sign()
    assert house.decide().allowed
    house.forms.default = make_form("c")
    assert codes(house.decide()) == ["evidence_missing"]


def test_a_domain_policy_asks_for_its_own_battery(house: House) -> None:
    house.sign()
    target = (alias(model="clinical-triage"), make_version(name="clinical-triage"))
    decision = house.decide(target)
    assert [name for name, _ in decision.policies] == ["medical"]
    assert decision.assessments_needed == ("medical@1",)


# -- ungoverned -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["candidate", "latest-2"])
def test_free_aliases_pass_without_reading_anything(name: str, house: House) -> None:
    _unreadable(house)
    decision = house.decide((alias(name), make_version()))
    assert (decision.allowed, decision.form_digest) == (True, None)
    assert [reason.code for reason in decision.reasons] == ["ungoverned"]
    assert f"chat@{name} is free by the policy set" in decision.reasons[0].message
    assert house.forms.reads == []


@pytest.mark.parametrize("name", ["Candidate", "candidate ", "сandidate", "latest"])
def test_look_alikes_of_free_aliases_are_governed(name: str, house: House) -> None:
    assert codes(house.decide((alias(name), make_version()))) == ["evidence_missing"]


@pytest.mark.parametrize(("unmatched", "allowed"), [("deny", False), ("allow", True)])
def test_what_no_policy_governs_is_as_the_policy_set_says(unmatched: str, allowed: bool, house: House) -> None:
    policies = house.directory / "policies"
    (policies / "general.yaml").unlink()
    file = policies / "policy-set.yaml"
    file.write_text(file.read_text().replace("unmatched: deny", f"unmatched: {unmatched}"))
    house.sign()
    decision = house.decide()
    assert decision.allowed is allowed
    assert [reason.code for reason in decision.reasons] == (["ungoverned"] if allowed else ["no_policy"])


# -- rollback ---------------------------------------------------------------------------------------------------------


def test_returning_to_a_form_that_was_allowed_there_always_works(house: House) -> None:
    house.sign()
    earlier = house.allow()
    house.clock.forward(days=400)
    decision = house.decide()
    assert (decision.allowed, decision.verdict) == (True, Verdict.PASS_WITH_NOTES)
    assert decision.reasons[0].code == "rollback"
    assert (
        decision.reasons[0].message == f"chat@champion returns to a form that decision {earlier} allowed there before"
    )
    assert [reason.code for reason in decision.reasons[1:]] == ["evidence_expired"]


@pytest.mark.parametrize(
    "target",
    [
        alias("production"),
        alias(model="other"),
        alias(workspace="other"),
        Target(kind=TargetKind.STAGE, model="chat", name="Production"),
    ],
    ids=str,
)
def test_what_was_allowed_on_one_target_is_no_rollback_on_another(target: Target, house: House) -> None:
    house.sign()
    house.allow()
    house.clock.forward(days=400)
    assert not house.decide((target, make_version(name=target.model, workspace=target.workspace))).allowed


def test_another_form_under_an_allowed_version_is_no_rollback(house: House) -> None:
    house.sign()
    house.allow()
    house.forms.default = make_form("c")
    decision = house.decide()
    assert (codes(decision), decision.verdict) == (["form_changed"], Verdict.STALE)
    assert decision.reasons[0].message.startswith("models:/chat/1 changed since it was assessed: ")
    assert "peft/adapter_model.safetensors" in decision.reasons[0].message


@pytest.mark.parametrize("arrange", [_edited, _filed_under_another_digest], ids=["edited", "filed elsewhere"])
def test_a_rollback_does_not_override_tampering(arrange: Callable[[House], object], house: House) -> None:
    house.sign(at=NOW - timedelta(days=1))
    house.allow()
    with house.ledger.transaction() as connection:
        connection.execute(text("DELETE FROM registry_gate_evidence"))
    arrange(house)
    assert "signature_invalid" in codes(house.decide())


def test_an_unreadable_form_is_no_rollback(house: House) -> None:
    house.sign()
    house.allow()
    _unreadable(house)
    assert codes(house.decide()) == ["artifact_missing"]


# -- the policy set ---------------------------------------------------------------------------------------------------


def break_policies(house: House) -> None:
    file = house.directory / "policies" / "general.yaml"
    file.write_text(file.read_text().replace("      atMost:", "      atmost:", 1))


def test_an_invalid_policy_set_denies_even_what_was_free_but_rollback_works(house: House) -> None:
    house.sign()
    house.allow()
    break_policies(house)
    assert house.decide().reasons[0].code == "rollback"
    for move in ((alias(), make_version(2)), (alias("candidate"), make_version())):
        house.forms.of[make_version(2)] = make_form("c")
        decision = house.decide(move)
        assert codes(decision) == ["policies_invalid"]
        assert "the policy set cannot be loaded: " in decision.reasons[0].message
        assert "general.yaml:" in decision.reasons[0].message
        assert "unknown key" in decision.reasons[0].message
    assert house.review().decisions[0].policy_set_digest is None


def test_an_invalid_policy_set_and_an_unreadable_form_are_both_said(house: House) -> None:
    break_policies(house)
    _unreadable(house)
    assert codes(house.decide()) == ["policies_invalid", "artifact_missing"]


def test_a_repaired_policy_set_is_in_force_at_once(house: House) -> None:
    house.sign()
    file = house.directory / "policies" / "general.yaml"
    original = file.read_text()
    break_policies(house)
    assert not house.decide().allowed
    file.write_text(original)
    assert house.decide().allowed
    file.write_text(original.replace("atMost: 0.15", "atMost: 0.06"))
    assert not house.decide().allowed


# -- several moves ----------------------------------------------------------------------------------------------------


def test_one_denied_move_denies_the_call(house: House) -> None:
    house.sign()
    house.forms.of[make_version(2)] = make_form("c")
    moves = [(alias("champion"), make_version()), (alias("challenger"), make_version(2))]
    review = house.review(*moves)
    assert [stored.decision.allowed for stored in review.decisions] == [True, False]
    assert (review.allowed, review.verdict) == (False, Verdict.INVALID)
    denial = house.gate.record_denied(review)
    assert "chat@champion" not in denial.message()
    assert len(denial.decision_ids) == 1  # the move that was fine did not happen either, so nothing is recorded of it
    assert [move["decision"] for move in denial.payload()["moves"]] == ["allowed", "denied"]


def test_a_version_is_read_once_however_many_targets_it_moves_to(house: House) -> None:
    house.sign()
    review = house.review(*((alias(f"a{n}"), make_version()) for n in range(5)))
    assert review.allowed
    assert house.forms.reads == [make_version()]


# -- what the caller is told ------------------------------------------------------------------------------------------


def test_a_denial_for_lack_of_evidence_queues_one_assessment_and_says_how_to_go_on(house: House) -> None:
    denial = house.deny()
    (request,) = house.ledger.requests()
    assert (request.state, request.battery, request.form_digest) == (
        RequestState.QUEUED,
        "general@1",
        house.form.digest,
    )
    lines = denial.message().splitlines()
    assert lines[0] == "registry-gate denied chat@champion -> version 1 (verdict: invalid)."
    assert lines[1].startswith("1. [general] no evidence: this form (")
    assert lines[2] == (
        f"Request {request.id}: queued for general@1. Follow it with: registry-gate status {request.id}"
    )
    assert lines[3] == 'Next: registry-gate promote models:/chat/1 --alias "champion" --wait'
    assert lines[4] == f"Decision {denial.decision_ids[0]}"
    assert len(lines) == 5


def test_asking_again_gives_the_same_decision_and_request(house: House) -> None:
    first = house.deny()
    house.clock.forward(minutes=5)
    again = house.deny()
    assert again.message() == first.message()
    assert len(house.ledger.requests()) == len(house.ledger.decisions()) == 1


def test_the_payload_is_stable(house: House) -> None:
    denial = house.deny()
    payload = json.loads(json.dumps(denial.payload()))
    (reason,) = payload.pop("reasons")
    (request,) = payload.pop("requests")
    assert payload == {
        "decision": "denied",
        "verdict": "invalid",
        "operation": "set_registered_model_alias",
        "decision_ids": list(denial.decision_ids),
        "moves": [
            {
                "target": {"kind": "alias", "model": "chat", "name": "champion"},
                "version": {"name": "chat", "version": 1},
                "form": house.form.digest,
                "decision": "denied",
                "verdict": "invalid",
            }
        ],
        "commands": ['registry-gate promote models:/chat/1 --alias "champion" --wait'],
    }
    assert {"code", "message", "verdict", "blocking", "policy", "fix"} == set(reason)
    assert set(request) == {"id", "battery", "form", "state"}


def test_a_broken_rule_is_told_with_numbers_and_controls(house: House) -> None:
    house.sign(events=40)
    denial = house.deny()
    message = denial.message()
    assert "registry-gate denied chat@champion -> version 1 (verdict: fail)." in message
    for part in ("[general] GEN-1", "40 of 120", "15 %", "controls: nist-ai-600-1:MS-2.7-008"):
        assert part in message
    assert house.ledger.requests() == []  # it was measured: measuring again would not help
    assert denial.commands() == []


@pytest.mark.parametrize("state", [RequestState.RUNNING, RequestState.FAILED])
def test_the_message_says_where_the_assessment_stands(state: RequestState, house: House) -> None:
    house.deny()
    request = house.ledger.claim("worker-7", timedelta(minutes=1))
    assert request is not None
    if state is RequestState.RUNNING:
        house.ledger.report_progress(request.id, "worker-7", timedelta(minutes=1), "answers: 60 of 240")
        expected = "being assessed with general@1 by worker-7 (answers: 60 of 240)"
        command = 'registry-gate promote models:/chat/1 --alias "champion" --wait'
    else:
        house.ledger.fail(request.id, "worker-7", "no_weights", "expected weights, got none")
        expected = "the assessment with general@1 failed: expected weights, got none"
        command = "registry-gate assess models:/chat/1 --again"
    denial = house.deny()
    assert expected in denial.message()
    assert denial.commands() == [command]


def test_a_ledger_that_cannot_be_read_decides_nothing(house: House) -> None:
    house.sign()
    with house.ledger.transaction() as connection:
        connection.execute(text("DROP TABLE registry_gate_evidence"))
    with pytest.raises(LedgerError) as caught:
        house.review()
    message, payload = unavailable(promote(), caught.value)
    assert message.startswith("registry-gate denied chat@champion: nothing could be decided. expected the ledger's")
    assert (payload["decision"], payload["reasons"][0]["code"]) == ("denied", "ledger_unavailable")
    assert payload["commands"] == ["registry-gate doctor"]


def test_a_decision_recorded_for_a_call_that_was_denied_is_no_ground_for_a_rollback(house: House) -> None:
    """Of a denied call nothing was promoted, so nothing was `allowed there before`."""
    house.sign()
    house.forms.of[make_version(2)] = make_form("c")
    house.deny((alias("champion"), make_version()), (alias("challenger"), make_version(2)))
    house.clock.forward(days=400)
    assert not house.decide().allowed


# -- between the review and the write ---------------------------------------------------------------------------------


def write(house: House, review: Review) -> None:
    with house.ledger.transaction() as connection:
        house.gate.record_allowed(connection, review, {})


OVERTAKEN: dict[str, tuple[Callable[[House], object], str]] = {
    "form_changed": (
        lambda h: h.forms.changed.add(make_version()),
        "expected the files of models:/chat/1 as they were",
    ),
    "policies_changed": (
        lambda h: (h.directory / "policies" / "notes.yaml").write_text(
            (h.directory / "policies" / "general.yaml").read_text().replace("name: general", "name: second")
        ),
        "expected the policies that the decision rests on, got others",
    ),
    "clock_backwards": (lambda h: h.clock.forward(days=-1), "expected a clock that only goes forward, got one"),
    "decision_expired": (
        lambda h: h.clock.forward(days=365),
        "expected evidence, waivers and break-glass that still count, got some",
    ),
}


@pytest.mark.parametrize("what", OVERTAKEN)
def test_what_changed_since_the_review_is_not_written(what: str, house: House) -> None:
    house.sign()
    review = house.review()
    assert review.allowed
    meanwhile, message = OVERTAKEN[what]
    meanwhile(house)
    with pytest.raises(RegistryError, match=message) as caught:
        write(house, review)
    assert caught.value.code == what
    assert house.ledger.decisions() == []


def test_a_rollback_is_written_whatever_the_policies_have_become(house: House) -> None:
    house.sign()
    house.allow()
    house.clock.forward(days=365)
    review = house.review()
    assert is_rollback(review.decisions[0].decision)
    (house.directory / "policies" / "general.yaml").unlink()
    write(house, review)
    assert len(house.ledger.decisions()) == 2


# -- a clock that cannot be believed, and a form that takes long ------------------------------------------------------


def test_a_clock_behind_the_ledger_denies_and_rollback_works(house: House) -> None:
    house.sign()
    house.allow()
    house.clock.forward(minutes=-4)
    assert house.decide().allowed  # two servers are never quite of one mind
    house.clock.forward(minutes=-2)
    decision = house.decide((alias("live"), make_version()))
    assert codes(decision) == ["clock_backwards"]
    assert decision.reasons[0].message == (
        "expected a clock that only goes forward, got 2026-11-23 11:54:00 UTC after an entry of 2026-11-23 12:00:00 "
        "UTC: set this server's clock, or the one that was ahead"
    )
    assert is_rollback(house.decide())


def test_a_form_that_takes_long_is_a_denial_that_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.sign()
    monkeypatch.setattr(house.gate, "limit_s", 0.05)
    read, go = house.forms.read, threading.Event()

    def slowly(version: ModelVersionRef) -> FormManifest:
        assert go.wait(30)
        return read(version)

    monkeypatch.setattr(house.forms, "read", slowly)
    decision = house.decide()
    assert codes(decision) == ["form_pending"]
    assert decision.reasons[0].message == (
        "expected to read the files of models:/chat/1 within 0.05 s, got no end yet: they are being hashed in the "
        "background, so ask again in a moment"
    )
    assert decision.assessments_needed == ()
    go.set()
    monkeypatch.setattr(house.gate, "limit_s", 30.0)
    assert house.decide().allowed
