"""Every way into the registry that the installed MLflow has, and what the gate does about each.

The tables are complete on purpose: a method or route that another MLflow adds fails these tests until somebody writes
down what it can do to a promoted name.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import mlflow.server
import mlflow.server.fastapi_app
import mlflow.server.handlers as handlers
import pytest
import requests
from conftest import Installation, Server, free_port, mlflow_server
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from sqlalchemy import create_engine

from registry_gate.mlflow_plugin.store import GatedStore, build_store

DATABASES = ("sqlite",)

REVIEWED = "reviewed: a promoted name can come to mean another model"
DEMOTION = "demotion: always possible, recorded"
TAGS = "guarded tags: reserved keys, and what tells prompts from models"
SOURCE = "checked: reserved tags, sources that can mean other files tomorrow"
READ = "read: changes nothing"
WEBHOOK = "harmless: webhooks tell after the fact and cannot move a name"

METHODS = {
    "set_registered_model_alias": REVIEWED,
    "transition_model_version_stage": REVIEWED,
    "rename_registered_model": REVIEWED,
    "delete_registered_model_alias": DEMOTION,
    "delete_model_version": DEMOTION,
    "delete_registered_model": DEMOTION,
    "set_registered_model_tag": TAGS,
    "delete_registered_model_tag": TAGS,
    "set_model_version_tag": TAGS,
    "delete_model_version_tag": TAGS,
    "create_registered_model": SOURCE,
    "create_model_version": SOURCE,
    "update_registered_model": "harmless: the description",
    "update_model_version": "harmless: the description",
    **dict.fromkeys(("create_webhook", "update_webhook", "delete_webhook", "test_webhook"), WEBHOOK),
    **dict.fromkeys(
        (
            *("get_registered_model", "get_latest_versions", "get_model_version", "get_model_version_by_alias"),
            *("get_model_version_download_uri", "search_registered_models", "search_model_versions"),
            *("get_prompt", "get_prompt_version", "get_prompt_version_by_alias", "search_prompts"),
            *("search_prompt_versions", "get_webhook", "list_webhooks", "list_webhooks_by_event"),
        ),
        READ,
    ),
}
"""Public methods of MLflow's registry stores that write or read the database themselves."""

BUILT_ON = {
    "copy_model_version": {"create_registered_model", "create_model_version"},
    "create_prompt": {"create_registered_model"},
    "create_prompt_version": {"create_model_version"},
    "delete_prompt": {"delete_registered_model"},
    "delete_prompt_alias": {"delete_registered_model_alias"},
    "delete_prompt_tag": {"delete_registered_model_tag"},
    "delete_prompt_version": {"delete_model_version"},
    "delete_prompt_version_tag": {"delete_model_version_tag"},
    "link_prompt_version_to_model": set(),  # tags of a logged model, in the tracking store
    "link_prompt_version_to_run": set(),  # tags of a run
    "link_prompts_to_trace": set(),  # links of a trace
    "set_prompt_alias": {"set_registered_model_alias"},
    "set_prompt_tag": {"set_registered_model_tag"},
    "set_prompt_version_tag": {"set_model_version_tag"},
}
"""Public methods that only call others, with the ones that write. None of them may be overridden by a SQL store."""

