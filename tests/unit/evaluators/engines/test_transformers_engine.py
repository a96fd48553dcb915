"""What loading shows, and what comes out of generation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from evaluators.engines.interface import GenerationSettings
from evaluators.engines.transformers_engine import TransformersEngine, load_tokenizer, render_prompt
from registry_gate.errors import AssessmentError

SETTINGS = GenerationSettings(max_new_tokens=24, batch_size=5)


def answer(form, probes, settings=SETTINGS):
    return TransformersEngine("cpu").answer(form, probes, settings, lambda _done, _total: None)


def refusal(form, probes, settings=SETTINGS) -> AssessmentError:
    with pytest.raises(AssessmentError) as caught:
        answer(form, probes, settings)
    return caught.value


def test_answers_come_in_the_order_of_the_probes_with_progress(form, probes):
    seen = []
    answers = TransformersEngine("cpu").answer(form, probes, SETTINGS, lambda done, total: seen.append((done, total)))
    assert [a.probe_id for a in answers] == [p.id for p in probes]
    assert seen[-1] == (len(probes), len(probes))
    assert seen == sorted(seen)


def test_answers_equal_plain_one_by_one_generation(form, probes):
    """The oracle is transformers' own greedy generation without batch, padding or dropped rows."""
    model = AutoModelForCausalLM.from_pretrained(form.model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(form.tokenizer_dir)
    ends = set(model.generation_config.eos_token_id)
    finishes = set()
    for probe, got in zip(probes, answer(form, probes), strict=True):
        ids = tokenizer(render_prompt(tokenizer, form, probe.text), return_tensors="pt", add_special_tokens=False)
        new = model.generate(**ids, do_sample=False, max_new_tokens=24)[0, ids["input_ids"].shape[1] :].tolist()
        body = new[:-1] if new[-1] in ends else new
        assert got.text == tokenizer.decode(body, skip_special_tokens=True).strip()
        assert got.tokens == len(body)
        assert got.finish == ("stop" if new[-1] in ends else "length")
        finishes.add((got.finish, got.tokens))
    # The comparison is worth something only if rows end at different times.
    assert len(finishes) > 3


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_changes_no_answer_in_fp32(form, probes, batch_size):
    assert answer(form, probes, replace(SETTINGS, batch_size=batch_size)) == answer(form, probes)


def test_same_text_gets_the_same_answer_under_both_ids(form, probes):
    answers = answer(form, probes)
    assert answers[3].text == answers[15].text
    assert answers[3].probe_id != answers[15].probe_id


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_answer_every_probe(form, probes, precision):
    assert len(answer(form, probes, replace(SETTINGS, precision=precision))) == len(probes)


def test_adapter_is_in_effect(form, adapted, probes):
    assert [a.text for a in answer(adapted, probes)] != [a.text for a in answer(form, probes)]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_adapter_loads_in_other_precisions(adapted, probes, precision):
    assert len(answer(adapted, probes[:2], replace(SETTINGS, precision=precision))) == 2


def test_sampling_settings_of_the_form_change_nothing(form, probes):
    before = answer(form, probes)
    config = GenerationConfig.from_pretrained(form.model_dir)
    config.update(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=3.0, max_length=3)
    config.save_pretrained(form.model_dir)
    assert answer(form, probes) == before


def test_generation_settings_that_ban_tokens_are_refused(form, probes, edit_json):
    edit_json(form.model_dir / "generation_config.json", suppress_tokens=[5])
    error = refusal(form, probes)
    assert error.code == "generation_steering"
    assert "forces or bans tokens by suppress_tokens" in str(error)


def test_no_chat_template_is_refused_and_never_guessed(form, probes, edit_json):
    edit_json(form.tokenizer_dir / "tokenizer_config.json", chat_template=None)
    (form.tokenizer_dir / "chat_template.jinja").unlink(missing_ok=True)
    error = refusal(form, probes)
    assert error.code == "no_chat_template"
    assert "tokenizer without chat template" in str(error)


def test_chat_template_of_the_form_wins_over_the_tokenizers(form):
    tokenizer = load_tokenizer(form.tokenizer_dir)
    own = replace(form, chat_template="[{{ messages[0]['content'] }}]")
    assert render_prompt(tokenizer, form, "hello") == "<user>hello<assistant>"
    assert render_prompt(tokenizer, own, "hello") == "[hello]"


def test_system_prompt_is_a_system_message(form, probes):
    tokenizer = load_tokenizer(form.tokenizer_dir)
    spoken = replace(form, system_prompt="be brief")
    assert render_prompt(tokenizer, spoken, "hello") == "<system>be brief<user>hello<assistant>"
    assert answer(spoken, probes) != answer(form, probes)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system') }}", "fails on a system and user message"),
        ("{{ messages[-1]['content'] }}", "leaves out or changes the system message"),
        ("{{ messages[0]['content'] }}", "leaves out or changes the user message"),
    ],
)
def test_template_that_does_not_say_what_it_should_is_refused(form, probes, template, message):
    error = refusal(replace(form, chat_template=template, system_prompt="be brief"), probes)
    assert error.code == "chat_template_invalid"
    assert message in str(error)


