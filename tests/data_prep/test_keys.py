"""Keys are frozen: they decide the order, the held-out documents and the sample of every corpus ever built."""

from pathlib import Path

from data_prep import keys
from data_prep.tally import Tally, sample_limits
from data_prep.texts import texts_of
from tests.data_prep.corpora import config


def test_keys_are_what_they_were() -> None:
    seeds = [keys.purpose_seed(purpose, 0, "prose") for purpose in keys.PURPOSES]
    found = [column.tolist() for column in keys.document_keys(["doc-1"], seeds)]
    assert found == [[0x25B1F3FC8732A9B6], [0xAFA9388B976B2EB9], [0x55442FC2C5E0C8DD]]
    assert keys.content_halves("größer".encode()) == (0x29C22B29B295037D, 0xE2999C9F23A63A3C)
    high, low = keys.content_halves_of(texts_of([b"", "größer".encode()]))
    assert (high[1], low[1]) == keys.content_halves("größer".encode())


def test_seed_source_and_purpose_each_make_other_keys() -> None:
    found = {
        keys.document_key(purpose, seed, source, "doc-1")
        for purpose in keys.PURPOSES
        for seed in (0, 1)
        for source in ("prose", "code")
    }
    assert len(found) == 12


def test_the_tokenizers_sample_is_shared_by_weight() -> None:
    tallies = [
        Tally(source=name, documents_read=1, dropped={}, text_bytes=text_bytes)
        for name, text_bytes in (("prose", 64_000_000), ("code", 100))
    ]
    prose, code = sample_limits(config(Path("/nowhere")), tallies)
    assert abs(prose / 2**64 - 2 / 3) < 1e-6  # weight 2 of 3, and exactly `sample_bytes` of text
    assert code == 2**64 - 1
