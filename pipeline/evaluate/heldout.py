"""Scores a checkpoint on its corpus's held-out documents, and binds the report to the checkpoint's digest."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.manifest import read_manifest
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
    encoder = load_encoder(corpus / "tokenizer.json")
    rows = list(read_heldout(corpus, read_manifest(corpus)))
    if not rows:
        raise Mistake(f"{corpus}: no held-out documents to score; raise data.heldout.fraction")
    return [
        HeldoutDocument(id=document_id, source=source, num_bytes=len(text.encode()), tokens=tokens)
        for (source, document_id, text), tokens in zip(
            rows, encoder.encode([text for _, _, text in rows]), strict=True
        )
    ]


def texts_digest(corpus: Path) -> str:
    """Digest of what is scored: the texts, not their tokens, so that models over different tokenizers can be compared."""
    hasher = hashlib.sha256()
    for source, document_id, text in read_heldout(corpus, read_manifest(corpus)):
        for part in (source, document_id, text):
            data = part.encode()
            hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()
