"""JSON Schema of every kind of file that people write, made from the models that read them.

Editors complete and check by it; the loader stays the judge, and checks more: what several keys say together, the
battery behind a policy, the files behind a signer. Source: JSON Schema draft 2020-12, as pydantic writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from registry_gate.battery import Battery
from registry_gate.policy.controls import ControlCatalogue
from registry_gate.policy.schema import Policy, PolicySetFile, PolicyTest

KINDS: Mapping[str, type[BaseModel]] = {
    "PromotionPolicy": Policy,
    "PolicySet": PolicySetFile,
    "PolicyTest": PolicyTest,
    "Battery": Battery,
    "ControlCatalogue": ControlCatalogue,
}
"""Kinds of documents, with the model that reads each."""

_ITEM = re.compile(r"^ {8}(\w+): (.*)$")


def file_name(kind: str) -> str:
    """Name of a kind's schema file, e.g. `promotion-policy.json`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind).lower() + ".json"


def json_schema(kind: str) -> dict[str, Any]:
    """The schema of one kind.

    Args:
        kind: One of `KINDS`.
    """
    model = KINDS[kind]
    found = model.model_json_schema(by_alias=True, mode="validation")
    _describe(found, model)
    by_name = {part.__name__: part for part in _parts(model)}
    for name, definition in found.get("$defs", {}).items():
        _describe(definition, by_name[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Written by `registry-gate policy schema`; do not edit.",
        **found,
    }


def _parts(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and every model inside it."""
    found: list[type[BaseModel]] = []
    waiting: list[Any] = [model]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            if one in found:
                continue
            found.append(one)
            waiting += [field.annotation for field in one.model_fields.values()]
        else:
            waiting += getattr(one, "__args__", ())
    return found


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put what the docstring says of each key beside the key; pydantic puts all of it above the whole."""
    summary, arguments = _docstring(model)
    schema["description"] = summary
    schema.pop("title", None)
    for name, field in model.model_fields.items():
        text = arguments.get(name)
        properties = schema["properties"]
        key = field.alias or name
        properties[key].pop("title", None)
        if text is not None:
            properties[key]["description"] = text


def _docstring(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """The first paragraph, and what `Args:` says of each field."""
    lines = (model.__doc__ or "").strip().splitlines()
    summary: list[str] = []
    for line in lines:
        if not line.strip():
            break
        summary.append(line.strip())
    arguments: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("    Args:") + 1 :] if "    Args:" in lines else []:
        if (item := _ITEM.match(line)) is not None:
            name, text = item[1], item[2]
            arguments[name] = text
        elif not line.strip():
            break
        elif name:
            arguments[name] += " " + line.strip()
    return " ".join(summary), arguments
