"""The child process that loads a form: reads a job file, writes answers, says how far it is.

`python -m evaluators.engines.child WORK PARENT` with `WORK/job.json` as `sandboxed` writes it. Answers go to
`WORK/answers.jsonl`, a refusal to `WORK/error.json`; stdout carries progress lines only. Limits are set here, before
anything heavy is imported, because code that runs between fork and exec is not safe in a parent with threads.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

REFUSED = 3
"""Exit status after a refusal or failure that `error.json` describes."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LONGEST_MESSAGE = 600


def main(work: Path, parent: int) -> int:
    """Do one job.

    Args:
        work: Directory of the job.
        parent: Process id of the one who waits for the answers.

    Returns:
        Exit status: 0 or `REFUSED`.
    """
    die_with(parent)
    progress = _claim_stdout()
    job = json.loads((work / "job.json").read_bytes())
    _limit(job["limits"])
    try:
        _answer(job, work, progress)
    except BaseException as err:
        code, message = describe(err)
        (work / "error.json").write_text(json.dumps({"code": code, "message": message}))
        return REFUSED
    return 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process as soon as the thread that started it is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before that call.
    if os.getppid() != parent:
        os._exit(REFUSED)


def describe(err: BaseException) -> tuple[str, str]:
    """Code and message of a failure, for the parent. Messages of other libraries are kept to one short line."""
    from registry_gate.errors import AssessmentError

    if isinstance(err, AssessmentError):
        return err.code, _one_line(str(err))
    if isinstance(err, MemoryError) or "out of memory" in str(err).lower() or "can't allocate memory" in str(err):
        return "engine_memory", "the form does not fit into the memory that it may use"
    # Only the kind of failure: what an arbitrary exception quotes could be an answer.
    return "engine_crashed", f"generation failed with {type(err).__name__}"


def _one_line(message: str) -> str:
    """Printable and short: file names and keys in it were chosen by whoever made the form."""
    line = "".join(c if c.isprintable() else " " for c in message)
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 3] + "..."


def _claim_stdout() -> Any:
    """Keep stdout for progress; whatever a library prints goes to stderr."""
    sys.stdout.flush()
    mine = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return mine


def _limit(limits: dict[str, int | None]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold answers and probes
    for kind, value in ((resource.RLIMIT_DATA, limits["data_bytes"]), (resource.RLIMIT_FSIZE, limits["file_bytes"])):
        if value is not None:
            resource.setrlimit(kind, (value, value))


def _answer(job: dict[str, Any], work: Path, progress: Any) -> None:
    # (1) What the files alone show, before torch is imported: most refusals take milliseconds.
    from evaluators.engines.interface import GenerationSettings, LocalForm
    from evaluators.engines.subject import check_subject
    from evaluators.instruments.probe import Probe

    fields = job["form"]
    form = LocalForm(
        digest=fields["digest"],
        model_dir=Path(fields["model_dir"]),
        tokenizer_dir=Path(fields["tokenizer_dir"]),
        adapter_dir=None if fields["adapter_dir"] is None else Path(fields["adapter_dir"]),
        chat_template=fields["chat_template"],
        system_prompt=fields["system_prompt"],
    )
    check_subject(form)

    # (2) Load and answer.
    import torch

    from evaluators.engines.transformers_engine import TransformersEngine, quiet

    quiet()
    torch.set_num_threads(job["threads"])
    engine = TransformersEngine(device=job["device"])
    ask = {"answer": engine.answer, "choose": engine.choose}[job["task"]]
    answers = ask(
        form,
        [Probe(**probe) for probe in job["probes"]],
        GenerationSettings(**job["settings"]),
        lambda done, total: print(done, total, file=progress),
    )

    # (3) Whole or not at all: the parent never sees half a file under this name.
    part = work / "answers.part"
    with part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(answer.to_dict(), ensure_ascii=True) + "\n" for answer in answers)
    part.replace(work / "answers.jsonl")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
