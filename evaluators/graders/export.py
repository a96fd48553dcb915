"""Make graders of a published text classifier: ONNX graphs in several precisions, each proved equal to the original.

The graph is written with fused attention where the model computes attention as the fused node does, and plainly where
not. Whether a graph is right is never argued from its shape: every build must give the labels and probabilities of the
PyTorch model on the same texts, within the bounds below, or nothing is kept.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
import transformers
from pydantic import ValidationError
from tokenizers import Tokenizer

from evaluators.graders import fusion, graphs
from evaluators.graders.checkpoint import Checkpoint, open_checkpoint
from evaluators.graders.interface import LABELS, GradingItem
from evaluators.graders.onnx import GraderFile, OnnxGrader
from evaluators.graders.parity import Texts, read_texts, reference_scores, shipped_texts
from evaluators.graders.records import PARITY, write_record
from evaluators.graders.training.export import OPSET, Parity, graded_scores, parity, write_grader
from registry_gate.errors import AssessmentError

Precision = Literal["fp32", "fp16", "int8"]
Progress = Callable[[str, int, int], None]
"""Called with what is done, how far, and of how much."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a build may differ from the published model by.

    Args:
        same_labels: Least share of texts with the same label.
        difference: Largest difference of a probability.
    """

    same_labels: float
    difference: float


BOUNDS: Mapping[str, Bound] = {
    "fp32": Bound(same_labels=0.995, difference=0.001),
    "fp16": Bound(same_labels=0.995, difference=0.02),
    "int8": Bound(same_labels=0.99, difference=0.4),
}
"""In int8 a single probability may move far where the model is unsure, as the shipped graders' own do (their cards: up
to .36); labels decide."""

_FEWEST_LABELLED = 20
_INVERTED = 0.4
"""Right in less than this share of both labels on average: a coin does better, the other way round does best."""
_SELF_CHECKS = 2
"""Of each label."""
_SHORT = 400
"""Characters of a text that is preferred for `grader.yaml`, which people read."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to make of which checkpoint.

    Args:
        source: Directory of the checkpoint.
        named: What the record calls it, e.g. `hf://OWNER/NAME@REVISION`.
        out: Gets a directory NAME-PRECISION for each precision; none of them may exist.
        labels: The axis' label that each of the model's labels means; all of them, no others.
        texts: File of pairs to compare on; None for the shipped ones.
        max_tokens: Size of a window; None for what the model has positions for, at most 512.
        aggregate: How windows of a long answer become one; None for `mean` of refusals and `max` of everything else.
    """

    source: Path
    named: str
    out: Path
    name: str
    version: str
    axis: str
    labels: Mapping[str, str]
    precisions: tuple[Precision, ...]
    texts: Path | None = None
    threshold: float = 0.5
    max_tokens: int | None = None
    encoding: Literal["pair", "answer"] = "pair"
    aggregate: Literal["max", "mean"] | None = None
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One grader that was made.

    Args:
        agreement: What was found, as a sentence.
    """

    directory: Path
    name: str
    precision: str
    digest: str
    graph: str
    agreement: str


