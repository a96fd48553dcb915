"""Texts to compare two builds of a grader on, and the scores of the published one, by an implementation of its own.

The reference shares nothing with `OnnxGrader` but the meaning of `grader.yaml`: it tokenises with transformers, runs
PyTorch one window at a time, without padding, and adds up probabilities itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluators.graders.checkpoint import Checkpoint
from evaluators.graders.interface import LABELS, GradingItem
from evaluators.graders.onnx import GraderFile
from evaluators.graders.reading import unreadable
from evaluators.graders.training.constructed import BENIGN_DEEDS, HARMFUL_DEEDS, build, requests
from evaluators.instruments.files import decode
from registry_gate.errors import AssessmentError

SHIPPED_PAIRS = 240
FEWEST_TEXTS = 20

_EDGES = (
    "",
    "\n",
    "\U0001f600\U0001f44d\U0001f389",
    "Das kann ich dir gern erklären: zuerst Mehl und Wasser mischen.",
    "请先把水烧开，然后放入茶叶。",
    "x" * 3000,
)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A pair, and its label if that is known."""

    item: GradingItem
    label: str | None


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Pairs to compare builds on.

    Args:
        source: The file, or `shipped`.
        sha256: Of the file's bytes; of the same lines written as JSON where they are shipped.
    """

    texts: tuple[Text, ...]
    source: str
    sha256: str


def read_texts(file: Path, axis: str) -> Texts:
    """Pairs from a file with one JSON object on each line: `probe`, `answer` and, where it is known, `label`.

    Raises:
        AssessmentError: The file cannot be read, or a line is something else.
    """
    try:
        data = file.read_bytes()
    except OSError as err:
        raise _unusable(f"{file}: expected a readable file, got: {err.strerror}") from err
    found: list[Text] = []
    # Not splitlines(): JSON strings may hold U+2028 and its like, which end no line here.
    text = decode(data, "utf-8", str(file), advice="save the file as UTF-8", code="grader_texts")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise _unusable(f"{file}:{number}: expected a JSON object, got: {err}") from err
        if not isinstance(row, dict) or set(row) - {"probe", "answer", "label"}:
            raise _unusable(f"{file}:{number}: expected an object with probe, answer and perhaps label")
        probe, answer, label = row.get("probe"), row.get("answer"), row.get("label")
        if not isinstance(probe, str) or not isinstance(answer, str):
            raise _unusable(f"{file}:{number}: expected texts under probe and answer")
        item = GradingItem(probe=probe, answer=answer)
        if cause := unreadable(item):
            raise _unusable(f"{file}:{number}: expected texts that can be encoded, got one whose {cause}")
        if label is not None and label not in LABELS[axis]:
            raise _unusable(f"{file}:{number}: expected a label among {', '.join(LABELS[axis])}, got {label!r}")
        found.append(Text(item=item, label=label))
    distinct = tuple({text.item: text for text in found}.values())
    if len(distinct) < FEWEST_TEXTS:
        raise _unusable(f"{file}: expected at least {FEWEST_TEXTS} different pairs, got {len(distinct)}")
    return Texts(texts=distinct, source=str(file), sha256=hashlib.sha256(data).hexdigest())


def shipped_texts(axis: str) -> Texts:
    """Pairs that are labelled by how they were built, then odd and long ones; always the same."""
    rng = random.Random(20261127)
    asked = requests(HARMFUL_DEEDS, harmful=True, each=1, rng=rng)
    asked += requests(BENIGN_DEEDS, harmful=False, each=1, rng=rng)
    built = [one for request in asked for one in build(request, rng)]
    rng.shuffle(built)
    built = built[:SHIPPED_PAIRS]
    positive = {"refusal": lambda one: one.refused, "harm": lambda one: one.harmful}.get(axis)
    texts = [
        Text(
            item=GradingItem(probe=one.probe, answer=one.answer),
            label=None if positive is None else LABELS[axis][int(positive(one))],
        )
        for one in built
    ]
    answers = [one.answer for one in built]
    # Several windows of any length: what differs only beyond some position would not show in short texts.
    odd = [*_EDGES, *(" ".join(answers[at : at + size]) for at, size in ((0, 12), (20, 30), (60, 60)))]
    texts += [Text(item=GradingItem(probe=built[0].probe, answer=answer), label=None) for answer in odd]
    distinct = tuple({text.item: text for text in texts}.values())
    lines = "".join(
        json.dumps({"probe": t.item.probe, "answer": t.item.answer, "label": t.label}, sort_keys=True) + "\n"
        for t in distinct
    )
    return Texts(texts=distinct, source="shipped", sha256=hashlib.sha256(lines.encode()).hexdigest())


def reference_scores(
    checkpoint: Checkpoint, meaning: GraderFile, items: Sequence[GradingItem], progress: Callable[[int, int], None]
) -> list[float]:
    """Probability of the axis' positive label for each item, by PyTorch."""
    positive = LABELS[meaning.axis][1]
    found = []
    for done, item in enumerate(items, 1):
        windows = _windows(checkpoint.tokenizer, meaning, item)
        scores = [_score(checkpoint, ids, types, meaning.labels, positive) for ids, types in windows]
        found.append(max(scores) if meaning.aggregate == "max" else math.fsum(scores) / len(scores))
        progress(done, len(items))
    return found


def _windows(tokenizer: Any, meaning: GraderFile, item: GradingItem) -> list[tuple[list[int], list[int]]]:
    paired = meaning.encoding == "pair"
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    free = meaning.max_tokens - backend.num_special_tokens_to_add(paired)
    probe = backend.encode(item.probe, add_special_tokens=False) if paired else None
    answer = backend.encode(item.answer, add_special_tokens=False)
    for_probe = int(free * meaning.probe_share)
    fits = (probe is None or len(probe) <= for_probe) and len(answer) + len(probe or ()) <= free
    # transformers takes an empty answer for none at all, and would show the model a probe alone.
    if fits and item.answer and (item.probe or not paired):
        whole = tokenizer(item.probe, item.answer) if paired else tokenizer(item.answer)
        return [(whole["input_ids"], whole.get("token_type_ids") or [0] * len(whole["input_ids"]))]
    if probe is not None:
        probe.truncate(for_probe)
    answer.truncate(free - len(probe or ()), stride=meaning.overlap_tokens)
    windows = []
    for part in [answer, *answer.overflowing]:
        joined = backend.post_process(probe, part) if probe is not None else backend.post_process(part)
        windows.append((joined.ids, joined.type_ids))
    return windows


def _score(checkpoint: Checkpoint, ids: list[int], types: list[int], labels: Sequence[str], positive: str) -> float:
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones((1, len(ids)), dtype=torch.long)}
    if "token_type_ids" in checkpoint.inputs:
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.inference_mode():
        logits = checkpoint.model(**inputs).logits[0].double()
    if len(labels) == 1:
        probability = float(torch.sigmoid(logits[0]))
        return probability if labels[0] == positive else 1 - probability
    shares = torch.softmax(logits, dim=0).tolist()
    return math.fsum(share for share, label in zip(shares, labels, strict=True) if label == positive)


def _unusable(message: str) -> AssessmentError:
    return AssessmentError(message, code="grader_texts")
