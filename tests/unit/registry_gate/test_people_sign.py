"""Approvals and break-glass from the ledger to the decision, and every grant the same at every place that decides."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_builders import ANA, GRADERS, NOW, alias, make_form, make_version, promote
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
)
from sqlalchemy import insert
from test_waivers import Place

from registry_gate.assessment import GraderRecord
from registry_gate.calibrations import calibrations_of
from registry_gate.cli import main
from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.decision import Approval, BreakGlass, Decision, Verdict
from registry_gate.errors import FormError, RegistryError
from registry_gate.evidence.calibrations import sign_calibration
from registry_gate.evidence.grants import Revocation, sign_approval, sign_break_glass, sign_revocation
from registry_gate.evidence.keys import generate_key, load_decision_signer
from registry_gate.gate import Review
from registry_gate.grants import open_now, record_ends
from registry_gate.ledger import StoredGrant
from registry_gate.ledger.store import ANY
from registry_gate.past import past_decisions
from registry_gate.policy.document import load_policy_set
from registry_gate.policy.replay import Outcome, replay
from registry_gate.policy.source import PolicySource
from registry_gate.promotion import Actor
from registry_gate.reconcile import Reconciler
from registry_gate.standing import Overrides
from registry_gate.statistics.admission import Calibration, SourceCounts
from registry_gate.statistics.agreement import Confusion

LATER = NOW + timedelta(hours=2)
OPENERS = "\n  breakGlass: {longest: 4h, roles: [{name: commander, people: [kim]}]}\n"
APPROVALS = "  approvals: {count: 2, from: [dana, kim, ana]}\n  allowNotes: true\n"


class People(Place):
    """Beside waivers, kim may open break-glass, and the general policy may ask for two approvals."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.edit("policy-set.yaml", "  people:", OPENERS + "  people:")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.directory / "policies" / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def ask_for_approvals(self) -> None:
        """With evidence that passes: what is missing are people."""
        self.edit(
            "policy-set.yaml", "    - {name: dana,", "    - {name: ana, publicKey: people/ana.pem}\n    - {name: dana,"
        )
        shutil.copy(self.directory / "keys" / "gate.pem", self.directory / "policies" / "people" / "ana.pem")
        self.edit("general.yaml", "  allowNotes: true\n", APPROVALS)
        self.gate._clock.forward(seconds=1)  # type: ignore[attr-defined]

    def decided(self, review: Review | None = None) -> Decision:
        (stored,) = (review or self.review()).decisions
        return stored.decision

    def codes(self, review: Review | None = None) -> dict[str, str]:
        return {reason.code: reason.message for reason in self.decided(review).reasons}

    def approve(self, person: str = "dana", signer: str | None = None, **changes: Any) -> Approval:
        policy = load_policy_set(self.directory / "policies", (PACKAGE_BATTERIES,)).policies["general"]
        values: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "form_digest": self.form.digest,
            "policy": "general",
            "policy_digest": policy.digest,
            "approver": person,
            "requester": "alex",
            "reason": "report read",
            "approved_at": self.gate._clock(),
        }
        one = Approval(**{**values, **changes})
        envelope = sign_approval(one, "default", load_decision_signer(self.directory / f"{signer or person}.key"))
        self.store("approval", one.id, one.form_digest, one.policy, envelope)
        return one

    def open(self, signer: str = "kim", **changes: Any) -> BreakGlass:
        now = self.gate._clock()
        values: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "person": "kim",
            "role": "commander",
            "reason": "nothing answers",
            "ticket": "INC-7",
            "workspace": "default",
            "models": ("ch*",),
            "opened_at": now,
            "expires_at": now + timedelta(hours=2),
        }
        one = BreakGlass(**{**values, **changes})
        envelope = sign_break_glass(one, load_decision_signer(self.directory / f"{signer}.key"))
        self.store("opening", one.id, ANY, ANY, envelope)
        return one

    def take_back(self, one: Approval | BreakGlass, kind: str = "revocation") -> None:
        said = Revocation(revokes=one.id, person="dana", reason="over", revoked_at=self.gate._clock())
        envelope = sign_revocation(said, None, load_decision_signer(self.directory / "dana.key"))
        policy, form = ("general", self.form.digest) if isinstance(one, Approval) else (ANY, ANY)
        self.store(kind, str(uuid.uuid4()), form, policy, envelope, revokes=one.id)

    def store(self, kind: str, grant_id: str, form: str, policy: str, envelope: bytes, **row: Any) -> None:
        values = {"id": grant_id, "kind": kind, "workspace": "default", "form_digest": form, "policy": policy}
        self.gate.ledger.store_grant(StoredGrant(**{**values, "envelope": envelope, **row}))

    def promote(self, review: Review | None = None) -> tuple[str, ...]:
        """Let it happen, as the hook does."""
        review = review or self.review()
        with self.gate.ledger.transaction() as connection:
            return self.gate.record_allowed(connection, review, {})

    def at(self, moment: datetime) -> None:
        self.gate._clock.now = moment  # type: ignore[attr-defined]


