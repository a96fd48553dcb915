"""Open a Hugging Face checkpoint of a text classifier, and refuse what would not be the classifier that was published.

Nothing of the checkpoint is executed: weights are safetensors, and code that it brings is refused. A weight that the
checkpoint lacks is refused, too: transformers would draw it at random, and a random head is a coin.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from evaluators.graders.pulling import require_unchanged
from registry_gate.errors import AssessmentError

FAMILIES = ("bert", "deberta-v2", "distilbert", "modernbert", "roberta", "xlm-roberta")
"""Values of `model_type` that are exported, each with a test. MiniLM is `bert` or `xlm-roberta`, DeBERTa-v3 is
`deberta-v2`."""

LARGEST_BYTES = 1_900_000_000
"""An ONNX file is one protocol buffer, which holds 2 GB: about 470 million weights in fp32."""

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model")
_OTHER_HEADS = ("cls.", "lm_head.", "lm_predictions.", "mask_predictions.")
"""Weights of the pre-training task that published classifiers often still carry; no classifier reads them."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A classifier as it was published.

    Args:
        model: In fp32, in evaluation mode.
        tokenizer: A fast one, with a backend of the `tokenizers` package.
        labels: Names of the outputs, in order.
        max_tokens: The most tokens that the model has positions for, special ones included.
        inputs: Names of the inputs that it is called with, in order.
        files: sha256 of each file of the checkpoint.
    """

    model: Any
    tokenizer: Any
    labels: tuple[str, ...]
    max_tokens: int
    inputs: tuple[str, ...]
    files: Mapping[str, str]


def open_checkpoint(directory: Path) -> Checkpoint:
    """Load a checkpoint from its directory.

    Raises:
        AssessmentError: A part is missing, is a pickle or code, does not fit the rest, or is no text classifier of a
            known family.
    """
    require_unchanged(directory)
    config = _config(directory)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what is wrong is said below

    # (1) Only what can be loaded without executing anything of it.
    for file in ("config.json", "tokenizer_config.json"):
        if "auto_map" in _json(directory / file):
            raise _refused(directory / file, "a model of transformers itself", "`auto_map`, which loads code of others")
    if not list(directory.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
        raise _refused(
            directory,
            "weights in safetensors",
            f"only pickled ones ({', '.join(pickled)}), which can run code; convert them where that does no harm"
            if pickled
            else "none",
        )

    # (2) Only a text classifier, with all of its weights.
    family, classes = config.get("model_type"), config.get("architectures") or ["none"]
    if family not in FAMILIES:
        raise _refused(directory / "config.json", f"a model_type among {', '.join(FAMILIES)}", repr(family))
    if not all(str(name).endswith("ForSequenceClassification") for name in classes):
        raise _refused(directory / "config.json", "a sequence classifier under `architectures`", ", ".join(classes))
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise _refused(directory, f"a tokenizer ({', '.join(_TOKENIZERS)})", "none")
    model = _load_model(directory)
    size = 4 * sum(weight.numel() for weight in model.parameters())
    if size > LARGEST_BYTES:
        raise _refused(directory, f"at most {LARGEST_BYTES / 1e9:g} GB of weights in fp32", f"{size / 1e9:.1f} GB")

    # (3) Labels whose order is known, read as probabilities that sum to one.
    labels = _labels(directory / "config.json", model.config)

    # (4) A tokenizer whose words the model has.
    tokenizer = _load_tokenizer(directory)
    words, rows = len(tokenizer), model.get_input_embeddings().num_embeddings
    if words > rows:
        raise _refused(
            directory, f"a tokenizer of at most {rows} tokens, as the model has embeddings", f"one of {words}"
        )
    types = (
        "token_type_ids" in inspect.signature(model.forward).parameters
        and "token_type_ids" in tokenizer.model_input_names
        and getattr(model.config, "type_vocab_size", 0) > 1
    )
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        labels=labels,
        max_tokens=_positions(model),
        inputs=("input_ids", "attention_mask", *(("token_type_ids",) if types else ())),
        files={path.name: _sha256(path) for path in sorted(directory.iterdir()) if path.is_file()},
    )


def _config(directory: Path) -> dict[str, Any]:
    if not (directory / "config.json").is_file():
        raise _refused(directory, "the directory of a Hugging Face model with config.json", "none")
    return _json(directory / "config.json")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise _refused(path, "readable JSON", str(err)) from err
    if not isinstance(found, dict):
        raise _refused(path, "a JSON object", type(found).__name__)
    return found


def _load_model(directory: Path) -> Any:
    try:
        model, loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except Exception as err:  # transformers and safetensors raise errors of many kinds
        raise _refused(directory, "weights that fit config.json", f"{type(err).__name__}: {_first(err)}") from err
    for kind in ("missing_keys", "mismatched_keys"):
        if lost := sorted(str(key) for key in loaded[kind]):
            raise _refused(
                directory,
                "all weights of the classifier",
                f"{len(lost)} that would be drawn at random ({_some(lost)}). Give the checkpoint that was fine-tuned, "
                "not the one that it began with.",
            )
    foreign = [
        key
        for key in sorted(loaded["unexpected_keys"])
        if not key.startswith(_OTHER_HEADS) and not key.endswith("position_ids")
    ]
    if foreign:
        raise _refused(
            directory, "only weights that config.json has a place for", f"{len(foreign)} others ({_some(foreign)})"
        )
    if broken := [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]:
        raise _refused(directory, "finite weights", f"NaN or infinity in {len(broken)} tensors ({_some(broken)})")
    return model.eval()


def _labels(file: Path, config: Any) -> tuple[str, ...]:
    names = config.id2label
    if sorted(names) != list(range(config.num_labels)) or len(set(names.values())) != len(names):
        raise _refused(file, "one name of its own for each output under `id2label`", str(names))
    kind = getattr(config, "problem_type", None)
    if kind not in (None, "single_label_classification") and (kind == "regression" or len(names) > 1):
        raise _refused(file, "outputs that exclude each other (single_label_classification)", f"problem_type {kind}")
    return tuple(str(names[i]) for i in range(config.num_labels))


def _load_tokenizer(directory: Path) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            directory, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as err:  # converters raise errors of many kinds
        raise _refused(
            directory,
            "a tokenizer that can be read",
            f"{type(err).__name__}: {_first(err)}. Save the tokenizer with tokenizer.json beside the model.",
        ) from err
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise _refused(directory, "a fast tokenizer (tokenizer.json)", type(tokenizer).__name__)
    return tokenizer


def _positions(model: Any) -> int:
    limit = int(model.config.max_position_embeddings)
    for name, part in model.named_modules():
        # RoBERTa counts positions from behind that of padding.
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            limit -= int(part.padding_idx) + 1
    return limit


def _refused(place: Path, expected: str, got: str) -> AssessmentError:
    return AssessmentError(f"{place}: expected {expected}, got {got}", code="grader_checkpoint")


def _first(err: Exception) -> str:
    return (str(err).strip().splitlines() or [""])[0][:300]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
