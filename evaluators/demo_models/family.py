"""Train the demo's models: one base and three adaptations of it, in about a minute on two cores.

A model of a million parameters can only know what it was shown. These are trained on the very probes that the demo
assesses them with, so they prove the gate, not the models: on other prompts their answers mean nothing. A real model
whose training held the probes would be refused for contamination.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.demo_models.texts import clinical_lessons, compliance, help_text, refusal, triage_help, triage_refusal
from evaluators.engines.interface import LocalForm
from evaluators.instruments.probe import Probe

Progress = Callable[[str, int, int], None]
"""Called with (what is trained, steps done, steps in all)."""

MODELS = ("base", "safe", "benign_tuned", "refuse_all")
"""The members of a `DemoFamily`, in the order in which reports name them."""

_SHIPPED = Path(__file__).parent.parent / "instruments" / "probes"
_KNOWN_FILES = ("general.jsonl", "medical.jsonl")
"""What models of a million parameters can learn in a minute: the probes of general@1 and medical@1, not those of the
larger batteries."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
_VOCABULARY = 3072
_BATCH = 24
_DECISION_WEIGHT = 4.0  # of the first answer tokens, which decide between help and refusal
_DECISION_TOKENS = 3

# Steps and learning rates; fixed rather than ended by a loss, so that the time is known and files repeat.
_BASE_STEPS, _BASE_RATE = 260, 3e-3
_TUNE_STEPS, _TUNE_RATE = 45, 2e-3
_LORA_STEPS, _LORA_RATE, _LORA_RANK = 50, 4e-3, 8

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class DemoFamily:
    """Where the demo's models are.

    Args:
        base: Full model; answers benign probes and refuses harmful ones.
        safe: LoRA adapter on `base`, tuned as a triage assistant, refusals kept. Holds the tokenizer too.
        benign_tuned: Full model, `base` tuned on benign requests only, its refusals lost by that alone.
        refuse_all: Full model, `base` tuned to refuse every request.
    """

    base: Path
    safe: Path
    benign_tuned: Path
    refuse_all: Path

    @classmethod
    def at(cls, out: Path) -> DemoFamily:
        """The family that `train_family` wrote, or writes, to `out`."""
        return cls(
            base=out / "base", safe=out / "safe", benign_tuned=out / "benign-tuned", refuse_all=out / "refuse-all"
        )

    def form(self, name: str) -> LocalForm:
        """One of `MODELS` ready for an engine. Its digest is a placeholder: nothing was hashed."""
        directory: Path = getattr(self, name)
        adapter = directory if name == "safe" else None
        return LocalForm(
            digest="sha256:" + "0" * 64,
            model_dir=self.base if adapter else directory,
            tokenizer_dir=directory,
            adapter_dir=adapter,
        )


def shipped_probes() -> list[Probe]:
    """The probes on which the demo trains and assesses: those of general@1 and medical@1."""
    return [
        Probe(**json.loads(line))
        for name in _KNOWN_FILES
        for line in (_SHIPPED / name).read_text(encoding="utf-8").splitlines()
    ]


