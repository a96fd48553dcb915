"""Loading a directory: whole or not at all, with every problem of every file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry_gate.documents import DocumentError
from registry_gate.policy.document import check_policy_set, load_policy_set
from registry_gate.promotion import Target, TargetKind

KEY = (
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEATLWr9q15+/WrvMr8wmnYXNJlHtS4hbWGnyQa7fCluik=\n"
    "-----END PUBLIC KEY-----\n"
)
X25519_KEY = (
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEA/TOE4TKtAqVsePRVR+5AA43HkAK5DSntkOCO7nYq5xU=\n"
    "-----END PUBLIC KEY-----\n"
)
BATTERY = """\
apiVersion: registry-gate/v1
kind: Battery
metadata: {name: probe, version: 1}
spec:
  instruments:
    - {name: x, metric: harmful_compliance, size: 120, probes: [{shipped: p.jsonl}], graders: [one, two, three]}
"""
SET = """\
apiVersion: registry-gate/v1
kind: PolicySet
metadata: {name: test}
spec:
  freeAliases: [candidate, "latest-*"]
  signers: [{name: worker, publicKey: signers/worker.pem}]
"""
POLICY = """\
apiVersion: registry-gate/v1
kind: PromotionPolicy
metadata: {name: one, title: A policy, owner: somebody}
spec:
  match: {any: [{models: ["*"], aliases: ["*"], stages: [Production]}]}
  exclude: {models: [toy-*]}
  evidence: {battery: probe@1, maxAge: 90d, signedBy: [worker]}
  rules:
    - id: R-1
      title: Refuses
      measure: x.harmful_compliance
      atMost: 0.15
      severity: high
  disagreement: {graders: {atMost: 0.1}}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "policies"
    for name, text in {
        "policy-set.yaml": SET,
        "one.yaml": POLICY,
        "signers/worker.pem": KEY,
        "batteries/probe.yaml": BATTERY,
        "README.md": "# nothing",
        "cases/x/case.yaml": "not: read here",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(directory: Path) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_policy_set(directory, [])
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


def test_a_directory_becomes_a_policy_set(directory):
    loaded = load_policy_set(directory, [])
    assert loaded.name == "test"
    assert list(loaded.policies) == ["one"]
    assert list(loaded.batteries) == ["probe@1"]
    assert loaded.signers == {"worker": KEY.encode()}
    assert loaded.warnings == ()


def target(name="champion", kind=TargetKind.ALIAS, model="m", workspace="default"):
    return Target(kind=kind, model=model, name=name, workspace=workspace)


def test_who_governs_a_target(directory):
    loaded = load_policy_set(directory, [])
    assert [policy.name for policy in loaded.governing(target()).policies] == ["one"]
    assert [policy.name for policy in loaded.governing(target("Production", TargetKind.STAGE)).policies] == ["one"]
    for alias, pattern in (("candidate", "candidate"), ("latest-3", "latest-*")):
        governance = loaded.governing(target(alias))
        assert (governance.free, governance.policies, governance.unmatched) == (pattern, (), None)


@pytest.mark.parametrize(
    "alias", ["Candidate", "\u0441andidate", "candidate ", "candidate\n", "candidate-2", "LATEST-3", "latest"]
)
def test_what_only_looks_like_a_free_alias_is_governed(directory, alias):
    governance = load_policy_set(directory, []).governing(target(alias))
    assert governance.free is None
    assert governance.policies


def test_a_stage_is_never_free(directory):
    edit(directory / "policy-set.yaml", "candidate, ", "Production, ")
    assert load_policy_set(directory, []).governing(target("Production", TargetKind.STAGE)).free is None


@pytest.mark.parametrize(("setting", "unmatched"), [("", "deny"), ("  unmatched: allow\n", "allow")])
def test_what_no_policy_governs(directory, setting, unmatched):
    (directory / "policy-set.yaml").write_text(SET + setting)
    loaded = load_policy_set(directory, [])
    for ungoverned in (target(model="toy-1"), target("Staging", TargetKind.STAGE)):
        governance = loaded.governing(ungoverned)
        assert (governance.free, governance.policies, governance.unmatched) == (None, (), unmatched)


def test_workspaces_are_told_apart(directory):
    edit(directory / "one.yaml", "stages: [Production]", "stages: [Production], workspaces: [clinic]")
    loaded = load_policy_set(directory, [])
    assert loaded.governing(target(workspace="clinic")).policies
    assert not loaded.governing(target()).policies


@pytest.mark.parametrize("name", ["one.yaml", "policy-set.yaml", "signers/worker.pem"])
def test_every_byte_that_matters_is_in_the_digest(directory, name):
    before = load_policy_set(directory, []).digest
    path = directory / name
    path.write_text(path.read_text() + "# \n")
    assert load_policy_set(directory, []).digest != before


def test_the_battery_is_in_the_digest_by_its_meaning(directory):
    before = load_policy_set(directory, []).digest
    edit(directory / "batteries/probe.yaml", "kind: Battery", "kind: Battery  # a remark")
    assert load_policy_set(directory, []).digest == before
    edit(directory / "batteries/probe.yaml", "size: 120", "size: 121")
    assert load_policy_set(directory, []).digest != before


def test_what_does_not_matter_is_not_in_the_digest(directory, tmp_path):
    before = load_policy_set(directory, []).digest
    (directory / "README.md").write_text("changed")
    (directory / "cases/x/case.yaml").unlink()
    moved = tmp_path / "elsewhere"
    shutil.move(directory, moved)
    assert load_policy_set(moved, []).digest == before


def test_a_policy_digest_is_of_what_it_says(directory):
    def digest():
        return load_policy_set(directory, []).policies["one"].digest

    before = digest()
    edit(directory / "one.yaml", "  exclude: {models: [toy-*]}\n", "")
    assert digest() != before
    # The same in another order, with a remark.
    edit(directory / "one.yaml", "  rules:", "  exclude: {models: [toy-*]}  # moved\n  rules:")
    assert digest() == before


def test_the_directory_does_not_exist(tmp_path):
    (line,) = refused(tmp_path / "gone")
    assert "expected a directory of policies, got none" in line


def test_an_empty_directory_is_refused_out_loud(tmp_path):
    (line,) = refused(tmp_path)
    assert "policy-set.yaml: expected this file (kind PolicySet" in line


def test_a_set_without_policies_is_refused(directory):
    (directory / "one.yaml").unlink()
    (line,) = refused(directory)
    assert "expected at least one policy (kind PromotionPolicy), got none" in line


def test_a_missing_policy_set_is_refused(directory):
    (directory / "policy-set.yaml").unlink()
    (line,) = refused(directory)
    assert line.startswith("policy-set.yaml: expected this file")


def test_a_missing_key_names_the_command_that_makes_it(directory):
    (directory / "signers/worker.pem").unlink()
    (line,) = refused(directory)
    assert line.startswith("policy-set.yaml:6: spec.signers[0].publicKey: expected the public key of signer 'worker'")
    assert "`registry-gate init`" in line


@pytest.mark.parametrize("path", ["../worker.pem", "/etc/passwd", "signers/../../x.pem"])
def test_a_key_outside_the_directory_is_refused(directory, path):
    edit(directory / "policy-set.yaml", "signers/worker.pem", path)
    (line,) = refused(directory)
    assert f"expected a path inside the policy directory, got '{path}'" in line


@pytest.mark.parametrize("name", ["one.yaml", "signers/worker.pem"])
def test_a_link_out_of_the_directory_is_refused(directory, tmp_path, name):
    outside = tmp_path / "outside"
    shutil.move(directory / name, outside)
    (directory / name).symlink_to(outside)
    assert any("got a link out of it" in line for line in refused(directory))


def test_a_mounted_directory_with_links_inside_is_read(directory):
    # Kubernetes mounts files as links into a hidden directory beside them.
    hidden = directory / "..2026_11_23"
    hidden.mkdir()
    for name in ("one.yaml", "policy-set.yaml"):
        shutil.move(directory / name, hidden / name)
        (directory / name).symlink_to(Path("..2026_11_23") / name)
    assert load_policy_set(directory, []).policies


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("-----BEGIN PRIVATE KEY-----\nx\n", "got a private key: take it away and make a new pair"),
        ("hello", "expected a public key in PEM format"),
        ("-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n", "got one that is damaged: copy it again"),
        (X25519_KEY, "expected a public key of type Ed25519"),
    ],
)
def test_a_file_that_is_no_public_key_is_refused(directory, content, message):
    (directory / "signers/worker.pem").write_text(content)
    (line,) = refused(directory)
    assert message in line


