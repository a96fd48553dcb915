"""A policy set is in force only while its files are exactly those that somebody with the key signed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from gate_builders import NOW, Clock, Forms, alias, make_installed_gate, make_version, promote

from registry_gate.cli import main
from registry_gate.config import PACKAGE_BATTERIES, load_settings
from registry_gate.errors import ConfigError, RegistryError
from registry_gate.evidence.keys import GateKey, generate_key, load_decision_signer
from registry_gate.evidence.policy_sets import sign_policy_set
from registry_gate.gate import Gate
from registry_gate.ledger import Ledger
from registry_gate.policy.files import SIGNATURE_FILE, UnsignedError, read_directory
from registry_gate.policy_uses import EVENT, PolicyUses
from registry_gate.signed_policies import SignedSource, policy_source, signed_files

SECOND = timedelta(seconds=1)


class Place:
    """An installation whose policies must be signed by `office.key`, with evidence that passes."""

    def __init__(self, directory: Path) -> None:
        gate, self.form, file = make_installed_gate(directory)
        file()
        self.directory, self.policies = directory, directory / "policies"
        self.clock = Clock()
        self.ledger: Ledger = gate.ledger
        generate_key(directory / "office.key", directory / "office.pem")
        self.gate = self.new_gate()

    def source(self, key: str = "office.pem") -> SignedSource:
        return SignedSource(self.policies, (PACKAGE_BATTERIES,), key=self.directory / key, clock=self.clock)

    def new_gate(self, key: str = "office.pem") -> Gate:
        return Gate(
            ledger=self.ledger,
            policies=self.source(key),
            forms=Forms(self.form),
            key=GateKey(self.directory / "keys" / "gate.key"),
            clock=self.clock,
        )

    def sign(
        self, *, key: str = "office.key", at: datetime = NOW, ends: datetime | None = None, reason: str = "GOV-1"
    ) -> None:
        digests = signed_files(read_directory(self.policies))
        signer = load_decision_signer(self.directory / key)
        envelope = sign_policy_set(digests, signer, reason=reason, signed_at=at, expires_at=ends)
        (self.policies / SIGNATURE_FILE).write_bytes(envelope)

    def said(self) -> str:
        """What a promotion is denied with; nothing where it is allowed."""
        review = self.gate.review(promote())
        if review.allowed:
            return ""
        (reason,) = [reason for reason in review.decisions[0].decision.reasons if reason.blocking]
        assert reason.code == "policies_unsigned", reason
        return reason.message


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_signed_set_is_in_force_and_an_unsigned_one_is_not(place: Place) -> None:
    assert "expected a signature by" in place.said() and "registry-gate policy sign" in place.said()
    place.sign()
    assert place.said() == ""


def test_lint_says_that_an_unsigned_set_would_deny_everything(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.directory)
    config = place.directory / "registry-gate.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("[gate]\n", '[gate]\npolicies_key = "office.pem"\n', 1), encoding="utf-8")

    def linted() -> str:
        with pytest.raises(SystemExit) as ended:
            main(["policy", "lint"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "so this set would deny every promotion" in linted()
    place.sign()
    assert "warning" not in linted()


def change_a_policy(place: Place) -> None:
    path = place.policies / "general.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "# looser\n", encoding="utf-8")


def add_a_signer(place: Place) -> None:
    shutil.copy(place.directory / "office.pem", place.policies / "signers" / "other.pem")


def remove_a_policy(place: Place) -> None:
    (place.policies / "medical.yaml").unlink()


def change_a_case(place: Place) -> None:
    path = next((place.policies / "cases").rglob("*.yaml"))
    path.write_text(path.read_text(encoding="utf-8") + "# other\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (change_a_policy, "general.yaml changed"),
        (add_a_signer, "signers/other.pem added"),
        (change_a_case, "cases/"),
    ],
)
def test_a_set_that_differs_in_any_file_is_not_in_force_until_it_is_signed(
    place: Place, change: Callable[[Place], None], word: str
) -> None:
    place.sign()
    assert place.said() == ""
    change(place)
    assert word in place.said()
    place.sign()
    assert place.said() == ""


def test_a_removed_file_is_named(place: Place) -> None:
    place.sign()
    remove_a_policy(place)
    assert "medical.yaml removed" in place.said()


def test_another_key_or_a_signature_of_another_set_does_not_count(place: Place, tmp_path: Path) -> None:
    generate_key(tmp_path / "eve.key", tmp_path / "eve.pem")
    place.sign(key="eve.key")
    assert place.said()
    place.sign()
    held = (place.policies / SIGNATURE_FILE).read_bytes()
    change_a_policy(place)
    place.sign(reason="GOV-2")
    assert place.said() == ""
    (place.policies / SIGNATURE_FILE).write_bytes(held)
    assert "general.yaml changed" in place.said()


@pytest.mark.parametrize("damage", [b"", b"{}", b"nothing", b'{"payload": 1}'])
def test_a_damaged_signature_is_none(place: Place, damage: bytes) -> None:
    (place.policies / SIGNATURE_FILE).write_bytes(damage)
    assert place.said()


def test_an_edited_signature_does_not_verify(place: Place) -> None:
    place.sign()
    path = place.policies / SIGNATURE_FILE
    envelope = json.loads(path.read_text(encoding="utf-8"))
    envelope["payload"] = envelope["payload"][:-8] + "AAAAAAA="
    path.write_text(json.dumps(envelope), encoding="utf-8")
    assert "does not fit" in place.said()


@pytest.mark.parametrize(("moment", "counts"), [(-SECOND, True), (0 * SECOND, False), (SECOND, False)])
def test_a_signature_ends_at_its_moment(place: Place, moment: timedelta, counts: bool) -> None:
    ends = NOW + timedelta(days=3)
    place.sign(ends=ends)
    place.clock.now = ends + moment
    assert ("signature that still counts" in place.said()) is not counts


def test_a_signature_from_the_future_does_not_count(place: Place) -> None:
    place.sign(at=NOW + timedelta(hours=1))
    assert "compare the clocks" in place.said()


def test_one_of_several_keys_will_do_and_none_will_not(place: Place, tmp_path: Path) -> None:
    keys = tmp_path / "offices"
    keys.mkdir()
    place.gate = place.new_gate("offices")
    place.sign()
    assert "expected public keys (*.pem)" in place.said()
    for name in ("before", "now"):
        generate_key(tmp_path / f"{name}.key", keys / f"{name}.pem")
    assert place.said()
    place.sign(key="now.key")
    assert place.said() == ""
    place.gate = place.new_gate("nowhere.pem")
    assert "no such file" in place.said()


def test_what_was_allowed_before_can_be_returned_to_under_an_unsigned_set(place: Place) -> None:
    place.sign()
    request = promote()
    review = place.gate.review(request)
    with place.ledger.transaction() as connection:
        place.gate.record_allowed(connection, review, {})
    change_a_policy(place)
    again = place.gate.review(request)
    assert again.allowed and any(reason.code == "rollback" for reason in again.decisions[0].decision.reasons)


def test_a_set_that_loses_its_signature_while_a_promotion_is_under_way_stops_it(place: Place) -> None:
    place.sign()
    review = place.gate.review(promote())
    assert review.allowed
    (place.policies / SIGNATURE_FILE).unlink()
    with pytest.raises(RegistryError, match="got others in the meantime"), place.ledger.transaction() as connection:
        place.gate.record_allowed(connection, review, {})


def test_a_file_that_cannot_be_read_can_be_signed_by_nobody(place: Place, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("x", encoding="utf-8")
    (place.policies / "link.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(UnsignedError, match="can be signed by nobody"):
        place.sign()


def test_settings_name_the_key_and_no_variable_does(place: Place) -> None:
    file = place.directory / "registry-gate.toml"
    text = file.read_text(encoding="utf-8")
    assert not isinstance(policy_source(load_settings(file, environment={})), SignedSource)
    file.write_text(text.replace("[gate]", '[gate]\npolicies_key = "office.pem"'), encoding="utf-8")
    settings = load_settings(file, environment={})
    assert settings.gate.policies_key == place.directory / "office.pem"
    with pytest.raises(UnsignedError):
        policy_source(settings).current()
    for name in ("POLICIES_KEY", "GATE_POLICIES_KEY"):
        with pytest.raises(ConfigError, match="got REGISTRY_GATE_"):
            load_settings(file, environment={f"REGISTRY_GATE_{name}": ""})


def test_the_audit_chain_says_once_which_set_came_into_force(place: Place) -> None:
    place.sign()
    for _ in range(3):
        place.gate.record_denied(place.gate.review(promote((alias(name="prod"), make_version()))))
    other = place.new_gate()
    other.record_denied(other.review(promote((alias(name="prod"), make_version()))))
    (first,) = place.ledger.events(EVENT)
    assert first["signed"]["by"] == "office" and first["signed"]["reason"] == "GOV-1"
    assert first["digest"] == place.gate.policies.current().digest and "general" in first["policies"]
    change_a_policy(place)
    place.sign(reason="GOV-2")
    for gate in (place.gate, other, place.gate):
        gate.record_denied(gate.review(promote((alias(name="prod"), make_version()))))
    _, second = place.ledger.events(EVENT)
    assert second["signed"]["reason"] == "GOV-2" and second["digest"] != first["digest"]
    place.ledger.verify_chain()


def test_an_entry_whose_transaction_failed_is_written_by_the_next(place: Place) -> None:
    place.sign()
    source = place.source()
    uses, policy_set = PolicyUses(place.ledger, source), source.current()

    def cut_off() -> None:
        with place.ledger.transaction() as connection:
            uses.note(connection, policy_set, NOW)
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        cut_off()
    assert place.ledger.events(EVENT) == []
    for _ in range(3):
        with place.ledger.transaction() as connection:
            uses.note(connection, policy_set, NOW)
    assert len(place.ledger.events(EVENT)) == 1


def test_a_set_whose_signature_ends_meanwhile_is_not_put_down(place: Place) -> None:
    place.sign(ends=NOW + SECOND)
    source = place.source()
    policy_set = source.current()
    place.clock.now = NOW + SECOND
    with place.ledger.transaction() as connection:
        PolicyUses(place.ledger, source).note(connection, policy_set, NOW)
    assert place.ledger.events(EVENT) == []
