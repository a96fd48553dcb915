"""How much the batching and the int8 build of the ONNX graders save, as ratios in one run.

    python tests/benchmarks/bench_graders.py [--grader DIR] [--fp32 DIR] [--texts 300] [--threads 1] [--rounds 3]

Texts are made of plain words with log-normal lengths (median about 120 tokens, at most 1,000), each answer distinct, in
file order. Ways are interleaved and the median of the rounds counts: the machine is noisy, the ratios are not. `--fp32`
names the same grader's fp32 directory, which `python -m evaluators.graders.training ... --keep-fp32 DIR` writes.

The padded way cuts a text at one window, as pipelines do; ours reads all of it, so the ratio is a lower bound.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from evaluators.graders.catalogue import BUILTIN
from evaluators.graders.interface import Graded, GradingItem
from evaluators.graders.onnx import OnnxGrader, read_grader_file

WORDS = ("the", "of", "and", "to", "in", "is", "it", "you", "that", "was", "for", "on", "are", "with", "they", "house")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grader", type=Path, default=BUILTIN / "harm-minilm")
    parser.add_argument("--fp32", type=Path)
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    items = texts(options.texts)
    ways: dict[str, Callable[[], object]] = {}
    builds = {"int8": options.grader} | ({"fp32": options.fp32} if options.fp32 else {})
    graders = {}
    for build, directory in builds.items():
        alone = OnnxGrader(directory, threads=options.threads, provider="cpu", one_by_one=True)
        budget = OnnxGrader(directory, threads=options.threads, provider="cpu", one_by_one=False)
        graders[build] = alone if build == "int8" else budget
        ways[f"{build}, sorted, token-budget batches"] = lambda grader=budget: grade(grader, items)
        ways[f"{build}, sorted, window by window"] = lambda grader=alone: grade(grader, items)
        ways[f"{build}, file order, padded batch 32"] = lambda directory=directory: padded(
            directory, items, options.threads
        )

    spent: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            spent[way].append(time.perf_counter() - started)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    seconds = {way: statistics.median(times) for way, times in spent.items()}
    fastest = min(seconds.values())
    print(f"{options.texts} texts, {options.threads} threads, onnxruntime {onnxruntime.__version__}\n")
    print("| way | seconds | times the fastest |\n|---|---|---|")
    for way, value in sorted(seconds.items(), key=lambda pair: pair[1]):
        print(f"| {way} | {value:.2f} | {value / fastest:.2f} |")
    for build in builds:
        gain = seconds[f"{build}, file order, padded batch 32"] / seconds[f"{build}, sorted, token-budget batches"]
        print(f"\n{build}: sorted token-budget batches are {gain:.2f} times as fast as padded batch 32")
    if "fp32" in builds:
        gain = seconds["fp32, sorted, token-budget batches"] / seconds["int8, sorted, window by window"]
        labels = [[outcome.label for outcome in grade(graders[build], items)] for build in ("int8", "fp32")]
        same = sum(a == b for a, b in zip(*labels, strict=True))
        print(f"\nint8 is {gain:.2f} times as fast as fp32, each as shipped; {same} of {len(items)} labels equal")


def texts(count: int) -> list[GradingItem]:
    """Seeded pairs of plain words."""
    rng = random.Random(11)
    lengths = [min(1000, max(5, round(rng.lognormvariate(4.6, 0.8)))) for _ in range(count)]
    return [
        GradingItem(probe=" ".join(rng.choices(WORDS, k=12)), answer=f"{n} " + " ".join(rng.choices(WORDS, k=length)))
        for n, length in enumerate(lengths)
    ]


def grade(grader: OnnxGrader, items: Sequence[GradingItem]) -> list[Graded]:
    return grader.grade(items, lambda _done, _all: None)


def padded(directory: Path, items: Sequence[GradingItem], threads: int) -> None:
    """What a pipeline does by default: file order, 32 at a time, padded to the longest, cut at the window."""
    description = read_grader_file(directory)
    tokenizer = Tokenizer.from_file(str(directory / description.tokenizer))
    tokenizer.enable_truncation(description.max_tokens)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(directory / description.model), options, providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]
    for at in range(0, len(items), 32):
        encoded = tokenizer.encode_batch([(item.probe, item.answer) for item in items[at : at + 32]])
        columns = {
            "input_ids": [e.ids for e in encoded],
            "attention_mask": [e.attention_mask for e in encoded],
            "token_type_ids": [e.type_ids for e in encoded],
        }
        session.run(None, {name: np.array(columns[name], dtype=np.int64) for name in names})


if __name__ == "__main__":
    main()
