"""How much faster the engine answers than the loop people write: `python tests/benchmarks/bench_generation.py`.

Both run on the demo's base in the same process, with the same threads, one after the other in alternation. The loop is
`apply_chat_template` and `generate` for each probe. Prints answers per second, the ratio (goal: at least 4) and how
many answers are equal.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.demo_models.family import DemoFamily, shipped_probes, train_family
from evaluators.engines.interface import GenerationSettings, LocalForm
from evaluators.engines.transformers_engine import TransformersEngine, quiet
from evaluators.instruments.probe import Probe


def one_by_one(form: LocalForm, probes: list[Probe], settings: GenerationSettings) -> list[str]:
    """The loop without batches."""
    model = AutoModelForCausalLM.from_pretrained(form.model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(form.tokenizer_dir)
    texts = []
    for probe in probes:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": probe.text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=settings.max_new_tokens)
        texts.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return texts


def batched(form: LocalForm, probes: list[Probe], settings: GenerationSettings) -> list[str]:
    """The engine, loading and checks included."""
    return [a.text for a in TransformersEngine("cpu").answer(form, probes, settings, lambda *_: None)]


def timed(run: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Seconds and result."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="directory with the demo's models; trained when absent")
    parser.add_argument("--probes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=GenerationSettings().batch_size)
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(options.threads)
    every = shipped_probes()
    probes = every[:: max(1, len(every) // options.probes)][: options.probes]
    settings = GenerationSettings(batch_size=options.batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        family = DemoFamily.at(options.models) if options.models else train_family(Path(scratch), every)
        torch.set_num_threads(options.threads)
        form = family.form("base")
        # Warm-up: imports and caches of both.
        one_by_one(form, probes[:2], settings)
        batched(form, probes[:2], settings)
        slow, fast = [], []
        equal = 0
        for _ in range(options.rounds):
            seconds, loop_texts = timed(lambda: one_by_one(form, probes, settings))
            slow.append(seconds)
            seconds, engine_texts = timed(lambda: batched(form, probes, settings))
            fast.append(seconds)
            equal = sum(a == b for a, b in zip(loop_texts, engine_texts, strict=True))
    one, many = statistics.median(slow), statistics.median(fast)
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    print(f"{len(probes)} probes, {options.threads} threads, batch size {settings.batch_size}, {options.rounds} rounds")
    print(f"one by one  {len(probes) / one:8.1f} answers/s")
    print(f"engine      {len(probes) / many:8.1f} answers/s")
    print(f"ratio       {statistics.median(ratios):8.1f}  (from {min(ratios):.1f} to {max(ratios):.1f})")
    print(f"equal       {equal} of {len(probes)} answers")


if __name__ == "__main__":
    main()
