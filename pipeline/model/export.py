"""Our model in the Hugging Face layout, as a Llama, or with QK-norm as a Qwen3, which is a Llama that has it: other
names for the same numbers.

    model.safetensors    the checkpoint's bytes behind a header with Llama's names; with `base_width` other final gains
    config.json          ModelConfig in Llama's words          generation_config.json
    tokenizer.json       ours, but it opens each text with end-of-text, as training did      tokenizer_config.json

Rotary positions are half-split in both and a linear layer's weight is (out, in) in both, so no tensor is permuted or
transposed. Nothing is computed but this: a model with a `base_width` divides its logits by r = width / base_width
(width.py), which Llama cannot say. Its final norm's gains are divided instead, `width` numbers behind which only the
output layer comes, so that a tied embedding stays what it is. That is exact where r is a power of two, and elsewhere
one rounding in the checkpoint's precision.

All here but `write_weights` is a pure mapping. It needs neither torch nor memory: a model of any size is copied as a
stream.
"""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.config import MODEL_EXECUTION, ModelConfig
from pipeline.errors import Mistake
from pipeline.model.width import width_ratio

FINAL_GAINS = "norm.weight"
OUTER_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    FINAL_GAINS: "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
QK_NORM_NAMES = {
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
}
SAID = {"arch", "layers", "width", "heads", "kv_heads", "mlp_width", "tie_embeddings", "rope_theta", "norm_eps"}
CARRIED = frozenset(SAID | {"qk_norm", "z_loss", "base_width", *MODEL_EXECUTION})
"""The fields of ModelConfig that a Llama or a Qwen3 can say, by its weights if not by a word, or that change nothing in
a trained model. With any other field away from its default the model is neither, and exporting it would give a model
that computes something else."""
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
COPY_BYTES = 16_000_000

Header = dict[str, Any]
"""A safetensors header: tensor's name -> dtype, shape, data_offsets; `__metadata__` aside."""


def llama_names(config: ModelConfig) -> dict[str, str]:
    """Our tensor's name -> Llama's, for each tensor of a model. Raises Mistake if the model is no Llama."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in CARRIED and value != field.default:
            raise Mistake(
                f"model.{field.name}: {value} has no place in Llama's layout, so this model cannot be exported"
            )
    in_block = BLOCK_NAMES | (QK_NORM_NAMES if config.qk_norm else {})
    blocks = {
        f"blocks.{at}.{ours}": f"model.layers.{at}.{llamas}"
        for at in range(config.layers)
        for ours, llamas in in_block.items()
    }
    outer = {
        ours: llamas for ours, llamas in OUTER_NAMES.items() if ours != "output.weight" or not config.tie_embeddings
    }
    return outer | blocks


def llama_header(header: Header, names: Mapping[str, str]) -> Header:
    """The same tensors at the same places under their new names. Raises Mistake if any is missing or unknown."""
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    if different := sorted(tensors.keys() ^ names.keys()):
        raise Mistake(f"the checkpoint's tensors are not those of its config: {_few(different)}")
    renamed = {names[name]: tensor for name, tensor in tensors.items()}
    return {"__metadata__": {"format": "pt"}} | renamed  # transformers refuses a file that does not say "pt"


def llama_config(config: ModelConfig, header: Header, end_of_text_id: int, sequence_length: int) -> dict[str, Any]:
    """config.json, given the renamed header. `rope_theta` and `torch_dtype` are words that transformers before and
    after its release 5 understands."""
    embedding = header["model.embed_tokens.weight"]
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": embedding["shape"][0],
        "hidden_size": config.width,
        "intermediate_size": header["model.layers.0.mlp.gate_proj.weight"]["shape"][0],
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads or config.heads,
        "head_dim": config.width // config.heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": sequence_length,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "torch_dtype": DTYPES[embedding["dtype"]],
    }


def generation_config(end_of_text_id: int) -> dict[str, Any]:
    """generation_config.json: how a text begins and ends."""
    return {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id, "pad_token_id": end_of_text_id}


def opening_tokenizer(tokenizer: Mapping[str, Any], end_of_text_id: int) -> dict[str, Any]:
    """tokenizer.json that puts end-of-text before a text, whoever reads it, and neither cuts nor pads."""
    token = token_of(tokenizer, end_of_text_id)

    def part(sequence: str, type_id: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": token, "type_id": type_id}},
            {"Sequence": {"id": sequence, "type_id": type_id}},
        ]

    opening = {
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": part("A", 0) + part("B", 1),
        "special_tokens": {token: {"id": token, "ids": [end_of_text_id], "tokens": [token]}},
    }
    return {**tokenizer, "truncation": None, "padding": None, "post_processor": opening}


def tokenizer_config(token: str, sequence_length: int) -> dict[str, Any]:
    """tokenizer_config.json. `split_special_tokens`: text that spells a special token is text, as in training."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token,
        "eos_token": token,
        "add_bos_token": True,
        "add_eos_token": False,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": sequence_length,
    }


def token_of(tokenizer: Mapping[str, Any], token_id: int) -> str:
    """How a `tokenizer.json` spells a token."""
    added = {token["id"]: str(token["content"]) for token in tokenizer.get("added_tokens") or ()}
    if token_id in added:
        return added[token_id]
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: (token, score) by id
        return str(vocab[token_id][0])
    return next(str(token) for token, one in vocab.items() if one == token_id)


def read_header(file: BinaryIO) -> Header:
    """A safetensors file's header; the file stands at the first tensor's byte afterwards. The format: 8 bytes of the
    header's length, little-endian, then the header as JSON (huggingface/safetensors, README, "Format")."""
    length = int.from_bytes(file.read(8), "little")
    header: Header = json.loads(file.read(length))
    return header


def header_bytes(header: Header) -> bytes:
    """What a safetensors file with this header begins with; padded, so that the data starts aligned."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_weights(source: Path, target: Path, config: ModelConfig) -> Header:
    """Copies a safetensors file under new names, on disk when it returns. Gives the new header. Raises Mistake if the
    file does not hold the tensors of the config, or if that is no Llama."""
    names, ratio = llama_names(config), width_ratio(config)
    with source.open("rb") as old, target.open("xb") as new:
        header = llama_header(read_header(old), names)
        new.write(header_bytes(header))
        if ratio != 1:
            gains = header[names[FINAL_GAINS]]
            begin, end = gains["data_offsets"]
            _copy(old, new, begin)
            new.write(divided(old.read(end - begin), gains["dtype"], ratio))
        shutil.copyfileobj(old, new, COPY_BYTES)
        new.flush()
        os.fsync(new.fileno())
    return header


def divided(data: bytes, dtype: str, by: float) -> bytes:
    """A tensor's bytes, in one of `DTYPES`, with each number divided as torch would: in fp32, then rounded to nearest
    even."""
    if dtype != "BF16":
        numbers = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype])
        return bytes((numbers.astype("<f4") / by).astype(numbers.dtype).tobytes())
    # bf16 is the upper half of an fp32, and numpy has none.
    wide = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    bits = (wide / by).view("<u4")
    nearest = bits + 0x7FFF + (bits >> 16 & 1)
    return bytes((nearest >> 16).astype("<u2").tobytes())


def _copy(old: BinaryIO, new: BinaryIO, size: int) -> None:
    """The next `size` bytes."""
    for begin in range(0, size, COPY_BYTES):
        new.write(old.read(min(COPY_BYTES, size - begin)))


def num_parameters(header: Header) -> int:
    """Numbers in the file; tied weights count once."""
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
