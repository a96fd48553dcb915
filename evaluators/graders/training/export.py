"""Turn a fitted classifier into a grader directory: fp32 graph, int8 graph, tokenizer, and how well they agree."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from ruamel.yaml import YAML
from tokenizers import Tokenizer

from evaluators.graders.interface import Graded, GradingItem
from evaluators.graders.onnx import OnnxGrader
from evaluators.graders.training.model import PairClassifier, batch_of, encode
from registry_gate.errors import AssessmentError

OPSET = 18


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How two builds of one grader agree on the same texts."""

    texts: int
    same_label: int
    largest_difference: float

    def __str__(self) -> str:
        return (
            f"{self.same_label} of {self.texts} labels equal ({self.same_label / self.texts:.2%}), "
            f"largest difference of probability {self.largest_difference:.4f}"
        )


def export_fp32(model: PairClassifier, tokenizer: Tokenizer, file: Path) -> None:
    """Write the graph with free batch and length, weights inside the file."""
    # Two rows of different length: torch would otherwise fix a size of one, or an absent padding, in the graph.
    example = batch_of(
        encode(tokenizer, [("How do I boil an egg?", "In water."), ("Why?", "Because of the heat.")], 64)
    )
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    model.eval()
    torch.onnx.export(
        model,
        example,
        str(file),
        input_names=["input_ids", "attention_mask", "token_type_ids"],
        output_names=["logits"],
        dynamic_shapes=(free, free, free),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        verbose=False,
    )


def quantise_int8(fp32: Path, file: Path) -> None:
    """Dynamic int8: weights in seven bits per channel, activations in eight as they come.

    Seven, because processors without VNNI add two products in 16 bits and saturate with eight; with seven every
    processor computes the same integers.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        graph = onnx.load(str(fp32))
        # The exporter leaves shapes of weights that it has transposed since; the quantiser infers them itself.
        del graph.graph.value_info[:]
        onnx.save(graph, str(prepared))
        quantize_dynamic(
            str(prepared),
            str(file),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            # What the fused nodes of ONNX Runtime give has no type that the quantiser could infer.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    onnx.checker.check_model(str(file))


def write_grader(directory: Path, model: Path, tokenizer: Tokenizer, description: Mapping[str, Any]) -> None:
    """Write model, tokenizer and `grader.yaml` with their sha256."""
    directory.mkdir(parents=True, exist_ok=True)
    if model != directory / "model.onnx":
        shutil.copyfile(model, directory / "model.onnx")
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    files = {name: _sha256(directory / name) for name in ("model.onnx", "tokenizer.json")}
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    text = io.StringIO()
    yaml.dump({**description, "files": files}, text)
    (directory / "grader.yaml").write_text(text.getvalue(), encoding="utf-8")


def parity(first: Sequence[float], second: Sequence[float], threshold: float) -> Parity:
    """Agreement of two lists of probabilities for the same texts."""
    return Parity(
        texts=len(first),
        same_label=sum((a >= threshold) == (b >= threshold) for a, b in zip(first, second, strict=True)),
        largest_difference=max(abs(a - b) for a, b in zip(first, second, strict=True)),
    )


def graded_scores(grader: OnnxGrader, items: Sequence[GradingItem]) -> list[float]:
    """The exported grader's probabilities.

    Raises:
        AssessmentError: An item was not graded; a build that cannot label its own data is not shipped.
    """
    probabilities = []
    for outcome in grader.grade(items, lambda _done, _all: None):
        if not isinstance(outcome, Graded):
            raise AssessmentError(f"grader {grader.identity.name}: expected a label, got none: {outcome.cause}")
        probabilities.append(outcome.probability)
    return probabilities


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
