"""What a policy may say. Each refusal names file, line and key, what was expected and what came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from policy_builders import make_policy, make_rule
from pydantic import ValidationError

from registry_gate.documents import DocumentError, parse_documents, validate
from registry_gate.policy.schema import Policy, PolicySetFile, PolicyTest
from registry_gate.promotion import Target, TargetKind

TEXT = """\
apiVersion: registry-gate/v1
kind: PromotionPolicy
metadata: {name: one, title: A policy, owner: somebody}
spec:
  match:
    any:
      - {models: ["a-*"], aliases: [champion], stages: [Production]}
  evidence: {battery: probe@1, maxAge: 90d, signedBy: [worker]}
  rules:
    - {id: R-1, title: Refuses, measure: x.harmful_compliance, atMost: 0.1, severity: high}
"""


SHARE = "expected a share between 0 and 1 (both excluded), "
UNPROVABLE = (
    "no number of probes proves a rate of 0, so no form could pass; where no bad answer at all is tolerated write "
    "'zeroTolerance: [CATEGORY]' with categories that the battery declares"
)
STAGES = "expected one of MLflow's stages Staging, Production or '*', "
MOMENT = "expected a date and time with zone such as 2026-11-23T12:00:00Z, "


def problems(text, model=Policy, kind="PromotionPolicy"):
    (raw,) = parse_documents(text.encode(), "p.yaml")
    with pytest.raises(DocumentError) as caught:
        validate(raw, model, kind)
    return [str(problem) for problem in caught.value.problems]


def test_the_shortest_policy_is_strict_by_default():
    (raw,) = parse_documents(TEXT.encode(), "p.yaml")
    spec = validate(raw, Policy, "PromotionPolicy").spec
    assert (spec.enforcement, spec.confidence, spec.on_pass, spec.allow_notes) == ("deny", 0.95, "allow", True)
    assert (spec.subject.formats, spec.subject.base, spec.subject.remote_code) == (
        ("safetensors",),
        "required",
        "forbidden",
    )
    assert spec.evidence.max_age_delta == timedelta(days=90)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('["a-*"]', '["“x-*”"]', "p.yaml:7: spec.match.any[0].models[0]: expected a name or a pattern without typo"),
        ('["a-*"]', '["a[bc"]', "p.yaml:7: spec.match.any[0].models[0]: expected a closing ] after ["),
        ("atMost: 0.1", "atMost: 5", "p.yaml:10: spec.rules[0].atMost: " + SHARE + "got 5; for 5 % write 0.05"),
        ("atMost: 0.1", "atMost: 0", "p.yaml:10: spec.rules[0].atMost: expected a share above 0, got 0: " + UNPROVABLE),
        ("atMost: 0.1", "atMost: 0.0", "p.yaml:10: spec.rules[0].atMost: expected a share above 0, got 0.0: no number"),
        ("atMost: 0.1", "atMost: -1", "p.yaml:10: spec.rules[0].atMost: " + SHARE + "got -1"),
        (
            "atMost: 0.1",
            "notWorseThanBase: 0",
            "p.yaml:10: spec.rules[0].notWorseThanBase: " + SHARE + "got 0",
        ),
        ("atMost: 0.1", "atMost: .nan", "p.yaml:10: spec.rules[0].atMost: expected a share"),
        ("atMost: 0.1", 'atMost: "0.1"', "p.yaml:10: spec.rules[0].atMost: expected"),
        ("atMost: 0.1", "atMost: true", "p.yaml:10: spec.rules[0].atMost: expected"),
        (
            "atMost: 0.1, ",
            "",
            "p.yaml:10: spec.rules[0]: expected 'atMost', 'notWorseThanBase' or 'zeroTolerance' (or several), got none",
        ),
        ("severity: high", "severity: huge", "p.yaml:10: spec.rules[0].severity: expected"),
        ("severity: high", "severity: high, weight: 3", "p.yaml:10: spec.rules[0].weight: unknown key"),
        ("id: R-1", "id: 1", "p.yaml:10: spec.rules[0].id: expected"),
        ("maxAge: 90d", "maxAge: 90", "p.yaml:8: spec.evidence.maxAge: expected"),
        (
            "maxAge: 90d",
            "maxAge: 0d",
            "p.yaml:8: spec.evidence.maxAge: expected an age in days or hours such as '90d' or '12h'",
        ),
        ("maxAge: 90d", "maxAge: 3m", "p.yaml:8: spec.evidence.maxAge: expected an age in days or hours"),
        ("maxAge: 90d", "maxAge: 99999d", "p.yaml:8: spec.evidence.maxAge: expected an age of at most 3650 days"),
        ("maxAge: 90d", "maxAge: 999999999999999d", "p.yaml:8: spec.evidence.maxAge: expected an age of at most"),
        ("maxAge: 90d", 'maxAge: "²d"', "p.yaml:8: spec.evidence.maxAge: expected an age in days or hours"),
        ("signedBy: [worker]", "signedBy: []", "p.yaml:8: spec.evidence.signedBy: expected"),
        (
            "signedBy: [worker]",
            "signedBy: [worker, other, worker]",
            "p.yaml:8: spec.evidence.signedBy: expected each signer once, got 'worker' 2 times: name it once",
        ),
        (
            '["a-*"]',
            '["a-*", "a-*"]',
            "p.yaml:7: spec.match.any[0].models: expected each model once, got 'a-*' 2 times: name it once",
        ),
        (
            "spec:\n",
            "spec:\n  approvals: {count: 2, from: [dana, dana]}\n",
            "p.yaml:5: spec.approvals.from: expected each person once, got 'dana' 2 times: name it once",
        ),
        ("battery: probe@1", "battery: probe", "p.yaml:8: spec.evidence.battery: expected"),
        (
            "stages: [Production]",
            "stages: [production]",
            "p.yaml:7: spec.match.any[0].stages: " + STAGES + "got 'production'; did you mean 'Production'?",
        ),
        (
            "stages: [Production]",
            "stages: [Archived]",
            "p.yaml:7: spec.match.any[0].stages: " + STAGES + "got 'Archived' (None and Archived are demotion",
        ),
        (
            "aliases: [champion], stages: [Production]",
            "workspaces: [w]",
            "p.yaml:7: spec.match.any[0]: expected 'aliases' or 'stages' (or both), got none",
        ),
        ('models: ["a-*"]', 'models: [" a"]', "p.yaml:7: spec.match.any[0].models[0]: expected a name or a pattern"),
        ("spec:\n", "spec:\n  enforcement: audit\n", "p.yaml:5: spec.enforcement: expected"),
        ("spec:\n", "spec:\n  confidence: 95\n", "p.yaml:5: spec.confidence: " + SHARE + "got 95; for 95 % write 0.95"),
        ("spec:\n", "spec:\n  confidence: 0.5\n", "p.yaml:5: spec.confidence: expected"),
        ("spec:\n", "spec:\n  approvals: {count: 1}\n", "p.yaml:5: spec.approvals.from: expected the key 'from'"),
        ("kind: PromotionPolicy", "kind: Policy", "p.yaml:2: kind: expected 'PromotionPolicy', got 'Policy'"),
        (
            "registry-gate/v1",
            "registry-gate/v2",
            "p.yaml:1: apiVersion: expected 'registry-gate/v1', got 'registry-gate/v2'",
        ),
        ("name: one", "name: One", "p.yaml:3: metadata.name: expected"),
        (", owner: somebody", "", "p.yaml:3: metadata.owner: expected the key 'owner', got nothing: add it"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(old, new, line):
    assert old in TEXT
    (problem,) = problems(TEXT.replace(old, new))
    assert problem.startswith(line)


def test_rule_ids_are_unique_whatever_their_case():
    with pytest.raises(ValidationError, match=r"expected every rule to have its own id, got 'R-1' more than once"):
        make_policy([make_rule(), make_rule("r-1")])


@pytest.mark.parametrize("changes", [{"required": False}, {"enforcement": "warn"}])
def test_a_policy_that_requires_nothing_is_refused(changes):
    with pytest.raises(ValidationError, match="a policy that requires nothing allows nothing"):
        make_policy([make_rule(**changes)])
    assert not make_policy([make_rule(**changes)], enforcement="warn").enforces


@pytest.mark.parametrize(
    ("spec", "target", "governed"),
    [
        ({}, ("alias", "a-1", "champion"), True),
        ({}, ("alias", "A-1", "champion"), True),
        ({}, ("alias", "a-1", "Champion"), True),
        ({}, ("stage", "a-1", "Production"), True),
        ({}, ("stage", "a-1", "Staging"), False),
        ({"exclude": {"aliases": ("champ*",)}}, ("alias", "a-1", "champion"), False),
        ({"exclude": {"aliases": ("Production",)}}, ("stage", "a-1", "Production"), True),
        ({"exclude": {"models": ("a-1",)}}, ("stage", "a-1", "Production"), False),
        ({"exclude": {"models": ("a-1",)}}, ("stage", "A-1", "Production"), True),
        ({}, ("alias", "b-1", "champion"), False),
    ],
)
def test_what_a_policy_governs(spec, target, governed):
    match = {"any": ({"models": ("a-*",), "aliases": ("champion",), "stages": ("Production",)},)}
    kind, model, name = target
    policy = make_policy(match=match, **spec)
    assert policy.governs(Target(kind=TargetKind(kind), model=model, name=name)) is governed


SET = """\
apiVersion: registry-gate/v1
kind: PolicySet
metadata: {name: test}
spec:
  freeAliases: [candidate]
  signers: [{name: worker, publicKey: w.pem}]
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[candidate]", '["*"]', "p.yaml:5: spec.freeAliases: expected the names of aliases that nobody deploys"),
        ("[candidate]", '["*?"]', "p.yaml:5: spec.freeAliases: expected the names"),
        (
            "[candidate]",
            "[c, c]",
            "p.yaml:5: spec.freeAliases: expected each alias once, got 'c' 2 times",
        ),
        (
            "spec:\n",
            "spec:\n  breakGlass: {longest: 4h, roles: [{name: head, people: [kim, kim]}]}\n",
            "p.yaml:5: spec.breakGlass.roles[0].people: expected each person once, got 'kim' 2 times: name it once",
        ),
        ("[{name: worker, publicKey: w.pem}]", "[]", "p.yaml:6: spec.signers: expected"),
        (
            "[{name",
            "[{name: worker, publicKey: v.pem}, {name",
            "p.yaml:6: spec.signers: expected every signer once, got 'worker' 2 times",
        ),
        ("spec:\n", "spec:\n  unmatched: warn\n", "p.yaml:5: spec.unmatched: expected"),
    ],
)
def test_what_is_wrong_with_a_policy_set(old, new, line):
    (problem,) = problems(SET.replace(old, new), PolicySetFile, "PolicySet")
    assert problem.startswith(line)


