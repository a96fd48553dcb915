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
        frozen_layers: Layers from the bottom that stay as they are.
        max_tokens: Longer pairs are cut at the end of the answer while training; grading reads windows.
        batch_tokens: Tokens of one step, padding included.
    """

    epochs: int = 1
    frozen_layers: int = 4
    encoder_rate: float = 2e-4
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: float = 0.1
    max_tokens: int = 144
    batch_tokens: int = 1536
    label_smoothing: float = 0.03
    seed: int = 20240607


class PairClassifier(nn.Module):
    """Logits of (negative, positive) for a batch of encoded pairs."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.embeddings = encoder.embeddings
        self.layers = encoder.encoder.layer
        self.head = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, 2)
        )

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        hidden = self.through(hidden, attention_mask, 0, len(self.layers))
        return self.classify(hidden, attention_mask, token_type_ids)

    def through(self, hidden: torch.Tensor, attention_mask: torch.Tensor, first: int, end: int) -> torch.Tensor:
        """Hidden states after layers `first` to `end`, the latter excluded."""
        ignored = (1 - attention_mask[:, None, None, :]).to(hidden.dtype) * torch.finfo(hidden.dtype).min
        for layer in self.layers[first:end]:
            hidden = layer(hidden, ignored)
        return hidden

    def classify(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Logits from the last hidden states."""
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
    """The untrained classifier on a pretrained encoder, with its tokenizer."""
    encoder = AutoModel.from_pretrained(encoder_directory, add_pooling_layer=False, attn_implementation="eager")
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
) -> None:
    """Fit in place, seeded.

    Embeddings and the lower layers stay as they are: they carry what few examples cannot teach. Their output is
    computed once and kept, so that an epoch costs half.
    """
    random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    encoded = encode(tokenizer, [(e.probe, e.answer) for e in examples], recipe.max_tokens)
    labels = [int(e.positive) for e in examples]
    frozen = [model.embeddings, *model.layers[: recipe.frozen_layers]]
    for part in frozen:
        part.requires_grad_(False)
    lower = _lower_states(model, encoded, recipe, report)
    trained = list(model.layers[recipe.frozen_layers :].parameters())
    optimizer = torch.optim.AdamW(
        [{"params": trained, "lr": recipe.encoder_rate}, {"params": model.head.parameters(), "lr": recipe.head_rate}],
        weight_decay=recipe.weight_decay,
    )
    epochs = [_steps(encoded, recipe.batch_tokens) for _ in range(recipe.epochs)]
    total = sum(len(steps) for steps in epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / max(1, recipe.warm_up * total), (total - step) / ((1 - recipe.warm_up) * total)),
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    model.train()
    started = time.monotonic()
    done, running = 0, 0.0
    for number, steps in enumerate(epochs, 1):
        for step in steps:
            _ids, mask, types = batch_of([encoded[i] for i in step])
            hidden = nn.utils.rnn.pad_sequence([lower[i].float() for i in step], batch_first=True)
            hidden = model.through(hidden, mask, recipe.frozen_layers, len(model.layers))
            loss = loss_of(model.classify(hidden, mask, types), torch.tensor([labels[i] for i in step]))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            running = 0.98 * running + 0.02 * loss.item() if done > 1 else loss.item()
            if done % 50 == 0:
                spent = time.monotonic() - started
                left = spent / done * (total - done)
                report(f"epoch {number} step {done}/{total} loss {running:.3f} {spent:.0f} s, {left:.0f} s left")
    model.eval()


def _lower_states(
    model: PairClassifier, encoded: Sequence[Encoded], recipe: Recipe, report: Callable[[str], None]
) -> list[torch.Tensor]:
    """Output of the frozen layers per pair, without padding, in half precision."""
    model.eval()
    states: list[torch.Tensor] = [torch.empty(0)] * len(encoded)
    with torch.no_grad():
        for step in _steps(encoded, 4 * recipe.batch_tokens):
            ids, mask, types = batch_of([encoded[i] for i in step])
            hidden = model.through(
                model.embeddings(input_ids=ids, token_type_ids=types), mask, 0, recipe.frozen_layers
            ).half()
            for row, i in enumerate(step):
                states[i] = hidden[row, : len(encoded[i].ids)].clone()
    report(f"frozen layers done for {len(encoded)} pairs")
    return states


def scores(
    model: PairClassifier, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], max_tokens: int
) -> list[float]:
    """Probability of the positive label per pair, in order; for parity with the exported graph."""
    encoded = encode(tokenizer, pairs, max_tokens)
    result = [0.0] * len(pairs)
    with torch.inference_mode():
        for step in _steps(encoded, 4096):
            probabilities = model(*batch_of([encoded[i] for i in step])).softmax(-1)[:, 1]
            for i, probability in zip(step, probabilities.tolist(), strict=True):
                result[i] = probability
    return result


def batch_of(encoded: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, attention_mask and token_type_ids, padded at the end."""
    longest = max(len(e.ids) for e in encoded)
    ids, mask, types = (torch.zeros((len(encoded), longest), dtype=torch.long) for _ in range(3))
    for row, e in enumerate(encoded):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
        mask[row, : len(e.ids)] = 1
        types[row, : len(e.ids)] = torch.tensor(e.types)
    return ids, mask, types


def _steps(encoded: Sequence[Encoded], batch_tokens: int) -> list[list[int]]:
    """Steps of similar length in random order."""
    order = list(range(len(encoded)))
    random.shuffle(order)
    order.sort(key=lambda i: len(encoded[i].ids) // 8)
    steps: list[list[int]] = []
    step: list[int] = []
    for i in order:
        if step and (len(step) + 1) * (len(encoded[i].ids) + 8) > batch_tokens:
            steps.append(step)
            step = []
        step.append(i)
    if step:
        steps.append(step)
    random.shuffle(steps)
    return steps