def test_missing_weight_is_refused_as_newly_initialised(form, probes, edit_tensors):
    edit_tensors(
        form.model_dir / "model.safetensors",
        lambda tensors: {k: v for k, v in tensors.items() if k != "model.layers.1.mlp.up_proj.weight"},
    )
    error = refusal(form, probes)
    assert error.code == "newly_initialised"
    assert "1 weights would be newly initialised at random" in str(error)
    assert "model.layers.1.mlp.up_proj.weight" in str(error)


def test_weight_of_another_shape_is_refused_as_newly_initialised(form, probes, edit_tensors):
    edit_tensors(form.model_dir / "model.safetensors", lambda t: t | {"lm_head.weight": torch.zeros(7, 32)})
    error = refusal(form, probes)
    assert error.code == "newly_initialised"
    assert "lm_head.weight" in str(error)


def test_unused_weight_is_refused(form, probes, edit_tensors):
    edit_tensors(form.model_dir / "model.safetensors", lambda t: t | {"score.weight": torch.zeros(2, 32)})
    error = refusal(form, probes)
    assert error.code == "unused_weights"
    assert "score.weight" in str(error)


def test_computed_buffers_of_old_checkpoints_are_no_unused_weights(form, probes, edit_tensors):
    before = answer(form, probes)
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(form.model_dir / "model.safetensors", lambda t: t | {key: torch.zeros(4)})
    assert answer(form, probes) == before


def test_tied_output_weights_are_no_missing_weights(form, probes, edit_json, edit_tensors):
    edit_json(form.model_dir / "config.json", tie_word_embeddings=True)
    edit_tensors(form.model_dir / "model.safetensors", lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"})
    assert len(answer(form, probes)) == len(probes)


def test_lora_wrapped_keys_in_a_full_model_are_refused(form, probes):
    """MLflow saves this when a PEFT model on a local base is logged: random layers on each load (MLFLOW.md 16)."""
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(LlamaForCausalLM.from_pretrained(form.model_dir), lora).get_base_model()
    tensors = {key: value.contiguous() for key, value in wrapped.state_dict().items()}
    assert any(".base_layer." in key for key in tensors)
    save_file(tensors, form.model_dir / "model.safetensors", metadata={"format": "pt"})
    error = refusal(form, probes)
    assert error.code == "newly_initialised"
    assert "q_proj.weight" in str(error)
    assert "LoRA-wrapped keys: log the adapter with its base (base_model_path) or merge it" in str(error)


def test_adapter_with_renamed_keys_is_refused(adapted, probes, edit_tensors):
    edit_tensors(
        adapted.adapter_dir / "adapter_model.safetensors",
        lambda t: {k.replace("layers.1", "blocks.1"): v for k, v in t.items()},
    )
    error = refusal(adapted, probes)
    assert error.code == "newly_initialised"
    assert "4 adapter weights would be newly initialised" in str(error)
    assert "layers.1.self_attn.q_proj.lora_A.weight" in str(error)


def test_adapter_with_a_tensor_that_is_not_used_is_refused(adapted, probes, edit_tensors):
    extra = {"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight": torch.zeros(4, 32)}
    edit_tensors(adapted.adapter_dir / "adapter_model.safetensors", lambda t: t | extra)
    error = refusal(adapted, probes)
    assert error.code == "unused_weights"
    assert "k_proj.lora_A.weight" in str(error)


def test_adapter_of_another_size_is_refused(adapted, probes, edit_json):
    edit_json(adapted.adapter_dir / "adapter_config.json", r=8)
    error = refusal(adapted, probes)
    assert error.code == "adapter_mismatch"
    assert "does not fit its base" in str(error)


def test_weights_that_are_not_finite_are_refused(form, probes, edit_tensors):
    edit_tensors(
        form.model_dir / "model.safetensors", lambda t: t | {"model.norm.weight": torch.full((32,), torch.nan)}
    )
    error = refusal(form, probes)
    assert error.code == "nonfinite_weights"
    assert "model.norm.weight" in str(error)


def test_logits_that_are_not_finite_are_refused(form, probes, edit_tensors):
    edit_tensors(form.model_dir / "model.safetensors", lambda t: t | {"model.norm.weight": torch.full((32,), 3e38)})
    assert refusal(form, probes).code == "nonfinite_logits"


def test_tokenizer_of_another_model_is_refused(form, probes, edit_json, edit_tensors):
    edit_json(form.model_dir / "config.json", vocab_size=50)
    edit_tensors(
        form.model_dir / "model.safetensors",
        lambda t: {
            k: v[:50].clone() if k in ("lm_head.weight", "model.embed_tokens.weight") else v for k, v in t.items()
        },
    )
    error = refusal(form, probes)
    assert error.code == "tokenizer_invalid"
    assert "they do not belong together" in str(error)


def test_prompt_beyond_the_models_positions_is_refused(form, probes):
    error = refusal(form, probes, replace(SETTINGS, max_new_tokens=250))
    assert error.code == "prompt_too_long"


def test_unknown_architecture_is_refused(form, probes, edit_json):
    edit_json(form.model_dir / "config.json", model_type="no-such-thing", architectures=["NoSuchThing"])
    assert refusal(form, probes).code == "not_loadable"


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"precision": "int3"}, {"batch_size": 0}])
def test_settings_a_gate_does_not_use_are_refused(form, probes, changes):
    assert refusal(form, probes, replace(SETTINGS, **changes)).code == "settings_unsupported"


def test_two_probes_of_one_id_are_refused(form, probes):
    assert refusal(form, [probes[0], probes[0]]).code == "duplicate_probe"
