"""Graders beside what users would pick instead, and beside what the processor or the card can do.

    python tests/benchmarks/bench_peers.py [--device cpu|cuda] [--texts 2000] [--rounds 5] [--models minilm base]
        [--optimum PYTHON]

`--device cuda` needs an NVIDIA GPU, torch built for CUDA and onnxruntime-gpu with its libraries (the extras `cuda` and
`cudnn`, or those that torch brings); what is missing is said before anything is measured, with exit code 2. The models
have random weights, so nothing is fetched.

`--optimum` names the interpreter of an environment with optimum-onnx, which wants an older transformers than we use:
`python -m venv E; E/bin/pip install torch==2.13.0 'optimum-onnx[onnxruntime]' 'transformers<4.58'`. On a CPU only.

Texts: pairs of plain words of log-normal lengths, median about 120 tokens, at most 512, in random order. Every way
scores all of them from text to probability. Each peer runs at several batch sizes, sorted by length and as they come,
and its best counts. Ways are interleaved, the median of the rounds counts.

Share of peak: 2 x parameters of the layers x real tokens + 4 x length^2 x width per layer, over the time from text to
probability, divided by what a large product (fp32 on a CPU, fp16 on a GPU) reaches in the same run. On a CPU the share
is also given for the encoder alone, fed with rows of 256 tokens and no padding.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from evaluators.graders.catalogue import BUILTIN
from evaluators.graders.interface import Graded, GradingItem
from evaluators.graders.onnx import SLOWER_ON_CPU, OnnxGrader

WIDTHS: dict[str, dict[str, int]] = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
OURS = "ours, ONNX Runtime"
WORDS = ("the", "of", "and", "to", "in", "is", "it", "you", "that", "was", "for", "on", "are", "with", "they", "house")
MAX_TOKENS = 512
SELF_CHECK = [{"probe": "a", "answer": "b", "label": "harmless"}, {"probe": "a", "answer": "b", "label": "harmful"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=list(WIDTHS), default=list(WIDTHS))
    parser.add_argument("--optimum", type=Path, metavar="PYTHON", help="an interpreter that has optimum-onnx")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every way on the CPU")
    options = parser.parse_args()
    device = options.device
    if device == "cuda" and (missing := what_is_missing()):
        for line in missing:
            print(f"bench_peers: {line}", file=sys.stderr)
        sys.exit(2)

    import onnxruntime
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {options.threads} threads"
    peak = product_rate(device)
    print(
        f"{where}; torch {torch.__version__}, transformers {transformers.__version__}, onnxruntime "
        f"{onnxruntime.__version__}; {options.texts} texts, median of {options.rounds} rounds; a large product reaches "
        f"{peak / 1e12:.3g} TFLOP/s\n"
    )
    items = texts(options.texts)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            compare(name, Path(folder) / name, items, device, options, peak)


def what_is_missing() -> list[str]:
    """One sentence for each thing that this benchmark needs and the machine has not."""
    missing = []
    try:
        import torch

        if not torch.cuda.is_available():
            missing.append(
                f"expected torch to see a GPU, got torch {torch.__version__} without one: install a CUDA build"
            )
    except ImportError:
        missing.append("expected torch, got none: pip install torch (a CUDA build, about 3 GB with its libraries)")
    try:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            missing.append(
                f"expected onnxruntime with CUDA, got {onnxruntime.__version__} without: pip uninstall onnxruntime; "
                "pip install 'onnxruntime-gpu[cuda,cudnn]' (about 260 MB, libraries not counted)"
            )
    except ImportError:
        missing.append("expected onnxruntime-gpu, got none: pip install 'onnxruntime-gpu[cuda,cudnn]'")
    for package in ("transformers", "onnx", "onnxscript"):
        try:
            __import__(package)
        except ImportError:
            missing.append(f"expected {package}, got none: pip install {package}")
    return missing


def compare(
    name: str, folder: Path, items: Sequence[GradingItem], device: str, options: argparse.Namespace, peak: float
) -> None:
    """Print one table for one size of model."""
    import torch

    on_gpu = device == "cuda"
    model = random_model(name).eval()
    directories = export(model, folder, ["fp32", "fp16" if on_gpu else "int8"])

    def grader(precision: str, budget: int | None = None) -> Callable[[], list[float]]:
        made = Unchecked(directories[precision], provider=device, batch_tokens=budget, threads=options.threads)
        return lambda: ours(made, items)

    # (1) Ours.
    ways: dict[str, Callable[[], list[float]]] = {f"{OURS} fp32": grader("fp32")}
    for budget in (8192, 16384, 32768) if on_gpu else ():
        ways[f"{OURS} fp16, {budget:,} tokens a batch"] = grader("fp16", budget)
    if not on_gpu:
        ways[f"{OURS} int8"] = grader("int8")

    # (2) The pipeline at several settings, and a compiled model.
    served = random_model(name).to(device=device, dtype=torch.float16 if on_gpu else torch.float32).eval()
    precision = "fp16" if on_gpu else "fp32"
    for size in (32, 128, 512) if on_gpu else (1, 8, 32):
        for ordered in (False, True) if size > 1 else (False,):
            label = f"transformers pipeline {precision}, batch {size}{', sorted' if ordered else ''}"
            ways[label] = lambda size=size, ordered=ordered: pipeline(served, items, size, ordered, device)
    if options.optimum and not on_gpu:
        peer = Optimum(options.optimum, served, folder / "optimum", items, options.threads)
        for kind in ("exported", "optimised"):
            for size, ordered in ((1, False), (8, True), (32, False), (32, True)):
                label = f"optimum {kind} fp32, batch {size}{', sorted' if ordered else ''}"
                ways[label] = lambda kind=kind, size=size, ordered=ordered: peer.scores(kind, size, ordered)
    if on_gpu:
        compiled = torch.compile(served, dynamic=False)
        for tokens in (32768, 131072):
            ways[f"torch.compile {precision}, sorted, rows in steps of 64, {tokens:,} tokens"] = lambda tokens=tokens: (
                bucketed(compiled, items, tokens, device)
            )

    reference = ways[f"{OURS} fp32"]()
    spent: dict[str, list[float]] = {way: [] for way in ways}
    results: dict[str, list[float]] = {}
    for way, run in list(ways.items()):  # warm: kernels are chosen and compiled
        try:
            results[way] = run()
        except Exception as err:  # a peer that fails here is reported, not hidden
            print(f"{way}: failed with {type(err).__name__}: {str(err)[:200]}", file=sys.stderr)
            del ways[way], spent[way]
    for _ in range(options.rounds):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            spent[way].append(time.perf_counter() - started)

    seconds = {way: statistics.median(times) for way, times in spent.items()}
    operations = flop(model, items)
    ours_best = min(value for way, value in seconds.items() if way.startswith(OURS))
    print(f"### {name}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters\n")
    print("| way | texts/s | our best is faster by | share of peak | labels as fp32 | largest difference |")
    print("|---|---|---|---|---|---|")
    for way, value in sorted(seconds.items(), key=lambda pair: pair[1]):
        same = sum((a >= 0.5) == (b >= 0.5) for a, b in zip(results[way], reference, strict=True))
        apart = max(abs(a - b) for a, b in zip(results[way], reference, strict=True))
        print(
            f"| {way} | {len(items) / value:,.0f} | {value / ours_best:.2f} x | {operations / value / peak:.1%} | "
            f"{same / len(items):.2%} | {apart:.4f} |"
        )
    if not on_gpu:
        share = encoder_rate(directories["fp32"] / "model.onnx", model, options.threads) / peak
        print(f"\nThe fp32 encoder alone at 256 tokens a row: {share:.1%} of what a large product reaches.")
    print()


class Optimum:
    """The pipelines of optimum in a process of another interpreter; `scores` is one run over all texts.

    Raises:
        RuntimeError: The process ended or answered with an error.
    """

    def __init__(self, python: Path, model: Any, folder: Path, items: Sequence[GradingItem], threads: int) -> None:
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        texts = folder / "texts.json"
        texts.write_text(json.dumps([(item.probe, item.answer) for item in items]), encoding="utf-8")
        script = Path(__file__).with_name("optimum_peer.py")
        self._process = subprocess.Popen(
            [python, script, folder, texts, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def scores(self, kind: str, size: int, ordered: bool) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {size} {'sorted' if ordered else 'plain'}\n")
        self._process.stdin.flush()
        return list(self._answer()["scores"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("optimum_peer "):
                found: dict[str, Any] = json.loads(line.removeprefix("optimum_peer "))
                if "error" in found:
                    raise RuntimeError(found["error"])
                return found
        raise RuntimeError(f"expected an answer of optimum_peer.py, got its end with {self._process.wait()}")


class Unchecked(OnnxGrader):
    """A grader whose weights are random, so that no pair has a label that could be known."""

    def _check_itself(self) -> None:
        """Nothing to check."""


def texts(count: int) -> list[GradingItem]:
    """Seeded pairs of plain words in random order, each answer distinct."""
    rng = random.Random(11)
    lengths = [min(MAX_TOKENS - 32, max(5, round(rng.lognormvariate(4.65, 0.8)))) for _ in range(count)]
    return [
        GradingItem(probe=" ".join(rng.choices(WORDS, k=12)), answer=f"{n} " + " ".join(rng.choices(WORDS, k=length)))
        for n, length in enumerate(lengths)
    ]


def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(BUILTIN / "harm-minilm" / "tokenizer.json"),
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=MAX_TOKENS,
    )


def random_model(name: str) -> Any:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        num_labels=2, attn_implementation="sdpa", id2label={0: "harmless", 1: "harmful"}, **WIDTHS[name]
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():  # spread the scores: with the head as it comes all of them lie at one half
        model.classifier.weight.mul_(20)
    return model


def export(model: Any, folder: Path, precisions: Sequence[str]) -> dict[str, Path]:
    """Grader directories of the model."""
    import hashlib

    import onnx
    import torch
    from ruamel.yaml import YAML

    from evaluators.graders import fusion, graphs

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits

    fusion.register()
    model.set_attn_implementation(fusion.ATTENTION)
    ids = torch.randint(5, 999, (2, 17))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=MAX_TOKENS)}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    program = torch.onnx.export(
        Logits(), (ids, mask, torch.zeros_like(ids)), None, input_names=names, output_names=["logits"],
        dynamic_shapes=(free, free, free), dynamo=True, opset_version=18, verbose=False,
    )  # fmt: skip
    model.set_attn_implementation("sdpa")
    graph = program.model_proto
    folder.mkdir(parents=True)
    onnx.save(graphs.optimise(graph), str(folder / "fast.onnx"))
    found = {}
    for precision in precisions:
        directory = folder / precision
        directory.mkdir()
        file = directory / "model.onnx"
        match precision:
            case "int8":
                graphs.quantise_int8(folder / "fast.onnx", file)
            case "fp16":
                graphs.round_fp16(folder / "fast.onnx", file)
            case _:
                shutil.copyfile(folder / "fast.onnx", file)
        (directory / "tokenizer.json").write_bytes((BUILTIN / "harm-minilm" / "tokenizer.json").read_bytes())
        description = {
            "name": "random", "version": "1", "axis": "harm", "labels": ["harmless", "harmful"], "threshold": 0.5,
            "max_tokens": MAX_TOKENS, "overlap_tokens": 48, "encoding": "pair", "precision": precision,
            "self_check": SELF_CHECK,
            "files": {
                file: hashlib.sha256((directory / file).read_bytes()).hexdigest()
                for file in ("model.onnx", "tokenizer.json")
            },
        }  # fmt: skip
        YAML().dump(description, directory / "grader.yaml")
        found[precision] = directory
    return found


def ours(grader: OnnxGrader, items: Sequence[GradingItem]) -> list[float]:
    found = []
    for outcome in grader.grade(items, lambda _done, _all: None):
        assert isinstance(outcome, Graded)
        found.append(outcome.probability)
    return found


def pipeline(model: Any, items: Sequence[GradingItem], size: int, ordered: bool, device: str) -> list[float]:
    """The pipeline of transformers at a batch size; sorted where that helps it."""
    from transformers import pipeline as make

    pipe = make("text-classification", model=model, tokenizer=tokenizer(), device=device)
    order = sorted(range(len(items)), key=lambda i: -len(items[i].answer)) if ordered else list(range(len(items)))
    pairs = ({"text": items[i].probe, "text_pair": items[i].answer} for i in order)
    scores = [0.0] * len(items)
    outputs = pipe(pairs, batch_size=size, truncation=True, top_k=None)
    for i, output in zip(order, outputs, strict=True):
        scores[i] = next(each["score"] for each in output if each["label"] == "harmful")
    return scores


def bucketed(model: Any, items: Sequence[GradingItem], budget: int, device: str) -> list[float]:
    """A compiled model at its best: few shapes, batches of similar length, tokenised together."""
    import torch

    encoded = tokenizer()([i.probe for i in items], [i.answer for i in items], truncation=True)
    groups: dict[int, list[int]] = {}
    for i, ids in enumerate(encoded["input_ids"]):
        groups.setdefault(-(-len(ids) // 64) * 64, []).append(i)
    scores = [0.0] * len(items)
    with torch.inference_mode():
        for width, members in groups.items():
            rows = budget // width
            for at in range(0, len(members), rows):
                part = members[at : at + rows]
                # As many rows as the budget has: each shape is compiled once.
                columns = {
                    name: torch.zeros((rows, width), dtype=torch.long)
                    for name in ("input_ids", "attention_mask", "token_type_ids")
                }
                for row, i in enumerate(part):
                    for name, column in columns.items():
                        column[row, : len(encoded[name][i])] = torch.tensor(encoded[name][i])
                columns["attention_mask"][len(part) :, 0] = 1
                logits = model(**{name: column.to(device) for name, column in columns.items()}).logits
                probabilities = logits[: len(part)].float().softmax(-1)[:, 1].tolist()
                for i, probability in zip(part, probabilities, strict=True):
                    scores[i] = probability
    return scores


def flop(model: Any, items: Sequence[GradingItem]) -> float:
    """Operations that scoring all items needs, padding not counted."""
    layers = model.bert.encoder
    parameters = sum(p.numel() for p in layers.parameters())
    config = model.config
    lengths = [
        len(ids)
        for ids in tokenizer()([i.probe for i in items], [i.answer for i in items], truncation=True)["input_ids"]
    ]
    attention = 4 * config.hidden_size * config.num_hidden_layers
    return float(sum(2 * parameters * n + attention * n * n for n in lengths))


def encoder_rate(graph: Path, model: Any, threads: int) -> float:
    """Operations per second of the exported encoder on batches of four rows of 256 tokens, nothing padded."""
    import numpy
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(graph), settings, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER_ON_CPU
    )
    rows, length = 4, 256
    ids = numpy.random.default_rng(3).integers(5, 999, (rows, length))
    columns = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
    times = []
    for _ in range(12):
        started = time.perf_counter()
        session.run(None, columns)
        times.append(time.perf_counter() - started)
    parameters = sum(p.numel() for p in model.bert.encoder.parameters())
    config = model.config
    attention = 4 * config.hidden_size * config.num_hidden_layers * length**2
    return float(rows * (2 * parameters * length + attention) / statistics.median(times[3:]))


def product_rate(device: str) -> float:
    """Operations per second of a large product of random matrices."""
    import torch

    size, dtype = (2048, torch.float32) if device == "cpu" else (8192, torch.float16)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(12):
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(2 * size**3 / statistics.median(times[3:]))


if __name__ == "__main__":
    main()
