"""Refuse, from its files alone, a form that could not be loaded safely or truthfully.

Nothing here imports torch or runs anything of the form: files are listed, JSON is parsed, and safetensors headers are
compared with the sizes of their files. What only a load can show (layers that would be newly initialised) is
`transformers_engine`'s. Files are read here and again by the loader: whoever can change them in between defeats the
check, so callers hand over a private copy whose digest they have verified.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from evaluators.engines.interface import LocalForm
from registry_gate.errors import AssessmentError

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})
"""Suffixes under which weights, vocabularies and trainer states are pickled; only `.safetensors` is accepted."""

MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

_MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines"})
_KERNEL_KEYS = frozenset({"attn_implementation", "_attn_implementation", "experts_implementation"})


def check_subject(form: LocalForm) -> None:
    """Refuse a form whose files must not, or cannot, be loaded.

    Args:
        form: The form as directories.

    Raises:
        AssessmentError: With code `pickle_weights`, `remote_code`, `no_weights`, `safetensors_truncated`,
            `config_missing` or `config_invalid`. The message names the file.
    """
    directories = [form.model_dir, form.tokenizer_dir, *([form.adapter_dir] if form.adapter_dir else [])]
    for directory in directories:
        if not directory.is_dir():
            raise AssessmentError(f"expected a directory, got {directory} which is none", code="no_weights")

    # (1) Nothing that unpickles, in any directory, also not beside good weights: another loader would take it.
    for directory in directories:
        _refuse_pickles(directory)

    # (2) Nothing that asks for code of the form's own.
    for directory in directories:
        _refuse_remote_code(directory)

    # (3) A configuration, and only one reading of what it configures.
    _read_json_object(form.model_dir / "config.json")
    if (form.model_dir / ADAPTER_CONFIG).exists():
        raise AssessmentError(
            f"{form.model_dir} holds an {ADAPTER_CONFIG} beside the model's own files, so transformers would apply an "
            "adapter unasked; expected the adapter in a directory of its own",
            code="config_invalid",
        )
    _check_model_weights(form.model_dir)

    # (4) The adapter the same way.
    if form.adapter_dir is not None:
        _check_adapter(form.adapter_dir)


def read_safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor descriptions of a safetensors file, after checking that the file is whole.

    Args:
        path: A safetensors file.

    Returns:
        Per tensor name its `dtype`, `shape` and `data_offsets`.

    Raises:
        AssessmentError: With code `safetensors_truncated`: the header does not parse, tensors overlap, leave gaps or do
            not fit their dtype and shape, or the file is not exactly 8 + header + data bytes long
            (https://github.com/huggingface/safetensors, "Format").
    """
    size = path.stat().st_size
    if size < 8:
        raise _broken(path, f"expected at least 8 bytes, got {size}")
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise _broken(path, f"its header claims {header_bytes} bytes, the file has {size}")
        raw = file.read(header_bytes)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise _broken(path, "its header is no JSON") from err
    if not isinstance(header, dict):
        raise _broken(path, "its header is no JSON object")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}

    # Tensors in file order must tile the data exactly: no gap for hidden bytes, no overlap, no missing end.
    position = 0
    for name, (begin, end) in sorted(((n, _offsets(path, n, e)) for n, e in tensors.items()), key=lambda item: item[1]):
        if begin != position:
            raise _broken(path, f"tensor {name[:100]!r} starts at byte {begin}, expected {position}")
        position = end
    expected = 8 + header_bytes + position
    if size != expected:
        raise _broken(path, f"expected {expected} bytes by its header, got {size}")
    return tensors


def _broken(path: Path, why: str) -> AssessmentError:
    return AssessmentError(
        f"{path} is truncated or no safetensors file: {why}; save or upload it again", code="safetensors_truncated"
    )


