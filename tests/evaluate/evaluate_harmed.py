"""An evaluation that is hit before it scores its CALLth batch: evaluate_harmed.py SIGNAL CALL CONFIG."""

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial

from pipeline import cli
from pipeline.evaluate import bits_per_byte, heldout
from pipeline.evaluate.bits_per_byte import Window
from pipeline.model.decoder import Decoder

window_nlls = bits_per_byte.window_nlls
calls = 0


def harmed(model: Decoder, batch: Sequence[Window]) -> list[float]:
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    return window_nlls(model, batch)


if __name__ == "__main__":
    heldout.score_documents = partial(bits_per_byte.score_documents, tokens_at_once=256)  # enough batches
    bits_per_byte.window_nlls = harmed
    with cli.one_line_errors(debug=False, as_json=False):
        cli.app(["evaluate", sys.argv[3]])