def export_grader(request: ExportRequest, progress: Progress) -> list[Exported]:
    """Export a checkpoint in every precision asked for; all of them, or nothing is left behind.

    Raises:
        AssessmentError: The checkpoint cannot be used, or (code `grader_parity`) a build differs from it by more than
            `BOUNDS` allows.
    """
    targets = {precision: request.out / f"{request.name}-{precision}" for precision in request.precisions}
    for target in targets.values():
        if target.exists():
            raise AssessmentError(f"{target}: expected no such directory yet, got one; remove it or give another name")
    texts = shipped_texts(request.axis) if request.texts is None else read_texts(request.texts, request.axis)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.set_num_threads(request.threads)
    checkpoint = open_checkpoint(request.source)
    labels = _labels(request, checkpoint)
    meaning = _meaning(request, checkpoint, labels)
    items = [text.item for text in texts.texts]
    reference = reference_scores(checkpoint, meaning, items, lambda done, of: progress("reference scores", done, of))
    right = _share_right(request, texts, reference)
    checks = _self_checks(request, texts, reference)

    existed = request.out.is_dir()
    made: list[Exported] = []
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=request.out) as folder:
            work = Path(folder)
            build = _Build(request, meaning, checks, checkpoint, items, reference)

            # (1) A graph that is right in fp32, whatever is asked for: rounding must not hide a wrong one.
            progress("graph and fp32", 0, len(items))
            graph = build.fp32(work)
            progress("graph and fp32", len(items), len(items))

            # (2) The precisions asked for, each with its record.
            for precision, target in targets.items():
                progress(precision, 0, len(items))
                digest, runtime, found = build.precision(work, target.name, precision)
                progress(precision, len(items), len(items))
                write_record(
                    work / target.name / PARITY,
                    {
                        "format": "registry-gate/grader-parity@1",
                        "grader": target.name,
                        "version": request.version,
                        "axis": request.axis,
                        "precision": precision,
                        "digest": digest,
                        "runtime": runtime,
                        "graph": graph,
                        "labels": dict(zip(checkpoint.labels, labels, strict=True)),
                        "reference": {
                            "source": request.named,
                            "family": checkpoint.model.config.model_type,
                            "files": dict(checkpoint.files),
                            "torch": torch.__version__,
                            "transformers": transformers.__version__,
                        },
                        "texts": {"source": texts.source, "sha256": texts.sha256, "count": found.texts, **right},
                        "same_labels": found.same_label,
                        "largest_difference": round(found.largest_difference, 8),
                        "bound": asdict(BOUNDS[precision]),
                    },
                )
                made.append(
                    Exported(
                        directory=target,
                        name=target.name,
                        precision=precision,
                        digest=digest,
                        graph=graph,
                        agreement=str(found),
                    )
                )
            _publish(work, targets.values())
    except OSError as err:
        raise AssessmentError(
            f"{request.out}: expected a directory that graders can be written to, got: {err.strerror or err}: free or "
            "choose another, nothing was kept"
        ) from err
    finally:
        if not existed and request.out.is_dir() and not any(request.out.iterdir()):
            request.out.rmdir()
    return made


@dataclass(frozen=True)
class _Build:
    """One export while it is made."""

    request: ExportRequest
    meaning: GraderFile
    checks: list[dict[str, str]]
    checkpoint: Checkpoint
    items: list[GradingItem]
    reference: list[float]

    def fp32(self, work: Path) -> str:
        """Write fp32.onnx, the fused graph if that is right, else the plain one; say which."""
        for kind in ("fused", "plain"):
            try:
                _write_fp32(self.checkpoint, work / "fp32.onnx", self.meaning.max_tokens, kind)
                self.precision(work, f"trial-{kind}", "fp32")
            except fusion.NotFusableError:
                continue
            except AssessmentError as err:
                if kind == "plain" or err.code != "grader_parity":
                    raise
                continue
            return kind
        raise AssertionError("the plain graph is always tried")

    def precision(self, work: Path, name: str, precision: str) -> tuple[str, str, Parity]:
        """Write one grader's directory from fp32.onnx; its digest, what ran it and its agreement.

        Raises:
            AssessmentError: It does not load, or (code `grader_parity`) differs by more than its bound.
        """
        directory = work / name
        directory.mkdir()
        _write_precision(work / "fp32.onnx", directory / "model.onnx", precision)
        description = self.meaning.model_dump(exclude={"files", "model", "tokenizer"}) | {
            "name": name,
            "precision": precision,
            "self_check": self.checks,
        }
        backend = Tokenizer.from_str(self.checkpoint.tokenizer.backend_tokenizer.to_str())
        write_grader(directory, directory / "model.onnx", backend, description)
        bound, named = BOUNDS[precision], f"{self.request.named} in {precision}"
        try:
            grader = OnnxGrader(directory, provider="cpu", threads=self.request.threads)
            found = parity(self.reference, graded_scores(grader, self.items), self.request.threshold)
        except AssessmentError as err:
            # Pairs of the self-check are those that the model is surest of.
            raise AssessmentError(f"{named}: {err}. Nothing was kept.", code="grader_parity") from err
        if found.same_label < bound.same_labels * found.texts or found.largest_difference > bound.difference:
            raise AssessmentError(
                f"{named}: expected {bound.same_labels:.1%} of the labels of the PyTorch model and probabilities "
                f"within {bound.difference}, got {found}. Nothing was kept; export it in another precision.",
                code="grader_parity",
            )
        return grader.identity.digest, grader.identity.runtime, found


