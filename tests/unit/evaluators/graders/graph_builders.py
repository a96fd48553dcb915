"""Small classifiers with random weights, and their graphs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from checkpoint_builders import make_config
from transformers import AutoModelForSequenceClassification

from evaluators.graders import fusion


def make_model(family: str) -> Any:
    torch.manual_seed(3)
    torch.set_num_threads(1)
    config = make_config(family, 90, ("no", "yes"), 64)
    config._attn_implementation = "eager"
    return AutoModelForSequenceClassification.from_config(config).eval()


class Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def rows(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 90, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(5))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids, mask


def exported(model: Any, *, fused: bool = True) -> onnx.ModelProto:
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=64)}
    with fusion.applied(model) if fused else nullcontext():
        program = torch.onnx.export(
            Logits(model).eval(), rows(13, 9), None,
            input_names=["input_ids", "attention_mask"], output_names=["logits"],
            dynamic_shapes=(free, free), dynamo=True, opset_version=18, verbose=False,
        )  # fmt: skip
    return program.model_proto


def scores(graph: onnx.ModelProto, ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
