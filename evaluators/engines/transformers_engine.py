"""Load a form with transformers and answer probes with it, greedily and in batches.

Runs inside the child process that `child` starts; `sandboxed` is what a worker calls. Before loading, `subject` has
refused what must not be loaded; here a load that left any weight without a value from a file is refused. What is
decoded is what the weights say under the form's own template: greedy, ending at the form's own end tokens, with every
sampling and penalty setting of its `generation_config.json` neutralised (servers disagree on which of those they
honour), while settings there that force or ban tokens are refused, because measuring with or without them would
measure another form than some server serves.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from evaluators.engines.interface import Answer, GenerationSettings, LocalForm, Progress, chosen
from evaluators.engines.subject import ADAPTER_WEIGHTS, check_subject
from evaluators.instruments.probe import Probe
from registry_gate.errors import AssessmentError

if TYPE_CHECKING:
    from peft import PeftModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Buffers that transformers computes from the configuration; old checkpoints still carry them, and dropping them changes
# no logit. Everything else that a load does not use is a weight the publisher thinks is served and is not.
COMPUTED_BUFFERS = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids")

_STEERING = (
    "sequence_bias", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "guidance_scale", "watermarking_config", "stop_strings",
)  # fmt: skip
_DROP_SHARE = 0.25  # finished rows that are worth a copy of the cache without them (PERFORMANCE.md section 3)


class TransformersEngine:
    """Answers probes in this process. Other people's files are loaded: call it in a child process only.

    Args:
        device: `cpu`, `cuda`, or `auto` for `cuda` when there is one.

    Raises:
        AssessmentError: With code `device_missing`: a GPU was asked for by name and none can be used.
    """

    def __init__(self, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            build = "built for CUDA" if torch.version.cuda else "built without CUDA"
            raise AssessmentError(
                f"expected a GPU, because the worker's device is cuda, got none that torch {torch.__version__} "
                f"({build}) can use: install its driver and a build of torch for it, or set the device to cpu or auto",
                code="device_missing",
            )
        self.device = torch.device(device)

    def answer(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        """Answer every probe once, in order. Probes of equal text are generated once.

        Raises:
            AssessmentError: The settings are unusable, the form is refused, or generation failed.
        """
        _check_request(probes, settings)
        check_subject(form)
        tokenizer = load_tokenizer(form.tokenizer_dir)
        texts = list(dict.fromkeys(probe.text for probe in probes))
        prompts = [render_prompt(tokenizer, form, text) for text in texts]
        model = load_model(form, DTYPES[settings.precision], self.device)

        users: dict[str, list[str]] = {text: [] for text in texts}
        for probe in probes:
            users[probe.text].append(probe.id)
        ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        _check_lengths(model, ids, settings.max_new_tokens)
        ends = end_tokens(model, tokenizer)
        _neutralise(model)

        answers: dict[str, Answer] = {}
        # Longest first: a batch holds prompts of like length, and memory that does not suffice fails at once.
        order = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i))
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            set_seed(settings.seed)
            for i, tokens in zip(batch, _generate(model, [ids[i] for i in batch], ends, settings), strict=True):
                stopped = bool(tokens) and tokens[-1] in ends
                body = tokens[:-1] if stopped else tokens
                decoded = tokenizer.decode(body, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
                for probe_id in users[texts[i]]:
                    answers[probe_id] = Answer(
                        probe_id=probe_id, text=decoded, tokens=len(body), finish="stop" if stopped else "length"
                    )
            progress(len(answers), len(probes))
        return [answers[probe.id] for probe in probes]

    def choose(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        """Log-likelihoods of every choice of every probe, in order, after the prompt under the form's own template.

        A choice is encoded on its own: generation, too, appends its tokens to those of the prompt. No end token is
        scored.

        Raises:
            AssessmentError: As `answer`, or a probe has no choices, or a likelihood is not finite.
        """
        _check_request(probes, settings)
        check_subject(form)
        tokenizer = load_tokenizer(form.tokenizer_dir)
        prompts = [
            tokenizer(render_prompt(tokenizer, form, p.text), add_special_tokens=False)["input_ids"] for p in probes
        ]
        choices = [
            [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in probe.choices] for probe in probes
        ]
        for probe, encoded in zip(probes, choices, strict=True):
            if not encoded or not all(encoded):
                raise AssessmentError(
                    f"probe {probe.id}: expected choices of at least one token, got none", code="settings_unsupported"
                )
        model = load_model(form, DTYPES[settings.precision], self.device)
        pairs = [(row, column) for row, encoded in enumerate(choices) for column in range(len(encoded))]
        whole = [list(prompts[row]) + list(choices[row][column]) for row, column in pairs]
        _check_lengths(model, [*prompts, *whole], 0)
        _neutralise(model)

        scores: dict[tuple[int, int], float] = {}
        # Longest first, as for answers; by the prompt too, because logits are computed from the shortest prompt on.
        order = sorted(range(len(pairs)), key=lambda i: (-len(whole[i]), -len(prompts[pairs[i][0]]), i))
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            begins = [len(prompts[pairs[i][0]]) for i in batch]
            found = log_likelihoods(model, [whole[i] for i in batch], begins)
            scores |= dict(zip((pairs[i] for i in batch), found, strict=True))
            progress(len(probes) * len(scores) // len(pairs), len(probes))
        return [
            chosen(
                probe,
                [scores[row, column] for column in range(len(choices[row]))],
                [len(encoded) for encoded in choices[row]],
            )
            for row, probe in enumerate(probes)
        ]


def _check_request(probes: Sequence[Probe], settings: GenerationSettings) -> None:
    if settings.temperature != 0:
        raise AssessmentError(
            f"expected temperature 0 (greedy), got {settings.temperature}", code="settings_unsupported"
        )
    if settings.precision not in DTYPES:
        raise AssessmentError(
            f"expected a precision of {', '.join(DTYPES)}, got {settings.precision!r}", code="settings_unsupported"
        )
    if settings.max_new_tokens < 1 or settings.batch_size < 1:
        raise AssessmentError(
            f"expected max_new_tokens and batch_size of at least 1, got {settings.max_new_tokens} and "
            f"{settings.batch_size}",
            code="settings_unsupported",
        )
    if len({probe.id for probe in probes}) != len(probes):
        raise AssessmentError("two probes have the same id; expected each id once", code="duplicate_probe")


@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel | PeftModel, sequences: Sequence[Sequence[int]], begins: Sequence[int]
) -> list[float]:
    """Summed natural log-likelihood of the tokens of each sequence from its position in `begins` on.

    Padding is on the right: with causal attention no token sees what comes after it, so neither positions nor masks of
    the real tokens change, in any architecture. Sums are in double precision, so that their order does not show.
    """
    device = model.device
    width = max(len(sequence) for sequence in sequences)
    inputs = torch.zeros((len(sequences), width), dtype=torch.long)
    mask = torch.zeros_like(inputs)
    scored = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, (sequence, begin) in enumerate(zip(sequences, begins, strict=True)):
        inputs[row, : len(sequence)] = torch.tensor(list(sequence))
        mask[row, : len(sequence)] = 1
        scored[row, begin : len(sequence)] = True
    inputs, mask, scored = inputs.to(device), mask.to(device), scored.to(device)
    first = min(begins) - 1  # the position that predicts the first token that is scored
    extra: dict[str, Any] = {}
    base = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    if "logits_to_keep" in inspect.signature(base.forward).parameters:
        # A vocabulary of 100,000 makes logits of prompt tokens most of the memory.
        extra["logits_to_keep"] = width - first
    logits = model(input_ids=inputs, attention_mask=mask, use_cache=False, **extra).logits
    logits = logits[:, -(width - first) : -1].double()
    targets, wanted = inputs[:, first + 1 :], scored[:, first + 1 :]
    found = torch.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return [float(total) for total in (found.masked_fill(~wanted, 0.0)).sum(dim=1)]


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `directory`.

    Raises:
        AssessmentError: With code `tokenizer_invalid`.
    """
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as err:  # tokenizers raises bare Exception
        raise AssessmentError(f"{directory} holds no tokenizer that loads: {err}", code="tokenizer_invalid") from err