def _publish(work: Path, targets: Iterable[Path]) -> None:
    """Rename every finished directory into place; when one cannot be, those before it are taken back."""
    done: list[Path] = []
    try:
        for target in targets:
            os.rename(work / target.name, target)
            done.append(target)
    except OSError as err:
        for target in done:
            shutil.rmtree(target)
        raise AssessmentError(f"expected to write the grader, got: {err}. Nothing was kept.") from err


# -- what the grader means ---------------------------------------------------------------------------------------------


def _labels(request: ExportRequest, checkpoint: Checkpoint) -> list[str]:
    """The axis' label of each output, in the model's order."""
    if set(request.labels) != set(checkpoint.labels):
        raise AssessmentError(
            f"{request.named}: expected a label of the axis {request.axis} for each of the model's labels "
            f"({', '.join(checkpoint.labels)}), got one for {', '.join(request.labels) or 'none'}; say "
            f"`--labels {','.join(f'{name}=...' for name in checkpoint.labels)}`",
            code="grader_labels",
        )
    return [request.labels[name] for name in checkpoint.labels]


def _meaning(request: ExportRequest, checkpoint: Checkpoint, labels: list[str]) -> GraderFile:
    """`grader.yaml` before there are files, checked as it will be when it is read."""
    published = int(min(checkpoint.tokenizer.model_max_length, checkpoint.max_tokens))
    max_tokens = request.max_tokens or min(published, 512)
    if max_tokens > checkpoint.max_tokens:
        raise AssessmentError(
            f"{request.named}: expected windows of at most {checkpoint.max_tokens} tokens, as the model has positions, "
            f"got {max_tokens}"
        )
    negative, positive = LABELS[request.axis]
    try:
        return GraderFile.model_validate(
            {
                "name": request.name,
                "version": request.version,
                "axis": request.axis,
                "labels": labels,
                "threshold": request.threshold,
                "max_tokens": max_tokens,
                "overlap_tokens": min(48, (max_tokens - 1) // 8),
                "encoding": request.encoding,
                "probe_share": 0.4,
                # An answer that declines once and complies for pages is no refusal.
                "aggregate": request.aggregate or ("mean" if request.axis == "refusal" else "max"),
                "precision": "fp32",
                "files": {"model.onnx": "0" * 64, "tokenizer.json": "0" * 64},
                "self_check": [{"probe": "", "answer": "", "label": label} for label in (negative, positive)],
            }
        )
    except ValidationError as err:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'grader'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in err.errors(include_url=False, include_context=False)
        )
        raise AssessmentError(f"{request.named}: {problems}", code="grader_labels") from err


def _share_right(request: ExportRequest, texts: Texts, scores: list[float]) -> dict[str, Any]:
    """How often the model is right where labels are known, as the record has it.

    Raises:
        AssessmentError: It is wrong more often than a coin, as a label map the wrong way round makes it.
    """
    negative, positive = LABELS[request.axis]
    known = {
        label: [
            (score >= request.threshold) == (label == positive)
            for text, score in zip(texts.texts, scores, strict=True)
            if text.label == label
        ]
        for label in (negative, positive)
    }
    if min(len(each) for each in known.values()) < _FEWEST_LABELLED:
        return {"labelled": sum(len(each) for each in known.values())}
    balanced = sum(sum(each) / len(each) for each in known.values()) / 2
    if balanced < _INVERTED:
        raise AssessmentError(
            f"{request.named}: expected labels that agree with those of the texts more often than a coin, got a "
            f"balanced accuracy of {balanced:.2f} on {sum(len(each) for each in known.values())} of them. Are "
            f"`--labels` the wrong way round ({', '.join(f'{a}={b}' for a, b in request.labels.items())})?",
            code="grader_labels",
        )
    return {"labelled": sum(len(each) for each in known.values()), "balanced_accuracy": round(balanced, 4)}


