"""No file makes the loader crash, hang, half-load a set or accept what the JSON Schema forbids."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_inputs import BASES, KINDS, ODD, emitted, judge, make_input


@settings(max_examples=300)
@given(st.integers(min_value=0, max_value=10**9))
def test_mutated_and_made_up_files(number: int) -> None:
    judge(make_input(number))


def structures() -> st.SearchStrategy[Any]:
    keys = (
        st.sampled_from(["apiVersion", "kind", "metadata", "name", "spec", "rules", "id", "match", "any"]) | st.text()
    )
    leaves = st.sampled_from(ODD) | st.text() | st.integers() | st.floats() | st.booleans() | st.none()
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


@given(st.sampled_from(sorted(KINDS)), structures())
def test_any_structure_as_any_kind(kind: str, spec: Any) -> None:
    body = {"apiVersion": "registry-gate/v1", "kind": kind, "metadata": {"name": "one"}, "spec": spec}
    judge(emitted(body).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=200), st.sampled_from(sorted(BASES)), st.integers(min_value=0, max_value=600))
def test_any_bytes_anywhere(data: bytes, kind: str, place: int) -> None:
    base = BASES[kind].encode()
    judge(base[:place] + data + base[place:])


@pytest.mark.parametrize("kind", sorted(BASES))
def test_the_documents_that_are_mutated_load_themselves(kind: str) -> None:
    assert judge(BASES[kind].encode()) == "loaded"


def _rules(count: int) -> bytes:
    rule = (
        "    - {id: R-%d, title: t, measure: x.harmful_compliance, atMost: 0.%d5, notWorseThanBase: 0.1%d, "
        "severity: low}\n"
    )
    head, tail = BASES["PromotionPolicy"].split("  rules:\n")
    return (head + "  rules:\n" + "".join(rule % (n, n, n) for n in range(count)) + tail.split("\n", 1)[1]).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"#\n" * 50_000,
        b"a: [" + b"[]," * 33_000 + b"]",
        b"---\na: 1\n" * 11_000,
        b"a: x\n" + b"  x\n" * 24_000,
        b"{" * 40 + b"}" * 40,
        b"a: |\n" + b"\n" * 99_000,
        b"a: '" + b"x " * 49_000 + b"'",
        _rules(200),
        BASES["PromotionPolicy"].replace('["c-*"]', str(["*a" * n for n in range(1, 200)])).encode(),
        BASES["PolicySet"].replace("[candidate,", str([f"a{n}" for n in range(4000)])[:-1] + ",").encode(),
    ],
    ids=["comments", "lists", "documents", "lines", "braces", "blank", "quoted", "rules", "patterns", "aliases"],
)
def test_nothing_of_the_longest_size_hangs(data: bytes) -> None:
    judge(data)
