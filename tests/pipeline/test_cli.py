"""What the command line makes of errors."""

import pytest

from pipeline.cli import one_line_errors
from pipeline.errors import Mistake


@pytest.mark.parametrize(("error", "code"), [(Mistake("train.lr: no"), 2), (OSError("the disk is gone"), 3)])
def test_an_error_is_one_line_with_its_notes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    error.add_note("nor could step 4 be saved")
    with pytest.raises(SystemExit) as ended, one_line_errors(debug=False, as_json=False):
        raise error
    assert ended.value.code == code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"headrace: {error}; nor could step 4 be saved")
