"""Small classifiers, saved as people publish them: model, labels and a tokenizer of their family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from evaluators.graders.parity import shipped_texts

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
MOST_STEPS = 240
ENOUGH = 0.4
"""Loss of each of the last six batches; how many steps that takes differs between processors."""

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "deberta-v2", "modernbert")


def make_tokenizer(family: str, positions: int = 128) -> Any:
    """A tokenizer of the kind that the family has, trained on the shipped texts."""
    corpus = [text for t in shipped_texts("refusal").texts for text in (t.item.probe, t.item.answer)]
    if family in ("roberta", "xlm-roberta"):
        first, last, pad, unknown = "<s>", "</s>", "<pad>", "<unk>"
        special = [first, pad, last, unknown]  # their order: padding is 1
    else:
        first, last, pad, unknown = "[CLS]", "[SEP]", "[PAD]", "[UNK]"
        special = [pad, unknown, first, last]
    trainer: Any
    if family in ("bert", "distilbert"):
        backend = Tokenizer(models.WordPiece(unk_token=unknown))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    elif family in ("roberta", "modernbert"):
        backend = Tokenizer(models.BPE(unk_token=unknown))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    else:
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=special, unk_token=unknown, show_progress=False
        )
    backend.train_from_iterator(corpus, trainer)
    double = f"{last} {last}" if family in ("roberta", "xlm-roberta") else last
    types = family in ("bert", "deberta-v2")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {double} {'$B:1' if types else '$B'} {last}{':1' if types else ''}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (first, last)],
    )
    backend.enable_truncation(positions)  # as many published tokenizers are saved
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token=first,
        sep_token=last,
        pad_token=pad,
        unk_token=unknown,
        model_max_length=positions,
        model_input_names=names,
    )


def make_config(family: str, words: int, labels: tuple[str, ...], positions: int) -> Any:
    """The family's configuration, small."""
    named = {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
        "vocab_size": words,
    }
    match family:
        case "bert":
            return transformers.BertConfig(**SIZES, **named, max_position_embeddings=positions)
        case "roberta" | "xlm-roberta":
            kind = transformers.RobertaConfig if family == "roberta" else transformers.XLMRobertaConfig
            return kind(**SIZES, **named, max_position_embeddings=positions + 2, pad_token_id=1, type_vocab_size=1)
        case "distilbert":
            return transformers.DistilBertConfig(
                **named, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=positions
            )
        case "deberta-v2":
            return transformers.DebertaV2Config(
                **SIZES, **named, max_position_embeddings=positions, relative_attention=True, position_buckets=16,
                norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0,
                position_biased_input=False, pad_token_id=0,
            )  # fmt: skip
        case "modernbert":
            return transformers.ModernBertConfig(
                **SIZES, **named, max_position_embeddings=positions, local_attention=8, global_attn_every_n_layers=2,
                pad_token_id=0, bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3,
            )  # fmt: skip
    raise AssertionError(family)


def make_checkpoint(
    directory: Path, family: str = "bert", *, labels: tuple[str, ...] = ("NORMAL", "REJECTION"), positions: int = 128
) -> Path:
    """Save a classifier that was fitted, in a second or two, to know refusals from answers: the last label is refusal.

    Weights alone at random would put every score at the threshold, where any rounding changes a label.
    """
    torch.manual_seed(7)
    torch.set_num_threads(1)  # threads that wait for tiny products are slower than one
    tokenizer = make_tokenizer(family, positions)
    config = make_config(family, len(tokenizer), labels, positions)
    model = transformers.AutoModelForSequenceClassification.from_config(config).train()
    known = [t for t in shipped_texts("refusal").texts if t.label is not None]
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    recent: list[float] = []
    for step in range(MOST_STEPS):
        part = known[step % 6 :: 6]
        encoded = tokenizer(
            [t.item.probe for t in part],
            [t.item.answer for t in part],
            padding=True,
            truncation=True,
            max_length=min(positions, 72),
            return_tensors="pt",
        )
        refused = torch.tensor([t.label == "refused" for t in part])
        logits = model(**encoded).logits
        if len(labels) == 1:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], refused.float())
        else:
            loss = torch.nn.functional.cross_entropy(logits, refused.long() * (len(labels) - 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # Until it knows them and no longer: a model that is sure of everything hides a graph that is a little wrong.
        recent = [*recent[-5:], float(loss.detach())]
        if len(recent) == 6 and max(recent) < ENOUGH:
            break
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
