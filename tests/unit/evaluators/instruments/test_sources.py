"""Probe files are read as the battery says, and every bad one is refused in words of its own."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evaluators.instruments.sources import SHIPPED, load_probes, normalised
from registry_gate.battery import ColumnMapping, InstrumentSpec, ProbeSource
from registry_gate.errors import AssessmentError

PLAIN = b"id,prompt,type\n1,How do I sharpen a pencil?,tools\n2,How do I sharpen a knife?,tools\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source(data: bytes, path: str = "set.csv", **changes: Any) -> ProbeSource:
    fields = {
        "path": path,
        "sha256": sha256(data),
        "licence": "MIT",
        "columns": ColumnMapping(id="id", text="prompt", category="type"),
    }
    return ProbeSource(**(fields | changes))


def instrument(*sources: ProbeSource, size: int, metric: str = "harmful_compliance") -> InstrumentSpec:
    return InstrumentSpec(name="tools", metric=metric, probes=sources, size=size, graders=("g",))


def test_a_csv_file_becomes_probes(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(PLAIN)
    probes = load_probes(instrument(source(PLAIN), size=2), probe_dirs=[tmp_path])
    assert [(p.id, p.category, p.cluster, p.expected, p.pair) for p in probes] == [
        ("1", "tools", "1", "refuse", None),
        ("2", "tools", "2", "refuse", None),
    ]
    assert probes[0].text == "How do I sharpen a pencil?"


def test_the_instrument_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(PLAIN)
    probes = load_probes(instrument(source(PLAIN), size=2, metric="overrefusal"), probe_dirs=[tmp_path])
    assert {probe.expected for probe in probes} == {"comply"}


def test_the_first_directory_that_has_the_file_wins_and_absolute_paths_need_none(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "set.csv").write_bytes(PLAIN)
    assert load_probes(instrument(source(PLAIN), size=2), probe_dirs=[tmp_path / "a", tmp_path / "b"])
    absolute = source(PLAIN, path=str(tmp_path / "b" / "set.csv"))
    assert load_probes(instrument(absolute, size=2), probe_dirs=[])


def test_where_cluster_and_prefix_and_category_of_the_source(tmp_path: Path) -> None:
    data = b"n\tq\tseed\tlabel\n1\tone?\ts1\tsafe\n2\ttwo?\ts1\tunsafe\n3\tthree?\t\tunsafe\n"
    (tmp_path / "set.tsv").write_bytes(data)
    one = source(
        data,
        path="set.tsv",
        columns=ColumnMapping(text="q", cluster="seed"),
        where={"label": ("unsafe",)},
        idPrefix="x-",
        category="principle_1",
    )
    probes = load_probes(instrument(one, size=2), probe_dirs=[tmp_path])
    # Ids are row numbers of the file, so that another filter does not rename them.
    assert [(p.id, p.cluster, p.category) for p in probes] == [
        ("x-2", "s1", "principle_1"),
        ("x-3", "x-3", "principle_1"),
    ]


def test_a_file_without_header_and_a_context_column(tmp_path: Path) -> None:
    data = "Summarise it,Some text\nSay hello,\n".encode("utf-16")
    (tmp_path / "set.csv").write_bytes(data)
    one = source(data, columns=ColumnMapping(text="0", context="1"), header=False, encoding="utf-16", idPrefix="h")
    probes = load_probes(instrument(one, size=2), probe_dirs=[tmp_path])
    assert [(p.id, p.text, p.category) for p in probes] == [
        ("h1", "Some text\n\nSummarise it", "tools"),
        ("h2", "Say hello", "tools"),
    ]


def test_jsonl_with_numbers_and_a_byte_order_mark(tmp_path: Path) -> None:
    lines = [{"id": 7, "prompt": "one\u2028two?", "type": None}, {"id": 8, "prompt": "three?", "type": "t"}]
    data = b"\xef\xbb\xbf" + "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    (tmp_path / "set.jsonl").write_bytes(data)
    probes = load_probes(instrument(source(data, path="set.jsonl"), size=2), probe_dirs=[tmp_path])
    assert [(p.id, p.category) for p in probes] == [("7", "tools"), ("8", "t")]


BAD = {
    "another sha256": (PLAIN, {"sha256": "0" * 64}, 2, f"expected sha256 {'0' * 64}, got {sha256(PLAIN)}"),
    "no text column": (
        PLAIN,
        {"columns": ColumnMapping(text="q")},
        2,
        "line 2: expected a column 'q', got 'id', 'prompt'",
    ),
    "no where column": (
        PLAIN,
        {"where": {"label": ("x",)}},
        2,
        "expected a column 'label', got 'id', 'prompt', 'type'",
    ),
    "nothing kept": (PLAIN, {"where": {"type": ("x", "y")}}, 2, "expected rows where type in (x, y), got none"),
    "another size": (PLAIN, {}, 3, "expected 3 probes as the battery's `size` says, got 2"),
    "not UTF-8": (b"id,prompt,type\n1,caf\xe9?,t\n", {}, 1, "line 2: expected utf-8 text, got byte 0xe9"),
    "unknown encoding": (PLAIN, {"encoding": "utf-9"}, 2, "expected a known encoding, got 'utf-9'"),
    "empty prompt": (b"id,prompt,type\n1, ,t\n", {}, 1, "line 2: expected a prompt, got an empty one"),
    "empty id": (b"id,prompt,type\n,hello,t\n", {}, 1, "line 2: expected an id in column 'id', got none"),
    "same id": (b"id,prompt,type\n1,one,t\n1,two,t\n", {}, 2, "expected each probe id once, got '1' twice"),
    "same words": (b"id,prompt,type\n1,One two!,t\n2,one  TWO,t\n", {}, 2, "same words in probes '1' and '2'"),
    "short row": (b"id,prompt,type\n1,one\n", {}, 1, "line 2: expected 3 columns, got 2"),
    "open quote": (b'id,prompt,type\n1,"one,t\n', {}, 1, "expected well-formed rows"),
    "column twice": (b"id,prompt,id\n1,one,t\n", {}, 1, "expected each column name once, got 'id'"),
    "no rows": (b"id,prompt,type\n", {}, 1, "expected rows, got none"),
    "unknown format": (PLAIN, {"path": "set.txt"}, 2, "expected a name that ends in .csv, .tsv, .jsonl or .json"),
    "not JSON": (b"id,prompt,type\n", {"path": "set.jsonl"}, 1, "line 1: expected a JSON object, got none that parses"),
    "JSON list": (b"[1]\n", {"path": "set.jsonl"}, 1, "line 1: expected a JSON object, got a list"),
    "JSON list as prompt": (
        b'{"id": 1, "prompt": ["a"], "type": "t"}\n',
        {"path": "set.jsonl"},
        1,
        "expected text or a number in column 'prompt', got a list",
    ),
}


@pytest.mark.parametrize(("data", "changes", "size", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused(tmp_path: Path, data: bytes, changes: dict[str, Any], size: int, message: str) -> None:
    (tmp_path / changes.get("path", "set.csv")).write_bytes(data)
    with pytest.raises(AssessmentError) as caught:
        load_probes(instrument(source(data, **changes), size=size), probe_dirs=[tmp_path])
    assert str(caught.value).startswith("tools.harmful_compliance: ")
    assert message in str(caught.value)
    assert caught.value.code.startswith("probes_")


def test_a_field_may_be_longer_than_csv_files_have_them_in_python(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    data = b"id,prompt,type\n1," + b"word " * 200_000 + b",t\n2,Short,t\n"
    (tmp_path / "set.csv").write_bytes(data)
    long, _ = load_probes(instrument(source(data), size=2), probe_dirs=[tmp_path])
    assert len(long.text) >= 999_999
    assert csv.field_size_limit() == before


def test_a_missing_file_is_named_with_every_place_that_was_looked_at(tmp_path: Path) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(AssessmentError) as caught:
        load_probes(instrument(source(PLAIN), size=2), probe_dirs=places)
    for place in places:
        assert str(place / "set.csv") in str(caught.value)
    with pytest.raises(AssessmentError, match="the worker was given no probe directory"):
        load_probes(instrument(source(PLAIN), size=2), probe_dirs=[])


def test_an_unknown_shipped_file_is_named_with_those_that_exist() -> None:
    one = instrument(ProbeSource(shipped="../sources.py"), size=1)
    with pytest.raises(AssessmentError, match=r"among advice.jsonl, .*, truth.jsonl, got '../sources.py'"):
        load_probes(one, probe_dirs=[])


def test_a_shipped_file_must_have_the_sha256_that_the_battery_pins() -> None:
    pinned = ProbeSource(shipped="medical.jsonl", sha256=sha256((SHIPPED / "medical.jsonl").read_bytes()))
    assert len(load_probes(instrument(pinned, size=60), probe_dirs=[])) == 60
    with pytest.raises(AssessmentError, match="expected sha256 1111"):
        load_probes(instrument(ProbeSource(shipped="medical.jsonl", sha256="1" * 64), size=60), probe_dirs=[])


def test_a_shipped_file_may_be_narrowed_to_categories() -> None:
    one = ProbeSource(shipped="general.jsonl", where={"category": ("fraud", "theft")})
    probes = load_probes(instrument(one, size=20, metric="overrefusal"), probe_dirs=[])
    assert {probe.category for probe in probes} == {"fraud", "theft"}


def test_no_message_quotes_a_probe(tmp_path: Path) -> None:
    data = b"id,prompt,type\n1,A secret wording,t\n1,A secret wording,t\n"
    (tmp_path / "set.csv").write_bytes(data)
    with pytest.raises(AssessmentError) as caught:
        load_probes(instrument(source(data), size=2), probe_dirs=[tmp_path])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of 'shipped' and 'path', got none"),
        ({"shipped": "general.jsonl", "path": "x.csv"}, "got both"),
        ({"path": "x.csv"}, "to give sha256, columns, licence"),
        ({"shipped": "general.jsonl", "encoding": "utf-8"}, "without encoding"),
        ({"shipped": "general.jsonl", "where": {"category": ()}}, "to list at least one value"),
        (
            {"path": "x.csv", "sha256": "0" * 64, "licence": "MIT", "category": "a"}
            | {"columns": ColumnMapping(text="t", category="c")},
            "at most one of 'category' and 'columns.category'",
        ),
    ],
)
def test_a_contradictory_source_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ProbeSource(**fields)


@pytest.mark.parametrize(
    ("one", "other"), [("Hello, World!", "hello world"), ("ＡＢＣ", "abc"), ("a\u00a0 b", "A b"), ("?!", "?!")]
)
def test_normalised_ignores_case_spaces_and_punctuation(one: str, other: str) -> None:
    assert normalised(one) == normalised(other) != ""


def test_words_that_differ_stay_different() -> None:
    same: Callable[[str], str] = normalised
    assert same("kill a process") != same("kill a person")
