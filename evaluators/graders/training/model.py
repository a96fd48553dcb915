"""The network behind the shipped graders, and how it is fitted.

A sentence encoder reads `[CLS] probe [SEP] answer [SEP]`; the mean over the probe and the mean over the answer go
together through a small head, so that the same words can be harmful in answer to one probe and harmless in answer to
another.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel

from evaluators.graders.training.sources import Example


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one grader is fitted.

    Args:
        max_tokens: Longer pairs are cut at the end of the answer while training; grading reads windows of as many.
        batch_pairs: Pairs of one step, of similar length.
    """

    epochs: int = 2
    encoder_rate: float = 1e-4
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: float = 0.1
    max_tokens: int = 256
    batch_pairs: int = 32
    label_smoothing: float = 0.03
    seed: int = 20240607


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How a long answer is read, as `grader.yaml` says it for the exported grader."""

    max_tokens: int
    overlap_tokens: int
    probe_share: float


class PairClassifier(nn.Module):
    """Logits of (negative, positive) for a batch of encoded pairs."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        # Not a module of its own: its parts are.
        self._encoder = (encoder,)
        self.embeddings = encoder.embeddings
        self.layers = encoder.encoder.layer
        self.head = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, 2)
        )

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        dtype = self.embeddings.word_embeddings.weight.dtype
        ignored = (1 - attention_mask[:, None, None, :]).to(dtype) * torch.finfo(dtype).min
        return self.logits(input_ids, attention_mask, token_type_ids, seen=ignored)

    @property
    def encoder(self) -> nn.Module:
        """The model of transformers whose embeddings and layers these are."""
        return self._encoder[0]

    def logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        *,
        seen: torch.Tensor,
    ) -> torch.Tensor:
        """`forward`, with what says which tokens attention sees in the form that its implementation takes."""
        hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        for layer in self.layers:
            hidden = layer(hidden, seen)
        answer = (token_type_ids * attention_mask).unsqueeze(-1).to(hidden.dtype)
        probe = ((1 - token_type_ids) * attention_mask).unsqueeze(-1).to(hidden.dtype)
        # Never empty: each side has at least its own separator.
        pooled = [(hidden * side).sum(1) / side.sum(1) for side in (probe, answer)]
        return self.head(torch.cat(pooled, dim=-1))


@dataclass(frozen=True)
class Encoded:
    """Token ids and token types of one pair."""

    ids: list[int]
    types: list[int]