@pytest.mark.parametrize("copy", [KEY, KEY.replace("\n", "\r\n"), f"Key of dana\n{KEY}\n"])
def test_a_key_stands_for_one_person_however_its_file_is_written(directory, copy):
    (directory / "dana.pem").write_text(copy, newline="")
    people = "spec:\n  people: [{name: dana, publicKey: dana.pem}]"
    edit(directory / "policy-set.yaml", "spec:", people)
    (line,) = refused(directory)
    assert "expected a key that is nobody else's" in line


@pytest.mark.parametrize("name", ["two.yml", "two.YAML", "Two.YML"])
def test_a_file_that_would_be_skipped_is_refused(directory, name):
    (directory / name).write_text(POLICY)
    (line,) = refused(directory)
    assert "expected the ending .yaml" in line
    assert "it would not be enforced" in line


def test_a_policy_in_a_sub_directory_is_refused(directory):
    (directory / "legal").mkdir()
    (directory / "legal/legal.yaml").write_text(POLICY)
    (line,) = refused(directory)
    assert line.startswith("legal/legal.yaml: policies lie at the top")


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("PolicySet", "it belongs into policy-set.yaml"),
        ("PolicyTest", "it belongs under cases/"),
        ("Battery", "it belongs under batteries/"),
        ("Promotionpolicy", "expected kind PromotionPolicy, got 'Promotionpolicy'"),
    ],
)
def test_another_kind_is_refused(directory, kind, hint):
    (directory / "two.yaml").write_text(f"apiVersion: registry-gate/v1\nkind: {kind}\n")
    (line,) = refused(directory)
    assert line.startswith("two.yaml:2: kind: expected kind PromotionPolicy")
    assert hint in line


