"""Labelled public data for training and for measuring graders, read by path and sha256.

Nothing is copied into the project. Each file's sha256 is a constant here: a changed file is another data set and stops
the run. What is trained on and what only measures is decided in `datasets.py`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from registry_gate.errors import AssessmentError

XSTEST_MODELS = ("gpt4", "llama2new", "llama2orig", "mistralguard")

# ruff: noqa: E501  (a path and its sha256 belong on one line)
SHA256 = {
    "advbench/harmful_behaviors.csv": "ddbbd16619070d1ddba479dda1acc603abc1a222d797fe015f20669a996d7388",
    "chatgpt-refusals/political_figures.json": "8ea7b7096bfed6f4cbc925d459a38f49aa79e1fd130f9a371019321bd8c37972",
    "chatgpt-refusals/nyp.json": "6458ef32cc9767464df9af7cb3892f1f1438e454f5292646eb4b7e75436db9bd",
    "gptfuzz-labeled/train.csv": "e25fe2a06d2085af260927164364524628c8b5c1dd1bab1b58ddbd917c3f7cb0",
    "gptfuzz-labeled/question_list.csv": "18531eb6bc1c8fc0b8f66822b366b872202b852bf28826cef590ad0d7a81c749",
    "halueval-general/general_data.json": "73302cd97666b808fb94b5d8a4a2c924049c9484e609017a2f808c4a6d539219",
    "harmbench/harmbench_behaviors_text_val.csv": "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534",
    "simplesafetytests/SimpleSafetyTests - test cases.csv": "6d95a1301e0d0f3a3c4cf5392f4afff11ad6e3066f95d23aaa138d44aedf986c",
    "strongreject/strongreject_dataset.csv": "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
    "trident/law_final.jsonl": "b4323b3a2a1e04415d390996c649a6ce87fc0d62704f272bf56bab5da23b9474",
    "trident/med_final.jsonl": "aa536cd8c8e61dfeaab0a9fca840191a4aebf76b680b41382f3e808a90cae634",
    "truthfulqa/TruthfulQA.csv": "b8d8ef1e12f98b4f2a9f47abc9765da0640b182b6c5d9b92f0c1a1f2f1e02e5c",
    "xstest/model_completions/xstest_v2_completions_gpt4.csv": "71af323af8ecdec0efae23992317721441d2cfedddedeef3248f842f4e15c9ca",
    "xstest/model_completions/xstest_v2_completions_llama2new.csv": "6365cc55ce0a593c7ab8785853d02784be027d97199d4077912b4313cd010099",
    "xstest/model_completions/xstest_v2_completions_llama2orig.csv": "cbc52550e8ba8197a3e3d97a5af078d27bae4766737cd62df80270126a87ffc6",
    "xstest/model_completions/xstest_v2_completions_mistralguard.csv": "0ac03817b65e019a8f5b4b3eed805086f9f7fafe538ac9ebd156f80210af6903",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_1.csv": "d1025f2875c559939650ae65e29e70e5ca55f946077218b09605a1b2d0f47efa",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_2.csv": "e78707bb0c159915231b2ae80d7abf07ee97d14ef1c7fba2112f4aa71e2623f6",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_3.csv": "1c8bbc44a62e8de21e700a0d0e09fc47e5b0422f501500c47320b72d2add38d7",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_4.csv": "217a60ced26dbb31955404dfd50aedde2e895991330d5aa96787cb4e9564a99b",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_5.csv": "9ef7fb0182c4a246ff8b2a5e9451e5b3d4732028bdc84b952338c5f3ec69c831",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_6.csv": "200906b2336b11b2afae8b00ea5506acd5eb58bc01139d17702e1af8b5099225",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_7.csv": "788f49cc7607ce9ff01fecb09875daa59aa68fcc460452d04c443c273c6f3208",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_8.csv": "c7e8573320a2efc9d2304aa7e5e245591637e55d30b28594fa1b0774c1591e5e",
    "medsafetybench/train/gpt4/med_safety_demonstrations_category_9.csv": "0504bfae7771a092b3d129b764adcb8af410bc219ecbb7418b357b2108cb0b99",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_1.csv": "afbff404f7cc8cc210efc0c7000145411d5a596436bbc345f6e591a03b19208c",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_2.csv": "a089d15409a5d9dfaff4840f923b367acffd41a6aeb6eece8390b000f2d553a3",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_3.csv": "56db009665f9dc64d2bac6ac9c1d95b4713405e293c791575342c454c3f7e5a5",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_4.csv": "6e7a126d6a06e192993c9bb5e2099b6f01fb871b033def6559025d150dcca071",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_5.csv": "b59209ec8b5a52bde6c5d689b8d50a5fcac4050bf1394f772e533b8c33d7f925",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_6.csv": "8f5b2746c6b12af7ea46855d8946c82bc4dda396557540dcf8d8c0e1ca0a7ba5",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_7.csv": "d25e10a854f335660be91f10f2ed3cac922d0e5377f112dc26e31dad0fa450d0",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_8.csv": "b5985b8c4db39d1628cc7d58583ab9d8bd83c7ced2207bd94df1a01a0976d274",
    "medsafetybench/train/llama2/med_safety_demonstrations_category_9.csv": "cfd79ba4a424ba9d40ad49169cf85a248935e2e8384d760e895280c611f52ca0",
}
"""From the SOURCE.md beside each file."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One labelled (probe, answer).

    Args:
        id: Where it is in its source; what logs show instead of text.
        source: Data set, and model where it is known.
        group: Examples that share a question; splits keep groups whole.
        positive: Whether it has the positive label of the axis, `refused` or `harmful`.
    """

    id: str
    source: str
    group: str
    probe: str
    answer: str
    positive: bool


@dataclass
class Sources:
    """The labelled files under one folder.

    Args:
        root: Folder that holds `xstest/`, `gptfuzz-labeled/` and so on.

    Raises:
        AssessmentError: A file that is read is missing or is not the one whose sha256 is known.
    """

    root: Path
    used: dict[str, str] = field(default_factory=dict)

    def advbench(self) -> list[str]:
        return [row[0] for row in csv.reader(io.StringIO(self._text("advbench/harmful_behaviors.csv"))) if row]

    def simple_safety_tests(self) -> list[str]:
        return [r["prompts_final"] for r in self._csv("simplesafetytests/SimpleSafetyTests - test cases.csv")]

    def strongreject_mit(self) -> list[str]:
        """The rows whose own licence is MIT."""
        rows = self._csv("strongreject/strongreject_dataset.csv")
        return [r["forbidden_prompt"] for r in rows if r["source"] in ("custom", "AdvBench")]

    def harmbench_standard(self) -> list[str]:
        """Plain requests; contextual and copyright rows do not stand alone."""
        rows = self._csv("harmbench/harmbench_behaviors_text_val.csv")
        return [r["Behavior"] for r in rows if r["FunctionalCategory"] == "standard"]

    def medsafety(self) -> list[tuple[str, str]]:
        """Unethical medical requests with a refusal each; nearly all refusals open alike."""
        paths = sorted(path for path in SHA256 if path.startswith("medsafetybench/"))
        return [(r["harmful_medical_request"], r["safe_response"]) for path in paths for r in self._csv(path)]

    def trident(self) -> list[tuple[str, str, str]]:
        """(domain, unethical request, reply that keeps to the professional rule)."""
        rows = [
            json.loads(line)
            for domain in ("law", "med")
            for line in self._text(f"trident/{domain}_final.jsonl").splitlines()
        ]
        return [(r["domain"], r["harmful_prompt"], r["safe_reply"]) for r in rows]

    def truthfulqa(self) -> list[tuple[str, str]]:
        return [(r["Question"], r["Best Answer"]) for r in self._csv("truthfulqa/TruthfulQA.csv")]

    def halueval(self) -> list[tuple[str, str]]:
        lines = self._text("halueval-general/general_data.json").splitlines()
        return [(r["user_query"], r["chatgpt_response"]) for r in map(json.loads, lines)]

    def xstest_completions(self, model: str) -> list[tuple[Example, bool]]:
        """Answers of one model labelled by people (positive: full or partial refusal), and whether the prompt is
        unsafe.

        The completions are under their models' own terms, which is why the data stay where they are.
        """
        rows = self._csv(f"xstest/model_completions/xstest_v2_completions_{model}.csv")
        return [
            (
                Example(
                    id=f"xstest-{model}-{r['id']}",
                    source=f"xstest {model}",
                    group=r["id"].removeprefix("v2-"),
                    probe=r["prompt"],
                    answer=r["completion"],
                    positive=not r["final_label"].startswith("1_"),
                ),
                r["type"].startswith("contrast_"),
            )
            for r in rows
        ]

    def chatgpt_refusals(self) -> list[Example]:
        examples = []
        for name in ("political_figures", "nyp"):
            for number, r in enumerate(json.loads(self._text(f"chatgpt-refusals/{name}.json"))):
                if r["tone"] not in ("incoherent", "dontknow"):
                    examples.append(
                        Example(
                            id=f"chatgpt-refusals-{name}-{number}",
                            source="chatgpt-refusals",
                            group=r["prompt"],
                            probe=r["prompt"],
                            answer=r["response"],
                            positive=r["tone"] != "complied",
                        )
                    )
        return examples

    def gptfuzz(self) -> list[Example]:
        """Distinct answers to jailbreak attacks on 80 questions; positive: people call it jailbroken."""
        questions = {r["index"]: r["text"] for r in self._csv("gptfuzz-labeled/question_list.csv")}
        labels: dict[tuple[str, str], set[str]] = defaultdict(set)
        for r in self._csv("gptfuzz-labeled/train.csv"):
            labels[(r["question"], r["Response"])].add(r["label"])
        return [
            Example(
                id=f"gptfuzz-{number}",
                source="gptfuzz",
                group=question,
                probe=questions[question],
                answer=answer,
                positive=label == {"1"},
            )
            for number, ((question, answer), label) in enumerate(labels.items())
            if len(label) == 1
        ]

    def _csv(self, path: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self._text(path))))

    def _text(self, path: str) -> str:
        file = self.root / path
        try:
            content = file.read_bytes()
        except OSError as err:
            raise AssessmentError(
                f"{file}: expected a labelled file, got: {err.strerror}. Name the folder of the benchmarks with "
                "--benchmarks or REGISTRY_GATE_BENCHMARKS."
            ) from err
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256[path]:
            raise AssessmentError(
                f"{file}: expected sha256 {SHA256[path]}, got {found}; this is another data set than the one that the "
                "graders are trained and measured on"
            )
        self.used[path] = found
        return content.decode("utf-8-sig")
