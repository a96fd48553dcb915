"""The statement binds one assessment to one form; nothing that disagrees or is unknown gets through."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_gate.errors import EvidenceError, IntegrityError
from registry_gate.evidence.statement import MAX_STATEMENT_BYTES, Statement, parse_statement
from registry_gate.form import FormManifest, canonical_json


def edited(statement: Statement, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """The statement's bytes after somebody changed the parsed JSON."""
    data = json.loads(statement.to_bytes())
    edit(data)
    return canonical_json(data)


def test_round_trip_keeps_every_value_and_byte(statement: Statement) -> None:
    again = parse_statement(statement.to_bytes())
    assert again == statement
    assert again.to_bytes() == statement.to_bytes()


def test_statement_is_in_toto_v1_with_the_form_as_its_one_subject(statement: Statement) -> None:
    data = json.loads(statement.to_bytes())
    assert data["_type"] == "https://in-toto.io/Statement/v1"
    assert data["subject"] == [
        {"name": "models:/clinical-triage/7", "digest": {"sha256": statement.manifest.digest.removeprefix("sha256:")}}
    ]
    assert data["predicateType"] == "https://registry-gate.dev/assessment/v1"
    assert sorted(data["predicate"]) == ["assessment", "form_type", "manifest", "producer"]
    assert [entry["path"] for entry in data["predicate"]["manifest"]["files"]] == [
        "MLmodel",
        "conda.yaml",
        "peft/adapter_model.safetensors",
    ]