class _Good(People):
    """The same with evidence that passes."""

    EVENTS = 3


@pytest.fixture
def people(tmp_path: Path) -> People:
    found = People(tmp_path)
    assert not found.review().allowed
    return found


# -- approvals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(tmp_path: Path) -> People:
    """Evidence passes, and the policy asks for two people."""
    found = _Good(tmp_path)
    assert found.review().allowed
    found.ask_for_approvals()
    return found


def test_two_people_let_through_what_one_does_not(asking: People) -> None:
    assert "got nobody" in asking.codes()["approvals_missing"]
    assert asking.decided().verdict is Verdict.INCONCLUSIVE
    first = asking.approve("dana")
    assert "got dana" in asking.codes()["approvals_missing"]
    second = asking.approve("kim")
    decision = asking.decided()
    assert decision.allowed and decision.verdict is Verdict.PASS
    assert decision.approvals == tuple(sorted((first.id, second.id)))
    assert "approved by dana, kim" in asking.codes()["approved"]


def test_one_person_twice_is_one(asking: People) -> None:
    asking.approve("dana")
    asking.approve("dana")
    assert not asking.decided().allowed


def test_approvals_let_nothing_through_that_evidence_does_not(people: People) -> None:
    people.ask_for_approvals()
    people.approve("dana")
    people.approve("kim")
    assert not people.decided().allowed and "approvals_missing" not in people.codes()


Void = Callable[[People], Any]


@pytest.mark.parametrize(
    ("void", "said"),
    [
        (lambda p: p.approve("kim", form_digest="sha256:" + "1" * 64), ""),
        (lambda p: p.approve("kim", policy_digest="sha256:" + "1" * 64), "has changed since it was given"),
        (lambda p: p.approve("kim", signer="dana"), "expected the signature of kim"),
        (lambda p: p.approve("kim", requester="Kim "), "approved what they asked for themselves"),
        (lambda p: p.approve("kim", approved_at=NOW + timedelta(hours=1)), "is in the future"),
        (lambda p: p.approve("kim", policy="medical"), ""),
        (lambda p: p.take_back(p.approve("kim")), "it was revoked: by dana"),
        (lambda p: (p.edit("general.yaml", "kim, ana]", "ana]"), p.approve("kim")), "kim is not among"),
    ],
)  # fmt: skip
def test_what_does_not_count_says_why(void: Void, said: str, asking: People) -> None:
    asking.approve("dana")
    void(asking)
    assert not asking.decided().allowed
    told = " ".join(r.message for r in asking.decided().reasons if r.code == "approval_not_counted")
    assert said in told


def test_a_changed_policy_or_byte_voids_approvals_and_a_comment_does_not(asking: People) -> None:
    for name in ("dana", "kim"):
        asking.approve(name)
    asking.edit("general.yaml", APPROVALS, "  # people first\n" + APPROVALS)
    assert asking.decided().allowed
    asking.edit("general.yaml", "maxAge: 180d", "maxAge: 170d")
    assert "got nobody" in asking.codes()["approvals_missing"]


