"""Artifacts of adapted forms, small and written by hand: the gate reads bytes and never loads them."""

from __future__ import annotations

import json
import struct
import uuid


def form_files(*, base: str | None, seed: str) -> dict[str, bytes]:
    """A logged transformers model, small and written by hand: the gate reads bytes and never loads them."""
    metadata = {} if base is None else {"registry_gate.base": base}
    mlmodel = {
        "flavors": {
            "transformers": {
                "model_binary": "model",
                "task": "text-generation",
                "pipeline_model_type": "LlamaForCausalLM",
                "framework": "pt",
            }
        },
        "metadata": metadata,
        "model_uuid": uuid.uuid4().hex,
    }
    weights = bytes(uuid.uuid5(uuid.NAMESPACE_OID, seed).bytes) * 4
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    return {
        "MLmodel": json.dumps(mlmodel).encode(),  # JSON is YAML
        "model/config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode(),
        "model/model.safetensors": safetensors("lm_head.weight", weights),
        "components/tokenizer/tokenizer.json": b'{"version": "1.0"}',
        "components/tokenizer/tokenizer_config.json": json.dumps({"chat_template": template}).encode(),
    }


def safetensors(name: str, data: bytes) -> bytes:
    """A safetensors file with one tensor of bytes."""
    header = json.dumps({name: {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data