def test_white_space_and_key_order_do_not_matter_to_a_reader(statement: Statement) -> None:
    assert parse_statement(json.dumps(json.loads(statement.to_bytes()), indent=2).encode()) == statement


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda d: d.update(note="x"), "note: Extra inputs are not permitted"),
        (lambda d: d["predicate"].update(verdict="pass"), "predicate.verdict: Extra inputs are not permitted"),
        (lambda d: d["predicate"]["assessment"].update(x=1), "predicate.assessment.x: Unexpected keyword argument"),
        (lambda d: d["predicate"]["manifest"].update(x=1), "predicate.manifest.x: Extra inputs"),
        (lambda d: d["predicate"]["manifest"]["files"][0].update(x=1), "predicate.manifest.files.0.x: Unexpected"),
        (lambda d: d["predicate"]["manifest"]["base"].update(x=1), "predicate.manifest.base.x: Unexpected"),
        (lambda d: d["predicate"]["producer"].update(x=1), "predicate.producer.x: Extra inputs"),
        (lambda d: d["predicate"].pop("manifest"), "predicate.manifest: Field required"),
        (lambda d: d["predicate"].pop("producer"), "predicate.producer: Field required"),
        (lambda d: d.update(_type="https://in-toto.io/Statement/v0.1"), "_type: Input should be 'https://in-toto.io/"),
        (
            lambda d: d.update(predicateType="https://slsa.dev/provenance/v1"),
            "predicateType: Input should be 'https://r",
        ),
        (lambda d: d["predicate"].update(form_type="registry-gate/form@2"), "predicate.form_type: Input should be"),
        (lambda d: d["predicate"]["assessment"].update(format="x@2"), "predicate.assessment.format: Input should be"),
        (lambda d: d.update(subject=[]), "subject: Tuple should have at least 1 item"),
        (lambda d: d["subject"].append(d["subject"][0]), "subject: Tuple should have at most 1 item"),
        (lambda d: d["subject"][0].update(uri="x"), "subject.0.uri: Extra inputs"),
        (lambda d: d["subject"][0].update(name=""), "subject.0.name: String should have at least 1 character"),
        (lambda d: d["subject"][0]["digest"].update(sha1="x"), "subject.0.digest.sha1: Extra inputs"),
        (lambda d: d["subject"][0]["digest"].update(sha256="A" * 64), "subject.0.digest.sha256: String should match"),
        (lambda d: d["predicate"]["manifest"]["files"][0].update(size="812"), "files.0.size: Input should be a valid"),
        (
            lambda d: d["predicate"]["assessment"]["measurements"][0].update(events=0),
            "expected 0 events in the paired table, got 14",
        ),
    ],
)
def test_unknown_missing_or_other_typed_field_is_refused_by_name(
    statement: Statement, edit: Callable[[dict[str, Any]], Any], where: str
) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_statement(edited(statement, edit))
    assert "expected an in-toto statement of predicate type https://registry-gate.dev/assessment/v1" in str(
        caught.value
    )
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda d: d["subject"][0]["digest"].update(sha256="0" * 64),
            r"expected subject sha256:\w{64} \(the form that the manifest lists\), got sha256:0{64}",
        ),
        (
            lambda d: d["predicate"]["assessment"].update(form_digest="sha256:" + "0" * 64),
            r"expected an assessment of the form that the manifest lists .* got one of sha256:0{64}",
        ),
        (
            lambda d: d["predicate"]["manifest"].update(digest="sha256:" + "0" * 64),
            r"manifest digest sha256:\w{64} \(recomputed from its files, base and settings\), got sha256:0{64}",
        ),
        (
            lambda d: d["predicate"]["manifest"]["files"][0].update(sha256="0" * 64),
            r"expected manifest digest sha256:\w{64} \(recomputed",
        ),
        (
            lambda d: d["predicate"]["manifest"]["settings"].update(chat_template="other"),
            r"expected manifest digest sha256:\w{64} \(recomputed",
        ),
        (
            lambda d: d["predicate"]["assessment"].update(base_digest=None),
            r"expected the base that the manifest declares \(sha256:d{64}\), got an assessment beside none",
        ),
    ],
)
def test_subject_assessment_and_manifest_must_agree(
    statement: Statement, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        parse_statement(edited(statement, edit))


def test_evidence_of_the_base_cannot_be_stated_for_the_adaptation(statement: Statement) -> None:
    base = FormManifest(files=statement.manifest.files[:1], base=None, flavor="transformers")
    with pytest.raises(IntegrityError, match="evidence of another form never counts"):
        dataclasses.replace(statement, manifest=base)


def test_base_measured_must_be_the_base_declared(statement: Statement) -> None:
    other = dataclasses.replace(statement.assessment, base_digest="sha256:" + "9" * 64)
    with pytest.raises(IntegrityError, match=r"expected the base that the manifest declares .* beside sha256:9{64}"):
        dataclasses.replace(statement, assessment=other)


def test_file_listed_twice_is_refused(statement: Statement) -> None:
    doubled = edited(
        statement, lambda d: d["predicate"]["manifest"]["files"].append(d["predicate"]["manifest"]["files"][0])
    )
    with pytest.raises(EvidenceError, match="expected each file once in the manifest, got twice: MLmodel"):
        parse_statement(doubled)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got something else: Expecting value"),
        (b"{", "got something else: Expecting property name"),
        (b'{"a": 1, "a": 2}', "got the key 'a' twice in one object"),
        (b'{"a": {"b": 1, "b": 1}}', "got the key 'b' twice in one object"),
        (b'{"a": NaN}', "got the number NaN, which is not finite"),
        (b'{"a": -Infinity}', "got the number -Infinity, which is not finite"),
        (b'{"a": 1e999}', "got the number 1e999, which is not finite"),
        (b'{"a": "\xff"}', "got text that is not UTF-8"),
        (b'{"a": "\\ud800"}', "got a lone surrogate"),
        (b"[" * 100_000, "got something else: maximum recursion depth exceeded"),
        (b" " * (MAX_STATEMENT_BYTES + 1), "more than the 16777216 that are read"),
    ],
)
def test_json_that_readers_may_understand_differently_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError, match="expected a statement as JSON") as caught:
        parse_statement(data)
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"null", b"[]", b'"text"', b"1", b"{}"])
def test_json_that_is_no_statement_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError, match="expected an in-toto statement"):
        parse_statement(data)


@given(data=st.binary(max_size=200) | st.text(alphabet='{}[]":,\\u0d8', max_size=60).map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_evidence_errors(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_statement(data)