def test_whoever_asks_the_registry_does_not_count(asking: People) -> None:
    asking.approve("dana")
    asking.approve("kim")
    assert (
        asking.decided(asking.gate.review(replace(promote(), actor=Actor(name="KIM", kind="basic-auth")))).allowed
        is False
    )
    assert asking.decided(asking.gate.review(promote())).allowed


def test_an_approval_taken_back_during_the_promotion_stops_it(asking: People) -> None:
    asking.approve("dana")
    one = asking.approve("kim")
    review = asking.review()
    asking.take_back(one)
    with pytest.raises(RegistryError) as caught:
        asking.promote(review)
    assert caught.value.code == "grant_revoked"


# -- break-glass -------------------------------------------------------------------------------------------------------


def test_break_glass_lets_through_what_policies_deny_and_says_everything(people: People) -> None:
    before = people.decided()
    opened = people.open()
    review = people.review()
    decision = people.decided(review)
    assert decision.allowed and decision.verdict is Verdict.WAIVED and decision.break_glass == opened.id
    assert decision.valid_until == opened.expires_at
    head = decision.reasons[0]
    assert head.code == "break_glass" and "INC-7" in head.message and "denied (fail)" in head.message
    # What the policies found stands, with its own verdicts.
    assert {(r.code, r.rule, r.verdict) for r in before.reasons} <= {
        (r.code, r.rule, r.verdict) for r in decision.reasons
    }
    assert review.decisions[0].body()["break_glass"] == opened.id
    assert review.decisions[0].envelope is not None


def test_it_overrides_missing_evidence_too(people: People) -> None:
    people.gate.forms.default = make_form("e")  # type: ignore[attr-defined]
    assert "evidence_missing" in people.codes()
    people.open()
    assert people.decided().allowed and "evidence_missing" in people.codes()


def test_a_decision_that_needs_it_not_says_that_it_is_open(tmp_path: Path) -> None:
    good = _Good(tmp_path)
    good.open()
    decision = good.decided()
    assert decision.allowed and decision.verdict is Verdict.PASS and decision.break_glass is None
    assert "not needed here" in good.codes()["break_glass_open"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signer": "dana", "person": "dana"}, "dana may not open it as commander (who may: commander: kim)"),
        ({"role": "chief"}, "kim may not open it as chief"),
        ({"expires_at": NOW + timedelta(hours=4, seconds=1)}, "the policy set allows 4h"),
        ({"opened_at": NOW + timedelta(hours=1)}, "is in the future"),
        ({"signer": "dana"}, None),
        ({"models": ("Ch*",)}, None),
        ({"workspace": "other"}, None),
    ],
)
def test_an_opening_that_does_not_count_lets_nothing_through(
    changes: dict[str, Any], said: str | None, people: People
) -> None:
    people.open(**changes)
    assert not people.decided().allowed
    assert said is None or said in people.codes()["break_glass_not_counted"]


def test_without_the_policy_sets_word_nobody_opens_anything(people: People) -> None:
    people.open()
    people.edit("policy-set.yaml", OPENERS, "\n")
    assert not people.decided().allowed


def test_never_what_cannot_be_read_or_signed(people: People) -> None:
    people.open()
    people.gate.forms.default = FormError("expected a form, got none", code="form_invalid")  # type: ignore[attr-defined]
    assert not people.decided().allowed and "nobody can say what these bytes are" in people.codes()["break_glass_open"]
    people.gate.forms.default = people.form  # type: ignore[attr-defined]
    (people.directory / "keys" / "gate.key").unlink()
    decision = people.decided()
    assert not decision.allowed and decision.break_glass is None
    people.edit("general.yaml", "kind: PromotionPolicy", "kind: Nothing")
    assert "policies_invalid" in people.codes()


