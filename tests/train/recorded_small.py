"""One rank of a small run that leaves behind, as JSON, what it renamed, wrote to the journal and synced:
recorded_small.py LEFT CONFIG CORPUS."""

import json
import sys
from pathlib import Path

import pytest

from tests.disk import record_disk
from tests.train import train_small

if __name__ == "__main__":
    left, *arguments = sys.argv[1:]
    done = record_disk(pytest.MonkeyPatch())
    code = train_small.main(*arguments)
    Path(left).write_text(json.dumps(done))
    raise SystemExit(code)
