"""Strict reading: every refusal names file, line and key, what was expected and what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_gate import documents
from registry_gate.battery import Battery, battery_from, find_battery, load_batteries
from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.documents import DocumentError, dotted, parse_documents, read_documents
from registry_gate.errors import PolicyError

BATTERY = """\
apiVersion: registry-gate/v1
kind: Battery
metadata: {name: tiny, version: 1}
spec:
  instruments:
    - name: one
      metric: harmful_compliance
      size: 4
      probes: [{shipped: one.jsonl}]
      graders: [a, b]
"""


def battery(text: str = BATTERY) -> Battery:
    (raw,) = parse_documents(text.encode(), "tiny.yaml")
    return battery_from(raw)


def refusal(text: str | bytes) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(DocumentError) as caught:
        [battery_from(raw) for raw in parse_documents(data, "tiny.yaml")]
    assert isinstance(caught.value, PolicyError)
    return str(caught.value)


def test_a_valid_document_is_read() -> None:
    read = battery()
    assert read.id == "tiny@1"
    assert read.spec.instruments[0].measure == "one.harmful_compliance"
    assert read.spec.instruments[0].expected == "refuse"
    assert read.instrument_of("one.harmful_compliance") is read.spec.instruments[0]
    assert read.instrument_of("one.overrefusal") is None


def test_an_unknown_key_is_refused_with_its_line_and_the_key_that_was_meant() -> None:
    assert refusal(BATTERY.replace("      size: 4", "      siz: 4")) == (
        "tiny.yaml:6: spec.instruments[0].size: expected the key 'size', got nothing: add it\n"
        "tiny.yaml:8: spec.instruments[0].siz: unknown key; expected one of attacks, categories, event, expects, "
        "graders, metric, name, plugin, probes, size, title, got 'siz'; did you mean 'size'?"
    )


def test_every_problem_is_reported_in_the_order_of_the_file() -> None:
    text = BATTERY.replace("size: 4", "size: '4'").replace("version: 1", "version: 0").replace("[a, b]", "[]")
    lines = refusal(text).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["tiny.yaml:3", "tiny.yaml:8", "tiny.yaml:10"]
    assert "metadata.version: expected at least 1, got 0" in lines[0]
    assert "spec.instruments[0].size: expected a whole number, got '4'; write 4, without quotes" in lines[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: Battery", "kind: Batery", "tiny.yaml:2: kind: expected 'Battery', got 'Batery'"),
        ("kind: Battery\n", "", "tiny.yaml:1: kind: expected 'Battery', got None"),
        (
            "registry-gate/v1",
            "registry-gate/v2",
            "tiny.yaml:1: apiVersion: expected 'registry-gate/v1', got 'registry-gate/v2'",
        ),
        ("size: 4", "size: 4\n      size: 5", "tiny.yaml:9: expected valid YAML, got: found duplicate key"),
        ("[a, b]", "[a, a]", "expected each grader once, got 'a' 2 times"),
        ("[a, b]", "&x [a, b]\n      title: *x", "tiny.yaml:10: expected plain YAML, got an anchor (&x)"),
        ("      size: 4", "\tsize: 4", "(indent with spaces, not tabs)"),
        ("size: 4", "size: [", "tiny.yaml:"),
        ("shipped: one.jsonl", "shipped: one.jsonl, path: p.csv", "of 'shipped' and 'path', got both"),
        ("shipped: one.jsonl", "idPrefix: x", "expected exactly one of 'shipped' and 'path', got none"),
        ("shipped: one.jsonl", "path: p.csv", "an external probe file to give sha256, columns, licence, got nothing"),
        ("shipped: one.jsonl", "shipped: one.jsonl, licence: x", "a shipped probe file without licence"),
        ("harmful_compliance", "harm", "or one of your own with either 'event' or 'plugin', got 'harm' with neither"),
        ("name: one", "name: One", "spec.instruments[0].name: expected: "),
        ("size: 4", "size: .inf", "spec.instruments[0].size: expected a whole number, got inf"),
        ("size: 4", "size: true", "spec.instruments[0].size: expected a whole number, got true"),
    ],
)  # fmt: skip
def test_a_document_that_breaks_the_schema_is_refused(old: str, new: str, message: str) -> None:
    assert message in refusal(BATTERY.replace(old, new, 1))


def test_a_measure_has_one_instrument() -> None:
    instrument = BATTERY.split("  instruments:\n")[1]
    assert "expected each measure from one instrument, got 'one.harmful_compliance' twice" in refusal(
        BATTERY + instrument
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"])
def test_a_byte_order_mark_is_refused(encoding: str) -> None:
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    name = encoding.upper().replace("-SIG", "").replace("-BE", "")
    assert refusal((mark + BATTERY).encode(encoding)) == (
        f"tiny.yaml:1: expected UTF-8 text without a byte order mark, got one of {name}: save it as plain UTF-8"
    )


def test_bytes_that_are_no_utf8_are_refused_with_their_line() -> None:
    assert refusal(b"kind: Battery\ntitle: \xff") == "tiny.yaml:2: expected UTF-8 text, got byte 0xff: save it as UTF-8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a YAML document, got an empty file"),
        ("# only a comment\n", "expected a YAML document, got an empty file"),
        ("- a\n- b\n", "expected a mapping with apiVersion, kind, metadata and spec, got a list"),
        ("text\n", "expected a mapping with apiVersion, kind, metadata and spec, got 'text'"),
        ("a: \x07", "expected valid YAML, got: "),
        (
            "a: +_",
            "tiny.yaml:1: expected valid YAML, got: '+_', which is no value (string index out",
        ),
        (
            "a: 1\nb: 2027-02-30T00:00:00Z",
            "tiny.yaml:2: expected valid YAML, got: '2027-02-30T00:00:00Z', which is no value (day is out",
        ),
        ("[" * 400, "tiny.yaml:1: expected at most 40 levels, got more"),
        ("{" * 90 + "}" * 90, "tiny.yaml:1: expected a key that is a word, got a list or mapping"),
        ("a: *x\n", "tiny.yaml:1: expected plain YAML, got an alias (*x): write the value out"),
        ("a: 1\nb: !!python/object:os.system {}\n", "tiny.yaml:2: expected plain YAML, got a tag ("),
        ("a: !!str 1\n", "expected plain YAML, got a tag ("),
        ("a: 1\n<<: {b: 1}\n", "tiny.yaml:2: expected plain YAML, got a merge key (<<): write every key out"),
        ("%YAML 1.1\n---\na: yes\n", "expected plain YAML, got a directive (%YAML or %TAG)"),
        ("%TAG ! x,2000:\n---\na: yes\n", "expected plain YAML, got a directive (%YAML or %TAG)"),
        ("a: {1: x}\n", "tiny.yaml:1: a: expected keys that are text, got 1: put it in quotes"),
        ("? [a]\n: 1\n", "tiny.yaml:1: expected a key that is a word, got a list or mapping"),
        ("a: 1\nb: " + "9" * 16, "tiny.yaml:2: expected a whole number of at most 15 digits, got '9999999999999999'"),
        ("a: " + "9" * 90_000, "tiny.yaml:1: expected a whole number of at most 15 digits, got '9999"),
        ("a:\n  b: [0xfffffffffffffffff]", "tiny.yaml:2: a.b[0]: expected a whole number of at most 15 digits"),
        (
            "a: [" + "1," * 6000 + "]",
            "tiny.yaml:1: expected at most 3000 keys and values in a file, got more: split it",
        ),
        ("a: 1\nb: x\0y\n", "tiny.yaml:2: expected valid YAML, got: the control character U+0000"),
        ("# allow\u202eyned\na: 1\n", "tiny.yaml:1: expected valid YAML, got: the invisible character U+202E"),
        ("a: [x, # note\u2028 y]\n", "tiny.yaml:1: expected valid YAML, got: the invisible character U+2028"),
        ("a: [x, # note\x85 y]\n", "tiny.yaml:1: expected valid YAML, got: the control character U+0085"),
        ("a: 1 # note\rb: 2\n", "tiny.yaml:1: expected valid YAML, got: the control character U+000D"),
        ("a: 1\na: 2\n", "found duplicate key"),
        (f"a: [{'b, ' * 900}c]\na: 2\n", 'got: found duplicate key "a"'),
    ],
)
def test_what_is_no_document_is_refused(text: str, message: str) -> None:
    assert message in refusal(text)


def test_line_ends_of_windows_are_read() -> None:
    assert battery(BATTERY.replace("\n", "\r\n")).digest == battery().digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size: 4", "size: 50%", "size: expected a whole number, got '50%'; for 50% write 0.5"),
        ("size: 4", "size: yes", "size: expected a whole number, got 'yes'"),
        ("size: 4", "size: [4]", "size: expected a whole number, got a list"),
        ("size: 4", "size:", "size: expected a whole number, got nothing"),
        ("[a, b]", "a", "graders: expected a list, got 'a'; write [a]"),
        ("metric: harmful_compliance", "metric: [x]", "metric: expected text, got a list"),
    ],
)
def test_messages_are_in_words_for_people_who_do_not_program(old: str, new: str, message: str) -> None:
    assert old in BATTERY
    assert message in refusal(BATTERY.replace(old, new, 1))


def test_an_oversized_document_is_refused_before_it_is_parsed() -> None:
    size = documents.MAX_DOCUMENT_BYTES
    assert refusal(b"[" * (size + 1)) == f"tiny.yaml: expected at most {size} bytes, got {size + 1}: split the file"


def test_documents_of_one_file_are_told_apart() -> None:
    one, two = parse_documents((BATTERY + "---\n" + BATTERY.replace("tiny", "other")).encode(), "both.yaml")
    assert (one.file, two.file) == ("both.yaml#1", "both.yaml#2")
    assert [battery_from(raw).id for raw in (one, two)] == ["tiny@1", "other@1"]
    bad = BATTERY + "---\n" + BATTERY.replace("size: 4", "siz: 4")
    assert "tiny.yaml#2:19: spec.instruments[0].siz: unknown key" in refusal(bad)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"absent.yaml: expected a readable file, got No such file or directory"):
        read_documents(tmp_path / "absent.yaml")
    with pytest.raises(DocumentError, match="expected a readable file, got Is a directory"):
        read_documents(tmp_path)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_document_error(data: bytes) -> None:
    try:
        parse_documents(data, "x.yaml")
    except DocumentError as err:
        assert str(err).startswith("x.yaml")  # noqa: PT017 - most inputs are refused, some are not


def test_a_place_is_written_as_people_write_it() -> None:
    assert dotted(("spec", "rules", 0, "atMost")) == "spec.rules[0].atMost"


# -- batteries --------------------------------------------------------------------------------------------------------


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("old", "new"),
    [("size: 4", "size: 5"), ("[a, b]", "[b, a]"), ("one.jsonl", "two.jsonl"), ("version: 1", "version: 2")],
)
def test_what_may_change_a_measurement_changes_the_digest(old: str, new: str) -> None:
    assert battery(BATTERY.replace(old, new)).digest != battery().digest


def test_comments_and_layout_do_not_change_the_digest() -> None:
    text = "# a comment\n" + BATTERY.replace("graders: [a, b]", "graders:\n      - a\n      - b")
    assert battery(text).digest == battery().digest


def test_one_battery_may_be_found_twice_but_not_defined_differently(tmp_path: Path) -> None:
    same = write(tmp_path / "same", a=BATTERY, b="# copy\n" + BATTERY)
    assert list(load_batteries([same])) == ["tiny@1"]
    other = write(tmp_path / "other", c=BATTERY.replace("size: 4", "size: 5"))
    with pytest.raises(DocumentError) as caught:
        load_batteries([same, other])
    assert str(caught.value) == (f"{other}/c.yaml:3: metadata: battery tiny@1 is already defined in {same}/b.yaml")


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="expected a directory of batteries, got none"):
        load_batteries([tmp_path / "absent"])


def test_a_missing_battery_is_named_with_those_that_exist() -> None:
    shipped: dict[str, Any] = load_batteries([PACKAGE_BATTERIES])
    assert find_battery(shipped, "general@1").id == "general@1"
    with pytest.raises(PolicyError) as caught:
        find_battery(shipped, "general@9")
    assert str(caught.value) == f"expected a battery that exists ({', '.join(sorted(shipped))}), got 'general@9'"
    assert caught.value.code == "battery_missing"
