"""Small real models for the engine's tests: random weights, so that answers differ between prompts and cost nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.engines.interface import LocalForm
from evaluators.instruments.probe import Probe

TEMPLATE = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}<assistant>"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def probes() -> list[Probe]:
    """Sixteen probes of very different length; two have the same text."""
    texts = [("why " * n + "is that so").strip() for n in (0, 9, 1, 14, 3, 7, 2, 11, 5, 4, 13, 6, 8, 10, 12)]
    texts.append(texts[3])
    return [
        Probe(id=f"p-{n:02}", text=text, category="test", cluster=f"p-{n:02}", expected="comply")
        for n, text in enumerate(texts)
    ]


@pytest.fixture(scope="session")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["why is that so", "be brief"],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<pad>", "<end>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<end>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            initializer_range=0.4,
            tie_word_embeddings=False,
        )
    )
    # Random weights seldom choose one end token; with many of them answers end at different lengths.
    ends = [tokenizer.eos_token_id, *range(40, len(tokenizer), 16)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def form(_model: Path, tmp_path: Path) -> LocalForm:
    """A form of its own for each test, to be broken at will."""
    directory = shutil.copytree(_model, tmp_path / "model")
    return LocalForm(digest="sha256:" + "1" * 64, model_dir=directory, tokenizer_dir=directory)


@pytest.fixture
def adapted(form: LocalForm, tmp_path: Path) -> LocalForm:
    """The form with a LoRA adapter that changes its answers."""
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(form.model_dir), lora).save_pretrained(tmp_path / "adapter")
    return LocalForm(
        digest="sha256:" + "2" * 64,
        model_dir=form.model_dir,
        tokenizer_dir=form.tokenizer_dir,
        adapter_dir=tmp_path / "adapter",
    )


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Set keys in a JSON file; None removes."""

    def edit(path: Path, **changes: object) -> None:
        document = json.loads(path.read_text()) if path.exists() else {}
        document |= changes
        path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))

    return edit


@pytest.fixture
def edit_tensors() -> Callable[[Path, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]], None]:
    """Rewrite a safetensors file by a function of its tensors."""

    def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return edit
