"""The plug point for engines: what obtains answers from a form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from evaluators.instruments.probe import Probe

Progress = Callable[[int, int], None]
"""Called with (probes answered, probes in all)."""


@dataclass(frozen=True, kw_only=True)
class LocalForm:
    """An adapted form as directories on this machine, ready to load.

    Args:
        digest: Digest of the form's manifest, `sha256:...`.
        model_dir: Directory with `config.json` and safetensors weights (of the base when there is an adapter).
        tokenizer_dir: Directory with the tokenizer that will be served.
        adapter_dir: Directory with `adapter_config.json` and adapter weights, or None.
        chat_template: Jinja source that replaces the tokenizer's own; None leaves the tokenizer's.
        system_prompt: System prompt that is part of the served form, or None.
    """

    digest: str
    model_dir: Path
    tokenizer_dir: Path
    adapter_dir: Path | None = None
    chat_template: str | None = None
    system_prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How answers are obtained; the same for base and adapted form, and recorded in evidence.

    Args:
        max_new_tokens: Longest answer, in tokens.
        precision: `fp32`, `bf16` or `fp16`. Answers depend on it (PERFORMANCE.md section 3).
        batch_size: Largest number of probes generated at once. Not part of the identity for fp32.
        seed: Seed given to torch before generation.
        temperature: 0 means greedy, which is what gates use.
    """

    max_new_tokens: int = 64
    precision: str = "fp32"
    batch_size: int = 32
    seed: int = 0
    temperature: float = 0.0

    def identity(self) -> dict[str, object]:
        """The settings that may change an answer, for evidence and cache keys."""
        fields = asdict(self)
        if self.precision == "fp32":
            del fields["batch_size"]
        return fields


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a form answered to one probe.

    Args:
        probe_id: Id of the probe.
        text: The decoded answer without special tokens.
        tokens: Number of generated tokens, the end token not counted.
        finish: `stop` when the form ended the answer, `length` when it was cut at max_new_tokens.
    """

    probe_id: str
    text: str
    tokens: int
    finish: str


class Engine(Protocol):
    """Obtains one answer for each probe, in the order of the probes."""

    def answer(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        """Answer every probe exactly once.

        Raises:
            AssessmentError: The form cannot be loaded safely, or generation failed, timed out or ran out of memory.
        """
        ...
