"""How long a rank takes to find its sequences of a step, at the size of the largest runs.

    python -m benchmarks.order [--tokens 1e12] [--ranks 100000] [--json]

A corpus of 10^12 tokens in three sources, whose weights change twice, is only described, never made: the order is
arithmetic on those few numbers. `locate_ms` is the time in which one rank locates its sequences of one step, in
portions of 64 steps; `digest_ms` that of the digest of the whole global batch, which the main rank
makes in a thread beside each step. No peer is compared: the goal is an absolute one, 10 ms a step, stated as the ratio
`step_under_10_ms` (above 1 is better).
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.record import parser, report
from data_prep.weights import BLOCK
from pipeline.batches import Batches
from pipeline.data.mixture import Change, Mixture
from pipeline.data.order import Order, SourceOrder, rank_positions
from pipeline.data.permutation import key_of

LENGTH, PER_SHARD, GOAL_MS = 4096, 16_384, 10.0
STEPS_LOCATED = 64
"""At once; the loader locates at least as many where a rank has few sequences a step."""
SHARES = (0.7, 0.2, 0.1)


def order_of_tokens(tokens: int) -> Order:
    sources = tuple(
        SourceOrder(num_sequences=int(share * tokens) // LENGTH, sequences_per_shard=PER_SHARD, key=key_of(at))
        for at, share in enumerate(SHARES)
    )
    blocks = tokens // LENGTH // BLOCK
    changes = tuple(Change(first_block=int(start * blocks), weights=SHARES[::-1]) for start in (0.5, 0.8))
    mixture = Mixture(weights=SHARES, key=0, changes=changes)
    return Order(manifest_digest="none", seed=0, mixture=mixture, sources=sources)


def median_ms(call: Callable[[int], object], rounds: int = 7) -> float:
    """Of calls with different arguments, the first of which warms up."""
    took = []
    for at in range(rounds + 1):
        began = time.perf_counter()
        call(at)
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took[1:])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokens", type=float, default=1e12, help="of the corpus")
    options.add_argument("--ranks", type=int, default=100_000, help="each with one sequence a step")
    chosen = options.parse_args()
    order, ranks = order_of_tokens(int(chosen.tokens)), chosen.ranks
    batches = Batches(size=ranks)
    last = int(chosen.tokens) // LENGTH // ranks - STEPS_LOCATED * 10  # where numbers are large

    def locate(at: int) -> None:
        steps = range(last + at * STEPS_LOCATED, last + (at + 1) * STEPS_LOCATED)
        order.locate(
            np.concatenate([rank_positions(batches.positions(step), ranks - 1, ranks, 1).reshape(-1) for step in steps])
        )

    locate_ms = median_ms(locate) / STEPS_LOCATED
    digest_ms = median_ms(lambda at: order.batch_digest(batches.positions(last + at)))
    ratios = {"step_under_10_ms": GOAL_MS / locate_ms, "digest_under_10_ms": GOAL_MS / digest_ms}
    figures = {"locate_ms": round(locate_ms, 4), "digest_ms": round(digest_ms, 2)}
    print(f"one rank locates its part of a step in {locate_ms:.3f} ms; the batch's digest takes {digest_ms:.1f} ms")
    report("order", ratios, {"step_under_10_ms": 1}, as_json=chosen.json, ranks=ranks, **figures)


if __name__ == "__main__":
    main()
