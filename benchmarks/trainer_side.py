"""transformers' side of train.py, a process of its own: its Llama under its Trainer.

    python -m benchmarks.trainer_side SHAPE_JSON

It says a line when it stands before a step and waits for one before it takes it, so whoever drives it can time a step
and do something else in between. Fetching the batch is part of a step: the Trainer does it before the first callback.
"""

import contextlib
import json
import sys
import tempfile
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from pipeline.config import ModelConfig


class Letters(Dataset[dict[str, torch.Tensor]]):
    """Random tokens in memory, at no cost, more than a benchmark takes."""

    def __init__(self, vocab_size: int, sequence_length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(1, vocab_size, (1024, sequence_length), generator=generator)

    def __len__(self) -> int:
        return 1 << 16  # they are shuffled: a list of so many

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        tokens = self.tokens[at % len(self.tokens)]
        return {"input_ids": tokens, "labels": tokens}


class TakesTurns(TrainerCallback):  # type: ignore[misc]
    """Stands before each step until told."""

    def __init__(self, out: Any) -> None:
        self.out = out

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        print("before a step", file=self.out, flush=True)
        if not sys.stdin.readline():
            sys.exit(0)


def llama(model: ModelConfig, vocab_size: int, sequence_length: int) -> LlamaForCausalLM:
    """Of the same shape, with attention by the same kernel."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=model.width,
            intermediate_size=model.mlp_hidden,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            num_key_value_heads=model.kv_heads,
            max_position_embeddings=sequence_length,
            tie_word_embeddings=model.tie_embeddings,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )


def main() -> None:
    shape = json.loads(sys.argv[1])
    torch.set_num_threads(shape["threads"])
    model = llama(ModelConfig(**shape["model"]), shape["vocab_size"], shape["sequence_length"])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        arguments = TrainingArguments(
            folder,
            max_steps=1 << 20,
            per_device_train_batch_size=shape["micro_batch_size"],
            gradient_accumulation_steps=shape["accumulation"],
            optim="adamw_torch_fused",
            learning_rate=1e-3,
            weight_decay=0.1,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            lr_scheduler_type="cosine",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(
            model,
            arguments,
            train_dataset=Letters(shape["vocab_size"], shape["sequence_length"]),
            callbacks=[TakesTurns(sys.__stdout__)],
        ).train()


if __name__ == "__main__":
    main()
