"""Bad input over HTTP: a gated server answers as a plain one does, or refuses; never a 5xx of its own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from conftest import Installation, Server, form_files, free_port, gated_server, mlflow_server
from sqlalchemy import create_engine

API = "/api/2.0/mlflow"

STRANGE = {
    "empty": "",
    "blank": " ",
    "256 characters": "n" * 256,
    "257 characters": "n" * 257,
    "10,000 characters": "n" * 10_000,
    "10,000 characters outside ASCII": "\u00e9" * 10_000,
    "control characters": "a\x01b\x1fc",
    "a zero byte": "a\x00b",
    "a line break": "a\nb",
    "SQL": "x'; DROP TABLE registered_model_aliases; --",
    "SQL wildcard": "%",
    "a path": "../../etc/passwd",
    "a path from the root": "/etc/passwd",
    "an encoded path": "%2e%2e%2f",
    "a URI": "models:/x/1",
    "a colon": "a:b",
    "an at sign": "a@b",
    "half a surrogate pair": "\ud800",
    "right to left": "\u202emodel",
    "no width": "champ\u200bion",
    "full width": "\uff43\uff48\uff41\uff4d\uff50\uff49\uff4f\uff4e",
    "an emoji": "\U0001f916",
    "a number": 7,
    "a negative number": -1,
    "true": True,
    "null": None,
    "a list": ["a"],
    "an object": {"a": "b"},
}
VERSIONS: dict[str, Any] = {
    **STRANGE,
    "zero": "0",
    "minus one": "-1",
    "a fraction": "1.0",
    "an exponent": "1e0",
    "hexadecimal": "0x1",
    "with space": " 1 ",
    "with plus": "+1",
    "with underscore": "1_0",
    "Arabic digit": "\u0661",
    "superscript": "\u00b9",
    "larger than 32 bits": str(2**31),
    "larger than 64 bits": str(2**64),
    "300 digits": "9" * 300,
    "an alias": "champion",
}
BODIES = {
    "nothing": b"",
    "half an object": b'{"name": ',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "text": b'"name"',
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "NaN": b'{"name": NaN}',
    "a field twice": b'{"name": "a", "name": "b", "alias": "champion", "version": "1"}',
    "an unknown field": b'{"name": "a", "registry_gate": {"decision": "allowed"}}',
    "deep nesting": b'{"name":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "a form": b"name=a&alias=champion&version=1",
}
CALLS = {
    "alias": ("POST", "registered-models/alias", {"name": "{model}", "alias": "champion", "version": "1"}),
    "stage": (
        "POST",
        "model-versions/transition-stage",
        {"name": "{model}", "version": "1", "stage": "Production", "archive_existing_versions": False},
    ),
    "rename": ("POST", "registered-models/rename", {"name": "{model}", "new_name": "{model}-2"}),
    "delete alias": ("DELETE", "registered-models/alias", {"name": "{model}", "alias": "champion"}),
    "create": ("POST", "registered-models/create", {"name": "{new}", "tags": [{"key": "k", "value": "v"}]}),
    "create version": ("POST", "model-versions/create", {"name": "{model}", "source": "{source}", "model_id": "{id}"}),
    "delete version": ("DELETE", "model-versions/delete", {"name": "{model}", "version": "9"}),
    "tag": ("POST", "registered-models/set-tag", {"name": "{model}", "key": "k", "value": "v"}),
    "version tag": ("POST", "model-versions/set-tag", {"name": "{model}", "version": "1", "key": "k", "value": "v"}),
    "update": ("PATCH", "registered-models/update", {"name": "{model}", "description": "d"}),
}
FIELDS = [(call, name) for call, (_, _, body) in CALLS.items() for name in body]


class Pair:
    """A gated and a plain server with the same content, asked the same things."""

    def __init__(self, gated: Server, plain: Server) -> None:
        self.servers = {"gated": gated, "plain": plain}
        self.model = f"clinical-{uuid.uuid4().hex[:8]}"
        self.sources = {}
        for name, server in self.servers.items():
            mlflow.set_tracking_uri(server.uri)
            self.sources[name] = server.log_model(form_files(base=None, seed="bad input"))
            assert server.register(self.model, source=self.sources[name]) == 1
        mlflow.set_tracking_uri(None)

    def ask(self, method: str, path: str, body: bytes | dict[str, Any]) -> tuple[requests.Response, requests.Response]:
        """Answers of the gated and the plain server."""
        answers = []
        for name, server in self.servers.items():
            data = body if isinstance(body, bytes) else json.dumps(self._filled(body, name)).encode()
            headers = {"Content-Type": "application/json"}
            answers.append(requests.request(method, server.uri + path, data=data, headers=headers, timeout=60))
        return answers[0], answers[1]

    def _filled(self, body: dict[str, Any], server: str) -> dict[str, Any]:
        words = {"{model}": self.model, "{new}": "new-name", "{source}": self.sources[server], "{model}-2": "other"}
        words["{id}"] = self.sources[server].removeprefix("models:/")
        return {key: words.get(value, value) if isinstance(value, str) else value for key, value in body.items()}

    def assert_alike(self, what: str, gated: requests.Response, plain: requests.Response) -> None:
        """The gate's own refusal, or what plain MLflow says; and nothing promoted."""
        if gated.status_code == 403:
            assert gated.json()["registry_gate"]["decision"] == "denied", what
        else:
            assert gated.status_code == plain.status_code, (what, gated.text[:500], plain.text[:500])
            assert code(gated) == code(plain), (what, gated.text[:500], plain.text[:500])
        assert gated.status_code < 500 or plain.status_code == gated.status_code, (what, gated.text[:500])
        self.restore()
        server = self.servers["gated"]
        assert server.sql("SELECT COUNT(*) FROM registered_model_aliases") == [(0,)], what
        assert server.sql("SELECT COUNT(*) FROM model_versions WHERE current_stage IN ('Production', 'Staging')") == [
            (0,)
        ], what

    def restore(self) -> None:
        """Both servers as at first; the plain one promotes what it is asked to."""
        plain = self.servers["plain"]
        plain.sql("DELETE FROM registered_model_aliases")
        plain.sql("UPDATE model_versions SET current_stage = 'None' WHERE current_stage <> 'Deleted_Internal'")
        for server in self.servers.values():
            names = [n for (n,) in server.sql("SELECT name FROM registered_models") if n != self.model]
            if self.model not in [n for (n,) in server.sql("SELECT name FROM registered_models")]:
                # Renamed: what promotes nothing may be.
                (renamed,) = server.sql("SELECT name FROM model_versions WHERE version = 1")[0]
                server.client.rename_registered_model(renamed, self.model)
                names.remove(renamed)
            for name in names:
                server.sql("DELETE FROM registered_model_tags WHERE name = :n", n=name)
                server.sql("DELETE FROM registered_models WHERE name = :n", n=name)