ROUTES = {
    ("POST", "registered-models/alias"): "set_registered_model_alias",
    ("DELETE", "registered-models/alias"): "delete_registered_model_alias",
    ("GET", "registered-models/alias"): "get_model_version_by_alias",
    ("POST", "registered-models/rename"): "rename_registered_model",
    ("POST", "registered-models/create"): "create_registered_model",
    ("PATCH", "registered-models/update"): "update_registered_model",
    ("DELETE", "registered-models/delete"): "delete_registered_model",
    ("GET", "registered-models/get"): "get_registered_model",
    ("GET", "registered-models/search"): "search_registered_models",
    ("POST", "registered-models/get-latest-versions"): "get_latest_versions",
    ("GET", "registered-models/get-latest-versions"): "get_latest_versions",
    ("POST", "registered-models/set-tag"): "set_registered_model_tag",
    ("DELETE", "registered-models/delete-tag"): "delete_registered_model_tag",
    ("POST", "model-versions/create"): "create_model_version",
    ("PATCH", "model-versions/update"): "update_model_version",
    ("POST", "model-versions/transition-stage"): "transition_model_version_stage",
    ("DELETE", "model-versions/delete"): "delete_model_version",
    ("GET", "model-versions/get"): "get_model_version",
    ("GET", "model-versions/search"): "search_model_versions",
    ("GET", "model-versions/get-download-uri"): "get_model_version_download_uri",
    ("POST", "model-versions/set-tag"): "set_model_version_tag",
    ("DELETE", "model-versions/delete-tag"): "delete_model_version_tag",
    ("POST", "webhooks"): "create_webhook",
    ("GET", "webhooks"): "list_webhooks",
    ("GET", "webhooks/<webhook_id>"): "get_webhook",
    ("PATCH", "webhooks/<webhook_id>"): "update_webhook",
    ("DELETE", "webhooks/<webhook_id>"): "delete_webhook",
    ("POST", "webhooks/<webhook_id>/test"): "test_webhook",
}
"""Registry routes below /api/2.0/mlflow and /ajax-api/2.0/mlflow, with the store method that each calls."""

OTHER_ROUTES = {
    "/model-versions/get-artifact": "reads a file of a version",
    "/ajax-api/2.0/mlflow/runs/create-promptlab-run": "makes a run; its model is a prompt of the tracking store",
    "/mlflow/traces/link-prompts": "links of a trace",
    "/mlflow/mcp-servers/": "a registry of MCP servers in the tracking store, with aliases of its own; no models",
    "/mlflow/prompt-optimization/": "jobs about prompts; what they write goes through the in-server client",
}
"""Routes outside the registry's services whose path speaks of its things."""

WORDS = ("registered-model", "model-version", "alias", "stage", "prompt", "promote", "registry")


# ---------------------------------------------------------------------------------------------------------------------
# What there is


@pytest.mark.parametrize("store", [AbstractStore, SqlAlchemyStore, WorkspaceAwareSqlAlchemyStore])
def test_every_public_method_of_mlflows_stores_is_classified(store: type) -> None:
    found = {name for name, member in inspect.getmembers(store, callable) if not name.startswith("_")}
    assert found - METHODS.keys() - BUILT_ON.keys() == set(), (
        "this MLflow has registry methods that nobody has looked at: say in METHODS or BUILT_ON what each can do to a "
        "promoted name, and override it in GatedStore where it can do anything"
    )
    assert (METHODS.keys() | BUILT_ON.keys()) - found == set(), "these methods are no more: take them out"


def test_gated_store_overrides_exactly_what_needs_it() -> None:
    ours = {name for name, member in vars(GatedStore).items() if callable(member) and not name.startswith("_")}
    needed = {name for name, kind in METHODS.items() if kind in (REVIEWED, DEMOTION, TAGS, SOURCE)}
    assert ours == needed


@pytest.mark.parametrize("name", list(BUILT_ON))
def test_composed_methods_still_write_through_the_methods_that_are_guarded(name: str) -> None:
    for store in (SqlAlchemyStore, WorkspaceAwareSqlAlchemyStore):
        assert getattr(store, name) is getattr(AbstractStore, name), f"{store.__name__} brings its own {name}"
    source = inspect.getsource(getattr(AbstractStore, name))
    called = {method for method in METHODS if f"self.{method}(" in source and METHODS[method] != READ}
    assert called == BUILT_ON[name]
    assert "Session" not in source


def test_every_registry_route_is_classified() -> None:
    services = (handlers.ModelRegistryService, handlers.WebhookService)
    found = set()
    for service in services:
        for path, _, methods in handlers.get_service_endpoints(service, handlers.get_handler):
            tail = path.split("/2.0/mlflow/", 1)
            assert tail[0] in ("/api", "/ajax-api"), f"{path}: a registry route at a place of its own"
            found |= {(method, tail[1]) for method in methods}
    assert found == ROUTES.keys()
    assert set(ROUTES.values()) <= METHODS.keys()


