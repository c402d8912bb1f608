"""Of a failed job's log, the one line that helps."""

import pytest

from pipeline.last_words import reason

MISTAKE = "headrace: train.micro_batch_size=3: 8 sequences do not divide by 2 x 3; take 2 or 4"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["headrace: job local-1 starts", MISTAKE, "  ", "headrace: job local-1 ended with 2"], MISTAKE[10:]),
        (["headrace: job 12.0 starts on node1", MISTAKE, "torchrun: Error", "headrace: job 12.0 ended with 2"], MISTAKE[10:]),
        (["headrace: job a starts", MISTAKE, "headrace: job a ended with 2", "headrace: job b starts", "Killed"], "Killed"),
        (["headrace: job a starts", "Traceback", "RuntimeError: no", "bye", "headrace: job a ended with 1"], "RuntimeError: no"),
        (["headrace: job a starts", "headrace: job a ended with 1"], "it printed nothing"),
        (["headrace: job openings are no lines of a launcher"], "job openings are no lines of a launcher"),
        ([], "it printed nothing"),
    ],
)  # fmt: skip
def test_it_is_the_jobs_own_and_of_the_last_job(lines: list[str], said: str) -> None:
    assert reason(lines) == said
