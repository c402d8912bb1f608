"""Rules for source files.

Codex      Chen et al. 2021, "Evaluating Large Language Models Trained on Code", 3.1
StarCoder  Li et al. 2023, "StarCoder: may the source be with you!", 3 (over The Stack, Kocetkov et al. 2022)
"""

from data_prep.filters.scored import Reasons, Scores


def code_shape(
    scores: Scores,
    *,
    min_bytes: int = 100,
    max_line_length: int = 1_000,
    max_mean_line_length: float = 100.0,
    min_alphanumeric: float = 0.25,
) -> Reasons:
    """Codex and StarCoder: no line over 1,000 characters, 100 on average at most, a quarter alphanumeric or more.

    Non-ASCII characters count as letters. `too_short`, under 100 bytes, is ours: such are empty packages and stubs.
    """
    size, newlines = scores["num_bytes"], scores["num_newlines"]
    yield "too_short", size < min_bytes
    yield "longest_line", scores["longest_line"] > max_line_length
    yield "mean_line_length", (scores["num_characters"] - newlines) / (newlines + 1) > max_mean_line_length
    yield "not_alphanumeric", scores["symbol_bytes"] > (1 - min_alphanumeric) * size


def generated_code(scores: Scores) -> Reasons:
    """Codex drops likely auto-generated files; like StarCoder, we look for a note in the first ten lines."""
    yield "generated", scores["generated_notes"] > 0