def test_no_other_route_of_the_server_speaks_of_the_registry() -> None:
    known = {f"{api}/{tail}" for api in ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow") for _, tail in ROUTES}
    flask = {rule.rule for rule in mlflow.server.app.url_map.iter_rules()}
    native = set(_fastapi_paths(mlflow.server.fastapi_app.app.router.routes))
    assert len(flask) > 100
    assert len(native) > 10
    for path in sorted((flask | native) - known):
        if any(word in path.lower() for word in WORDS):
            assert any(part in path for part in OTHER_ROUTES), f"{path}: nobody has looked at this route"


def _fastapi_paths(routes: Any, prefix: str = "") -> Iterator[str]:
    for route in routes:
        if isinstance(getattr(route, "path", None), str):
            yield prefix + route.path
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _fastapi_paths(included.routes, prefix + route.include_context.prefix)


def test_every_native_route_that_writes_calls_no_registry_method() -> None:
    """FastAPI's own routes write runs, traces, jobs and artifacts; the registry is Flask's."""
    for module in [m for name, m in sys.modules.items() if name.startswith("mlflow.server.") and m is not None]:
        if module is handlers or "fastapi" not in str(getattr(module, "APIRouter", "")):
            continue
        source = inspect.getsource(module)
        assert not any(f".{name}(" in source for name, kind in METHODS.items() if kind == REVIEWED), module.__name__


# ---------------------------------------------------------------------------------------------------------------------
# Each promoting method by each path


def _over_http(prefix: str) -> Callable[[Server, str], Callable[[str, dict[str, str]], object]]:
    def caller(server: Server, _name: str) -> Callable[[str, dict[str, str]], object]:
        def call(method: str, body: dict[str, str]) -> object:
            ((verb, tail),) = [route for route, name in ROUTES.items() if name == method]
            answer = requests.request(verb, f"{server.uri}{prefix}/{tail}", json=body, timeout=60)
            if answer.status_code != 200:
                raise RestException(answer.json())
            return answer

        return call

    return caller


def _through(make: Callable[[Server], Any]) -> Callable[[Server, str], Callable[[str, dict[str, str]], object]]:
    def caller(server: Server, _name: str) -> Callable[[str, dict[str, str]], object]:
        target = make(server)

        def call(method: str, body: dict[str, str]) -> object:
            arguments: dict[str, Any] = dict(body)
            if method == "transition_model_version_stage":
                arguments["archive_existing_versions"] = True
            return getattr(target, method)(**arguments)

        return call

    return caller


def _fluent(server: Server, _name: str) -> Callable[[str, dict[str, str]], object]:
    """The module-level functions that reach these methods; MLflow has them for prompts, and they take any name."""

    def call(method: str, body: dict[str, str]) -> object:
        if method == "set_registered_model_alias":
            return mlflow.genai.set_prompt_alias(body["name"], body["alias"], int(body["version"]))
        return getattr(MlflowClient(), method)(**body)

    return call


def _in_a_job(server: Server, _name: str) -> Callable[[str, dict[str, str]], object]:
    """A process as MLflow's server starts for jobs: raw tracking URI, registry URI with the prefix (MLFLOW.md 15)."""

    def call(method: str, body: dict[str, str]) -> object:
        script = (
            "import json, sys\nfrom mlflow import MlflowClient\nfrom mlflow.exceptions import MlflowException\n"
            "try:\n    getattr(MlflowClient(), sys.argv[1])(**json.loads(sys.argv[2]))\n"
            "except MlflowException as err:\n"
            "    print(json.dumps({'error_code': err.error_code, 'message': err.message}))"
        )
        environment = {
            **server.installation.environment(),
            "MLFLOW_TRACKING_URI": server.installation.ledger_uri,
            "MLFLOW_REGISTRY_URI": server.store_uri,
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"gated:{server.artifacts}",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, method, json.dumps(body)],
            env=environment, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        if done.stdout.strip():
            raise RestException(json.loads(done.stdout.strip().splitlines()[-1]))
        return done

    return call


PATHS = {
    "REST": _over_http("/api/2.0/mlflow"),
    "ajax": _over_http("/ajax-api/2.0/mlflow"),
    "client": _through(lambda server: server.client),
    "fluent": _fluent,
    "gated store in this process": _through(lambda server: build_store(server.store_uri)),
    "plain store in this process": _through(lambda server: SqlAlchemyStore(server.installation.ledger_uri)),
    "job of the server": _in_a_job,
}


def _promotions(server: Server) -> dict[str, dict[str, str]]:
    """For each reviewed method a call that would promote what has no evidence."""
    model, renamed = f"clinical-{uuid.uuid4().hex[:8]}", f"assistant-{uuid.uuid4().hex[:8]}"
    version = str(server.register(model))
    # What was assessed for the one name has nothing for the other.
    server.client.set_registered_model_alias(renamed, "live", str(server.registered(renamed, battery="general@1")))
    found = {
        "set_registered_model_alias": {"name": model, "alias": "champion", "version": version},
        "transition_model_version_stage": {"name": model, "version": version, "stage": "production"},
        "rename_registered_model": {"name": renamed, "new_name": f"medical-{uuid.uuid4().hex[:8]}"},
    }
    assert found.keys() == {name for name, kind in METHODS.items() if kind == REVIEWED}
    return found


def _assert_nothing_moved(server: Server, promotions: dict[str, dict[str, str]]) -> None:
    model, renamed = (promotions[m]["name"] for m in ("set_registered_model_alias", "rename_registered_model"))
    assert server.alias(model, "champion") is None
    assert server.stage(model, 1) == "None"
    assert server.alias(renamed, "live") == 1


@pytest.mark.parametrize("path", list(PATHS))
def test_promotion_without_evidence_is_refused_on_every_path(
    server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(server.installation.config))
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", f"gated:{server.artifacts}")
    promotions = _promotions(server)
    build_store(server.store_uri)  # the plain store is one beside a gated one, as in a server
    for method, body in promotions.items():
        with pytest.raises(MlflowException) as caught:
            PATHS[path](server, body["name"])(method, body)
        if (path, method) == ("fluent", "set_registered_model_alias"):
            # MLflow's function for prompts looks for a prompt first, and does not take a model for one.
            assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST", caught.value
            continue
        assert caught.value.error_code == "PERMISSION_DENIED", (path, method, caught.value)
        assert "registry-gate" in caught.value.message, (path, method)
    _assert_nothing_moved(server, promotions)


def test_promotion_without_evidence_is_refused_below_a_static_prefix(
    installation: Callable[..., Installation],
) -> None:
    port = free_port()
    made = installation(tracking_uri=f"http://127.0.0.1:{port}/deep")
    with mlflow_server(
        made.directory,
        backend=made.ledger_uri,
        registry=f"gated:{made.ledger_uri}",
        port=port,
        environment=made.environment(),
        options=("--static-prefix", "/deep", "--workers", "1"),
        health="/deep/health",
    ) as log:
        engine = create_engine(made.ledger_uri)
        server = Server(
            database="sqlite", installation=made, engine=engine, artifacts=made.directory / "artifacts", log=log
        )
        mlflow.set_tracking_uri(server.uri)
        try:
            promotions = _promotions(server)
            for path in ("REST", "ajax", "client"):
                for method, body in promotions.items():
                    with pytest.raises(MlflowException) as caught:
                        PATHS[path](server, body["name"])(method, body)
                    assert caught.value.error_code == "PERMISSION_DENIED", (path, method, caught.value)
            for outside in ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow"):
                body = promotions["set_registered_model_alias"]
                url = f"http://127.0.0.1:{port}{outside}/registered-models/alias"
                assert requests.post(url, json=body, timeout=60).status_code in (404, 405)
            _assert_nothing_moved(server, promotions)
        finally:
            mlflow.set_tracking_uri(None)
            engine.dispose()
