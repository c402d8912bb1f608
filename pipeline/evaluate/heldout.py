"""Scores a checkpoint on its corpus's held-out documents, and binds the report to the checkpoint's digest."""

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from data_prep.files import digest
from data_prep.manifest import read_manifest_record
from data_prep.shards import read_heldout
from data_prep.tokenizer import load_encoder
from pipeline.errors import Mistake
from pipeline.evaluate.bits_per_byte import SCORER_VERSION, TOKENS_AT_ONCE, HeldoutDocument, score_documents
from pipeline.evaluate.report import EvalReport, heldout_scores, sealed
from pipeline.evaluate.scored import Scored
from pipeline.model.load import load_model
from pipeline.train.checkpoint import WEIGHTS_NAME, verify_checkpoint


def evaluate_heldout(
    checkpoint_path: Path,
    corpora: Path,
    scored: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvalReport:
    """The report of one checkpoint. Its weights are verified before they are used. What is scored is kept in the file
    `scored` meanwhile, batch by batch. Raises CorruptCheckpoint."""
    checkpoint = verify_checkpoint(checkpoint_path, only=[WEIGHTS_NAME])
    corpus = corpora / checkpoint.corpus
    documents = encode_heldout(corpus)
    model = load_model(
        checkpoint_path / WEIGHTS_NAME, checkpoint.model, checkpoint.vocab_size, checkpoint.end_of_text_id
    )
    data_digest, length = texts_digest(corpus), checkpoint.sequence_length
    with Scored(scored, score_key(checkpoint.digest, data_digest, length, model.output.weight.device)) as so_far:
        items = score_documents(model, documents, length, progress=progress, known=so_far.known, keep=so_far.keep)
    return sealed(
        EvalReport(
            run=checkpoint.run,
            step=checkpoint.step,
            checkpoint_digest=checkpoint.digest,
            suite="heldout",
            data_digest=data_digest,
            scorer_version=SCORER_VERSION,
            scores=heldout_scores(items),
            items=items,
        )
    )


def score_key(checkpoint_digest: str, data_digest: str, sequence_length: int, device: torch.device) -> str:
    """Digest of what a batch's numbers depend on to the last bit: the checkpoint with its tokenizer, the texts, how
    they are cut and batched, and what computes."""
    computes: list[str | int]
    if device.type == "cuda":
        computes = [torch.cuda.get_device_name(device)]
    else:
        computes = [platform.machine(), torch.backends.cpu.get_cpu_capability(), _cpu_name(), torch.get_num_threads()]
    parts = [checkpoint_digest, data_digest, SCORER_VERSION, sequence_length, TOKENS_AT_ONCE]
    return digest([*parts, torch.__version__, *computes])


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def encode_heldout(corpus: Path) -> Sequence[HeldoutDocument]:
    """The corpus's held-out documents, encoded with its tokenizer."""
    manifest = read_manifest_record(corpus)
    encoder = load_encoder(corpus / "tokenizer.json", manifest.tokenizer_sha256, manifest.tokenizer_backend)
    rows = [(source, document_id, text.encode()) for source, document_id, text in read_heldout(corpus, manifest)]
    if not rows:
        raise Mistake(f"{corpus}: no held-out documents to score; raise data.heldout.fraction in a run of another name")
    tokens, lengths = encoder.encode([text for _, _, text in rows])
    of_each = np.split(tokens, np.cumsum(lengths)[:-1])
    ids = unique_ids([(source, document_id) for source, document_id, _ in rows])
    return [
        HeldoutDocument(id=document_id, source=source, num_bytes=len(text), tokens=of_one.tolist())
        for document_id, (source, _, text), of_one in zip(ids, rows, of_each, strict=True)
    ]


def unique_ids(documents: Sequence[tuple[str, str]]) -> list[str]:
    """An id for each (source, id) that no other of its source has: the gate compares two models document by document.
    Inputs may give several one id; the second is called ID#2, and so on, in the order of the held-out texts."""
    ids, given = [], set()
    times: Counter[tuple[str, str]] = Counter()
    for source, name in documents:
        times[source, name] += 1
        unique = name if times[source, name] == 1 else f"{name}#{times[source, name]}"
        while (source, unique) in given:  # one that was called so from the first
            times[source, name] += 1
            unique = f"{name}#{times[source, name]}"
        given.add((source, unique))
        ids.append(unique)
    return ids


def texts_digest(corpus: Path) -> str:
    """Digest of what is scored: the texts, not their tokens, so that models over different tokenizers can be
    compared."""
    hasher = hashlib.sha256()
    for source, document_id, text in read_heldout(corpus, read_manifest_record(corpus)):
        for part in (source, document_id, text):
            data = part.encode()
            hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()
