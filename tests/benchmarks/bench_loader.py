"""How hard the loader of policies was tried: mutated and made-up files, none of which may crash, hang or slip through.

    python tests/benchmarks/bench_loader.py [--inputs 1000000] [--first 0] [--processes N]
    python tests/benchmarks/bench_loader.py --show NUMBER

Every input is read, checked against its kind, compared with the JSON Schema when it was accepted, and loaded as part of
a policy set. Prints how many came to what end and the slowest; ends with exit code 1 when something did not hold
(`tests/properties/loader_inputs.py`), with the number of the input.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "properties"))
from loader_inputs import HANG_S, LIMIT_S, judge, make_input

PORTION = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--show", type=int, metavar="NUMBER", help="print one input and what comes of it")
    options = parser.parse_args()
    if options.show is not None:
        data = make_input(options.show)
        sys.stdout.write(f"{data!r}\n{judge(data, LIMIT_S)}\n")
        return
    last = options.first + options.inputs
    portions = [(start, min(start + PORTION, last)) for start in range(options.first, last, PORTION)]
    ends: Counter[str] = Counter()
    slowest, size, broken, begin = (0.0, 0), 0, [], time.monotonic()
    with multiprocessing.Pool(options.processes) as pool:
        for done, (counts, slow, read, wrong) in enumerate(pool.imap_unordered(_judge_portion, portions), 1):
            ends += counts
            slowest, size, broken = max(slowest, slow), size + read, broken + wrong
            if done % 50 == 0:
                print(f"{ends.total()} of {options.inputs}", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begin
    print(f"{ends.total()} inputs, {size / 1e6:.0f} MB, in {seconds:.0f} s with {options.processes} processes")
    for end, count in sorted(ends.items()):
        print(f"{end:10}{count:10}")
    print(f"slowest: {slowest[0] * 1000:.0f} ms of the processor, input {slowest[1]}")
    for number, what in broken[:20]:
        print(f"input {number}: {what}")
    print(f"{len(broken)} inputs BROKE what must hold." if broken else "What must hold held of every input.")
    sys.exit(1 if broken else 0)


def _judge_portion(span: tuple[int, int]) -> tuple[Counter[str], tuple[float, int], int, list[tuple[int, str]]]:
    counts: Counter[str] = Counter()
    slowest, size, broken = (0.0, 0), 0, []
    signal.signal(signal.SIGALRM, _give_up)
    for number in range(*span):
        data = make_input(number)
        size += len(data)
        begin = time.process_time()
        signal.alarm(HANG_S)
        try:
            counts[judge(data, LIMIT_S)] += 1
        except BaseException as err:
            counts["broken"] += 1
            last = traceback.extract_tb(err.__traceback__)[-1]
            broken.append(
                (number, f"{type(err).__name__}: {str(err)[:300]} ({Path(last.filename).name}:{last.lineno})")
            )
        finally:
            signal.alarm(0)
        slowest = max(slowest, (time.process_time() - begin, number))
    return counts, slowest, size, broken


def _give_up(*_: object) -> None:
    raise TimeoutError(f"no end after {HANG_S} s")


if __name__ == "__main__":
    main()