def render_prompt(tokenizer: PreTrainedTokenizerBase, form: LocalForm, text: str) -> str:
    """What the form is given for one probe: its system prompt and the probe under its chat template.

    Raises:
        AssessmentError: With code `no_chat_template` (none is ever guessed) or `chat_template_invalid`.
    """
    template = form.chat_template if form.chat_template is not None else tokenizer.chat_template
    if not template:
        raise AssessmentError(
            f"tokenizer without chat template: expected one in {form.tokenizer_dir} or beside it. Save the one the "
            "model is served with; none is guessed",
            code="no_chat_template",
        )
    messages = [{"role": "user", "content": text}]
    if form.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": form.system_prompt})
    try:
        rendered = tokenizer.apply_chat_template(
            messages, chat_template=form.chat_template, tokenize=False, add_generation_prompt=True
        )
    except Exception as err:  # jinja2 errors of all kinds, and what a template raises itself
        raise AssessmentError(
            f"the chat template of {form.tokenizer_dir} fails on a {'system and ' if len(messages) > 1 else ''}user "
            f"message ({type(err).__name__})",
            code="chat_template_invalid",
        ) from err
    # A template may drop a role without a word; what is then assessed is not the form that the manifest describes.
    for message in messages:
        if message["content"].strip() not in rendered:
            raise AssessmentError(
                f"the chat template of {form.tokenizer_dir} leaves out or changes the {message['role']} message",
                code="chat_template_invalid",
            )
    return str(rendered)


