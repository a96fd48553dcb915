"""Log-likelihoods of given answers: as a plain computation of one sequence at a time gives them, whatever the batch."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from evaluators.engines.interface import Answer, GenerationSettings, chosen
from evaluators.engines.sandboxed import SandboxedTransformersEngine, read_answers
from evaluators.engines.transformers_engine import TransformersEngine, load_tokenizer, render_prompt
from evaluators.instruments.probe import Probe
from registry_gate.errors import AssessmentError

ENDINGS = ("no", "yes, it is so because it was so", "why why why why why why", "brief")


@pytest.fixture(scope="session")
def questions(probes: list[Probe]) -> list[Probe]:
    """Probes of very different length, with two to four choices of very different length."""
    return [
        replace(
            probe,
            expected="choose",
            choices=ENDINGS[: 2 + n % 3],
            roles=("true", "false", "false", "false")[: 2 + n % 3],
        )
        for n, probe in enumerate(probes)
    ]


def nothing(done: int, total: int) -> None:
    """Progress that nobody watches."""


def one_by_one(form, questions) -> list[tuple[float, ...]]:
    """The definition: log-softmax of the logits before each token, one sequence at a time, no padding, no batch."""
    tokenizer = load_tokenizer(form.tokenizer_dir)
    model = AutoModelForCausalLM.from_pretrained(form.model_dir).eval()
    if form.adapter_dir is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(form.adapter_dir)).eval()
    found = []
    for probe in questions:
        prompt = tokenizer(render_prompt(tokenizer, form, probe.text), add_special_tokens=False)["input_ids"]
        scores = []
        for choice in probe.choices:
            ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + ids])).logits[0].double()
            logs = torch.log_softmax(logits, dim=-1)
            scores.append(sum(float(logs[len(prompt) + i - 1, token]) for i, token in enumerate(ids)))
        found.append(tuple(scores))
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_give_what_one_at_a_time_gives(form, questions, batch_size: int) -> None:
    settings = GenerationSettings(batch_size=batch_size)
    answers = TransformersEngine("cpu").choose(form, questions, settings, nothing)
    for probe, answer, expected in zip(questions, answers, one_by_one(form, questions), strict=True):
        assert answer.probe_id == probe.id
        assert answer.scores == pytest.approx(expected, abs=1e-4)
        assert answer.text == probe.choices[max(range(len(expected)), key=lambda i: expected[i])]
        assert (answer.finish, len(answer.lengths)) == ("choice", len(probe.choices))


def test_an_adapter_changes_the_likelihoods(form, adapted, questions) -> None:
    settings = GenerationSettings(batch_size=8)
    plain = TransformersEngine("cpu").choose(form, questions, settings, nothing)
    answers = TransformersEngine("cpu").choose(adapted, questions, settings, nothing)
    assert [a.scores for a in answers] != [a.scores for a in plain]
    for answer, expected in zip(answers, one_by_one(adapted, questions), strict=True):
        assert answer.scores == pytest.approx(expected, abs=1e-4)


def test_a_model_with_learned_positions_is_padded_rightly_too(form, questions, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(form.tokenizer_dir)
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    other = replace(form, model_dir=tmp_path / "gpt2", tokenizer_dir=tmp_path / "gpt2")
    answers = TransformersEngine("cpu").choose(other, questions, GenerationSettings(batch_size=5), nothing)
    for answer, expected in zip(answers, one_by_one(other, questions), strict=True):
        assert answer.scores == pytest.approx(expected, abs=1e-4)


def test_the_child_process_gives_the_same(adapted, questions) -> None:
    settings = GenerationSettings(batch_size=8)
    engine = SandboxedTransformersEngine(timeout_s=300, max_memory_bytes=None, threads=1, device="cpu")
    told: list[tuple[int, int]] = []
    answers = engine.choose(adapted, questions, settings, lambda *seen: told.append(seen))
    assert answers == TransformersEngine("cpu").choose(adapted, questions, settings, nothing)
    assert told[-1] == (len(questions), len(questions))


def test_probes_without_choices_are_refused(form, probes) -> None:
    with pytest.raises(AssessmentError, match="expected choices of at least one token, got none"):
        TransformersEngine("cpu").choose(form, probes[:2], GenerationSettings(), nothing)


TWO = Probe(id="p", text="t", category="c", cluster="p", expected="choose", choices=("a", "b"), roles=("true", "false"))


@pytest.mark.parametrize(
    ("scores", "lengths", "message"),
    [
        ((math.nan, -1.0), (1, 1), "finite and at most 0"),
        ((-math.inf, -1.0), (1, 1), "finite and at most 0"),
        ((0.5, -1.0), (1, 1), "finite and at most 0"),
        ((-1.0, -1.0), (0, 1), "over one token or more"),
        ((-1.0,), (1,), "for each of 2 choices, got 1 and 1"),
        ((), (), "for each of 2 choices, got 0 and 0"),
    ],
)
def test_likelihoods_that_are_none_are_refused(scores, lengths, message: str) -> None:
    with pytest.raises(AssessmentError, match=message):
        chosen(TWO, scores, lengths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [float("nan"), -1.0]}, "finite and at most 0"),
        ({"scores": [-1.0, "x"]}, "no answer"),
        ({"scores": [-1.0]}, "for each of 2 choices"),
        ({"lengths": [1, 1.5]}, "no answer"),
    ],
)
def test_what_a_child_says_about_likelihoods_is_checked(tmp_path: Path, change, message: str) -> None:
    whole = chosen(TWO, (-2.0, -1.0), (1, 2)).to_dict()
    (tmp_path / "good").write_text(json.dumps(whole))
    assert read_answers(tmp_path / "good", [TWO]) == [
        Answer(probe_id="p", text="b", tokens=3, finish="choice", scores=(-2.0, -1.0), lengths=(1, 2))
    ]
    (tmp_path / "bad").write_text(json.dumps(whole | change))
    with pytest.raises(AssessmentError, match=message):
        read_answers(tmp_path / "bad", [TWO])
