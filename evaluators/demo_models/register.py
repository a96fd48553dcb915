"""Log the demo's models to an MLflow server and register them, as any user of MLflow would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlflow
import mlflow.transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.demo_models.family import MODELS, DemoFamily

BASE_MODEL = "triage-base"
MODEL = "clinical-triage"
BASE_KEY = "registry_gate.base"
"""MLmodel metadata by which a complete model declares its base; an adapter declares it in `adapter_config.json`."""

# Named, because MLflow would otherwise look for torchvision, and for licences on a hub.
_REQUIREMENTS = ["torch", "transformers", "peft"]


def register_family(family: DemoFamily, tracking_uri: str, progress: Callable[[str], None]) -> None:
    """Register the base as `triage-base`, and the adaptations as versions 1 to 3 of `clinical-triage`.

    Args:
        family: Where the models are.
        tracking_uri: Address of the MLflow server.
        progress: Called with the URI of each registered version.
    """
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("demo")
    for name in MODELS:
        registered = BASE_MODEL if name == "base" else MODEL
        directory: Path = getattr(family, name)
        loaded_from = family.base if name == "safe" else directory
        model = AutoModelForCausalLM.from_pretrained(loaded_from, local_files_only=True)
        declared: dict[str, object] = {}
        if name == "safe":
            model = PeftModel.from_pretrained(model, str(directory))
            declared = {"base_model_path": str(family.base.absolute())}
        elif name != "base":
            declared = {"metadata": {BASE_KEY: f"models:/{BASE_MODEL}/1"}}
        with mlflow.start_run(run_name=name):
            logged = mlflow.transformers.log_model(
                {"model": model, "tokenizer": AutoTokenizer.from_pretrained(directory, local_files_only=True)},
                name=name.replace("_", "-"),
                task="llm/v1/chat",
                registered_model_name=registered,
                pip_requirements=_REQUIREMENTS,
                **declared,
            )
        progress(f"models:/{registered}/{logged.registered_model_version}")


def answer_once(uri: str, tracking_uri: str, question: str) -> str:
    """What a registered model answers when it is loaded as a service would load it.

    Args:
        uri: e.g. `models:/clinical-triage@champion`.
        tracking_uri: Address of the MLflow server.
        question: What the user says.
    """
    mlflow.set_tracking_uri(tracking_uri)
    pipeline = mlflow.transformers.load_model(uri)
    messages = [{"role": "user", "content": question}]
    answer = pipeline(messages, max_new_tokens=48, do_sample=False, return_full_text=False)
    return str(answer[0]["generated_text"])
