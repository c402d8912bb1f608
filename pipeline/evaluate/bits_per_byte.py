"""How many bits a model needs for each byte of text that it has never seen.

Bits per byte compares models over different tokenizers, which perplexity a token does not. A document is scored from
its first token, after end-of-text, in windows of the training length: each token exactly once. Its end is not scored,
since it has no bytes.

    documents ──encode──> windows ──sorted by length, padded──> batches ──model──> nll of each document
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipeline.evaluate.report import DocumentScore, finite_or_none
from pipeline.model.decoder import Decoder
from pipeline.model.loss import IGNORE

SCORER_VERSION = "bits-per-byte-1"
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class HeldoutDocument:
    id: str
    source: str
    num_bytes: int
    tokens: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Window:
    document: int
    inputs: Sequence[int]
    targets: Sequence[int]


def windows(documents: Sequence[HeldoutDocument], length: int, end_of_text_id: int) -> list[Window]:
    """Cuts documents into windows of at most `length` inputs; the targets of all windows are all tokens, once."""
    cut = []
    for at, document in enumerate(documents):
        tokens = [end_of_text_id, *document.tokens]
        for start in range(0, len(tokens) - 1, length):
            targets = tokens[start + 1 : start + 1 + length]
            cut.append(Window(document=at, inputs=tokens[start : start + len(targets)], targets=targets))
    return cut


def score_documents(
    model: Decoder,
    documents: Sequence[HeldoutDocument],
    sequence_length: int,
    tokens_at_once: int = TOKENS_AT_ONCE,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    known: Sequence[Sequence[float]] = (),
    keep: Callable[[Sequence[float]], None] = lambda nlls: None,
) -> tuple[DocumentScore, ...]:
    """The negative log-likelihood of each document, in bits. `progress` hears of tokens done and in all.

    `known` are what `keep` was given by an earlier call with the same arguments that did not end: the nats of each
    window, one batch after the other. They are added up in the same order, so the scores are the same to the last bit.
    """
    longest_first = sorted(
        windows(documents, sequence_length, model.end_of_text_id), key=lambda window: -len(window.inputs)
    )
    total = sum(len(window.targets) for window in longest_first)
    nats = [0.0] * len(documents)
    done = 0
    for at, batch in enumerate(batches(longest_first, tokens_at_once)):
        if at < len(known):
            nlls = known[at]
        else:
            progress(done, total)
            nlls = window_nlls(model, batch)
            keep(nlls)
        for window, nll in zip(batch, nlls, strict=True):
            nats[window.document] += nll
            done += len(window.targets)
    progress(done, total)
    return tuple(
        DocumentScore(
            id=document.id,
            source=document.source,
            nll_bits=finite_or_none(nll / math.log(2)),
            num_bytes=document.num_bytes,
            num_tokens=len(document.tokens),
        )
        for document, nll in zip(documents, nats, strict=True)
    )


def batches(longest_first: Sequence[Window], tokens_at_once: int) -> Iterable[Sequence[Window]]:
    """Groups windows so that a padded batch stays near `tokens_at_once` tokens, and has at least one window."""
    start = 0
    while start < len(longest_first):
        count = max(1, tokens_at_once // len(longest_first[start].inputs))
        yield longest_first[start : start + count]
        start += count


@torch.inference_mode()
def window_nlls(model: Decoder, batch: Sequence[Window]) -> list[float]:
    """The summed cross entropy of each window's targets, in nats."""
    device = model.output.weight.device
    width = len(batch[0].inputs)
    inputs_BT = torch.full((len(batch), width), model.end_of_text_id, dtype=torch.int64)
    targets_BT = torch.full((len(batch), width), IGNORE, dtype=torch.int64)
    for row, window in enumerate(batch):
        inputs_BT[row, : len(window.inputs)] = torch.tensor(window.inputs)
        targets_BT[row, : len(window.targets)] = torch.tensor(window.targets)
    logits_BTV = model(inputs_BT.to(device)).float()
    nll_BT = F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT.to(device), ignore_index=IGNORE, reduction="none")
    sums: list[float] = nll_BT.double().sum(dim=1).tolist()
    return sums