def _self_checks(request: ExportRequest, texts: Texts, scores: list[float]) -> list[dict[str, str]]:
    """Pairs that the model labels surely, and rightly where that is known; short ones first."""
    checks = []
    for label, sign in zip(LABELS[request.axis], (-1, 1), strict=True):
        mine = [
            (text.item, sign * (score - request.threshold))
            for text, score in zip(texts.texts, scores, strict=True)
            if text.label in (None, label) and sign * (score - request.threshold) > 0
        ]
        if not mine:
            raise AssessmentError(
                f"{request.named}: expected texts that it calls {label!r} for the self-check, got none among "
                f"{len(texts.texts)}. Give --texts with such ones, or look at --labels and --threshold.",
                code="grader_texts",
            )
        mine.sort(key=lambda pair: (len(pair[0].probe) + len(pair[0].answer) > _SHORT, -pair[1], pair[0].answer))
        checks += [{"probe": item.probe, "answer": item.answer, "label": label} for item, _sure in mine[:_SELF_CHECKS]]
    return checks


# -- graphs ------------------------------------------------------------------------------------------------------------


class _Logits(torch.nn.Module):
    """The classifier as a function of tensors in a fixed order."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.model = checkpoint.model
        self.names = checkpoint.inputs

    def forward(self, *columns: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, columns, strict=True))).logits


def _write_fp32(checkpoint: Checkpoint, file: Path, max_tokens: int, kind: str) -> None:
    """Write the optimised graph with `fused` or `plain` attention.

    Raises:
        fusion.NotFusableError: This model's attention cannot be fused.
    """
    with fusion.applied(checkpoint.model) if kind == "fused" else nullcontext():
        graph = _exported(checkpoint, max_tokens)
    onnx.save(graphs.optimise(graph), str(file))


def _exported(checkpoint: Checkpoint, max_tokens: int) -> onnx.ModelProto:
    # Two rows of different length: torch would otherwise fix a size of one, or an absent padding, in the graph.
    ids = torch.full((2, 13), checkpoint.model.get_input_embeddings().num_embeddings - 1)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    columns = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=max_tokens)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            program = torch.onnx.export(
                _Logits(checkpoint).eval(),
                tuple(columns[name] for name in checkpoint.inputs),
                None,
                input_names=list(checkpoint.inputs),
                output_names=["logits"],
                dynamic_shapes=(tuple(free for _ in checkpoint.inputs),),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as err:  # the exporter wraps what the model raised in classes of its own
        cause: BaseException | None = err
        while cause is not None:
            if isinstance(cause, fusion.NotFusableError):
                raise cause from err
            cause = cause.__cause__ or cause.__context__
        first = (str(err).strip().splitlines() or [""])[0][:300]
        raise AssessmentError(
            f"expected a model that torch {torch.__version__} can export, got {type(err).__name__}: {first}"
        ) from err
    return program.model_proto


def _write_precision(fp32: Path, file: Path, precision: str) -> None:
    match precision:
        case "fp32":
            graphs.save(onnx.load(str(fp32)), file)
        case "fp16":
            graphs.round_fp16(fp32, file)
        case "int8":
            logging.disable(logging.WARNING)  # the quantiser recommends itself through the root logger
            try:
                graphs.quantise_int8(fp32, file)
            finally:
                logging.disable(logging.NOTSET)
        case other:
            raise AssertionError(f"expected fp32, fp16 or int8, got {other}")
