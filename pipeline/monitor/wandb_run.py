"""Starting and ending a wandb run quietly, and what a journal line looks like there."""

import netrc
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pipeline.monitor.journal import Line

ActiveMode = Literal["online", "offline", "disabled"]
Mode = ActiveMode | Literal["auto"]

STEP = "train/step"
"""The axis of every chart."""

INIT_TIMEOUT_S = 30.0
"""How long to wait for the server before going on offline; wandb's own default of 90 s delays a start too long."""

CLOSE_TIMEOUT_S = 60.0
"""How long to wait for the last lines to reach the server; the local files have them in any case."""


def resolve_mode(mode: Mode, environment: Mapping[str, str]) -> ActiveMode:
    """ "auto" made definite: what WANDB_MODE says, else online if a key is there, else offline."""
    if mode != "auto":
        return mode
    asked = environment.get("WANDB_MODE", "")
    if asked in ("online", "offline", "disabled"):
        return asked  # type: ignore[return-value]
    return "online" if has_key(environment) else "offline"


def has_key(environment: Mapping[str, str]) -> bool:
    """True if wandb would find a key without asking: WANDB_API_KEY, or the server's entry in the netrc file."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    path = environment.get("NETRC") or Path(environment.get("HOME", "~")).expanduser() / ".netrc"
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def start(folder: Path, mode: ActiveMode, *, project: str, name: str, run_id: str, config: dict[str, Any]) -> Any:
    """A wandb run that writes to `folder/wandb` and prints nothing. Raises what wandb raises."""
    import wandb

    settings = wandb.Settings(
        silent=True, quiet=True, console="off", disable_git=True, save_code=False, disable_job_creation=True,
        init_timeout=INIT_TIMEOUT_S,
    )  # fmt: skip
    (folder / "wandb").mkdir(parents=True, exist_ok=True)  # wandb turns to a temporary folder if it is not there
    wandb.setup(settings=settings)  # else the login tells where it found the key
    try:
        run = wandb.init(
            dir=folder,
            mode=mode,
            project=project,
            name=name,
            id=run_id,
            config=config,
            resume="allow",
            settings=settings,
        )
    except Exception:
        wandb.teardown()  # its service would hold the run's id, and a second try offline would fail
        raise
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run


def finish(run: Any) -> None:
    """Ends a run. Raises TimeoutError if the server does not take the rest in time; wandb itself waits for days."""
    import wandb

    failed: list[Exception] = []

    def end() -> None:
        try:
            run.finish()
            wandb.teardown()  # waits for wandb's service, which still writes the local file when `finish` returns
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=end, name="wandb-finish", daemon=True)
    thread.start()
    thread.join(CLOSE_TIMEOUT_S)
    if thread.is_alive():
        raise TimeoutError(f"the server did not answer for {CLOSE_TIMEOUT_S:.0f} s; `wandb sync` uploads the rest")
    if failed:
        raise failed[0]


def shown_figures(line: Line) -> dict[str, float | int]:
    """What wandb shows of a journal line, with the training step as its axis; empty for lines that it does not show."""
    step = line.get("step")
    if not isinstance(step, int) or line["kind"] not in _SHOWN:
        return {}
    figures = {name: value for name, value in _SHOWN[line["kind"]](line).items() if _is_number(value)}
    return {STEP: step, **figures} if figures else {}


def alert_of(line: Line) -> tuple[str, str] | None:
    """Title and text of what a journal line warns of; None if it warns of nothing."""
    if line["kind"] != "guard":
        return None
    at = f" at step {line['step']:,}" if "step" in line else ""  # of two with one title wandb sends one a minute
    return f"headrace: {line.get('verdict')}{at}", str(line.get("problem"))


def _step(line: Line) -> dict[str, Any]:
    figures = ("loss", "z_loss", "lr", "grad_norm", "tokens_per_s", "step_s", "slowest_rank", "slowest_over_median")
    return {"tokens": line.get("tokens"), **{f"train/{name}": line.get(name) for name in figures}}


def _checkpoint(line: Line) -> dict[str, Any]:
    return {f"checkpoint/{name}": line.get(name) for name in ("size_bytes", "save_s")}


def _upload(line: Line) -> dict[str, Any]:
    return {f"upload/{name}": line.get(name) for name in ("size_bytes", "upload_s")}


def _eval(line: Line) -> dict[str, Any]:
    """`eval/heldout/bits_per_byte`, and beside it its `/standard_error`."""
    found: dict[str, Any] = {}
    for name, score in line.get("scores", {}).items():
        found[f"eval/{name}"] = score.get("value")
        found[f"eval/{name}/standard_error"] = score.get("standard_error")
    return found


def _promote(line: Line) -> dict[str, Any]:
    return {"promote/promoted": int(line.get("verdict") == "promote"), "promote/generation": line.get("generation")}


def _guard(line: Line) -> dict[str, Any]:
    return {f"guard/{line.get('verdict')}": 1}


_SHOWN = {
    "step": _step,
    "checkpoint": _checkpoint,
    "upload": _upload,
    "eval": _eval,
    "promote": _promote,
    "guard": _guard,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