def _offsets(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Begin and end of a tensor, after checking them against its dtype and shape."""
    try:
        begin, end = entry["data_offsets"]
        numbers = [begin, end, *entry["shape"]]
        bits = _DTYPE_BITS[entry["dtype"]]
    except (TypeError, KeyError, ValueError) as err:
        raise _broken(path, f"tensor {name[:100]!r} has no usable dtype, shape and data_offsets") from err
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise _broken(path, f"tensor {name[:100]!r} has offsets or sizes that are no counts")
    for n in entry["shape"]:
        bits *= n
    if (end - begin) * 8 != bits:
        raise _broken(path, f"tensor {name[:100]!r} spans {end - begin} bytes, expected {bits // 8} by its shape")
    return begin, end


def _files(directory: Path) -> Iterator[Path]:
    return (p for p in sorted(directory.rglob("*")) if p.is_file())


def _refuse_pickles(directory: Path) -> None:
    for path in _files(directory):
        name = path.name.lower()
        if path.suffix.lower() in PICKLE_SUFFIXES or name.startswith("pytorch_model"):
            raise AssessmentError(
                f"{path} may be a pickle, which runs code when loaded; expected safetensors only. "
                "Save the model with safe_serialization=True and leave trainer files out",
                code="pickle_weights",
            )


def _refuse_remote_code(directory: Path) -> None:
    custom = directory / "custom_generate"
    if custom.exists():
        raise AssessmentError(f"{custom} asks to run the form's own code; expected none", code="remote_code")
    for path in sorted(directory.glob("*.json")):
        # Vocabularies are large and hold tokens, not settings; whatever a loader imports is named in a config.
        if path.name in {"tokenizer.json", "vocab.json", MODEL_INDEX}:
            continue
        for key, value in _walk(_read_json(path)):
            if key in _CODE_KEYS and value:
                raise AssessmentError(
                    f"{path} has {key!r}, which asks to run the form's own code; expected an architecture that "
                    "transformers ships",
                    code="remote_code",
                )
            if key in _KERNEL_KEYS and "/" in json.dumps(value):
                raise AssessmentError(
                    f"{path} has {key!r} naming a kernel from the Hub, which is code; expected none", code="remote_code"
                )


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of every object inside, at any depth."""
    stack = [value]
    while stack:
        match stack.pop():
            case dict() as mapping:
                yield from mapping.items()
                stack.extend(mapping.values())
            case list() as items:
                stack.extend(items)
            case _:
                pass


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as err:
        raise AssessmentError(f"expected {path.name} in {path.parent}, got none", code="config_missing") from err
    except (ValueError, RecursionError) as err:
        raise AssessmentError(f"{path} is no JSON; save or upload it again", code="config_invalid") from err


def _read_json_object(path: Path) -> dict[str, Any]:
    document = _read_json(path)
    if not isinstance(document, dict):
        raise AssessmentError(f"{path}: expected a JSON object, got {type(document).__name__}", code="config_invalid")
    return document


def _check_model_weights(directory: Path) -> None:
    # `transformers_weights` in a config redirects the loader to another file than the one checked here.
    if "transformers_weights" in _read_json_object(directory / "config.json"):
        raise AssessmentError(
            f"{directory / 'config.json'} names its weights by 'transformers_weights'; expected {MODEL_WEIGHTS} or "
            f"{MODEL_INDEX}",
            code="config_invalid",
        )
    # The same order as transformers: the single file wins over an index.
    if (directory / MODEL_WEIGHTS).is_file():
        tensors = set(read_safetensors_header(directory / MODEL_WEIGHTS))
    elif (directory / MODEL_INDEX).is_file():
        tensors = _check_shards(directory)
    else:
        raise AssessmentError(
            f"no weights in {directory}: expected {MODEL_WEIGHTS} or {MODEL_INDEX}, got neither", code="no_weights"
        )
    if not tensors:
        raise AssessmentError(f"no weights in {directory}: its safetensors hold no tensor", code="no_weights")


def _check_shards(directory: Path) -> set[str]:
    index = directory / MODEL_INDEX
    weight_map = _read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise AssessmentError(f"{index}: expected a weight_map of tensor to file, got none", code="config_invalid")
    for shard in sorted(set(weight_map.values())):
        if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise AssessmentError(
                f"{index} names {shard[:100]!r}; expected a safetensors file beside it", code="config_invalid"
            )
        if not (directory / shard).is_file():
            raise AssessmentError(f"no weights: {index} names {shard}, which is not there", code="no_weights")
        found = set(read_safetensors_header(directory / shard))
        named = {tensor for tensor, file in weight_map.items() if file == shard}
        if found != named:
            odd = ", ".join(sorted(found ^ named)[:3])
            raise AssessmentError(
                f"{index} and {shard} disagree on {len(found ^ named)} tensors ({odd}); save the model again",
                code="config_invalid",
            )
    return set(weight_map)


def _check_adapter(directory: Path) -> None:
    config = _read_json_object(directory / ADAPTER_CONFIG)
    # PEFT imports the module that `megatron_core` names as soon as `megatron_config` is set.
    if config.get("megatron_config") is not None:
        raise AssessmentError(
            f"{directory / ADAPTER_CONFIG} has 'megatron_config', which makes PEFT import a module it names; expected "
            "none",
            code="remote_code",
        )
    # X-LoRA loads further adapters from paths, which no digest of this form would cover.
    if config.get("peft_type") == "XLORA":
        raise AssessmentError(
            f"{directory / ADAPTER_CONFIG} has peft_type XLORA, which loads other adapters by path; expected one",
            code="config_invalid",
        )
    if not (directory / ADAPTER_WEIGHTS).is_file():
        raise AssessmentError(f"no weights in {directory}: expected {ADAPTER_WEIGHTS}, got none", code="no_weights")
    if not read_safetensors_header(directory / ADAPTER_WEIGHTS):
        raise AssessmentError(f"no weights: {directory / ADAPTER_WEIGHTS} holds no tensor", code="no_weights")
