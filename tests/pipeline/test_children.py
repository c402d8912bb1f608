"""What the scheduler makes of an evaluation's end."""

import sys
import time

import pytest

from pipeline import children
from pipeline.children import Evaluation


@pytest.mark.parametrize(("code", "failed"), [(0, set()), (3, {"d1"}), (75, set()), (-9, {"d1"})])
def test_one_that_was_told_to_stop_has_not_failed(monkeypatch: pytest.MonkeyPatch, code: int, failed: set[str]) -> None:
    end = f"sys.exit({code})" if code >= 0 else f"os.kill(os.getpid(), {-code})"
    monkeypatch.setattr(children, "verb", lambda *_: [sys.executable, "-c", f"import os, sys; {end}"])
    evaluation = Evaluation([])
    evaluation.start(5, "d1")
    while evaluation.step is not None:
        evaluation.poll()
        time.sleep(0.01)
    assert evaluation.failed == failed


def test_one_that_does_not_listen_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    monkeypatch.setattr(children, "verb", lambda *_: [sys.executable, "-c", deaf])
    monkeypatch.setattr(children, "GRACE_S", 0.5)
    evaluation = Evaluation([])
    evaluation.start(5, "d1")
    evaluation.end()
    assert evaluation.step is None
