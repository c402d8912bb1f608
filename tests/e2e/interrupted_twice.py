"""headrace to which a second Ctrl-C comes before the first one is obeyed: interrupted_twice.py VERB ..."""

from typing import Any

from pipeline import cli, scheduler


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    scheduler.stop = interrupted  # what the first one leads to
    cli.main()
