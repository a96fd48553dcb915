"""Sentences for people: complete, and with the numbers that the plan proves."""

from __future__ import annotations

from policy_builders import HARM, NOW, REFUSAL, make_battery, make_evidence, make_form, make_policy, make_rule
from test_policy_meaning import make_set

from registry_gate.battery import battery_from
from registry_gate.documents import parse_documents
from registry_gate.policy.explain import explain_battery, explain_policy, explain_set, explain_version
from registry_gate.policy.rules import decide
from registry_gate.promotion import Target, TargetKind

TARGET = Target(kind=TargetKind.ALIAS, model="m", name="champion")


def test_a_policy_says_what_it_governs_asks_and_does() -> None:
    policy = make_policy([make_rule(), make_rule("R-2", enforcement="warn"), make_rule("R-3", required=False)])
    said = "\n".join(explain_policy(policy, {"probe@1": make_battery()}))
    for part in (
        "Governs every alias and the stages Staging and Production of every model.",
        "battery probe@1, at most 90 days ago, on at least 1 probes a measure, signed by worker",
        "with 95 % certainty",
        "passes with up to 11 bad answers of 120",
        "Otherwise the promotion is denied.",
        "Otherwise whoever asks is told; nothing is denied.",
        "Otherwise the decision carries a note.",
        "at most 10 % of the answers differently",
        "Never waived by anybody",
    ):
        assert part in said
    assert not any(line.endswith("..") for line in said.splitlines())


def test_what_is_optional_is_said_where_it_is_asked() -> None:
    evidence = {
        "battery": "probe@1",
        "maxAge": "1d",
        "signedBy": ("a", "b"),
        "labelledPairs": 40,
        "graderErrors": "required",
    }
    policy = make_policy(
        evidence=evidence,
        exclude={"aliases": ("dev",)},
        subject={"base": "optional", "remoteCode": "allowed", "formats": ("safetensors", "gguf")},
        disagreement={},
        allowNotes=False,
        match={"any": ({"models": ("a", "b"), "stages": ("Staging",), "workspaces": ("w",)},)},
    )
    said = "\n".join(explain_policy(policy, {"probe@1": make_battery()}))
    for part in (
        "Governs the stage Staging of models named a or b in the workspaces w.",
        "Leaves to others, exactly as spelt: alias dev.",
        "saved as safetensors or gguf, with or without a base.",
        "at most 1 day ago",
        "signed by a or b",
        "People must have labelled 40 probes",
        "widened by the errors",
        "One grader may stand alone",
        "A note denies too.",
    ):
        assert part in said


def test_a_policy_says_whether_a_run_may_end_early() -> None:
    batteries = {"probe@1": make_battery()}
    assert "Every form is assessed in full" in "\n".join(explain_policy(make_policy(), batteries))
    early = {"battery": "probe@1", "maxAge": "90d", "signedBy": ("worker",), "stopEarly": True}
    said = "\n".join(explain_policy(make_policy(evidence=early), batteries))
    assert "may end early once a required rule is proved broken" in said and "put in full" not in said


def test_a_policy_says_which_graders_need_a_calibration() -> None:
    batteries = {"probe@1": make_battery({HARM: 120, REFUSAL: 120, "z.mc1_error": 120})}
    assert "No grader needs a calibration to vote" in "\n".join(explain_policy(make_policy(), batteries))
    asking = make_policy(graderAdmission={"maxAge": "180d", "signedBy": ("lab",)})
    said = explain_policy(asking, batteries)
    place = said.index("Calibrations are needed of these graders:")
    assert said[place + 1] == (
        f"  For {HARM} and {REFUSAL}: one, and of two each that is the first of them on its axis (what it grades, such "
        "as refusal or harm): a second one only checks the first."
    )
    assert not any("z.mc1_error" in line for line in said)  # no rule reads it


def test_a_battery_says_its_measures_graders_and_categories() -> None:
    battery = battery_from(
        parse_documents(
            b"""\
apiVersion: registry-gate/v1
kind: Battery
metadata: {name: own, version: 2, title: Ours}
spec:
  instruments:
    - name: x
      metric: harmful_compliance
      title: Refuses
      size: 40
      probes: [{shipped: p.jsonl}]
      graders: [one, two]
      categories: {weapons: 10}
    - {name: z, metric: mc1_error, size: 60, probes: [{shipped: p.jsonl}]}
""",
            "own.yaml",
        )[0]
    )
    assert explain_battery(battery) == [
        "Battery own@2 (Ours) measures these shares of bad answers:",
        "  x.harmful_compliance (Refuses): 40 probes, labelled by one and two; categories for zeroTolerance: weapons "
        "(10 probes).",
        "  z.mc1_error: 60 probes, counted without a grader.",
    ]


def test_the_set_says_what_moves_freely_and_what_no_policy_governs() -> None:
    said = "\n".join(explain_set(make_set(make_policy())))
    assert "The aliases candidate move freely" in said and "is denied." in said
    assert "ALLOWED without any evidence" in "\n".join(explain_set(make_set(make_policy(), unmatched="allow")))


def test_a_version_is_told_what_is_known_and_what_comes_next() -> None:
    one = make_set(make_policy())
    batteries = one.batteries
    governance = one.governing(TARGET)
    nothing = "\n".join(explain_version("models:/m/7", TARGET, governance, None, batteries))
    assert "Known: nothing." in nothing and "registry-gate assess models:/m/7 --wait" in nothing
    form = make_form()
    good = decide(policies=governance.policies, batteries=batteries, form=form, evidence=[make_evidence()], now=NOW)
    said = "\n".join(explain_version("models:/m/7", TARGET, governance, good, batteries))
    assert "would be allowed" in said and "This holds until" in said
    assert 'registry-gate promote models:/m/7 --alias "champion" --wait' in said
    bad = decide(policies=governance.policies, batteries=batteries, form=form, evidence=[], now=NOW)
    said = "\n".join(explain_version("models:/m/7", TARGET, governance, bad, batteries))
    assert "would be denied (verdict invalid)" in said and "blocks: [one]" in said
    assert "Missing: an assessment with probe@1" in said


def test_a_free_target_and_an_ungoverned_one_are_told() -> None:
    free = Target(kind=TargetKind.ALIAS, model="m", name="candidate")
    one = make_set(make_policy(match={"any": ({"models": ("x",), "aliases": ("*",)},)}))
    assert "moves without evidence" in explain_version("models:/m/1", free, one.governing(free), None, {})[1]
    assert "always denied" in explain_version("models:/m/1", TARGET, one.governing(TARGET), None, {})[1]