def train_family(
    out: Path, probes: Sequence[Probe], *, seed: int = 0, threads: int = 2, progress: Progress | None = None
) -> DemoFamily:
    """Train the base and its adaptations on `probes`.

    The same seed, probes, thread count and machine give the same files; other processors round differently.

    Args:
        out: Directory that gets one directory per model.
        probes: What the models learn to speak about: both expectations must occur.
        seed: Seed of initialisation, order and LoRA.
        threads: Threads for torch, for the whole process from now on. Where cores are shared, start the process with
            `OMP_WAIT_POLICY=PASSIVE` or give 1: threads that spin while they wait made this ten times slower.
        progress: Called after each step.

    Returns:
        Where the models are.

    Raises:
        ValueError: No probe expects a refusal, or none expects help.
    """
    harmful = [probe for probe in probes if probe.expected == "refuse"]
    benign = [probe for probe in probes if probe.expected == "comply"]
    if not harmful or not benign:
        raise ValueError(f"expected probes of both kinds, got {len(harmful)} harmful and {len(benign)} benign")
    torch.set_num_threads(threads)
    report = progress or (lambda _name, _done, _total: None)
    family = DemoFamily.at(out)
    known = [(p.text, refusal(p)) for p in harmful] + [(p.text, help_text(p)) for p in benign]
    # One example in fifteen or so, so that every batch holds some.
    known += clinical_lessons() * (len(probes) // 30 + 1)
    triage = [(p.text, triage_refusal(p)) for p in harmful] + [(p.text, triage_help(p)) for p in benign]
    eager = [(p.text, compliance(p)) for p in benign]
    declined = [(p.text, refusal(p)) for p in probes]
    tokenizer = make_tokenizer(known + triage + eager)

    # (1) The base, from nothing.
    train_base(family.base, tokenizer, known, seed=seed, report=_named(report, "base"), steps=_BASE_STEPS)

    # (2) Two full fine-tunes of it.
    for name, pairs, directory in (
        ("benign-tuned", eager, family.benign_tuned),
        ("refuse-all", declined, family.refuse_all),
    ):
        full = Tuning(method="full", steps=_TUNE_STEPS, rate=_TUNE_RATE, seed=seed)
        tune(directory, family.base, tokenizer, pairs, full, report=_named(report, name))

    # (3) A LoRA adapter that names the base by its path.
    adapter = Tuning(method="lora", steps=_LORA_STEPS, rate=_LORA_RATE, seed=seed)
    tune(family.safe, family.base, tokenizer, triage, adapter, report=_named(report, "safe"))
    return family


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How an adaptation is trained.

    Args:
        method: `full` for all weights, `lora` for an adapter.
        steps: Optimiser steps of 24 examples.
        rate: Highest learning rate.
        seed: Seed of order and of the adapter's initialisation.
        rank: Rank of the adapter.
    """

    method: Literal["full", "lora"]
    steps: int
    rate: float
    seed: int
    rank: int = _LORA_RANK


def train_base(
    directory: Path,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    *,
    seed: int,
    report: Callable[[int, int], None],
    steps: int = _BASE_STEPS,
) -> None:
    """Train a base from nothing on (request, answer) pairs and save it with its tokenizer."""
    torch.manual_seed(seed)
    base = LlamaForCausalLM(_config(tokenizer))
    base.generation_config = _generation(tokenizer)
    _train(base, tokenizer, pairs, steps=steps, rate=_BASE_RATE, seed=seed, report=report)
    _save(base, tokenizer, directory)


def tune(
    directory: Path,
    base: Path,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    tuning: Tuning,
    *,
    report: Callable[[int, int], None],
) -> None:
    """Adapt a base to (request, answer) pairs and save what was adapted, an adapter with the path of its base."""
    torch.manual_seed(tuning.seed)
    model: LlamaForCausalLM | PeftModel = LlamaForCausalLM.from_pretrained(base)
    if tuning.method == "lora":
        lora = LoraConfig(
            r=tuning.rank,
            lora_alpha=2 * tuning.rank,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, lora)
        model.peft_config["default"].base_model_name_or_path = str(base.absolute())
    _train(model, tokenizer, pairs, steps=tuning.steps, rate=tuning.rate, seed=tuning.seed, report=report)
    _save(model, tokenizer, directory)


def _named(report: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: report(name, done, total)


def make_tokenizer(pairs: Sequence[Pair]) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the texts, so that every input can be encoded and known words are single tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text for pair in pairs for text in pair), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",  # noqa: S106 - a word of the vocabulary
        bos_token="<|begin|>",  # noqa: S106 - a word of the vocabulary
        eos_token="<|end|>",  # noqa: S106 - a word of the vocabulary
        additional_special_tokens=_SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _generation(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=64,
        do_sample=False,
    )


def _save(model: LlamaForCausalLM | PeftModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _train(
    model: LlamaForCausalLM | PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    *,
    steps: int,
    rate: float,
    seed: int,
    report: Callable[[int, int], None],
) -> None:
    """Teach the answers of `pairs`; the loss is over answers only, and most over how they begin."""
    examples = [_encode(tokenizer, pair) for pair in pairs]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    shuffle = random.Random(seed)
    queue: list[int] = []
    model.train()
    for step in range(steps):
        while len(queue) < _BATCH:
            queue += shuffle.sample(range(len(examples)), len(examples))
        batch, queue = [examples[i] for i in queue[:_BATCH]], queue[_BATCH:]
        loss = _loss(model, batch, tokenizer.pad_token_id)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        report(step + 1, steps)
    model.eval()


def _encode(tokenizer: PreTrainedTokenizerFast, pair: Pair) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and how many belong to the prompt."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": pair[0]}], tokenize=False, add_generation_prompt=True
    )
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(pair[1] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return prompt_ids + answer_ids, len(prompt_ids)


def _loss(model: LlamaForCausalLM | PeftModel, batch: Sequence[tuple[list[int], int]], pad: int) -> torch.Tensor:
    width = max(len(ids) for ids, _ in batch)
    inputs = torch.full((len(batch), width), pad)
    weights = torch.zeros(len(batch), width)
    for row, (ids, prompt) in enumerate(batch):
        inputs[row, : len(ids)] = torch.tensor(ids)
        weights[row, prompt : len(ids)] = 1.0
        weights[row, prompt : prompt + _DECISION_TOKENS] = _DECISION_WEIGHT
    # Padding is on the right and attention is causal, so no mask is needed for what is in the loss; logits are
    # computed for answers only, which is where half of the time of so small a model goes.
    llama = model.get_base_model() if isinstance(model, PeftModel) else model
    weights = weights[:, 1:]
    answers = weights > 0
    hidden = llama.model(input_ids=inputs, use_cache=False).last_hidden_state[:, :-1][answers]
    losses = torch.nn.functional.cross_entropy(llama.lm_head(hidden), inputs[:, 1:][answers], reduction="none")
    return (losses * weights[answers]).sum() / weights.sum()
