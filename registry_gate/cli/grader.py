"""`grader`: make graders of published classifiers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

import click

from registry_gate.cli.common import format_option, print_json, settings_of
from registry_gate.errors import AssessmentError

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@click.group()
def grader() -> None:
    """Make graders of published classifiers."""


def _label_map(_ctx: click.Context, _option: click.Parameter, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, label = (part.strip() for part in pair.rpartition("=")[:3])
        if not equals or not name or not label:
            raise click.BadParameter(f"expected MODEL_LABEL=LABEL,MODEL_LABEL=LABEL, got {text!r}")
        if name in found:
            raise click.BadParameter(f"expected {name!r} once, got it twice")
        found[name] = label
    return found


def _name_of(model: str) -> str:
    last = model.rstrip("/").rsplit("/", 1)[-1].partition("@")[0].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._")


@grader.command("export")
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where graders go.")
@click.option(
    "--axis", type=click.Choice(["refusal", "harm", "caveat", "toxicity"]), required=True, help="What it may grade."
)
@click.option(
    "--labels",
    required=True,
    callback=_label_map,
    help="What each of the model's labels means on that axis: REJECTION=refused,NORMAL=answered.",
)
@click.option("--precision", "precisions", type=click.Choice(PRECISIONS), multiple=True, help="Default: all three.")
@click.option("--name", help="Name before the precision (default: the directory's).")
@click.option("--grader-version", default="1", show_default=True, help="Version of the name.")
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON lines of probe, answer and perhaps label to compare on (default: shipped pairs).",
)
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.5, show_default=True)
@click.option("--max-tokens", type=click.IntRange(16, 32768), help="Of a window (default: the model's, at most 512).")
@click.option("--encoding", type=click.Choice(["pair", "answer"]), default="pair", show_default=True)
@click.option("--aggregate", type=click.Choice(["max", "mean"]), default="max", show_default=True)
@click.option("--threads", type=click.IntRange(1, 256), help="CPU threads (default: the worker's setting).")
@format_option
@click.pass_context
def export(
    ctx: click.Context,
    model: Path,
    out: Path,
    axis: str,
    labels: dict[str, str],
    precisions: tuple[Precision, ...],
    name: str | None,
    grader_version: str,
    texts: Path | None,
    threshold: float,
    max_tokens: int | None,
    encoding: Literal["pair", "answer"],
    aggregate: Literal["max", "mean"],
    threads: int | None,
    output: str,
) -> None:
    """Make ONNX graders of the Hugging Face text classifier in the directory MODEL, and prove that they say the same.

    BERT and MiniLM, RoBERTa, XLM-R, DistilBERT, DeBERTa-v2 and -v3, ModernBERT; safetensors only, no code of its own.
    Each precision becomes a directory OUT/NAME-PRECISION with graph, tokenizer, grader.yaml and parity.json: how often
    it gives the label of the PyTorch model, and the largest difference of a probability. One that differs by more than
    its bound (labels 99.5, 99.5, 99 %; probabilities .001, .02, .4 in fp32, fp16, int8) fails, and nothing is kept.
    grader.yaml quotes four of the texts, to check the grader each time it is loaded.

    To use them, add OUT to [worker] grader_dirs and name them in a battery. Parity says that the export is faithful,
    not that the model is good. Needs the packages of the extras worker and export.

    \b
    Example:
      registry-gate grader export distilroberta-base-rejection-v1 --axis refusal \\
        --labels REJECTION=refused,NORMAL=answered --encoding answer --aggregate mean --out graders

    Exit codes: 0 exported, 2 usage, 3 a build differs from the model, 4 the model or the texts cannot be used.
    """
    # Imported here: --help must not load what loads models.
    from registry_gate.cli.console import WorkerConsole
    from registry_gate.worker.exporting import ExportRequest, export_grader

    request = ExportRequest(
        source=model,
        named=str(model),
        out=out,
        name=name or _name_of(str(model.resolve())),
        version=grader_version,
        axis=axis,
        labels=labels,
        precisions=tuple(dict.fromkeys(precisions)) or PRECISIONS,
        texts=texts,
        threshold=threshold,
        max_tokens=max_tokens,
        encoding=encoding,
        aggregate=aggregate,
        threads=threads or settings_of(ctx).worker.threads,
    )
    try:
        with WorkerConsole() as console:
            made = export_grader(request, console.progress)
    except AssessmentError as error:
        if error.code != "grader_parity":
            raise
        click.echo(f"registry-gate: {error}", err=True)
        ctx.exit(3)
    if output == "json":
        print_json(
            [
                {
                    "name": each.name,
                    "directory": str(each.directory),
                    "precision": each.precision,
                    "digest": each.digest,
                    "graph": each.graph,
                    "agreement": each.agreement,
                }
                for each in made
            ]
        )
        return
    for each in made:
        click.echo(f"{each.directory}  {each.digest}\n  {each.agreement}; attention {each.graph}")