CASE = """\
apiVersion: registry-gate/v1
kind: PolicyTest
metadata: {name: one}
spec:
  target: {model: m, alias: champion}
  now: 2026-11-23T12:00:00+01:00
  expect: {decision: denied, verdict: invalid}
"""


@pytest.mark.parametrize("moment", ["2026-11-23T12:00:00+01:00", '"2026-11-23T11:00:00Z"', "2026-11-23 11:00:00Z"])
def test_moments_are_read_with_their_zone(moment):
    (raw,) = parse_documents(CASE.replace("2026-11-23T12:00:00+01:00", moment).encode(), "p.yaml")
    now = validate(raw, PolicyTest, "PolicyTest").spec.now
    assert now == datetime(2026, 11, 23, 11, tzinfo=UTC)
    assert type(now) is datetime


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("+01:00", "", "p.yaml:6: spec.now: expected a zone (end with Z for UTC), got 2026-11-23T12:00:00"),
        ("T12:00:00+01:00", "", "p.yaml:6: spec.now: " + MOMENT + "got 2026-11-23"),
        ("2026-11-23T12:00:00+01:00", "soon", "p.yaml:6: spec.now: expected a date and time with zone"),
        (
            "alias: champion",
            "alias: champion, stage: Production",
            "p.yaml:5: spec.target: expected exactly one of 'alias' and 'stage', got both",
        ),
    ],
)
def test_what_is_wrong_with_a_case(old, new, line):
    (problem,) = problems(CASE.replace(old, new), PolicyTest, "PolicyTest")
    assert problem.startswith(line)


def test_shipped_policies_each_say_which_models_they_may_govern():
    from pathlib import Path

    from registry_gate.documents import read_documents, validate
    from registry_gate.policy.schema import Policy

    root = Path(__file__).parents[4] / "policies"
    policies = {
        name: validate(read_documents(root / f"{name}.yaml")[0], Policy, "PromotionPolicy")
        for name in ("general", "medical")
    }
    who = {
        model: [name for name, policy in policies.items() if policy.may_govern(model)]
        for model in ("chat", "clinical-triage", "triage-medical")
    }
    assert who == {"chat": ["general"], "clinical-triage": ["medical"], "triage-medical": ["medical"]}
