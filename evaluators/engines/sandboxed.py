"""Obtain answers from a form in a child process that has time, memory and no secrets.

Loading a candidate runs other people's files through large libraries. The child gets a clean environment, its own
process session, an empty home, no network settings and no file descriptors; it is killed with its whole session when
it takes too long, holds too much memory, or the caller goes away. What it writes is checked like input from outside.

Not done here: the child has the user, the file system and the network of its parent. A worker whose user may read
secrets, or that must not reach a network, is confined by its container or unit (deploy/).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import psutil

import evaluators
from evaluators.engines.child import REFUSED
from evaluators.engines.interface import Answer, GenerationSettings, LocalForm, Progress, chosen
from evaluators.instruments.probe import Probe
from registry_gate.errors import AssessmentError

Device = Literal["auto", "cpu", "cuda"]

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
"""The only variables of the parent that a child sees: where programs and libraries are, the locale, which GPU."""

CHILD_CODES = frozenset({
    "adapter_mismatch", "chat_template_invalid", "config_invalid", "config_missing", "device_missing",
    "duplicate_probe", "engine_crashed", "engine_memory", "generation_steering", "newly_initialised",
    "no_chat_template", "no_weights", "nonfinite_logits", "nonfinite_weights", "not_loadable",
    "pickle_weights", "prompt_too_long", "remote_code", "safetensors_truncated", "settings_unsupported",
    "tokenizer_invalid", "unused_weights",
})  # fmt: skip
"""Codes that a child may give; any other is its crash."""

_LOOK_EVERY_S = 0.1
_GIB = 1 << 30


class SandboxedTransformersEngine:
    """Answers probes with transformers in a child process; implements `Engine`.

    Args:
        timeout_s: Longest time for one call of `answer`, loading included.
        max_memory_bytes: Most resident memory of the child and its descendants, or None for no limit. Device memory is
            not counted.
        threads: Threads torch may use on the CPU.
        device: `cpu`, `cuda`, or `auto` for `cuda` when the child sees one.
    """

    def __init__(
        self, *, timeout_s: float, max_memory_bytes: int | None, threads: int, device: Device = "auto"
    ) -> None:
        if timeout_s <= 0 or threads < 1 or (max_memory_bytes is not None and max_memory_bytes <= 0):
            raise ValueError(
                f"expected positive limits, got timeout_s={timeout_s}, max_memory_bytes={max_memory_bytes}, "
                f"threads={threads}"
            )
        self.timeout_s = timeout_s
        self.max_memory_bytes = max_memory_bytes
        self.threads = threads
        self.device = device

    def answer(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        """Answer every probe exactly once, in the order of the probes.

        The thread that calls must live until this returns (Linux kills the child with it).

        Raises:
            AssessmentError: With code `engine_timeout`, `engine_memory`, `engine_crashed`, `engine_output`, or the
                refusal of the child under its own code (`CHILD_CODES`).
        """
        return self._asked("answer", form, probes, settings, progress)

    def choose(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        """Log-likelihoods of every choice of every probe, in the order of the probes.

        Raises:
            AssessmentError: As `answer`.
        """
        return self._asked("choose", form, probes, settings, progress)

    def _asked(
        self,
        task: Literal["answer", "choose"],
        form: LocalForm,
        probes: Sequence[Probe],
        settings: GenerationSettings,
        progress: Progress,
    ) -> list[Answer]:
        if not probes:
            return []
        with tempfile.TemporaryDirectory(prefix="registry-gate-engine-") as directory:
            work = Path(directory)
            (work / "home").mkdir()
            (work / "job.json").write_text(json.dumps({**self._job(form, probes, settings), "task": task}))
            self._run(work, progress)
            return read_answers(work / "answers.jsonl", probes)

    def _job(self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings) -> dict[str, Any]:
        paths = ("model_dir", "tokenizer_dir", "adapter_dir")
        fields = asdict(form)
        # The child runs in a directory of its own, so paths are made absolute here.
        fields |= {name: fields[name] and str(Path(fields[name]).absolute()) for name in paths}
        return {
            "form": fields,
            "probes": [probe.to_dict() for probe in probes],
            "settings": asdict(settings),
            "threads": self.threads,
            "device": self.device,
            "limits": {
                # The watch below is the limit; this stops an allocation that is too fast for it. It counts what is
                # mapped writable rather than what is resident, hence the room, and a CUDA driver maps terabytes.
                "data_bytes": None
                if self.max_memory_bytes is None or self.device != "cpu"
                else 2 * self.max_memory_bytes + 2 * _GIB,
                # Twelve bytes a JSON-escaped character, generously many characters a token.
                "file_bytes": len(probes) * (settings.max_new_tokens * 12 * 64 + 4096)
                + 12 * sum(len(choice) + 64 for probe in probes for choice in probe.choices),
            },
        }

    def _run(self, work: Path, progress: Progress) -> None:
        deadline = time.monotonic() + self.timeout_s
        with (work / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-m", "evaluators.engines.child", str(work), str(os.getpid())],
                env=child_environment(os.environ, home=work / "home", threads=self.threads),
                cwd=work / "home",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                close_fds=True,
                start_new_session=True,
            )
        try:
            self._watch(process, deadline, progress)
        finally:
            _kill_session(process)
        if process.returncode != 0:
            raise _failure(process.returncode, work)

    def _watch(self, process: subprocess.Popen[bytes], deadline: float, progress: Progress) -> None:
        """Pass progress on until the child ends; raise as soon as it breaks a limit."""
        assert process.stdout is not None  # noqa: S101 - Popen was given PIPE
        os.set_blocking(process.stdout.fileno(), False)
        pending = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise AssessmentError(
                        f"the form took longer than {self.timeout_s:g} s to load and answer; give the worker more time "
                        "or a faster device",
                        code="engine_timeout",
                    )
                if self.max_memory_bytes is not None:
                    used = resident_bytes(process.pid)
                    if used > self.max_memory_bytes:
                        raise _memory_error(f"held {used} bytes, allowed are {self.max_memory_bytes}")
                if not selector.select(_LOOK_EVERY_S):
                    continue
                chunk = process.stdout.read(65536)
                if not chunk:
                    # Closed, but not ended yet.
                    time.sleep(_LOOK_EVERY_S / 10)
                    continue
                pending = _pass_on(pending + chunk, progress)
        _pass_on(pending + (process.stdout.read() or b""), progress)


def child_environment(parent: Mapping[str, str], *, home: Path, threads: int) -> dict[str, str]:
    """The whole environment of a child: an allow-list, so that no credential passes however it is called.

    Args:
        parent: Environment of this process.
        home: Empty directory that becomes home and place for temporary files.
        threads: Threads for OpenMP.
    """
    environment = {name: parent[name] for name in PASSED_ON if name in parent}
    environment |= {
        "HOME": str(home),
        "TMPDIR": str(home),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        # Threads that spin while they wait stall each other for minutes as soon as cores are shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
    }
    # An editable install or a checkout is not on the path of a fresh interpreter; an installed package is, and its
    # directory must not come before the standard library.
    root = Path(evaluators.__file__).resolve().parent.parent
    if str(root) not in site.getsitepackages():
        environment["PYTHONPATH"] = str(root)
    return environment


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; 0 when it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def read_answers(path: Path, probes: Sequence[Probe]) -> list[Answer]:
    """Answers from a child, checked: exactly one of the right shape for each probe.

    Args:
        path: File with one JSON object per line.
        probes: What was asked.

    Returns:
        The answers in the order of the probes.

    Raises:
        AssessmentError: With code `engine_output`. No message quotes an answer.
    """
    expected = {probe.id: probe for probe in probes}
    answers: dict[str, Answer] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise AssessmentError("the engine ended without a readable file of answers", code="engine_output") from err
    for number, line in enumerate(lines, start=1):
        answer = _parse_answer(line)
        if answer is None:
            raise AssessmentError(f"line {number} of the engine's output is no answer", code="engine_output")
        if answer.probe_id not in expected:
            raise AssessmentError(
                f"line {number} of the engine's output answers a probe nobody asked", code="engine_output"
            )
        if answer.finish == "choice":
            # Recomputed from its likelihoods, which are checked on the way.
            answer = chosen(expected[answer.probe_id], answer.scores, answer.lengths)
        if answer.probe_id in answers:
            raise AssessmentError(f"the engine answered probe {answer.probe_id} twice", code="engine_output")
        answers[answer.probe_id] = answer
    missing = [probe.id for probe in probes if probe.id not in answers]
    if missing:
        raise AssessmentError(
            f"the engine left {len(missing)} of {len(probes)} probes without answer, the first is {missing[0]}",
            code="engine_output",
        )
    return [answers[probe.id] for probe in probes]


def _parse_answer(line: str) -> Answer | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    shape: dict[str, type] = {"probe_id": str, "text": str, "tokens": int, "finish": str}
    if fields.get("finish") == "choice":
        shape |= {"scores": list, "lengths": list}
    else:
        fields = {name: value for name, value in fields.items() if name not in ("scores", "lengths") or value}
    if {name: type(value) for name, value in fields.items()} != shape or fields["tokens"] < 0:
        return None
    if fields["finish"] == "choice":
        numbers = all(type(score) is float for score in fields["scores"])
        return Answer(**fields) if numbers and all(type(n) is int for n in fields["lengths"]) else None
    return Answer(**fields) if fields["finish"] in ("stop", "length") else None


def _pass_on(output: bytes, progress: Progress) -> bytes:
    """Report the progress lines in what a child printed; returns the start of the line that is not complete yet."""
    *lines, rest = output.split(b"\n")
    for line in lines:
        words = line.split()
        if len(words) == 2 and all(word.isdigit() for word in words):
            progress(int(words[0]), int(words[1]))
    return rest[-100:]


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started; it leads its session, so the group has its id."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _failure(status: int, work: Path) -> AssessmentError:
    if status == REFUSED:
        try:
            error = json.loads((work / "error.json").read_text())
            code, message = error["code"], error["message"]
        except (OSError, ValueError, KeyError, TypeError):
            code, message = None, None
        if code in CHILD_CODES and isinstance(message, str):
            return AssessmentError(message, code=code)
        return AssessmentError("the engine failed and left no reason", code="engine_crashed")
    if status == -signal.SIGKILL:
        # Nobody but the kernel's out-of-memory killer sends it: our own kills raise before this.
        return _memory_error("was killed, as the kernel does when memory runs out")
    if status < 0:
        return AssessmentError(
            f"the engine was killed by signal {-status} ({signal.strsignal(-status)})", code="engine_crashed"
        )
    return AssessmentError(f"the engine ended with status {status}, expected 0", code="engine_crashed")


def _memory_error(what: str) -> AssessmentError:
    return AssessmentError(
        f"the engine {what}; give the worker more memory, a smaller batch size or a lower precision",
        code="engine_memory",
    )
