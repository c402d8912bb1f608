"""Scores a checkpoint on its corpus's held-out documents, and binds the report to the checkpoint's digest."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_prep.manifest import read_manifest_record
from data_prep.shards import read_heldout
from data_prep.tokenizer import load_encoder
from pipeline.errors import Mistake
from pipeline.evaluate.bits_per_byte import SCORER_VERSION, HeldoutDocument, score_documents
from pipeline.evaluate.report import EvalReport, heldout_scores, sealed
from pipeline.model.load import load_model
from pipeline.train.checkpoint import WEIGHTS_NAME, verify_checkpoint


def evaluate_heldout(
    checkpoint_path: Path, corpora: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> EvalReport:
    """The report of one checkpoint. Its weights are verified before they are used. Raises CorruptCheckpoint."""
    checkpoint = verify_checkpoint(checkpoint_path, only=[WEIGHTS_NAME])
    corpus = corpora / checkpoint.corpus
    documents = encode_heldout(corpus)
    model = load_model(
        checkpoint_path / WEIGHTS_NAME, checkpoint.model, checkpoint.vocab_size, checkpoint.end_of_text_id
    )
    items = score_documents(model, documents, checkpoint.sequence_length, progress=progress)
    return sealed(
        EvalReport(
            run=checkpoint.run,
            step=checkpoint.step,
            checkpoint_digest=checkpoint.digest,
            suite="heldout",
            data_digest=texts_digest(corpus),
            scorer_version=SCORER_VERSION,
            scores=heldout_scores(items),
            items=items,
        )
    )


def encode_heldout(corpus: Path) -> Sequence[HeldoutDocument]:
    """The corpus's held-out documents, encoded with its tokenizer."""
    manifest = read_manifest_record(corpus)
    encoder = load_encoder(corpus / "tokenizer.json", manifest.tokenizer_sha256, manifest.tokenizer_backend)
    rows = [(source, document_id, text.encode()) for source, document_id, text in read_heldout(corpus, manifest)]
    if not rows:
        raise Mistake(f"{corpus}: no held-out documents to score; raise data.heldout.fraction")
    tokens, lengths = encoder.encode([text for _, _, text in rows])
    of_each = np.split(tokens, np.cumsum(lengths)[:-1])
    return [
        HeldoutDocument(id=document_id, source=source, num_bytes=len(text), tokens=of_one.tolist())
        for (source, document_id, text), of_one in zip(rows, of_each, strict=True)
    ]


def texts_digest(corpus: Path) -> str:
    """Digest of what is scored: the texts, not their tokens, so that models over different tokenizers can be
    compared."""
    hasher = hashlib.sha256()
    for source, document_id, text in read_heldout(corpus, read_manifest_record(corpus)):
        for part in (source, document_id, text):
            data = part.encode()
            hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()
