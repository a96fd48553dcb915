"""Artifacts as MLflow writes them, read into manifests: what is identity, which base, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from registry_gate import artifact
from registry_gate.artifact import DESCRIPTIVE, ArtifactTree, HashCache, LocalTree, TreeFile, read_layout, read_manifest
from registry_gate.errors import FormError
from registry_gate.form import FormManifest, differences

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


def save_weights(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)}, str(path))


def write_mlmodel(
    root: Path, *, run: str = "0" * 32, created: str = "2026-11-23 12:00:00.000001", **changes: Any
) -> None:
    """MLmodel as `mlflow.transformers` writes it. Keys given as None are left out."""
    conf = {
        "code": None,
        "components": ["tokenizer"],
        "framework": "pt",
        "instance_type": "TextGenerationPipeline",
        "model_binary": "model",
        "pipeline_model_type": "LlamaForCausalLM",
        "source_model_name": "/gone/checkpoint-40",
        "task": "text-generation",
        "tokenizer_type": "PreTrainedTokenizerFast",
        "transformers_version": "5.0.0",
        **changes.pop("transformers", {}),
    }
    python = {"env": {"conda": "conda.yaml"}, "loader_module": "mlflow.transformers", "python_version": "3.11.9"}
    file = {
        "artifact_path": f"mlflow-artifacts:/0/models/m-{run}/artifacts",
        "flavors": {"python_function": python, "transformers": {k: v for k, v in conf.items() if v is not None}},
        "metadata": {"registry_gate.base": f"org/base@{COMMIT}"},
        "mlflow_version": "3.17.2",
        "model_id": f"m-{run}",
        "model_uuid": run,
        "run_id": run,
        "utc_time_created": created,
        **changes,
    }
    # JSON is YAML too; only the date is written as YAML writes it, to be read back as one.
    text = "\n".join(f"{k}: {json.dumps(v)}" for k, v in file.items() if k != "utc_time_created")
    root.joinpath("MLmodel").write_text(f"{text}\nutc_time_created: {file['utc_time_created']}\n", encoding="utf-8")


def write_model(root: Path, *, seed: int = 1, **mlmodel: Any) -> Path:
    """A full fine-tuned model."""
    save_weights(root / "model" / "model.safetensors", seed)
    write_json(root / "model" / "config.json", {"architectures": ["LlamaForCausalLM"], "dtype": "float32"})
    write_json(
        root / "model" / "generation_config.json", {"do_sample": False, "eos_token_id": 2, "transformers_version": "5"}
    )
    write_json(root / "components" / "tokenizer" / "tokenizer.json", {"version": "1.0"})
    write_json(root / "components" / "tokenizer" / "tokenizer_config.json", {"model_max_length": 256})
    (root / "components" / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml", "LICENSE.txt"):
        (root / name).write_text("torch==2.9\n")
    write_mlmodel(root, **mlmodel)
    return root


def write_checkpoint(root: Path, *, seed: int = 1) -> Path:
    """A plain Hugging Face directory, as bases often are."""
    save_weights(root / "model.safetensors", seed)
    write_json(root / "config.json", {"architectures": ["LlamaForCausalLM"], "dtype": "float32"})
    write_json(root / "tokenizer.json", {"version": "1.0"})
    write_json(root / "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    return root


def write_adapter(
    root: Path, *, base: str | None, seed: int = 9, adapter: dict[str, Any] | None = None, **mlmodel: Any
) -> Path:
    """A LoRA adapter saved beside its tokenizer; `base` becomes MLflow's local_base_model_path."""
    save_weights(root / "peft" / "adapter_model.safetensors", seed)
    write_json(
        root / "peft" / "adapter_config.json",
        {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "tiny", **(adapter or {})},
    )
    (root / "peft" / "README.md").write_text("written by peft")
    write_json(root / "components" / "tokenizer" / "tokenizer.json", {"version": "1.0"})
    write_json(root / "components" / "tokenizer" / "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    conf = {"model_binary": None, "peft_adaptor": "peft", "source_model_name": None, "local_base_model_path": base}
    conf |= mlmodel.pop("transformers", {})
    mlmodel.setdefault("metadata", None)
    write_mlmodel(root, transformers=conf, **mlmodel)
    return root


def no_versions(name: str, version: int) -> ArtifactTree:
    raise FormError(f"expected models:/{name}/{version} to be registered, got none", code="base_unresolved")


def read(root: Path, versions: Callable[[str, int], ArtifactTree] = no_versions) -> FormManifest:
    return read_manifest(LocalTree(root, HashCache()), versions)


def registry(**trees: Path) -> Callable[[str, int], ArtifactTree]:
    """Registered versions: `registry(base=path)` is models:/base/1."""

    def tree(name: str, version: int) -> ArtifactTree:
        if name not in trees or version != 1:
            return no_versions(name, version)
        return LocalTree(trees[name], HashCache())

    return tree


def refused(root: Path, code: str, versions: Callable[[str, int], ArtifactTree] = no_versions) -> str:
    with pytest.raises(FormError) as caught:
        read(root, versions).digest  # noqa: B018 - the digest is computed only when it is asked for
    assert caught.value.code == code, caught.value
    return str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model-artifact")


# -- identity ---------------------------------------------------------------------------------------------------------


def test_all_files_are_listed_and_only_descriptive_ones_carry_no_identity(model: Path) -> None:
    manifest = read(model)
    on_disk = {p.relative_to(model).as_posix() for p in model.rglob("*") if p.is_file()}
    assert {f.path for f in manifest.files} == on_disk
    assert [f.path for f in manifest.files] == sorted(on_disk)
    assert {f.path for f in manifest.files if not f.identity} == on_disk & set(DESCRIPTIVE)
    assert {f.path: f.role for f in manifest.files}["model/model.safetensors"] == "weights"
    assert {f.path: f.role for f in manifest.files}["components/tokenizer/tokenizer.json"] == "tokenizer"
    assert (manifest.flavor, manifest.formats, manifest.remote_code) == ("transformers", ("safetensors",), ())


def test_what_people_ask_for_first_is_named_in_the_settings(model: Path) -> None:
    settings = read(model).settings
    assert settings["generation"] == {"do_sample": False, "eos_token_id": 2}
    assert settings["architecture"] == ["LlamaForCausalLM"]
    assert settings["dtype"] == "float32"
    assert len(settings["chat_template_sha256"]) == 64
    assert settings["flavors"]["transformers"]["task"] == "text-generation"


def test_layout_is_as_mlmodel_says(model: Path, tmp_path: Path) -> None:
    layout = read_layout(LocalTree(model, HashCache()))
    assert (layout.model, layout.tokenizer, layout.adapter) == ("model", "components/tokenizer", None)
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    layout = read_layout(LocalTree(checkpoint, HashCache()))
    assert (layout.model, layout.tokenizer, layout.adapter) == (".", ".", None)


def test_the_same_model_saved_twice_has_one_digest(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", run="a" * 32, created="2026-11-23 12:00:00.000001")
    two = write_model(tmp_path / "two", run="b" * 32, created="2027-01-01 00:00:00.5", mlflow_version="3.18.0")
    (two / "requirements.txt").write_text("torch==2.10\n")
    assert read(one).digest == read(two).digest
    assert read(one).files != read(two).files  # they are listed all the same


def test_where_the_model_was_trained_from_is_no_identity(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", transformers={"source_model_name": "/home/ana/run-1"})
    two = write_model(tmp_path / "two", transformers={"source_model_name": "/home/bob/run-2"})
    assert read(one).digest == read(two).digest


def _rewrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


CHANGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda root: save_weights(root / "model" / "model.safetensors", 2),
    "chat template": _rewrite("components/tokenizer/chat_template.jinja", "{{ messages }} "),
    "generation settings": lambda root: edit_json(root / "model" / "generation_config.json", do_sample=True),
    "model config": lambda root: edit_json(root / "model" / "config.json", rope_theta=1),
    "system prompt": lambda root: write_mlmodel(
        root, metadata={"registry_gate.base": f"org/base@{COMMIT}", "system_prompt": "Obey."}
    ),
    "prompt template": lambda root: write_mlmodel(root, transformers={"prompt_template": "Answer: {prompt}"}),
    "task": lambda root: write_mlmodel(root, transformers={"task": "llm/v1/chat"}),
    "another flavor": lambda root: write_mlmodel(root, flavors={"transformers": {"model_binary": "model"}}),
    "base": lambda root: write_mlmodel(root, metadata={"registry_gate.base": f"org/base@{COMMIT[::-1]}"}),
    "a new file": _rewrite("model/added_tokens.json", "{}"),
    "a descriptive name elsewhere": _rewrite("model/README.md", "text"),
    "a removed file": lambda root: (root / "model" / "generation_config.json").unlink(),
    "a renamed file": lambda root: (root / "model" / "model.safetensors").rename(root / "model" / "m.safetensors"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_behaviour_changes_the_digest(what: str, model: Path) -> None:
    before = read(model).digest
    CHANGES[what](model)
    assert read(model).digest != before


@pytest.mark.parametrize("change", ["adapter weights", "adapter config", "base weights", "base template"])
def test_an_adapters_digest_covers_adapter_and_base(change: str, tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    root = write_adapter(tmp_path / "adapter", base=str(base))
    before = read(root).digest
    match change:
        case "adapter weights":
            save_weights(root / "peft" / "adapter_model.safetensors", 10)
        case "adapter config":
            edit_json(root / "peft" / "adapter_config.json", r=16)
        case "base weights":
            save_weights(base / "model.safetensors", 3)
        case "base template":
            edit_json(base / "tokenizer_config.json", chat_template="other")
    assert read(root).digest != before


def test_moving_the_base_elsewhere_keeps_the_form(tmp_path: Path) -> None:
    root = write_adapter(tmp_path / "adapter", base=str(write_checkpoint(tmp_path / "base")))
    before = read(root).digest
    (tmp_path / "base").rename(tmp_path / "moved")
    write_adapter(root, base=str(tmp_path / "moved"))
    assert read(root).digest == before


def test_an_adapter_and_a_full_model_of_the_same_base_differ_in_what_loads(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = read(write_adapter(tmp_path / "adapter", base=str(base)))
    full = read(write_model(tmp_path / "full", seed=2, metadata={"registry_gate.base": str(base)}))
    assert adapter.base is not None
    assert full.base is not None
    assert (adapter.base.digest, adapter.base.required_to_load) == (full.base.digest, True)
    assert full.base.required_to_load is False
    assert {f.role for f in adapter.files if f.path.startswith("peft/adapter_m")} == {"adapter"}


class Shuffled:
    """A tree that lists its files in another order."""

    def __init__(self, tree: LocalTree, order: list[TreeFile]) -> None:
        self.tree, self.order = tree, order
        self.place = tree.place

    def files(self) -> list[TreeFile]:
        return self.order

    def digests(self, paths: Any) -> dict[str, str]:
        return dict(reversed(self.tree.digests(paths).items()))

    def read(self, path: str) -> bytes:
        return self.tree.read(path)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_order_of_the_listing_never_matters(data: st.DataObject, model: Path) -> None:
    tree = LocalTree(model, HashCache())
    order = data.draw(st.permutations(tree.files()))
    assert read_manifest(Shuffled(tree, order), no_versions) == read(model)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_an_identity_file_changes_the_digest(data: st.DataObject, model: Path) -> None:
    manifest = read(model)
    path = model / data.draw(st.sampled_from([f.path for f in manifest.files if f.identity]))
    original = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(original) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(original)
    changed[place] ^= 1 << bit
    path.write_bytes(changed)
    try:
        digest = read(model).digest
    except FormError as err:
        digest = err.code  # the flip broke JSON that must be understood: refused, not passed over
    finally:
        path.write_bytes(original)
    assert digest == "config_invalid" or digest.startswith("sha256:")
    assert digest != manifest.digest


# -- the base ---------------------------------------------------------------------------------------------------------


def test_the_directory_that_mlflow_serves_from_is_the_base(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    found = read(write_adapter(tmp_path / "adapter", base=str(base))).base
    assert found is not None
    assert (found.kind, found.name, found.declared_in) == ("path", str(base), "MLmodel: local_base_model_path")
    assert found.digest == read(base).digest


def test_metadata_may_name_a_registered_version(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", metadata=None, transformers={"source_model_name": None})
    root = write_adapter(tmp_path / "adapter", base=None, metadata={"registry_gate.base": "models:/base/1"})
    found = read(root, registry(base=base)).base
    assert found is not None
    assert (found.kind, found.name, found.digest) == ("version", "models:/base/1", read(base).digest)


def test_a_hub_base_pinned_to_a_commit_is_known_by_name_and_commit(model: Path) -> None:
    found = read(model).base
    assert found is not None
    assert (found.kind, found.name, found.revision) == ("hub", "org/base", COMMIT)


def test_peft_may_pin_the_hub_commit_itself(tmp_path: Path) -> None:
    adapter = {"base_model_name_or_path": "org/base", "revision": COMMIT}
    found = read(write_adapter(tmp_path / "adapter", base=None, adapter=adapter)).base
    assert found is not None
    assert (found.kind, found.declared_in) == ("hub", "peft/adapter_config.json")


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ("models:/base@champion", "an alias can be moved"),
        ("models:/base/Production", "expected models:/NAME/VERSION with a number"),
        ("models:/base/2", "models:/base/2"),
        ("org/base", "pinned to a commit"),
        ("org/base@main", "pinned to a commit"),
        ("base/relative", "pinned to a commit"),
        ("/nowhere/at/all", "expected a checkpoint directory with config.json"),
    ],
)
def test_a_base_that_cannot_be_resolved_is_refused_with_what_to_do(
    declared: str, sentence: str, tmp_path: Path
) -> None:
    base = write_checkpoint(tmp_path / "base")
    root = write_adapter(tmp_path / "adapter", base=None, metadata={"registry_gate.base": declared})
    message = refused(root, "base_unresolved", registry(base=base))
    assert sentence in message
    assert f"MLmodel: metadata.registry_gate.base names {declared!r}" in message
    assert "Save the model with base_model_path=<directory>, pin the hub commit, or log it with metadata=" in message


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12]])
@pytest.mark.parametrize("name", ["org/base", "models/tiny"])
def test_an_adapter_of_a_hub_model_without_a_commit_is_refused(name: str, revision: str | None, tmp_path: Path) -> None:
    adapter = {"base_model_name_or_path": name, "revision": revision}
    root = write_adapter(tmp_path / "adapter", base=None, adapter=adapter)
    message = refused(root, "base_unpinned")
    assert f"peft/adapter_config.json names {name!r} with the revision {revision!r}" in message
    assert "load the base with revision=<commit>" in message


@pytest.mark.parametrize("revision", [None, "main"])
def test_an_adapter_that_serving_would_put_on_an_unpinned_hub_model_is_refused_whatever_it_declares(
    revision: str | None, tmp_path: Path
) -> None:
    base = write_checkpoint(tmp_path / "base")
    conf = {"source_model_name": "org/base", "source_model_revision": revision}
    metadata = {"registry_gate.base": str(base)}
    root = write_adapter(tmp_path / "adapter", base=None, metadata=metadata, transformers=conf)
    assert "MLmodel: source_model_name names 'org/base'" in refused(root, "base_unpinned")


def test_the_commit_that_serving_takes_the_base_from_is_part_of_the_form(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    found = []
    for number, commit in enumerate((COMMIT, COMMIT[::-1])):
        conf = {"source_model_name": "org/base", "source_model_revision": commit}
        metadata = {"registry_gate.base": str(base)}
        root = write_adapter(tmp_path / str(number), base=None, metadata=metadata, transformers=conf)
        found.append(read(root))
    one, two = found
    assert one.base == two.base
    assert one.digest != two.digest
    assert differences(one, two) == ["setting base_served_from changed"]


@pytest.mark.parametrize("name", ["", None])
def test_an_adapter_that_names_no_base_is_refused(name: str | None, tmp_path: Path) -> None:
    root = write_adapter(tmp_path / "adapter", base=None, adapter={"base_model_name_or_path": name})
    assert "expected a base for the adapter, got none" in refused(root, "base_unresolved")


def test_a_base_without_weights_is_no_base(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    (base / "model.safetensors").unlink()
    assert "expected weights of the base, got none" in refused(
        write_adapter(tmp_path / "adapter", base=str(base)), "base_unresolved"
    )


def test_declarations_that_mean_other_weights_are_refused(tmp_path: Path) -> None:
    served, said = write_checkpoint(tmp_path / "served"), write_checkpoint(tmp_path / "said", seed=2)
    root = write_adapter(tmp_path / "adapter", base=str(served), metadata={"registry_gate.base": str(said)})
    message = refused(root, "base_mismatch")
    assert f"MLmodel: local_base_model_path -> {served}" in message
    assert f"MLmodel: metadata.registry_gate.base -> {said}" in message


def test_declarations_of_the_same_weights_agree_wherever_they_lie(tmp_path: Path) -> None:
    served = write_checkpoint(tmp_path / "served")
    said = Path(shutil.copytree(served, tmp_path / "said"))
    root = write_adapter(tmp_path / "adapter", base=str(served), metadata={"registry_gate.base": str(said)})
    found = read(root).base
    assert found is not None
    assert found.declared_in == "MLmodel: local_base_model_path"


def test_a_path_of_the_training_machine_may_be_gone(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    root = write_adapter(tmp_path / "adapter", base=str(base), adapter={"base_model_name_or_path": "/home/ana/base"})
    found = read(root).base
    assert found is not None
    assert found.name == str(base)


def test_a_complete_model_that_names_itself_as_source_declares_no_base(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    root = write_model(tmp_path / "full", metadata=None, transformers={"source_model_name": str(checkpoint)})
    assert read(root).base is None


def test_a_complete_model_loaded_from_another_one_has_it_as_base(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", seed=5)
    root = write_model(tmp_path / "full", metadata=None, transformers={"source_model_name": str(checkpoint)})
    found = read(root).base
    assert found is not None
    assert found.declared_in == "MLmodel: source_model_name"


def test_the_declared_base_outranks_a_checkpoint_that_is_gone(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", seed=5)
    conf = {"source_model_name": "/gone/checkpoint-40"}
    root = write_model(tmp_path / "full", metadata={"registry_gate.base": str(base)}, transformers=conf)
    found = read(root).base
    assert found is not None
    assert found.name == str(base)


def test_bases_in_a_circle_are_refused(tmp_path: Path) -> None:
    root = write_adapter(tmp_path / "adapter", base=None, metadata={"registry_gate.base": "models:/me/1"})
    assert "expected at most 3 bases in a row, got more" in refused(root, "base_unresolved", registry(me=root))


# -- what is refused --------------------------------------------------------------------------------------------------


def test_an_empty_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "expected the files of a model, got an empty artifact" in refused(tmp_path / "empty", "artifact_missing")
    assert "got nothing there" in refused(tmp_path / "absent", "artifact_missing")


@pytest.mark.parametrize("kind", ["file link", "directory link", "dangling link", "pipe"])
def test_links_and_special_files_are_refused(kind: str, model: Path) -> None:
    place = model / "model" / "extra"
    match kind:
        case "file link":
            place.symlink_to(model / "model" / "config.json")
        case "directory link":
            place.symlink_to(model / "components")
        case "dangling link":
            place.symlink_to("/nowhere")
        case "pipe":
            os.mkfifo(place)
    assert f"{place}: expected regular files only, got a link or special file" in refused(model, "form_invalid")


def test_a_file_name_without_utf8_is_refused(model: Path) -> None:
    with open(os.fsencode(model) + b"/model/\xff.json", "wb") as file:
        file.write(b"{}")
    assert "expected file names in UTF-8, got 'model/\\udcff.json'" in refused(model, "form_invalid")


def test_too_many_files_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "MAX_FILES", 5)
    assert "expected at most 5 files, got more" in refused(model, "form_invalid")


@pytest.mark.parametrize("name", ["model.bin", "weights.PT", "model.pkl", "trainer.joblib", "x.ckpt", "y.cloudpickle"])
def test_pickle_is_named_as_a_format(name: str, model: Path) -> None:
    (model / "model" / name).write_bytes(b"\x80\x04N.")
    assert read(model).formats == ("pickle", "safetensors")


def test_an_artifact_without_weights_has_no_format(model: Path) -> None:
    (model / "model" / "model.safetensors").unlink()
    manifest = read(model)
    assert manifest.formats == ()
    assert "weights" not in {f.role for f in manifest.files}


def test_code_that_loading_would_run_is_named(model: Path) -> None:
    (model / "model" / "modeling_evil.py").write_text("import os")
    edit_json(model / "model" / "config.json", auto_map={"AutoModel": "modeling_evil.Evil"})
    edit_json(model / "components" / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": "evil.T"})
    write_mlmodel(model, transformers={"code": "code"})
    assert read(model).remote_code == (
        "MLmodel: transformers.code",
        "components/tokenizer/tokenizer_config.json: auto_map",
        "model/config.json: auto_map",
        "model/modeling_evil.py",
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("flavors: [", "no valid YAML"),
        ("flavors:\n\t- x", "no valid YAML"),
        ("- a", "a file without flavors"),
        ("run_id: x", "a file without flavors"),
        ("flavors: {transformers: text}", "a flavor 'transformers' that is no mapping"),
        ("flavors: {1: {}}", "a flavor 1 that is no mapping"),
        ("flavors: {transformers: {}}\nmetadata: text", "metadata that is no mapping"),
        ("flavors: {a: {}}\nflavors: {b: {}}", "no valid YAML"),
        ("[" * 300, "more than 100 levels"),
        ("- " * 300, "more than 100 levels"),
        ("# " + "x" * 1024 * 1024, "a file of 1048578 bytes"),
    ],
)
def test_an_invalid_mlmodel_is_refused(text: str, sentence: str, model: Path) -> None:
    (model / "MLmodel").write_text(text)
    message = refused(model, "mlmodel_invalid")
    assert f"{model}/MLmodel: expected MLflow's model file, got {sentence}" in message


LAUGHS = "".join(f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9) if n else '0'}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ("{x: .nan}", "the number nan"),
        ("{1: a, '1': b}", "keys that cannot be told apart"),
        ("&m {x: *m}", "more than 100000 values or 100 levels"),
        ("\n" + LAUGHS, "more than 100000 values or 100 levels"),
        ('{x: "\\ud800"}', "which has no UTF-8 bytes"),
        ('{system_prompt: "\\ud800"}', "which has no UTF-8 bytes"),
    ],
)
def test_settings_that_have_no_digest_are_refused(metadata: str, sentence: str, model: Path) -> None:
    (model / "MLmodel").write_text("flavors: {transformers: {model_binary: model}}\nmetadata: " + metadata)
    assert sentence in refused(model, "config_invalid")


def test_a_system_prompt_must_be_text(model: Path) -> None:
    write_mlmodel(model, metadata={"system_prompt": ["a", "list"]})
    assert "expected metadata.system_prompt to be text" in refused(model, "mlmodel_invalid")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 200_000, '{"do_sample": NaN}', '{"x": "\\ud800"}'])
def test_a_broken_json_file_is_refused(text: str, model: Path) -> None:
    (model / "model" / "generation_config.json").write_text(text)
    refused(model, "config_invalid")


# -- the cache --------------------------------------------------------------------------------------------------------


def settle(path: Path) -> None:
    """Wait until the file's ctime is old enough to be remembered; it cannot be set."""
    while time.time() - path.stat().st_ctime <= 2.01:
        time.sleep(0.05)


def test_a_rewritten_file_of_same_size_and_mtime_is_hashed_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "weights", HashCache()
    path.write_bytes(b"good")
    assert cache.known(path) is None
    young = cache.sha256(path)
    assert cache.known(path) is None  # a second write within the clock's granularity would go unnoticed
    settle(path)
    assert cache.sha256(path) == young
    assert cache.known(path) == young
    before = path.stat()
    path.write_bytes(b"evil")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)
    assert cache.known(path) is None
    assert cache.sha256(path) != young


def test_a_cached_tree_notices_a_replaced_file(model: Path) -> None:
    cache, path = HashCache(), model / "model" / "model.safetensors"
    settle(max((p for p in model.rglob("*") if p.is_file()), key=lambda p: p.stat().st_ctime))
    before = read_manifest(LocalTree(model, cache), no_versions)
    assert cache.known(path) is not None
    stamp = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    other = model.parent / "other"
    other.write_bytes(data)
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(path)
    assert read_manifest(LocalTree(model, cache), no_versions).digest != before.digest


def test_the_cache_forgets_the_oldest_first(tmp_path: Path) -> None:
    cache, paths = HashCache(entries=2), [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    settle(paths[-1])
    for path in paths:
        cache.sha256(path)
    assert [cache.known(path) is None for path in paths] == [True, False, False]