def code(answer: requests.Response) -> str | None:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body.get("error_code") if isinstance(body, dict) else None


@pytest.fixture(scope="module")
def pair(installation: Callable[..., Installation], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory: Path = tmp_path_factory.mktemp("plain")
    uri, port = f"sqlite:///{directory / 'mlflow.db'}", free_port()
    made = Installation(directory=directory, ledger_uri=uri, tracking_uri=f"http://127.0.0.1:{port}")
    environment = {k: v for k, v in made.environment().items() if not k.startswith("REGISTRY_GATE_")}
    workers = ("--workers", "1")
    with (
        gated_server("sqlite", installation, options=workers) as gated,
        mlflow_server(
            directory, backend=uri, registry=uri, port=port, environment=environment, options=workers,
            artifacts=str(directory / "artifacts"),
        ) as log,
    ):  # fmt: skip
        engine = create_engine(uri)
        plain = Server(database="sqlite", installation=made, engine=engine, artifacts=directory / "artifacts", log=log)
        yield Pair(gated, plain)
        engine.dispose()


@pytest.mark.parametrize(("call", "field"), FIELDS)
def test_strange_value_is_answered_as_plain_mlflow_does(pair: Pair, call: str, field: str) -> None:
    method, path, body = CALLS[call]
    values = VERSIONS if field == "version" else STRANGE
    for what, value in values.items():
        answers = pair.ask(method, f"{API}/{path}", {**body, field: value})
        pair.assert_alike(f"{call}: {field} is {what}", *answers)
    without = {key: value for key, value in body.items() if key != field}
    pair.assert_alike(f"{call} without {field}", *pair.ask(method, f"{API}/{path}", without))


@pytest.mark.parametrize("call", list(CALLS))
def test_malformed_body_is_answered_as_plain_mlflow_does(pair: Pair, call: str) -> None:
    method, path, _ = CALLS[call]
    for what, data in BODIES.items():
        pair.assert_alike(f"{call}: {what}", *pair.ask(method, f"{API}/{path}", data))


@pytest.mark.parametrize(
    "stage", ["PRODUCTION", "production ", " Production", "Prod", "P\u0433oduction", "Staging\u200b"]
)
def test_strange_stage_is_answered_as_plain_mlflow_does_or_refused(pair: Pair, stage: str) -> None:
    body = {"name": "{model}", "version": "1", "stage": stage, "archive_existing_versions": True}
    gated, plain = pair.ask("POST", f"{API}/model-versions/transition-stage", body)
    assert gated.status_code == (403 if plain.status_code == 200 else plain.status_code)
    pair.assert_alike(stage, gated, plain)


@pytest.mark.parametrize("size", [5_000, 100_000, 100_001, 2_000_000])
def test_giant_tag_is_answered_as_plain_mlflow_does(pair: Pair, size: int) -> None:
    tag = {"name": "{model}", "key": "k", "value": "v" * size}
    pair.assert_alike("value", *pair.ask("POST", f"{API}/registered-models/set-tag", tag))
    tag = {"name": "{model}", "key": "k" * size, "value": "v"}
    pair.assert_alike("key", *pair.ask("POST", f"{API}/registered-models/set-tag", tag))
    reserved = {"name": "{model}", "key": "registry_gate." + "k" * size, "value": "v"}
    gated, _ = pair.ask("POST", f"{API}/registered-models/set-tag", reserved)
    assert gated.status_code == 403


def test_ten_thousand_tags_in_one_call_are_answered_as_plain_mlflow_does(pair: Pair) -> None:
    tags = [{"key": f"k{n}", "value": "v"} for n in range(10_000)]
    pair.assert_alike("tags", *pair.ask("POST", f"{API}/registered-models/create", {"name": "{new}", "tags": tags}))


@pytest.mark.parametrize(
    ("one", "other"),
    [("champion", "Champion"), ("\u00e9", "e\u0301"), ("\ufb01", "fi"), ("\uff43", "c"), ("k", "\u212a")],
)
def test_aliases_that_look_or_normalise_alike_are_each_governed(pair: Pair, one: str, other: str) -> None:
    for alias in (one, other):
        body = {"name": "{model}", "alias": alias, "version": "1"}
        gated, plain = pair.ask("POST", f"{API}/registered-models/alias", body)
        assert gated.status_code == (403 if plain.status_code == 200 else plain.status_code), gated.text
        pair.assert_alike(alias, gated, plain)
