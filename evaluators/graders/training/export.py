"""Turn a fitted classifier into a grader directory: fp32 graph, int8 graph, tokenizer, and how well they agree."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer

from evaluators.graders import fusion, graphs
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


class _Fused(torch.nn.Module):
    """The classifier with attention as one node for each layer."""

    def __init__(self, model: PairClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        return self.model.logits(input_ids, attention_mask, token_type_ids, seen=attention_mask)


def export_fp32(model: PairClassifier, tokenizer: Tokenizer, file: Path) -> None:
    """Write the graph with free batch and length, weights inside the file."""
    # Two rows of different length: torch would otherwise fix a size of one, or an absent padding, in the graph.
    example = batch_of(
        encode(tokenizer, [("How do I boil an egg?", "In water."), ("Why?", "Because of the heat.")], 64)
    )
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    model.eval()
    with fusion.applied(model.encoder):
        program = torch.onnx.export(
            _Fused(model).eval(),
            example,
            None,
            input_names=["input_ids", "attention_mask", "token_type_ids"],
            output_names=["logits"],
            dynamic_shapes=(free, free, free),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
    graph = program.model_proto
    onnx.save(graphs.optimise(graph), str(file))


def write_grader(directory: Path, model: Path, tokenizer: Tokenizer, description: Mapping[str, Any]) -> None:
    """Write model, tokenizer and `grader.yaml` with the sha256 of each file.

    Args:
        model: A graph with its weights; copied when it is not `model.onnx` of the directory, which may also have its
            weights in a file of their own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if model != directory / "model.onnx":
        shutil.copyfile(model, directory / "model.onnx")
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    parts = (directory / "model.onnx", graphs.data_of(directory / "model.onnx"), directory / "tokenizer.json")
    files = {file.name: _sha256(file) for file in parts if file.is_file()}
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
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
