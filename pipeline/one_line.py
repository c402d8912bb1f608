"""What the command line makes of errors: one line each, with what to do, and an exit code."""

import io
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Never

import typer

from pipeline.errors import HEADRACE_ERRORS, Mistake

UsageError: Any = typer.BadParameter.__base__
"""Click's, wherever typer keeps it."""
INTERRUPTED = 130


@contextmanager
def one_line_errors(*, debug: bool, as_json: bool, given: Sequence[str] = ()) -> Iterator[None]:
    """Turns our errors into one line and their exit code; with `--debug` the traceback is shown. `given` are the words
    of the config, once they are known."""
    try:
        yield
    except HEADRACE_ERRORS as error:
        if debug:
            raise
        give_up(to_copy(with_notes(error), given), error.exit_code, as_json=as_json)
    except UsageError as error:
        see = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        give_up(error.format_message().rstrip(".") + see, Mistake.exit_code, as_json=as_json)
    except OSError as error:  # a full disk, a lost mount: the system's own words, and what is safe
        if debug:
            raise
        said = with_notes(error)
        print(f"headrace: {said}; what was recorded as complete is intact, mend it and run again", file=sys.stderr)
        sys.exit(3)
    except (KeyboardInterrupt, typer.Abort):
        print("headrace: interrupted; what was recorded is kept, run it again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)


def give_up(said: str, code: int, *, as_json: bool) -> Never:
    print(f"headrace: {said}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": said, "exit_code": code}))
    sys.exit(code)


def to_copy(said: str, given: Sequence[str]) -> str:
    """An error with the config that was given where it proposes `headrace VERB CONFIG`."""
    words = shlex.join(given)
    return re.sub(r"(?<=headrace )([a-z]+) CONFIG\b", lambda found: f"{found[1]} {words}", said) if given else said


def with_notes(error: BaseException) -> str:
    """An error, and what else went wrong behind it, in one line."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def lines_in_one_piece() -> None:
    """Makes a printed line one write, also under `python -u`, as launchers start ranks: there `print` writes its text
    and then its end, and ranks that say the same at once share a log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.RawIOBase):
            stream.reconfigure(line_buffering=True, write_through=False)
