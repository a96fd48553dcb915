"""`policy key, sign, publish, history` as people type them, and `doctor` where policies must be signed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from answers import Answer, Run

from registry_gate.config import load_settings
from registry_gate.ledger import Ledger
from registry_gate.policy_uses import PolicyUses
from registry_gate.signed_policies import policy_source


@pytest.fixture
def place(home: Path, run: Run) -> Path:
    """An installation that asks for signed policies, and the key that signs them."""
    assert run("init").code == 0
    assert run("policy", "key", "office.key").code == 0
    settings = home / "registry-gate.toml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("[gate]", '[gate]\npolicies_key = "office.pem"'), encoding="utf-8")
    return home


def sign(run: Run, *more: str) -> Answer:
    return run("policy", "sign", "policies", "--key", "office.key", "--reason", "GOV-1", *more)


def note(home: Path) -> None:
    """What the server or the worker does at its first look."""
    settings = load_settings(home / "registry-gate.toml", environment={})
    ledger, source = Ledger.connect(settings.require_ledger()), policy_source(settings)
    with ledger.transaction() as connection:
        PolicyUses(ledger, source).note(connection, source.current(), datetime.now(UTC))


def policies_line(run: Run) -> dict[str, object]:
    return next(line for line in run("doctor", "--format", "json").json if line["name"] == "policies")


def test_policies_are_signed_and_doctor_says_by_whom(place: Path, run: Run) -> None:
    assert not policies_line(run)["ok"]
    said = sign(run, "--expires", "2099-01-01T00:00:00Z")
    assert said.code == 0 and "policy-set.dsse.json" in said.out
    line = policies_line(run)
    assert line["ok"] and "signed by office" in str(line["detail"]) and "until 2099-01-01" in str(line["detail"])


def test_the_public_half_and_a_key_that_is_not_there_are_told_apart(place: Path, run: Run) -> None:
    public = run("policy", "sign", "policies", "--key", "office.pem", "--reason", "GOV-1")
    assert public.code == 2 and "got a public key: give the private key" in public.err and "chmod" not in public.err
    assert public.err.rstrip().endswith("which is likely office.key")
    absent = run("policy", "sign", "policies", "--key", "offce.key", "--reason", "GOV-1")
    assert absent.code == 2 and "expected a signing key at offce.key, got no such file: make one with" in absent.err
    (place / "office.key").chmod(0o644)
    assert "run `chmod 600 office.key`" in sign(run).err


def test_signing_again_changes_no_digest(place: Path, run: Run) -> None:
    unsigned = run("policy", "lint", "policies", "--format", "json").json["digest"]
    assert sign(run, "--format", "json").json["digest"] == unsigned
    assert sign(run, "--format", "json").json["digest"] == unsigned
    assert "policy-set.dsse.json" not in sign(run, "--format", "json").json["files"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--expires", "2020-01-01T00:00:00Z"), "expected a moment that is still to come"),
        (("--expires", "2099-01-01T00:00:00"), "expected a date with its zone"),
        (("--reason", " "), "--reason: expected words, got none"),
        (("--key", "office.pem"), "expected"),
    ],
)
def test_what_cannot_be_signed_is_said(place: Path, run: Run, arguments: tuple[str, ...], said: str) -> None:
    answer = sign(run, *arguments)
    assert answer.code == 2 and said in answer.err
    assert not (place / "policies" / "policy-set.dsse.json").exists()


def test_a_set_that_does_not_load_is_not_signed(place: Path, run: Run) -> None:
    (place / "policies" / "general.yaml").write_text("kind: nothing\n", encoding="utf-8")
    assert sign(run).code == 2
    assert not (place / "policies" / "policy-set.dsse.json").exists()


def test_a_set_that_is_not_signed_is_not_published(place: Path, run: Run) -> None:
    answer = run("policy", "publish", "policies", "s3://bucket/policies")
    assert answer.code == 2 and "expected a signature by" in answer.err


def test_history_says_what_was_in_force_since_when(place: Path, run: Run) -> None:
    assert run("policy", "history").code == 5
    sign(run)
    note(place)
    path = place / "policies" / "medical.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "# reworded\n", encoding="utf-8")
    sign(run)
    note(place)
    said = run("policy", "history")
    assert said.code == 0 and said.out.count("signed by office") == 2
    assert "0 allowed, 0 denied under this set" in said.out
    first, second = run("policy", "history", "--format", "json").json
    assert set(first["changed"]) >= {"general", "medical"} and first["digest"] != second["digest"]
    assert second["changed"] == [] and "no policy, but another file" in said.out
