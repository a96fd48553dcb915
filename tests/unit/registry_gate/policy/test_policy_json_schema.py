"""The committed JSON Schema is what the code makes, and agrees with the loader on every file that comes along."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from registry_gate.policy.json_schema import KINDS, file_name, json_schema

ROOT = Path(__file__).parents[4]
FILES = [
    *sorted((ROOT / "policies").glob("*.yaml")),
    *sorted((ROOT / "policies" / "cases").rglob("*.yaml")),
    *sorted((ROOT / "evaluators" / "batteries").glob("*.yaml")),
]


def plain(value: Any) -> Any:
    """As an editor sees it: dates are text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


@pytest.mark.parametrize("kind", KINDS)
def test_committed_schema_is_what_the_code_makes(kind: str) -> None:
    committed = json.loads((ROOT / "policies" / "schema" / file_name(kind)).read_text(encoding="utf-8"))
    assert committed == json_schema(kind), "run: registry-gate policy schema -o policies/schema"


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_strict_and_describes_every_key(kind: str) -> None:
    schema = json_schema(kind)
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema["$defs"].values()):
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
    assert schema["$defs"] and "description" in schema


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_file_is_valid(path: Path) -> None:
    documents = list(YAML(typ="safe", pure=True).load_all(path.read_text(encoding="utf-8")))
    assert documents
    for document in documents:
        Draft202012Validator(json_schema(document["kind"])).validate(plain(document))


@pytest.mark.parametrize(
    ("key", "value"),
    [("atMost", 5), ("atMost", 0), ("notWorseThanBase", 1), ("severity", "terrible"), ("thresold", 0.1), ("id", "1 x")],
)
def test_slips_that_the_loader_refuses_are_seen_in_the_editor(key: str, value: Any) -> None:
    (document,) = YAML(typ="safe", pure=True).load_all((ROOT / "policies" / "general.yaml").read_text(encoding="utf-8"))
    document["spec"]["rules"][0][key] = value
    assert not Draft202012Validator(json_schema("PromotionPolicy")).is_valid(plain(document))


def lists_of_words(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """Every list of single values in a schema, by where it stands."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in schema.items():
        if isinstance(value, dict):
            here = f"{path}/{key}"
            if value.get("type") == "array" and "$ref" not in value.get("items", {}):
                found[here] = value
            found |= lists_of_words(value, here)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_list_of_words_may_name_one_twice(kind: str) -> None:
    # None of our lists has an order or a count that means anything, so an entry that stands twice is a slip.
    found = lists_of_words(json_schema(kind))
    assert {place for place, one in found.items() if not one.get("uniqueItems")} == set()
    assert found or kind == "ControlCatalogue"