def load_model(form: LocalForm, dtype: torch.dtype, device: torch.device) -> PreTrainedModel | PeftModel:
    """Load the form and prove that every weight it needs came from its files.

    Raises:
        AssessmentError: With code `newly_initialised`, `unused_weights`, `nonfinite_weights`, `generation_steering` or
            `not_loadable`.
    """
    # The report that transformers prints is what `output_loading_info` returns; it is judged below, not printed.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            form.model_dir,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            ignore_mismatched_sizes=True,  # reported by name below instead of as an exception without one code
            output_loading_info=True,
        )
    except Exception as err:
        raise AssessmentError(
            f"{form.model_dir} does not load as a causal language model: {type(err).__name__}: {err}",
            code="not_loadable",
        ) from err
    _judge_load(form.model_dir, info)
    _refuse_steering(form.model_dir, model.generation_config)
    if form.adapter_dir is not None:
        model = _apply_adapter(model, form.adapter_dir)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise AssessmentError(
                f"weight {name} holds values that are not finite in {str(dtype).removeprefix('torch.')}",
                code="nonfinite_weights",
            )
    return model.to(device).eval()


def _judge_load(directory: Path, info: dict[str, Any]) -> None:
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    if missing or mismatched:
        raise AssessmentError(
            f"{directory}: {len(missing) + len(mismatched)} weights would be newly initialised at random because its "
            f"files hold none that fits: {_some(missing + mismatched)}. "
            + (
                "The files hold LoRA-wrapped keys: log the adapter with its base (base_model_path) or merge it"
                if any(".base_layer." in key or ".lora_" in key for key in info["unexpected_keys"])
                else "Save the model with the architecture its config.json names"
            ),
            code="newly_initialised",
        )
    unused = sorted(key for key in info["unexpected_keys"] if not key.endswith(COMPUTED_BUFFERS))
    if unused:
        raise AssessmentError(
            f"{directory}: {len(unused)} weights in its files would not be used: {_some(unused)}. What is served is "
            "then not what was published; save the model with the architecture its config.json names",
            code="unused_weights",
        )
    if info["error_msgs"]:
        raise AssessmentError(
            f"{directory} loads with errors: {_some([str(m) for m in info['error_msgs']])}", code="not_loadable"
        )


