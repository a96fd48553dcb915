"""The pipeline of optimum in an environment of its own, for `bench_peers.py --optimum PYTHON`; imports nothing of ours.

    PYTHON optimum_peer.py MODEL TEXTS THREADS

Exports the model in MODEL, once as it comes and once through its optimiser, and then answers each line
`KIND SIZE ORDERED` on stdin with the scores of all TEXTS as a line of JSON, or with what went wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(model: str, texts: str, threads: str) -> None:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTOptimizer, pipeline
    from optimum.onnxruntime.configuration import OptimizationConfig
    from transformers import PreTrainedTokenizerFast

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(threads)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    exported = ORTModelForSequenceClassification.from_pretrained(model, export=True, session_options=settings)
    folder = Path(model) / "optimised"
    ORTOptimizer.from_pretrained(exported).optimize(
        save_dir=folder, optimization_config=OptimizationConfig(optimization_level=2)
    )
    models = {
        "exported": exported,
        "optimised": ORTModelForSequenceClassification.from_pretrained(folder, session_options=settings),
    }
    pairs = [{"text": probe, "text_pair": answer} for probe, answer in json.loads(Path(texts).read_text("utf-8"))]
    answer({"ready": True})
    for line in sys.stdin:
        kind, size, ordered = line.split()
        try:
            pipe = pipeline("text-classification", model=models[kind], tokenizer=tokenizer)
            order = list(range(len(pairs)))
            if ordered == "sorted":
                order.sort(key=lambda i: -len(pairs[i]["text_pair"]))
            found = pipe([pairs[i] for i in order], batch_size=int(size), truncation=True, top_k=None)
            scores = [0.0] * len(pairs)
            for i, labels in zip(order, found, strict=True):
                scores[i] = next(each["score"] for each in labels if each["label"] == "harmful")
            answer({"scores": scores})
        except Exception as err:  # the caller reports a peer that fails
            answer({"error": f"{type(err).__name__}: {err}"})


def answer(what: dict[str, object]) -> None:
    print("optimum_peer " + json.dumps(what), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
