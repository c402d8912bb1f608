"""What each step of a build that reads text costs, beside tokenizing the same text: no step may cost more.

    python -m benchmarks.prep_steps --json

One process on one core reads, cleans, scores, compares and encodes the text part by part, as a build cuts it, each part
once: the tokenizer meets new words, as it does in a build. The steps take turns, so that a slow minute of the machine
falls on all alike. The text is the full side's of prep.py: manuals, reference pages, code. Rates are of the bytes of
text that a step is given; `slowest_step_over_encode` is the slowest step's over the tokenizer's with its check: above
1, tokenizing costs the most.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prep import mixed, tokenizer_json
from benchmarks.record import CACHE, parser, report
from benchmarks.text_of_packages import text_of_packages
from data_prep import keys
from data_prep.clean import clean_all
from data_prep.config import CorpusConfig
from data_prep.encoding import checked_halvings
from data_prep.filters import scores
from data_prep.filters.c4 import c4_lines
from data_prep.filters.characters import marked
from data_prep.jsonl import read_lines
from data_prep.minhash import band_keys, bands_for
from data_prep.shingles import word_hashes
from data_prep.texts import Texts
from data_prep.tokenizer import FAST, Encoder

ENCODE = "encode, with its check"


def steps_of(lines: bytes, texts: Texts, encoder: Encoder) -> dict[str, Callable[[], Any]]:
    """Each step over the same texts, which are those of the lines."""
    marks, words = marked(texts), word_hashes(texts)
    shape = bands_for(0.72)

    def encode() -> None:
        tokens, lengths = encoder.encode_texts(texts)
        ends = np.cumsum(lengths)
        for place in range(0, len(texts), 2 ** checked_halvings(1 << 30)):
            assert encoder.agrees(texts[place], tokens[ends[place] - lengths[place] : ends[place]])

    return {
        ENCODE: encode,
        "read": lambda: read_lines(lines, 0, "text", "text", "id"),
        "content hashes": lambda: keys.content_halves_of(texts),
        "clean": lambda: clean_all(texts),
        "kinds of bytes": lambda: marked(texts),
        "characters": lambda: scores.characters(marks),
        "words": lambda: scores.words(marks),
        "lines": lambda: scores.lines(marks),
        "short lines": lambda: scores.short_lines(marks),
        "n-grams": lambda: scores.ngrams(marks),
        "C4": lambda: scores.c4(marks),
        "C4's lines": lambda: c4_lines(marks),
        "hashes of words": lambda: word_hashes(texts),
        "MinHash of hashes": lambda: band_keys(words, *shape),
    }


def measure(cache: Path, megabytes: int) -> dict[str, float]:
    """Step -> MB/s of one core."""
    encoder = Encoder(tokenizer_json(cache).read_bytes(), FAST)
    seconds: dict[str, float] = {}
    size_mb = 0.0
    for place, lines in enumerate(parts(text_of_packages(cache, mixed("full", megabytes)))):
        texts = clean_all(read_lines(lines, 0, "text", "text", "id")[1])
        size_mb += len(texts.data) / 1e6 if place else 0
        for step, run in steps_of(lines, texts, encoder).items():
            began = time.process_time()
            run()
            seconds[step] = seconds.get(step, 0.0) + (time.process_time() - began if place else 0)
    return {step: size_mb / taken for step, taken in seconds.items()}


def parts(folder: Path) -> Iterator[bytes]:
    """The lines of all files in pieces of a build's usual size. The first is not counted: it warms caches."""
    for file in sorted(folder.glob("*.jsonl")):
        with file.open("rb") as lines:
            while piece := lines.readlines(CorpusConfig.unit_bytes):
                yield b"".join(piece)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=200)
    options.add_argument("--cache", type=Path, default=CACHE)
    chosen = options.parse_args()
    rates = measure(chosen.cache, chosen.megabytes)
    print("| step | MB/s | of encoding |\n| --- | ---: | ---: |")
    for step, rate in sorted(rates.items(), key=lambda item: item[1]):
        print(f"| {step} | {rate:,.0f} | {rate / rates[ENCODE]:.2f} |")
    slowest = min(rate for step, rate in rates.items() if step != ENCODE)
    ratio = {"slowest_step_over_encode": slowest / rates[ENCODE]}
    report("prep_steps", ratio, {"slowest_step_over_encode": 1}, as_json=chosen.json, megabytes_per_s=rates)


if __name__ == "__main__":
    main()