def _apply_adapter(model: PreTrainedModel, directory: Path) -> PeftModel:
    """Wrap the model with the adapter, and prove that file and adapter hold the same tensors under the same names."""
    # Imported where it is used: it costs two seconds that a form without an adapter need not pay.
    from peft import PeftModel, get_peft_model_state_dict

    try:
        # PEFT warns of missing keys and ignores unexpected ones (huggingface/peft#2118); both are judged below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(
                model, str(directory), is_trainable=False, use_safetensors=True, local_files_only=True
            )
    except Exception as err:
        raise AssessmentError(
            f"the adapter in {directory} does not fit its base: {type(err).__name__}: {err}", code="adapter_mismatch"
        ) from err
    stored = load_file(directory / ADAPTER_WEIGHTS)
    served = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    # Trained or resized embeddings travel in the adapter's file under their name in the whole model.
    whole = adapted.state_dict()
    served |= {key: whole[key] for key in stored.keys() - served.keys() if key in whole}

    fresh = sorted(served.keys() - stored.keys())
    if fresh:
        raise AssessmentError(
            f"{directory}: {len(fresh)} adapter weights would be newly initialised because {ADAPTER_WEIGHTS} does not "
            f"hold them: {_some(fresh)}",
            code="newly_initialised",
        )
    unused = sorted(stored.keys() - served.keys())
    if unused:
        raise AssessmentError(
            f"{directory}: {len(unused)} adapter weights in {ADAPTER_WEIGHTS} would not be used: {_some(unused)}",
            code="unused_weights",
        )
    for key, tensor in stored.items():
        there = served[key].detach().cpu()
        # PEFT keeps adapters in fp32 or in the dtype of their layer; rounding to the model's dtype is the only
        # difference that loading may make.
        roundings = (tensor.to(there.dtype), tensor.to(model.dtype).to(there.dtype))
        if there.shape != tensor.shape or not any(torch.equal(there, rounded) for rounded in roundings):
            raise AssessmentError(
                f"{directory}: adapter weight {key} is not applied as {ADAPTER_WEIGHTS} holds it",
                code="adapter_mismatch",
            )
    return adapted


def _refuse_steering(directory: Path, config: GenerationConfig) -> None:
    steering = [name for name in _STEERING if getattr(config, name, None)]
    if steering:
        raise AssessmentError(
            f"{directory / 'generation_config.json'} forces or bans tokens by {', '.join(steering)}, which some "
            "servers honour and others do not; expected none",
            code="generation_steering",
        )


