"""What a training step costs: ours under DeepSpeed against a bare torch loop over the same model, and against
transformers' Trainer over a Llama of the same shape.

    python -m benchmarks.train [--width 256] [--layers 6] [--rounds 15] [--json]

`step_over_bare_torch` is our time over that of the shortest loop that trains the same model to the same weights:
forward and backward of each micro-batch, `clip_grad_norm_`, fused AdamW, batches in memory. Ours does all that a run
does between two checkpoints: the batch off the shards, the learning rate, ZeRO stage 1 (the default) with its fp32
masters, the norm, the all-reduce over ranks, the guard, the journal's line. `step_vs_transformers` is the time of the
Trainer, its data in memory too, over ours (trainer_side.py); its attention knows no documents, ours stays inside them.

fp32 on a CPU, one rank over gloo, all sides with the same threads. A round is one step of each side, in turn.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.letters import write_letters
from benchmarks.our_step import alone, training_steps
from benchmarks.record import alternate, median_ratio, parser, report
from data_prep.config import CorpusConfig, SourceConfig, TokenizerConfig
from data_prep.manifest import Manifest
from pipeline.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from pipeline.data.order import order_of
from pipeline.model.decoder import build
from pipeline.train.feeding import loader_of
from pipeline.train.guard import Figures
from pipeline.train.optim import adamw

VOCAB_SIZE, LENGTH, DOCUMENT_TOKENS = 8192, 256, 1000
SAME = 1e-3
"""Relative difference of losses and norms that is rounding."""
GOALS = {"step_over_bare_torch": 1.05, "step_vs_transformers": 1.0}


def run_config(model: ModelConfig, micro_batch_size: int, accumulation: int, steps: int) -> RunConfig:
    """A run whose first steps, all at the peak learning rate, are those that are taken."""
    batch_size = micro_batch_size * accumulation
    return RunConfig(
        name="benchmark",
        data=CorpusConfig(
            sources=(SourceConfig(name="letters", path="letters"),),
            tokenizer=TokenizerConfig(),
            sequence_length=LENGTH,
        ),
        model=model,
        train=TrainConfig(
            tokens=2 * steps * batch_size * LENGTH,
            global_batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            optimizer=OptimizerConfig(lr=1e-3),
            precision="fp32",
        ),
    )


def bare_torch(config: RunConfig, corpus: Path, manifest: Manifest, steps: int) -> Callable[[], Figures]:
    """The shortest loop that takes the same steps."""
    model = build(config.model, manifest.vocab_size, manifest.end_of_text_id, config.train.seed)
    optimizer = adamw(model, config.train.optimizer)
    order = order_of(manifest, (1.0,), config.train.seed)
    with loader_of(alone(config, corpus, manifest), order) as loader:
        batches = iter([torch.from_numpy(loader.batch(step).astype(np.int64)) for step in range(steps)])

    def step() -> Figures:
        batch, loss_sum = next(batches), torch.zeros(())
        for tokens in batch:
            loss = model(tokens, loss=True).total / len(batch)
            loss.backward()
            loss_sum += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.optimizer.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()
        return Figures(loss=float(loss_sum), grad_norm=float(norm))

    return step


@contextmanager
def transformers_trainer(config: RunConfig) -> Iterator[Callable[[], None]]:
    """A step of the process that trainer_side.py is."""
    shape = {
        "model": asdict(config.model),
        "vocab_size": VOCAB_SIZE,
        "sequence_length": LENGTH,
        "micro_batch_size": config.train.micro_batch_size,
        "accumulation": config.train.global_batch_size // config.train.micro_batch_size,
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", "benchmarks.trainer_side", json.dumps(shape)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told, tell = process.stdout, process.stdin

        def stands_before_a_step() -> None:
            if not told.readline():
                raise SystemExit("the Trainer's process has ended; what it said is above")

        def step() -> None:
            print(file=tell, flush=True)
            stands_before_a_step()

        stands_before_a_step()
        yield step
        tell.close()


def same_training(ours: Sequence[Figures], bare: Sequence[Figures]) -> None:
    """Raises SystemExit if the sides did not train the same: then their times say nothing."""
    for step, (mine, theirs) in enumerate(zip(ours, bare, strict=True), start=1):
        for name in ("loss", "grad_norm"):
            here, there = getattr(mine, name), getattr(theirs, name)
            if not math.isclose(here, there, rel_tol=SAME):
                raise SystemExit(f"{name} of step {step} is {here} in ours and {there} in the bare loop: other work")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--layers", type=int, default=6)
    options.add_argument("--micro-batch-size", type=int, default=8)
    options.add_argument("--accumulation", type=int, default=2)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--without-transformers", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    steps = chosen.rounds + 1  # the first round warms up
    model = ModelConfig(layers=chosen.layers, width=chosen.width, heads=chosen.width // 64)
    config = run_config(model, chosen.micro_batch_size, chosen.accumulation, steps)
    mine: list[Figures] = []
    bares: list[Figures] = []
    with ExitStack() as stack:
        corpus = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tokens = steps * config.train.global_batch_size * LENGTH
        manifest = write_letters(
            corpus, tokens, vocab_size=VOCAB_SIZE, sequence_length=LENGTH, document_tokens=DOCUMENT_TOKENS
        )
        sides: dict[str, Callable[[], None]] = {}
        if not chosen.without_transformers:  # before we join a world: its Trainer would join it too
            sides["transformers"] = stack.enter_context(transformers_trainer(config))
        ours = stack.enter_context(training_steps(config, corpus, manifest))
        bare = bare_torch(config, corpus, manifest, steps)
        sides["ours"] = lambda: mine.append(ours.step())
        sides["bare_torch"] = lambda: bares.append(bare())
        seconds = alternate(sides, rounds=chosen.rounds)
    same_training(mine, bares)
    ratios = {"step_over_bare_torch": median_ratio(seconds["ours"], seconds["bare_torch"])}
    if "transformers" in seconds:
        ratios["step_vs_transformers"] = median_ratio(seconds["transformers"], seconds["ours"])
    report(
        "train",
        ratios,
        GOALS,
        as_json=chosen.json,
        step_s={side: round(statistics.median(times), 4) for side, times in seconds.items()},
        tokens_per_step=config.train.global_batch_size * LENGTH,
        threads=chosen.threads,
    )


if __name__ == "__main__":
    main()