def start_from(encoder_directory: Path) -> tuple[PairClassifier, Tokenizer]:
    """The untrained classifier on a pretrained encoder, with its tokenizer.

    The encoder's weights are rounded to half precision, so that a copy of half the size starts a training alike.
    """
    encoder = AutoModel.from_pretrained(
        encoder_directory, add_pooling_layer=False, attn_implementation="eager", dtype=torch.float16
    ).float()
    tokenizer = Tokenizer.from_file(str(encoder_directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return PairClassifier(encoder, encoder.config.hidden_size), tokenizer


def encode(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], max_tokens: int) -> list[Encoded]:
    """Encode pairs; the probe may take half of the tokens, the end of a long answer is cut."""
    encoded = []
    probes = tokenizer.encode_batch([probe for probe, _answer in pairs], add_special_tokens=False)
    answers = tokenizer.encode_batch([answer for _probe, answer in pairs], add_special_tokens=False)
    for probe, answer in zip(probes, answers, strict=True):
        probe.truncate((max_tokens - 3) // 2)
        answer.truncate(max_tokens - 3 - len(probe.ids))
        pair = tokenizer.post_process(probe, answer)
        encoded.append(Encoded(pair.ids, pair.type_ids))
    return encoded


def fit(
    model: PairClassifier,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    recipe: Recipe,
    report: Callable[[str], None],
    device: str = "cpu",
) -> None:
    """Fit in place, seeded; the model stays on the device. On a GPU products are in bfloat16.

    The embeddings stay as they are: most of their words occur in no example.
    """
    random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    encoded = encode(tokenizer, [(e.probe, e.answer) for e in examples], recipe.max_tokens)
    labels = torch.tensor([int(e.positive) for e in examples])
    model.to(device)
    model.embeddings.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": model.layers.parameters(), "lr": recipe.encoder_rate},
            {"params": model.head.parameters(), "lr": recipe.head_rate},
        ],
        weight_decay=recipe.weight_decay,
    )
    steps = [step for _ in range(recipe.epochs) for step in _steps(encoded, recipe.batch_pairs)]
    total = len(steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / max(1, recipe.warm_up * total), (total - step) / ((1 - recipe.warm_up) * total)),
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    model.train()
    started = time.monotonic()
    for done, step in enumerate(steps, 1):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu"):
            logits = model(*(part.to(device) for part in batch_of([encoded[i] for i in step])))
        loss = loss_of(logits.float(), labels[step].to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if done % 50 == 0 or done == total:
            spent = time.monotonic() - started
            left = spent / done * (total - done)
            report(f"step {done}/{total} loss {loss.item():.3f} {spent:.0f} s, {left:.0f} s left")
    model.eval()


def scores(
    model: PairClassifier, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], windowing: Windowing, aggregate: str
) -> list[float]:
    """Probability of the positive label per pair, in order, read in windows as the exported grader reads them.

    Args:
        aggregate: `max` or `mean`.
    """
    device = next(model.parameters()).device
    windows = [_windows(tokenizer, probe, answer, windowing) for probe, answer in pairs]
    flat = [window for several in windows for window in several]
    order = sorted(range(len(flat)), key=lambda i: len(flat[i].ids))
    found = [0.0] * len(flat)
    with torch.inference_mode():
        for at in range(0, len(order), 64):
            step = order[at : at + 64]
            batch = batch_of([flat[i] for i in step])
            probabilities = model(*(part.to(device) for part in batch)).softmax(-1)[:, 1]
            for i, probability in zip(step, probabilities.tolist(), strict=True):
                found[i] = probability
    result = []
    at = 0
    for several in windows:
        mine = found[at : at + len(several)]
        result.append(max(mine) if aggregate == "max" else sum(mine) / len(mine))
        at += len(several)
    return result


def _windows(tokenizer: Tokenizer, probe: str, answer: str, windowing: Windowing) -> list[Encoded]:
    free = windowing.max_tokens - 3
    asked = tokenizer.encode(probe, add_special_tokens=False)
    asked.truncate(int(free * windowing.probe_share))
    said = tokenizer.encode(answer, add_special_tokens=False).ids
    size = free - len(asked.ids)
    last = max(0, len(said) - windowing.overlap_tokens - 1)
    start, stop = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    encoded = []
    for at in range(0, last + 1, size - windowing.overlap_tokens):
        part = said[at : at + size]
        ids = [start, *asked.ids, stop, *part, stop]
        encoded.append(Encoded(ids, [0] * (len(asked.ids) + 2) + [1] * (len(part) + 1)))
    return encoded


def batch_of(encoded: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, attention_mask and token_type_ids, padded at the end."""
    longest = max(len(e.ids) for e in encoded)
    ids, mask, types = (torch.zeros((len(encoded), longest), dtype=torch.long) for _ in range(3))
    for row, e in enumerate(encoded):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
        mask[row, : len(e.ids)] = 1
        types[row, : len(e.ids)] = torch.tensor(e.types)
    return ids, mask, types


def _steps(encoded: Sequence[Encoded], batch_pairs: int) -> list[list[int]]:
    """One epoch: steps of similar length in random order."""
    order = list(range(len(encoded)))
    random.shuffle(order)
    order.sort(key=lambda i: len(encoded[i].ids) // 16)
    steps = [order[at : at + batch_pairs] for at in range(0, len(order), batch_pairs)]
    random.shuffle(steps)
    return steps
