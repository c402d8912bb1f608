"""Made-up reports: documents of random lengths, on which a model of a given quality scores with noise."""

import random
from dataclasses import replace

from pipeline.evaluate.report import DocumentScore, EvalReport, heldout_scores, sealed


def documents(num: int = 60, sources: tuple[str, ...] = ("code", "prose"), seed: int = 0) -> list[DocumentScore]:
    """Documents with a difficulty of about 2 bits a byte that all models share."""
    rng = random.Random(seed)
    return [
        DocumentScore(
            id=f"doc-{index}",
            source=sources[index % len(sources)],
            nll_bits=(size := rng.randint(200, 4000)) * rng.uniform(1.5, 2.5),
            num_bytes=size,
            num_tokens=size // 4,
        )
        for index in range(num)
    ]


def scored(
    base: list[DocumentScore],
    worse_by: float = 0.0,
    noise: float = 0.02,
    seed: int | str = 0,
    step: int = 100,
    **changes: object,
) -> EvalReport:
    """A model's report on these documents: `worse_by` bits a byte over the base, plus its own noise on each."""
    rng = random.Random(seed)
    items = tuple(
        replace(item, nll_bits=item.nll_bits + item.num_bytes * (worse_by + rng.gauss(0, noise)))  # type: ignore[operator]
        for item in base
    )
    return report_of(items, step=step, checkpoint_digest=f"checkpoint-{seed}-{step}-{worse_by}", **changes)


def report_of(items: tuple[DocumentScore, ...], **changes: object) -> EvalReport:
    report = EvalReport(
        run="test", step=100, checkpoint_digest="c", suite="heldout", data_digest="data", scorer_version="1",
        scores=heldout_scores(items), items=items,
    )  # fmt: skip
    return sealed(replace(report, **changes))  # type: ignore[arg-type]