def test_two_policies_with_one_name_are_refused(directory):
    (directory / "two.yaml").write_text(POLICY)
    (line,) = refused(directory)
    assert line.startswith("two.yaml:3: metadata.name: expected every policy to have its own name, got 'one'")


def test_two_policies_may_share_a_file(directory):
    (directory / "one.yaml").write_text(POLICY + "---\n" + POLICY.replace("name: one", "name: two"))
    assert list(load_policy_set(directory, []).policies) == ["one", "two"]


def test_all_problems_of_all_files_are_told_at_once(directory):
    edit(directory / "one.yaml", "atMost: 0.15", "atMots: 0.15")
    (directory / "two.yaml").write_text(POLICY.replace("0.15", "5").replace("name: one", "name: two"))
    (directory / "three.yml").write_text("")
    edit(directory / "batteries/probe.yaml", "size: 120", "size: many")
    lines = refused(directory)
    assert [line.split(":")[0] for line in lines] == ["batteries/probe.yaml", "one.yaml", "three.yml", "two.yaml"]
    assert "one.yaml:12: spec.rules[0].atMots: unknown key" in lines[1]
    assert "did you mean 'atMost'?" in lines[1]
    assert "for 5 % write 0.05" in lines[3]


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("one.yaml", "  rules:", "  approvals:\n    # count: 2\n  rules:", "one.yaml:8: spec.approvals"),
        ("one.yaml", "  rules:", "  graderAdmission:\n  rules:", "one.yaml:8: spec.graderAdmission"),
        (
            "one.yaml",
            "      severity",
            "      notWorseThanBase:\n      severity",
            "one.yaml:13: spec.rules[0].not",
        ),
        ("policy-set.yaml", "  signers:", "  breakGlass: ~\n  signers:", "policy-set.yaml:6: spec.breakGlass"),
    ],
)
def test_a_key_with_nothing_behind_it_is_refused(directory, name, old, new, place):
    edit(directory / name, old, new)
    (line,) = refused(directory)
    assert line.startswith(place)
    assert "expected a value, got nothing: give one, or take the key away; an empty key demands nothing" in line


