"""Memory of a grader of 435 million parameters (the size of DeBERTa-v3-large) at 512 tokens, on the CPU.

    python tests/benchmarks/bench_memory.py [--texts 16] [--layers 24]

The model has random weights and is exported as `registry-gate grader export` does (fp32, attention fused or plain, at
512 tokens). It is then loaded and asked about texts of 512 tokens in a process of its own, whose largest resident size
counts: the graph, ONNX Runtime, the tokenizer and Python. Goal: below 3 GB in fp32.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evaluators.graders.export import ExportRequest, export_grader

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "evaluators" / "graders"))
from checkpoint_builders import make_config, make_tokenizer

_LIMIT_GB = 3.0
_VOCABULARY = 128_100
_MEASURE = """
import json, re, sys, time
from pathlib import Path
from evaluators.graders.interface import GradingItem
from evaluators.graders.onnx import OnnxGrader
def largest():
    # Of this process alone: getrusage counts what the process that started this one had.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
grader = OnnxGrader(Path(sys.argv[1]), threads=int(sys.argv[3]), provider="cpu")
loaded = largest()
answers = [f"{n} " + "the house and the garden " * 400 for n in range(int(sys.argv[2]))]
items = [GradingItem(probe="What is it?", answer=answer) for answer in answers]
begin = time.perf_counter()
outcomes = grader.grade(items, lambda *_: None)
took = time.perf_counter() - begin
peak = largest()
print(json.dumps({"loaded": loaded, "peak": peak, "seconds": took, "outcomes": len(outcomes)}))
"""


def make_large(directory: Path, layers: int, rows: list[dict[str, str]]) -> int:
    """Save a DeBERTa-v2 of the large size with random weights. Returns how many it has."""
    import torch
    import transformers

    tokenizer = make_tokenizer("deberta-v2", 512)
    config = make_config("deberta-v2", len(tokenizer), ("NORMAL", "REJECTION"), 512)
    sizes = {
        "hidden_size": 1024,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "position_buckets": 256,
        "pooler_hidden_size": 1024,
        "vocab_size": _VOCABULARY,
    }
    for name, value in sizes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    # Scores that differ, with the threshold in the widest gap of their middle half: some of each label, none near it.
    encoded = tokenizer(
        [row["probe"] for row in rows], [row["answer"] for row in rows], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        model.classifier.weight.mul_(50)
        logits = model(**encoded).logits
        middle = (logits[:, 1] - logits[:, 0]).sort().values[len(rows) // 4 : -len(rows) // 4]
        widest = int(middle.diff().argmax())
        model.classifier.bias[1] -= (middle[widest] + middle[widest + 1]) / 2
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return sum(one.numel() for one in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        words = random.Random(5)
        rows = [
            {
                "probe": f"What is {n}?",
                "answer": " ".join(words.choices(("the", "house", "and", "garden", "no"), k=3 * n)),
            }
            for n in range(1, 21)
        ]
        count = make_large(root / "model", options.layers, rows)
        texts = root / "texts.jsonl"
        texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        begin = time.perf_counter()
        (made,) = export_grader(
            ExportRequest(
                source=root / "model",
                named="random/large",
                out=root / "out",
                name="large",
                version="1",
                axis="refusal",
                labels={"NORMAL": "answered", "REJECTION": "refused"},
                precisions=("fp32",),
                texts=texts,
                max_tokens=512,
                threads=options.threads,
            ),
            lambda *_: None,
        )
        print(
            f"{count / 1e6:.0f} million parameters, exported in {time.perf_counter() - begin:.0f} s: {made.agreement}"
        )
        command = [sys.executable, "-c", _MEASURE, str(made.directory), str(options.texts), str(options.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
    peak, loaded = found["peak"] / 2**20, found["loaded"] / 2**20
    weights = count * 4 / 2**30
    print(f"loaded {loaded:.2f} GiB, at most {peak:.2f} GiB ({peak / weights:.2f}x its {weights:.2f} GiB of weights)")
    print(f"{options.texts} texts of several windows of 512 tokens in {found['seconds']:.1f} s")
    print(f"below {_LIMIT_GB} GB: {'yes' if peak * 2**30 < _LIMIT_GB * 1e9 else 'NO'}")
    sys.exit(0 if peak * 2**30 < _LIMIT_GB * 1e9 else 1)


if __name__ == "__main__":
    main()