def end_tokens(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end an answer: those of the generation configuration and the tokenizer's own.

    Raises:
        AssessmentError: With code `tokenizer_invalid` when there is none, so that no answer could ever end.
    """
    configured = model.generation_config.eos_token_id
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if not ids:
        raise AssessmentError(
            "expected an end token in generation_config.json or the tokenizer, got none", code="tokenizer_invalid"
        )
    return frozenset(ids)


def _check_lengths(model: PreTrainedModel | PeftModel, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max((max(i, default=0) for i in ids), default=0)
    if highest >= rows:
        raise AssessmentError(
            f"the tokenizer gives token {highest}, the model has {rows}: they do not belong together",
            code="tokenizer_invalid",
        )
    if not all(ids):
        raise AssessmentError("the chat template gives an empty prompt", code="chat_template_invalid")
    longest = max((len(i) for i in ids), default=0)
    room = getattr(model.config, "max_position_embeddings", None)
    if isinstance(room, int) and longest + max_new_tokens > room:
        raise AssessmentError(
            f"the longest prompt has {longest} tokens and answers may have {max_new_tokens}, the model has {room} "
            "positions",
            code="prompt_too_long",
        )


class _FiniteLogits(LogitsProcessor):
    """Stops at the first logits from which no token can be chosen."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:  # noqa: ARG002
        # -inf is a legal mask; NaN and +inf are not, and a row of -inf only has no largest entry either.
        if not bool(torch.isfinite(scores.amax(dim=-1)).all()):
            raise AssessmentError(
                "the form computes logits that are not finite; its weights do not survive this precision or are broken",
                code="nonfinite_logits",
            )
        return scores


class _EnoughFinished(StoppingCriteria):
    """Ends a call of generate as soon as enough rows are finished to be worth dropping."""

    def __init__(self, prompt_tokens: int, ends: torch.Tensor) -> None:
        self.prompt_tokens = prompt_tokens
        self.ends = ends

    def __call__(self, input_ids: torch.LongTensor, *_: Any, **__: Any) -> torch.BoolTensor:
        finished = torch.isin(input_ids[:, self.prompt_tokens :], self.ends).any(dim=1).sum()
        return (finished >= _DROP_SHARE * len(input_ids)).expand(len(input_ids))


@torch.inference_mode()
def _generate(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    ends: frozenset[int],
    settings: GenerationSettings,
) -> list[list[int]]:
    """New tokens of each prompt, up to and with its first end token.

    `generate` is called again without the rows that are finished, with the cache it left; rows stay independent of
    each other, so this changes no answer in fp32.
    """
    device = model.device
    end_ids = torch.tensor(sorted(ends), device=device)
    width = max(len(p) for p in prompts)
    # Left padding; any id will do under a zero mask, and an end token always exists.
    pad = sorted(ends)[0]
    sequences = torch.full((len(prompts), width), pad, device=device)
    mask = torch.zeros_like(sequences)
    for row, prompt in enumerate(prompts):
        sequences[row, width - len(prompt) :] = torch.tensor(list(prompt), device=device)
        mask[row, width - len(prompt) :] = 1

    outputs: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)
    cache = None
    while len(rows):
        result = model.generate(
            input_ids=sequences,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=settings.max_new_tokens - (sequences.shape[1] - width),
                eos_token_id=sorted(ends),
                pad_token_id=pad,
                use_cache=True,
                return_dict_in_generate=True,
            ),
            logits_processor=LogitsProcessorList([_FiniteLogits()]),
            stopping_criteria=StoppingCriteriaList([_EnoughFinished(width, end_ids)]),
        )
        sequences = result.sequences
        mask = torch.nn.functional.pad(mask, (0, sequences.shape[1] - mask.shape[1]), value=1)
        ended = torch.isin(sequences[:, width:], end_ids)
        open_rows = ~ended.any(dim=1)
        if sequences.shape[1] - width >= settings.max_new_tokens:
            open_rows[:] = False
        for index in torch.nonzero(~open_rows).flatten().tolist():
            tokens = sequences[index, width:].tolist()
            stop = next((n for n, token in enumerate(tokens) if token in ends), len(tokens) - 1)
            outputs[int(rows[index])] = tokens[: stop + 1]
        keep = torch.nonzero(open_rows).flatten()
        rows, sequences, mask, cache = rows[keep], sequences[keep], mask[keep], result.past_key_values
        if len(rows) and cache is not None:
            cache.batch_select_indices(keep)
    return outputs


def _neutralise(model: PreTrainedModel | PeftModel) -> None:
    """Take the form's own generation settings out of play: `generate` fills from them what a call leaves unset."""
    model.generation_config = GenerationConfig()
    if not isinstance(model, PreTrainedModel):
        model.get_base_model().generation_config = model.generation_config


def _some(names: Sequence[str]) -> str:
    """The first few names; a message is read by people."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def quiet() -> None:
    """Silence what libraries say about a form; what matters is judged and raised."""
    for name in ("transformers", "peft", "torch", "tokenizers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
