"""What the files of a form alone forbid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluators.engines.subject import check_subject, read_safetensors_header
from registry_gate.errors import AssessmentError


def refusal(form) -> AssessmentError:
    with pytest.raises(AssessmentError) as caught:
        check_subject(form)
    return caught.value


def test_whole_form_and_adapter_are_accepted(form, adapted):
    check_subject(form)
    check_subject(adapted)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "sub/vocab.pkl", "weights.PICKLE", "trainer.ckpt"])
def test_pickle_beside_good_weights_is_refused(form, name):
    path = form.model_dir / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x80\x04.")
    error = refusal(form)
    assert error.code == "pickle_weights"
    assert str(path) in str(error)
    assert "expected safetensors only" in str(error)


def test_pickled_adapter_is_refused(adapted):
    (adapted.adapter_dir / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert refusal(adapted).code == "pickle_weights"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_auto_map_is_refused_at_any_depth(form, edit_json, file):
    edit_json(form.model_dir / file, text_config={"auto_map": {"AutoModel": "evil.Model"}})
    error = refusal(form)
    assert error.code == "remote_code"
    assert f"{file} has 'auto_map'" in str(error)


def test_kernel_from_the_hub_is_refused(form, edit_json):
    edit_json(form.model_dir / "config.json", attn_implementation="someone/kernel")
    assert "naming a kernel from the Hub" in str(refusal(form))


def test_custom_generate_is_refused(form):
    (form.model_dir / "custom_generate").mkdir()
    assert refusal(form).code == "remote_code"


def test_adapter_that_imports_a_module_is_refused(adapted, edit_json):
    edit_json(adapted.adapter_dir / "adapter_config.json", megatron_config={}, megatron_core="antigravity")
    error = refusal(adapted)
    assert error.code == "remote_code"
    assert "makes PEFT import a module" in str(error)


def test_adapter_that_loads_other_adapters_is_refused(adapted, edit_json):
    edit_json(adapted.adapter_dir / "adapter_config.json", peft_type="XLORA")
    assert "loads other adapters by path" in str(refusal(adapted))


def test_no_weights_is_refused(form):
    (form.model_dir / "model.safetensors").unlink()
    error = refusal(form)
    assert error.code == "no_weights"
    assert "expected model.safetensors or model.safetensors.index.json, got neither" in str(error)


def test_adapter_without_weights_is_refused(adapted):
    (adapted.adapter_dir / "adapter_model.safetensors").unlink()
    assert refusal(adapted).code == "no_weights"


def test_missing_directory_is_refused(form):
    (form.model_dir / "config.json").unlink()
    assert refusal(form).code == "config_missing"


def test_unparsable_config_is_refused(form):
    (form.model_dir / "config.json").write_text("{")
    error = refusal(form)
    assert error.code == "config_invalid"
    assert "config.json is no JSON" in str(error)


def test_weights_redirected_by_the_config_are_refused(form, edit_json):
    edit_json(form.model_dir / "config.json", transformers_weights="other.safetensors")
    assert refusal(form).code == "config_invalid"


def test_adapter_beside_the_model_is_refused(form, edit_json):
    edit_json(form.model_dir / "adapter_config.json", peft_type="LORA")
    assert "would apply an adapter unasked" in str(refusal(form))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_safetensors_is_refused(form, keep):
    path = form.model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    error = refusal(form)
    assert error.code == "safetensors_truncated"
    assert str(path) in str(error)


def test_bytes_after_the_last_tensor_are_refused(form):
    path = form.model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    assert "bytes by its header" in str(refusal(form))


def write_safetensors(path: Path, header: object, data: bytes) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\xff{", "its header is no JSON"),
        (b"[]", "its header is no JSON object"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "spans 4 bytes, expected 8"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "starts at byte 4, expected 0"),
        ({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, "no usable dtype"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, "no counts"),
        ({"a": 3}, "no usable dtype"),
    ],
)
def test_lying_header_is_refused(tmp_path, header, message):
    with pytest.raises(AssessmentError, match=message) as caught:
        read_safetensors_header(write_safetensors(tmp_path / "a.safetensors", header, b"\0" * 8))
    assert caught.value.code == "safetensors_truncated"


def shard(form, edit_json, weight_map) -> None:
    (form.model_dir / "model.safetensors").rename(form.model_dir / "model-1.safetensors")
    edit_json(form.model_dir / "model.safetensors.index.json", weight_map=weight_map)


def test_index_that_names_a_file_elsewhere_is_refused(form, edit_json):
    shard(form, edit_json, {"a": "../other.safetensors"})
    assert "expected a safetensors file beside it" in str(refusal(form))


def test_index_that_names_a_missing_shard_is_refused(form, edit_json):
    shard(form, edit_json, {"a": "model-2.safetensors"})
    error = refusal(form)
    assert error.code == "no_weights"
    assert "names model-2.safetensors, which is not there" in str(error)


def test_index_that_leaves_tensors_out_is_refused(form, edit_json):
    shard(form, edit_json, {"lm_head.weight": "model-1.safetensors"})
    assert "disagree on" in str(refusal(form))


def test_whole_index_is_accepted(form, edit_json):
    names = read_safetensors_header(form.model_dir / "model.safetensors")
    shard(form, edit_json, dict.fromkeys(names, "model-1.safetensors"))
    check_subject(form)


def test_importing_the_checks_stays_light():
    code = (
        "import sys, evaluators.engines.subject, evaluators.engines.sandboxed, evaluators.engines.child\n"
        "heavy = {'torch', 'transformers', 'peft', 'mlflow', 'sqlalchemy', 'registry_gate.ledger'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