def test_what_it_let_through_is_never_grounds_for_a_rollback(people: People) -> None:
    opened = people.open()
    people.promote()
    people.at(opened.expires_at)
    assert not people.decided().allowed and "rollback" not in people.codes()


def test_what_was_allowed_before_returns_without_an_emergency(tmp_path: Path) -> None:
    good = _Good(tmp_path)
    good.promote()
    good.at(NOW + timedelta(days=200))  # the evidence is too old by now
    good.open(opened_at=good.gate._clock(), expires_at=good.gate._clock() + timedelta(hours=1))
    decision = good.decided()
    assert decision.allowed and "rollback" in good.codes() and decision.break_glass is None


def test_closing_during_the_promotion_stops_it(people: People) -> None:
    opened = people.open()
    review = people.review()
    people.take_back(opened, "closing")
    with pytest.raises(RegistryError) as caught:
        people.promote(review)
    assert caught.value.code == "grant_revoked"
    assert not people.decided().allowed


def test_opening_use_closing_and_end_are_in_the_chain_and_what_remains_is_known(people: People) -> None:
    ledger, policies = people.gate.ledger, people.gate.policies.current()
    first = people.open()
    (used,) = people.promote()
    assert [one.id for one in open_now(ledger, policies, people.gate._clock())] == [first.id]
    people.take_back(first, "closing")
    second = people.open()
    assert record_ends(ledger, policies, second.expires_at - timedelta(seconds=1)) == []
    assert [one.id for one in record_ends(ledger, policies, second.expires_at)] == [second.id]
    assert record_ends(ledger, policies, second.expires_at) == []
    events: list[str] = []
    uses = Overrides()
    ledger.verify_chain(lambda entry: (events.append(entry.event), uses.visit(entry)))
    told = [event for event in events if event.startswith(("break_glass", "decision"))]
    assert told == ["break_glass_opened", "decision", "break_glass_closed", "break_glass_opened", "break_glass_ended"]
    (use,) = uses.found()
    assert (use.decision_id, use.break_glass, use.actor, use.remains) == (used, first.id, ANA.name, True)
    with ledger.transaction() as connection:
        body = {"operation": "delete_registered_model_alias", "model": "chat", "alias": "champion"}
        ledger.record_event(connection, "demotion", {**body, "workspace": "default", "actor": ANA.to_dict()})
    uses = Overrides()
    ledger.visit_audit(uses.visit)
    assert [one.remains for one in uses.found()] == [False]


# -- the same at every place, on both sides of every end ---------------------------------------------------------------


@dataclass
class Ends:
    """Something that a decision rests on, and when it stops to count."""

    people: People
    moment: datetime
    files: tuple[str, ...] = ()


def _waiver(people: People) -> Ends:
    one = people.waiver(expires_at=LATER)
    people.file(one)
    return Ends(people, LATER, ("--waiver", one.id))


def _opening(people: People) -> Ends:
    one = people.open(expires_at=LATER)
    return Ends(people, LATER, ("--break-glass", one.id))


def _evidence(people: People) -> Ends:
    return Ends(people, NOW - timedelta(days=3) + timedelta(days=180))


def _staged(people: People) -> Ends:
    people.edit("general.yaml", "  enforcement: deny\n", f"  enforcement: deny\n  effectiveFrom: {LATER.isoformat()}\n")
    return Ends(people, LATER)


