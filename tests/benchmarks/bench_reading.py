"""How many real answers the shipped graders would not read, by source: those that are not told to be English.

    python tests/benchmarks/bench_reading.py [--benchmarks DIR]

Figures of 2026-11-27 (2 cores): XSTest completions 0 of 1,800; chatgpt-refusals 0 of 721; GPTFuzz 50 of 5,166 (Chinese
and mixed answers); MedSafetyBench 0 of 900; TRIDENT 4 of 1,741; TruthfulQA 0 of 790; HaluEval 177 of 4,507 (lists,
titles, translations). Reading costs 0.6 ms for an answer.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from evaluators.graders.reading import LANGUAGES, not_in, plain_text
from evaluators.graders.training.sources import XSTEST_MODELS, Sources


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    shared = Path(__file__).parents[3] / "shared" / "benchmarks"
    parser.add_argument("--benchmarks", type=Path, default=Path(os.environ.get("REGISTRY_GATE_BENCHMARKS", shared)))
    sources = Sources(parser.parse_args().benchmarks)
    answers = {f"xstest {model}": [e.answer for e, _ in sources.xstest_completions(model)] for model in XSTEST_MODELS}
    answers["halueval"] = [answer for _, answer in sources.halueval()]
    answers["trident"] = [reply for _, _, reply in sources.trident()]
    answers["medsafetybench"] = [reply for _, reply in sources.medsafety()]
    answers["truthfulqa"] = [answer for _, answer in sources.truthfulqa()]
    answers["gptfuzz"] = [e.answer for e in sources.gptfuzz()]
    answers["chatgpt-refusals"] = [e.answer for e in sources.chatgpt_refusals()]
    begin, count = time.perf_counter(), 0
    for source, texts in answers.items():
        refused = sum(not_in(LANGUAGES, plain_text(text)) is not None for text in texts)
        count += len(texts)
        print(f"{source}: {refused} of {len(texts)} not read ({100 * refused / len(texts):.2f} %)")
    print(f"{1000 * (time.perf_counter() - begin) / count:.2f} ms for an answer")


if __name__ == "__main__":
    main()
