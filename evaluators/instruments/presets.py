"""How the files of published sets become instruments: which file, which columns, which metric, under which licence.

A preset is tried on files by their names below the place that the user gives. It copies nothing: what it makes is a
battery that pins the user's own copy by sha256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HARM = ("refusal-minilm", "refusal-rules", "harm-minilm")
REFUSAL = ("refusal-minilm", "refusal-rules")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One instrument of a preset.

    Args:
        name: Name of the instrument.
        metric: What it measures.
        files: Patterns of file names, relative to the place given or to any folder below it, the best first.
        every: The set is all of these files together, rather than the first of them that is there.
        mappings: Column mappings, the first that suits the file is used; `header: "no"` in one means that the file has
            none. Empty for files that a reader knows.
        where: Rows to keep.
        reader: See `ProbeSource.reader`.
        unique: The set repeats prompts; keep the first of each.
        graders: Who votes.
        category: Category of a file's probes, with `{n}` for the number in its name; empty for none.
    """

    name: str
    metric: str
    files: tuple[str, ...]
    every: bool = False
    mappings: tuple[Mapping[str, str], ...] = ()
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reader: str = "rows"
    unique: bool = False
    graders: tuple[str, ...] = ()
    category: str = ""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published set.

    Args:
        title: Its name.
        licence: As its authors state it; read the set's own before use.
        parts: Its instruments.
        note: What to know before use, or nothing.
    """

    title: str
    licence: str
    parts: tuple[Part, ...]
    note: str = ""


_XSTEST = {"id": "id", "text": "prompt", "category": "type"}
_TRIDENT = {"id": "id", "text": "harmful_prompt", "category": "risk_type"}
_STRONGREJECT = {"text": "forbidden_prompt", "category": "category"}
_MEDSAFETY = {"text": "harmful_medical_request"}
_TOXICITY = {"text": "prompt.text"}

PRESETS: Mapping[str, Preset] = {
    "xstest": Preset(
        title="XSTest",
        licence="CC BY 4.0",
        parts=(
            Part(
                name="xstest",
                metric="overrefusal",
                files=("xstest_prompts.csv", "xstest*prompts*.csv"),
                mappings=(_XSTEST,),
                where={"label": ("safe",)},
                graders=REFUSAL,
            ),
            Part(
                name="xstest",
                metric="harmful_compliance",
                files=("xstest_prompts.csv", "xstest*prompts*.csv"),
                mappings=(_XSTEST,),
                where={"label": ("unsafe",)},
                graders=HARM,
            ),
        ),
    ),
    "simplesafetytests": Preset(
        title="SimpleSafetyTests",
        licence="CC BY 4.0",
        parts=(
            Part(
                name="simplesafetytests",
                metric="harmful_compliance",
                files=("*SimpleSafetyTests*test cases*.csv", "*simplesafetytests*.csv"),
                mappings=({"id": "id", "text": "prompts_final", "category": "harm_area"},),
                graders=HARM,
            ),
        ),
    ),
    "advbench": Preset(
        title="AdvBench",
        licence="MIT",
        parts=(
            Part(
                name="advbench",
                metric="harmful_compliance",
                files=("harmful_behaviors*.csv",),
                # The original has a header (goal, target), the copy of LLM-Tuning-Safety has none and no targets.
                mappings=({"text": "goal"}, {"text": "0", "header": "no"}),
                graders=HARM,
            ),
        ),
    ),
    "strongreject": Preset(
        title="StrongREJECT",
        licence="mixed: MIT for source custom and AdvBench, other rows keep their sources' terms",
        parts=(
            Part(
                name="strongreject",
                metric="harmful_compliance",
                files=("strongreject*.csv",),
                mappings=(_STRONGREJECT,),
                graders=HARM,
            ),
        ),
        note="25 of its prompts are AdvBench's; do not count both as independent.",
    ),
    "strongreject-mit": Preset(
        title="StrongREJECT, rows under MIT",
        licence="MIT",
        parts=(
            Part(
                name="strongreject",
                metric="harmful_compliance",
                files=("strongreject*.csv",),
                mappings=(_STRONGREJECT,),
                where={"source": ("custom", "AdvBench")},
                graders=HARM,
            ),
        ),
    ),
    "harmbench": Preset(
        title="HarmBench, standard and contextual behaviours",
        licence="MIT",
        parts=(
            Part(
                name="harmbench",
                metric="harmful_compliance",
                files=("harmbench_behaviors_text_*.csv",),
                mappings=(
                    {
                        "id": "BehaviorID",
                        "text": "Behavior",
                        "category": "SemanticCategory",
                        "context": "ContextString",
                    },
                ),
                where={"FunctionalCategory": ("standard", "contextual")},
                graders=HARM,
            ),
        ),
        note="Copyright behaviours are left out: they need a hash of the text, not a grader of harm.",
    ),
    "medsafetybench": Preset(
        title="MedSafetyBench",
        licence="MIT, README asks for research use only",
        parts=(
            Part(
                name="medsafetybench",
                metric="harmful_compliance",
                files=("*gpt4/med_safety_demonstrations_category_*.csv",),
                mappings=(_MEDSAFETY,),
                unique=True,
                graders=HARM,
                category="principle_{n}",
            ),
            Part(
                name="medsafetybench-llama2",
                metric="harmful_compliance",
                files=("*llama2/med_safety_demonstrations_category_*.csv",),
                mappings=(_MEDSAFETY,),
                unique=True,
                graders=HARM,
                category="principle_{n}",
            ),
        ),
    ),
    "trident": Preset(
        title="TRIDENT, law and medicine",
        licence="MIT as stated in its README; the repository holds no licence file",
        parts=(
            Part(
                name="trident-law",
                metric="harmful_compliance",
                files=("law_final.jsonl",),
                mappings=(_TRIDENT,),
                unique=True,
                graders=HARM,
            ),
            Part(
                name="trident-medicine",
                metric="harmful_compliance",
                files=("med_final.jsonl",),
                mappings=(_TRIDENT,),
                unique=True,
                graders=HARM,
            ),
            Part(
                name="trident-finance",
                metric="harmful_compliance",
                files=("finance_final.jsonl", "fin_final.jsonl"),
                mappings=(_TRIDENT,),
                unique=True,
                graders=HARM,
            ),
        ),
    ),
    "chatgpt-refusals": Preset(
        title="ChatGPT refusals, their prompts",
        licence="MIT",
        parts=(
            Part(
                name="chatgpt-refusals",
                metric="overrefusal",
                files=("nyp.json", "political_figures.json", "quora_insincere*.json"),
                every=True,
                mappings=({"text": "prompt"},),
                unique=True,
                graders=REFUSAL,
                category="{stem}",
            ),
        ),
        note="Its prompts are mixed; some deserve a refusal. Read it as a share beside the base's.",
    ),
    "gptfuzz-labeled": Preset(
        title="GPTFuzz, its questions",
        licence="MIT",
        parts=(
            Part(
                name="gptfuzz",
                metric="harmful_compliance",
                files=("question_list.csv",),
                mappings=({"id": "index", "text": "text"},),
                graders=HARM,
            ),
        ),
        note="Four of its questions are StrongREJECT's.",
    ),
    "halueval-general": Preset(
        title="HaluEval, its general queries",
        licence="MIT (queries from Alpaca, CC BY-NC)",
        parts=(
            Part(
                name="halueval",
                metric="overrefusal",
                files=("general_data.json",),
                # Its ids are not complete, so rows are numbered.
                mappings=({"text": "user_query", "format": "jsonl"},),
                unique=True,
                graders=REFUSAL,
            ),
        ),
        note="Benign queries: whether answers are true needs people; here they show over-refusal and coherence.",
    ),
    "truthfulqa": Preset(
        title="TruthfulQA, multiple choice",
        licence="Apache-2.0",
        parts=(
            Part(name="truthfulqa", metric="mc1_error", files=("mc_task.json", "TruthfulQA.csv"), reader="truthfulqa"),
            Part(name="truthfulqa", metric="mc2_error", files=("mc_task.json", "TruthfulQA.csv"), reader="truthfulqa"),
        ),
    ),
    "bbq": Preset(
        title="BBQ",
        licence="CC BY 4.0",
        parts=tuple(
            Part(name="bbq", metric=metric, files=("data/*.jsonl", "*.jsonl"), reader="bbq", unique=True)
            for metric in ("ambiguous_error", "disambiguated_error", "biased_answer")
        ),
    ),
    "decodingtrust": Preset(
        title="DecodingTrust, stereotypes and toxicity",
        licence="CC BY-SA 4.0",
        parts=(
            Part(
                name="decodingtrust-stereotype",
                metric="stereotype_agreement",
                files=("*stereotype*/user_prompts.csv",),
                mappings=({"text": "user_prompt", "category": "stereotype_topic", "cluster": "stereotype_template"},),
            ),
            Part(
                name="decodingtrust-toxic",
                metric="toxic_continuation",
                files=("*user_prompts/toxic.jsonl",),
                mappings=(_TOXICITY,),
                unique=True,
                graders=("toxicity-rules",),
                category="{stem}",
            ),
            Part(
                name="decodingtrust-nontoxic",
                metric="toxic_continuation",
                files=("*user_prompts/nontoxic.jsonl",),
                mappings=(_TOXICITY,),
                unique=True,
                graders=("toxicity-rules",),
                category="{stem}",
            ),
        ),
        note="Its adversarial system prompts are not used: a system prompt is part of the form that is served.",
    ),
}
"""By the name that `registry-gate battery add` takes."""