class _Admitting(_Good):
    """With a policy that counts calibrated graders only, and calibrations of both that vote."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        admission = "  graderAdmission: {maxAge: 10d, signedBy: [worker]}\n  allowNotes: true\n"
        self.edit("general.yaml", "  allowNotes: true\n", admission)
        (directory / "policies" / "calibrations").mkdir()
        for grader in GRADERS[:2]:
            self.calibrate(grader)

    def calibrate(self, grader: GraderRecord, key: str = "keys/worker.key", **changes: Any) -> Path:
        table = Confusion(true_positive=190, false_positive=6, false_negative=10, true_negative=194)
        values: dict[str, Any] = {
            "grader": grader.digest,
            "name": grader.name,
            "version": grader.version,
            "axis": grader.axis,
            "runtime": grader.runtime,
            "data": "answers.csv",
            "data_sha256": "0" * 64,
            "sources": {"a": SourceCounts(table=table, not_graded=0, kappa_lower=0.9)},
            "calibrated_at": NOW - timedelta(days=1),
        }
        envelope = sign_calibration(Calibration(**{**values, **changes}), load_decision_signer(self.directory / key))
        path = self.directory / "policies" / "calibrations" / f"{grader.name}.dsse.json"
        path.write_bytes(envelope)
        self.gate._clock.forward(seconds=1)  # type: ignore[attr-defined]
        return path


def _calibration(people: People) -> Ends:
    return Ends(people, NOW - timedelta(days=1) + timedelta(days=10))


TABLE: dict[str, tuple[type[People], Callable[[People], Ends]]] = {
    "a waiver": (People, _waiver),
    "break-glass": (People, _opening),
    "evidence": (_Good, _evidence),
    "a rule that warns until a date": (People, _staged),
    "a calibration": (_Admitting, _calibration),
}


@pytest.fixture(params=list(TABLE))
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Ends:
    kind, make = TABLE[request.param]
    return make(kind(tmp_path))


def test_every_place_says_the_same_on_both_sides_of_every_end(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    people, before, after = ends.people, ends.moment - timedelta(seconds=1), ends.moment
    directory, ledger = people.directory, people.gate.ledger

    # (1) The hook; the promotion happens before the end.
    people.at(before)
    assert people.review().allowed
    people.promote()
    people.at(after)
    assert not people.gate.review(promote((alias("other"), make_version()))).allowed

    # (2) The command line, from files.
    (evidence,) = ledger.evidence_for(people.form.digest, "default")
    (directory / "e.dsse.json").write_bytes(evidence.envelope)
    files = []
    if ends.files:
        option, grant_id = ends.files
        (row,) = [grant for grant in ledger.grants() if grant.id == grant_id]
        (directory / "g.dsse.json").write_bytes(row.envelope)
        files = [option, "g.dsse.json"]
    monkeypatch.chdir(directory)
    for moment, code in ((before, 0), (after, 3)):
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "decide",
                    "--evidence",
                    "e.dsse.json",
                    "--target",
                    "chat@champion",
                    *files,
                    "--now",
                    moment.isoformat(),
                ]
            )
        assert (ended.value.code == 0) == (code == 0), capsys.readouterr().out
    capsys.readouterr()

    # (3) Replay: the decision of then is the same today.
    policies = people.gate.policies.current()
    (replayed,) = replay(past_decisions(ledger, policies, limit=10), policies, policies, calibrations_of).results
    assert replayed.outcome is Outcome.SAME
    (past,) = past_decisions(ledger, policies, limit=10)
    (late,) = replay([replace(past, decided_at=after)], None, policies, calibrations_of).results
    assert late.outcome is Outcome.DENIED

    # (4) Reconcile, and (5) what `verify` says of the signed decision: `standing.judge`, for both.
    write_pointer(people)
    keys = people.gate.key.public_keys()
    reconciler = Reconciler(
        ledger=ledger,
        policies=PolicySource(directory / "policies", (PACKAGE_BATTERIES,)),
        forms=people.gate.forms,
        keys=lambda: keys,
        clock=people.gate._clock,
    )
    for moment, found in ((before, []), (after, ["expired"])):
        people.at(moment)
        (standing,) = reconciler.run().standings
        assert [finding.code for finding in standing.findings if finding.code != "denied_today"] == found
        assert (standing.signed is not None and standing.signed.valid_until == ends.moment) or not found


Damage = Callable[["_Admitting"], Any]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.calibrate(GRADERS[0], key="dana.key"), "harm-minilm.dsse.json does not verify"),
        (lambda p: p.calibrate(replace(GRADERS[0], digest="sha256:" + "9" * 64)), "is of another version of it"),
        (lambda p: p.calibrate(GRADERS[0], runtime="onnxruntime"), "expected it to be run by python, got onnxruntime"),
        (lambda p: p.calibrate(GRADERS[0]).unlink(), "expected a calibration of grader harm-minilm"),
        (lambda p: p.calibrate(GRADERS[0]).write_text("{}"), "harm-minilm.dsse.json does not verify"),
    ],
)  # fmt: skip
def test_a_calibration_that_does_not_count_stops_the_promotion(damage: Damage, said: str, tmp_path: Path) -> None:
    people = _Admitting(tmp_path)
    assert people.review().allowed
    assert "grader refusal-minilm" in people.codes()["grader_admitted"]
    damage(people)
    assert not people.review().allowed
    assert said in people.codes()["grader_not_calibrated"]


def test_lint_names_calibrations_that_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    people = _Admitting(tmp_path)
    monkeypatch.chdir(tmp_path)

    def linted() -> str:
        with pytest.raises(SystemExit) as ended:
            main(["policy", "lint", "policies"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    clean = linted()
    assert "counts for nothing" not in clean
    assert "no calibration" not in clean
    generate_key(tmp_path / "lab.key", tmp_path / "policies" / "signers" / "lab.pem")
    people.edit("policy-set.yaml", "signers:\n", "signers:\n    - {name: lab, publicKey: signers/lab.pem}\n")
    people.edit("general.yaml", "maxAge: 10d, signedBy: [worker]", "maxAge: 10d, signedBy: [lab]")
    assert "there is no calibration of refusal-minilm signed by lab" in linted()
    assert "signed by lab: nothing can be promoted" in linted()
    people.edit("general.yaml", "maxAge: 10d, signedBy: [lab]", "maxAge: 10d, signedBy: [worker]")
    first = people.calibrate(GRADERS[0])
    first.write_bytes(first.read_bytes().replace(b"payload", b"pay1oad"))
    assert "harm-minilm.dsse.json: it counts for nothing" in linted()
    said = "policy general counts only calibrated graders, and there is no calibration of"
    # Each grader that is sure to vote needs one: that of another does not mend it.
    assert f"{said} the one for harm (refusal-rules or harm-minilm) signed by worker: nothing" in linted()
    for path in first.parent.iterdir():
        path.unlink()
    assert f"{said} refusal-minilm signed by worker: nothing can be promoted" in linted()
    # Nor does one that somebody signed who may not.
    people.calibrate(GRADERS[0])
    people.calibrate(GRADERS[1], "keys/gate.key")
    assert f"{said} refusal-minilm signed by worker: nothing can be promoted" in linted()


@pytest.mark.parametrize("name", ["calibrations/notes.txt", "calibrations/deep/one.json"])
def test_what_is_no_calibration_among_them_stops_the_load(name: str, tmp_path: Path) -> None:
    people = _Admitting(tmp_path)
    path = tmp_path / "policies" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    people.gate._clock.forward(seconds=1)  # type: ignore[attr-defined]
    assert "expected a calibration (*.json) right here" in people.codes()["policies_invalid"]


def write_pointer(people: People) -> None:
    """What MLflow wrote in the transaction of the promotion, in tables of its own making."""
    engine, version = people.gate.ledger.engine, make_version()
    for table in (SqlRegisteredModel, SqlModelVersion, SqlRegisteredModelAlias):
        table.__table__.create(engine, checkfirst=True)
    with engine.begin() as connection:
        connection.execute(insert(SqlRegisteredModel).values(name="chat", workspace="default"))
        connection.execute(
            insert(SqlModelVersion).values(
                name="chat",
                version=1,
                workspace="default",
                creation_time=version.created_ms,
                current_stage="None",
                source=version.source,
                storage_location=version.location,
            )
        )
        connection.execute(
            insert(SqlRegisteredModelAlias).values(name="chat", alias="champion", version=1, workspace="default")
        )