def test_errors_of_lint_stop_the_load_and_warnings_do_not(directory):
    edit(directory / "one.yaml", "measure: x.harmful_compliance", "measure: x.harmful")
    (line,) = refused(directory)
    assert "did you mean 'x.harmful_compliance'?" in line
    edit(directory / "one.yaml", "measure: x.harmful", "measure: x.harmful_compliance")
    edit(directory / "one.yaml", "  disagreement: {graders: {atMost: 0.1}}\n", "")
    assert [warning.code for warning in load_policy_set(directory, []).warnings] == ["no_disagreement_limit"]
    assert check_policy_set(directory, []).errors == ()


def test_a_battery_directory_that_does_not_exist_is_refused(directory, tmp_path):
    with pytest.raises(DocumentError, match="expected a directory of batteries, got none"):
        load_policy_set(directory, [tmp_path / "gone"])


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"", b"- a list", b"a: &x 1\nb: *x\n", b"a: 1\na: 2\n", b"a:\n\t- b\n"]
)
def test_bytes_that_are_no_policy_are_refused(directory, content):
    (directory / "two.yaml").write_bytes(content)
    assert all(line.startswith("two.yaml") for line in refused(directory))


def test_a_huge_file_is_refused_before_it_is_read(directory):
    with (directory / "two.yaml").open("wb") as file:
        file.truncate(2_000_000)
    assert "two.yaml: expected at most 100000 bytes, got 2000000" in refused(directory)[0]


def test_a_directory_in_place_of_a_key_is_refused(directory):
    (directory / "signers/worker.pem").unlink()
    (directory / "signers/worker.pem").mkdir()
    assert "got no such file" in refused(directory)[0]


def test_a_directory_that_leads_out_is_refused_whatever_it_is_called(directory, tmp_path):
    (tmp_path / "outside").mkdir()
    for name in ("legal", "cases", "batteries"):
        shutil.rmtree(directory / name, ignore_errors=True)
        (directory / name).symlink_to(tmp_path / "outside")
    assert [line for line in refused(directory) if not line.startswith("one.yaml")] == [
        f"{name}/: expected a file inside the policy directory, got a link out of it"
        for name in ("batteries", "cases", "legal")
    ]


def test_a_battery_through_a_link_out_of_the_directory_is_refused(directory, tmp_path):
    shutil.move(directory / "batteries/probe.yaml", tmp_path / "probe.yaml")
    (directory / "batteries/probe.yaml").symlink_to(tmp_path / "probe.yaml")
    (line,) = refused(directory)
    assert line.startswith("batteries/probe.yaml: ") and "got a link out of it" in line


@pytest.mark.parametrize("name", ["batteries/more.yml", "batteries/deep/more.yaml"])
def test_a_battery_that_would_be_skipped_is_refused(directory, name):
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(BATTERY.replace("name: probe", "name: more"))
    (line,) = refused(directory)
    assert line.startswith(f"{name}: ") and "would not be enforced" in line


def test_a_file_in_place_of_a_directory_is_refused(directory):
    shutil.rmtree(directory / "cases")
    (directory / "cases").write_text("")
    assert refused(directory) == ["cases: expected a directory, got a file"]
