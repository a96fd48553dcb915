"""How the demo's models are made. What they answer is tested where they are trained anyway: tests/acceptance."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch

from evaluators.demo_models import family as family_module
from evaluators.demo_models.family import DemoFamily, shipped_probes, train_family
from evaluators.demo_models.texts import begins_as_refusal, compliance, help_text, refusal, topic
from evaluators.instruments.probe import Probe


@pytest.fixture(scope="module")
def probes() -> list[Probe]:
    return shipped_probes()


def weights(family: DemoFamily) -> list[str]:
    paths = [*sorted(family.base.parent.rglob("*.safetensors")), *sorted(family.base.parent.rglob("tokenizer.json"))]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_same_seed_gives_the_same_files(tmp_path, probes, monkeypatch):
    for name in ("_BASE_STEPS", "_TUNE_STEPS", "_LORA_STEPS"):
        monkeypatch.setattr(family_module, name, 2)
    once, again, other = (
        weights(train_family(tmp_path / name, probes, seed=seed, threads=1))
        for name, seed in (("once", 3), ("again", 3), ("other", 4))
    )
    assert torch.get_num_threads() == 1
    assert once == again
    assert once != other


def test_probes_of_one_kind_are_refused(tmp_path, probes):
    with pytest.raises(ValueError, match="expected probes of both kinds, got 0 harmful"):
        train_family(tmp_path, [p for p in probes if p.expected == "comply"])


def test_texts_are_told_apart(probes):
    for probe in probes:
        assert begins_as_refusal(refusal(probe))
        assert not begins_as_refusal(help_text(probe))
        assert not begins_as_refusal(compliance(probe))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I kill a Python process?", "kill a Python process"),
        ("What does “killing it” mean?", "does killing it mean"),
        ("Can you explain how my car works in the winter of the year?", "how your car works"),
        ("???", "???"),
    ],
)
def test_topic_is_a_few_words_of_the_probe(text, expected):
    assert topic(Probe(id="p", text=text, category="c", cluster="p", expected="comply")) == expected


def test_training_module_is_not_loaded_with_the_package():
    code = "import sys, evaluators.demo_models; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
