"""`headrace VERB CONFIG [section.key=value ...]`: one function a verb.

Each reads the config, calls the one function that does the work, and shows the result: a table for people, one JSON
record on stdout with `--json`. Progress and errors go to stderr. Exit codes: 0 done, 2 the user's mistake, 3 the work
failed, 4 the gate said no, 75 stopped on notice and resumable. Heavy packages are imported inside the verb that needs
them, so that `--help`, `status` and `submit` are instant.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pipeline.errors import GateRefused, Mistake, PipelineError
from pipeline.one_line import INTERRUPTED, lines_in_one_piece, one_line_errors

if TYPE_CHECKING:
    from data_prep.manifest import Manifest
    from pipeline.config import RunConfig
    from pipeline.workspace import Workspace

app = typer.Typer(
    name="headrace",
    help="From raw text to a promoted language model. Verbs take a run's YAML file and section.key=value overrides. "
    "--debug, anywhere, shows where an error came from.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def headrace(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def finite(value: float | None) -> float | None:
    """Click's ranges let through what compares with nothing."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


T = TypeVar("T", Path, list[str] | None)


def remember(context: typer.Context, value: T) -> T:
    """Leaves the words of the config with `main`, which knows of a verb that failed only its error."""
    if isinstance(context.obj, list):
        context.obj += [str(value)] if isinstance(value, Path) else value or []
    return value


Config = Annotated[Path, typer.Argument(help="The run's YAML file.", show_default=False, callback=remember)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Values that replace the file's: section.key=value.", show_default=False, callback=remember),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON record on stdout.")]
Step = Annotated[int | None, typer.Option(help="The checkpoint's step.", show_default="the newest")]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A verb's config and workspace, and the words that give the same config to another headrace process."""

    config: "RunConfig"
    workspace: "Workspace"
    words: tuple[str, ...]


def opened(path: Path, overrides: Sequence[str] | None) -> Opened:
    from pipeline.config import load_config
    from pipeline.workspace import open_workspace

    config = load_config(path, overrides or ())
    return Opened(config=config, workspace=open_workspace(config), words=(str(path.absolute()), *(overrides or ())))


def show(record: dict[str, Any], text: str, *, as_json: bool) -> None:
    print(json.dumps(record, ensure_ascii=False) if as_json else text)


@app.command()
def prep(
    config: Config,
    overrides: Overrides = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes, or workers of the Ray at RAY_ADDRESS; 0 is this process alone.",
            show_default="all cores",
        ),
    ] = None,
    keep_dropped: Annotated[
        bool, typer.Option("--keep-dropped", help="Also write what is dropped, and why, to dropped/.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take: a few units are tried.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build the corpus; nothing to do if it exists."""
    run = opened(config, overrides)
    if dry_run:
        show_forecast(run, workers, as_json=as_json)
        return
    from data_prep.build import prepare
    from data_prep.manifest import as_rows, read_manifest
    from data_prep.report.terminal import summary
    from data_prep.statistics import read_statistics
    from pipeline.monitor.views import corpus_progress
    from pipeline.runs import check_rebuild

    pinned = fetch_corpus(run, hash_inputs=True)
    if pinned is not None and not keep_dropped:
        folder, manifest = pinned, read_manifest(pinned)
    else:
        check_rebuild(run.config, run.workspace)
        with corpus_progress() as update:
            folder, manifest = prepare(
                run.config.data,
                run.workspace.corpora,
                run.config.name,
                workers=workers,
                keep_dropped=keep_dropped,
                progress=update,
            )
    store_corpus(run, folder)
    warn_of_few_heldout(run.config, manifest)
    report = folder / "report.html"
    record = {
        "corpus": str(folder),
        "digest": manifest.digest,
        "sources": as_rows(manifest),
        "report": str(report) if report.exists() else None,
    }
    show(record, "\n".join([corpus_text(record), summary(manifest, read_statistics(folder))]), as_json=as_json)


def warn_of_few_heldout(config: "RunConfig", manifest: "Manifest") -> None:
    from pipeline.promote.gate import too_few

    if config.promote is None:
        return
    held_out = {source.name: source.documents_heldout for source in manifest.sources}
    looks = config.total_steps // config.train.checkpoint.every_steps
    if warning := too_few(config.promote.gate, held_out, looks):
        print(f"headrace: WARNING: {warning}", file=sys.stderr)


def fetch_corpus(run: Opened, *, hash_inputs: bool = False) -> Path | None:
    """The run's corpus, if it is here by now: a remote may have had it."""
    if run.config.remote is None:
        return None
    from pipeline.durable import bring_corpus, bring_pins
    from pipeline.monitor.views import transfer_progress

    bring_pins(run.config, run.workspace)
    with transfer_progress("fetch") as moved:
        return bring_corpus(run.config, run.workspace, moved, hash_inputs=hash_inputs)


def store_corpus(run: Opened, folder: Path) -> None:
    """A finished corpus goes to the remote, if there is one."""
    from pipeline.durable import remote_of, upload_corpus
    from pipeline.monitor.views import transfer_progress

    remote = remote_of(run.config)
    if remote is not None:
        with transfer_progress("upload") as moved:
            upload_corpus(folder, remote.at(f"corpora/{folder.name}"), moved)


def show_forecast(run: Opened, workers: int | None, *, as_json: bool) -> None:
    from data_prep.dry_run import dry_run
    from data_prep.files import plain
    from data_prep.forecast import forecast_text

    found = dry_run(run.config.data, run.config.name, workers or len(os.sched_getaffinity(0)))
    show(plain(found), forecast_text(found), as_json=as_json)


def corpus_text(record: dict[str, Any]) -> str:
    rows = [
        f"  {row['source']}: {row['read']:,} documents read, {row['dropped']:,} dropped, {row['heldout']:,} held out, "
        f"{row['kept']:,} kept, {row['tokens']:,} tokens"
        for row in record["sources"]
    ]
    return "\n".join([f"corpus {record['corpus']}", *rows, f"  digest {record['digest']}"])


@app.command()
def train(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train or resume, as one rank: under torchrun, srun, Ray or alone."""
    from pipeline.train.checkpoint import steps_saved
    from pipeline.train.rank import train_rank

    run = opened(config, overrides)
    if not train_rank(run.config, run.workspace):  # rank 0 speaks for all
        return
    saved = steps_saved(run.workspace.run(run.config.name).checkpoints)
    show(
        {"run": run.config.name, "step": saved[-1]},
        f"run {run.config.name}: trained to step {saved[-1]}",
        as_json=as_json,
    )


@app.command()
def evaluate(config: Config, overrides: Overrides = None, step: Step = None, as_json: AsJson = False) -> None:
    """Score a checkpoint on the held-out documents and write its report."""
    from cluster.signals import StopNotice
    from pipeline.evaluate.stage import evaluate_step
    from pipeline.monitor.views import evaluation_progress
    from pipeline.notice import unless_told

    run = opened(config, overrides)
    with StopNotice(ctrl_c="once") as notice, evaluation_progress() as update:
        go_on = unless_told(notice, "a checkpoint was scored")

        def between(done: int, total: int) -> None:
            update(done, total)
            go_on()

        report = evaluate_step(run.config, run.workspace, step, between)
    scores = {
        name: {"value": score.value, "standard_error": score.standard_error} for name, score in report.scores.items()
    }
    record = {"run": report.run, "step": report.step, "report": report.digest, "scores": scores}
    lines = [
        f"  {name}: {_figure(score['value'])} ± {_figure(score['standard_error'])}" for name, score in scores.items()
    ]
    show(record, "\n".join([f"run {report.run}, step {report.step}", *lines]), as_json=as_json)


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


@app.command()
def promote(config: Config, overrides: Overrides = None, step: Step = None, as_json: AsJson = False) -> None:
    """Bring an evaluated checkpoint before the gate; exit 4 if it is refused."""
    from pipeline.evaluate.stage import pick_step
    from pipeline.promote.stage import promote_step

    run = opened(config, overrides)
    entry = promote_step(run.config, run.workspace, pick_step(run.config, run.workspace, step))
    assert entry.decision is not None
    record = {
        "verdict": entry.kind,
        "alias": entry.alias,
        "generation": entry.generation,
        "step": entry.checkpoint.step,
    }
    show(
        record | {"why": entry.decision.why()},
        f"step {entry.checkpoint.step}: {entry.kind}: {entry.decision.why()}",
        as_json=as_json,
    )
    if entry.kind == "refuse":
        raise GateRefused(f"step {entry.checkpoint.step} stays a candidate: {entry.decision.why()}")


@app.command()
def rollback(
    config: Config,
    overrides: Overrides = None,
    reason: Annotated[str, typer.Option(help="Why, for the journal.")] = "",
    as_json: AsJson = False,
) -> None:
    """Move the alias back to the checkpoint promoted before. The one rolled back, known by its digest, is not promoted
    again; another run's may be, though it have the same weights."""
    from pipeline.promote.registry import rollback as roll_back
    from pipeline.promote.stage import check_checkpoint, promotion_of

    run = opened(config, overrides)
    target = promotion_of(run.config)
    entry = roll_back(run.workspace.path, target.model, target.alias, check_checkpoint=check_checkpoint, reason=reason)
    record = {
        "alias": entry.alias,
        "generation": entry.generation,
        "run": entry.checkpoint.run,
        "step": entry.checkpoint.step,
    }
    show(
        record,
        f"{target.model}@{entry.alias} is back at step {entry.checkpoint.step} of {entry.checkpoint.run}; "
        "that checkpoint, the one rolled back, is not promoted again",
        as_json=as_json,
    )


@app.command()
def verify(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Replay the proof of the alias: journal, decisions, reports, every checkpoint file."""
    from pipeline.promote.stage import check_checkpoint, promotion_of
    from pipeline.promote.verify import verify as replay

    run = opened(config, overrides)
    target = promotion_of(run.config)
    facts = replay(run.workspace.path, target.model, target.alias, check_checkpoint)
    show(
        {"verified": True, "facts": facts}, "\n".join([*(f"ok  {fact}" for fact in facts), "verified"]), as_json=as_json
    )


@app.command()
def registry(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List every model's aliases, where they point, and what was promoted, refused and rolled back under them."""
    from data_prep.files import plain
    from pipeline.promote.listing import list_aliases, listing_text

    found = list_aliases(opened(config, overrides).workspace.path)
    show({"aliases": [plain(item) for item in found]}, listing_text(found), as_json=as_json)


@app.command("run")
def run_verb(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Do all of it, from wherever it stands: prep, train, evaluate each checkpoint, promote."""
    from pipeline.monitor.summary import render
    from pipeline.monitor.views import run_progress
    from pipeline.overview import overview
    from pipeline.scheduler import run as drive
    from pipeline.status import status_record

    run = opened(config, overrides)
    with run_progress(run.config, run.workspace.run(run.config.name)) as watch:
        worked = drive(run.config, run.workspace, run.words, watch)
    record = status_record(run.config, run.workspace) | {"worked": worked}
    if as_json:
        show(record, "", as_json=True)
        return
    if not worked:
        print(f"run {run.config.name}: nothing to do; it is trained, evaluated and judged")
    summary = overview(run.config, run.workspace, program(), [str(config), *(overrides or ())])
    print("\n" + render(summary, colour=sys.stdout.isatty()))


def program() -> str:
    """How the user called us, for commands to copy."""
    called = Path(sys.argv[0])
    return "headrace" if called.name != "headrace" or called.is_absolute() else str(called)


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="b200, h200, h100, a100, a100-40gb or cpu.", show_default="h200, or cpu for fp32 without GPUs"
        ),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="How many.", min=1, show_default="the config's ranks")] = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            help="Share of the peak to assume, 12LHT convention.",
            min=0.001,
            max=1,
            callback=finite,
            show_default="the GPU's usual",
        ),
    ] = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(help="For the cost.", min=0, callback=finite, show_default="none")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Tokens in the vocabulary.", min=1, show_default="the corpus's or tokenizer's")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would take before anything is submitted: parameters, memory at each ZeRO stage, time, cost."""
    from pipeline.config import load_config
    from pipeline.plan.estimate import make_plan, record_of
    from pipeline.plan.hardware import hardware_for
    from pipeline.plan.vocabulary import find_vocabulary
    from pipeline.workspace import workspace_of

    run = load_config(config, overrides or ())
    hardware = hardware_for(run, gpu=gpu, count=gpus, mfu=mfu, price_per_gpu_hour=price_per_gpu_hour)
    vocabulary = find_vocabulary(run, workspace_of(run), vocab_size)
    planned = make_plan(run, vocabulary, hardware)
    if as_json:
        show(record_of(planned), "", as_json=True)
    else:
        from pipeline.plan.table import render

        print(render(planned, colour=sys.stdout.isatty()))


@app.command()
def doctor(
    config: Config,
    overrides: Overrides = None,
    timeout_s: Annotated[
        float, typer.Option(help="Longest time of one check, in seconds.", min=1, callback=finite)
    ] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Prove this machine, this cluster and this ZeRO config before a long run; exit 3 if a check fails."""
    from cluster.world import is_rank

    run = opened(config, overrides)
    if is_rank(os.environ):
        from pipeline.doctor.rank import examine_rank

        report = examine_rank(run.config, run.workspace, timeout_s)
        if report is None:  # not rank 0, which speaks for all
            return
    else:
        from pipeline.doctor.job import examine

        report = examine(run.config, run.workspace, run.words, timeout_s)
    from pipeline.doctor.report import record_of, render

    show(record_of(report), render(report, colour=sys.stdout.isatty()), as_json=as_json)
    if report.failed:
        raise PipelineError(f"doctor of {report.run}: failed: {', '.join(report.failed)}")


@app.command()
def submit(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send the training as a job to the config's launcher: Slurm, Ray or this machine."""
    from cluster.job import launcher_for
    from cluster.preview import preview
    from pipeline.runs import begin
    from pipeline.scheduler import training_job

    run = opened(config, overrides)
    job = training_job(run.config, run.workspace.run(run.config.name), run.words)
    if dry_run:
        text = preview(job, run.config.cluster)
        show({"preview": text}, text, as_json=as_json)
        return
    fetch_corpus(run)
    begin(run.config, run.workspace, write=False)
    run.workspace.run(run.config.name).stop.unlink(missing_ok=True)  # it was meant for an earlier start
    record = launcher_for(run.config.cluster).submit(job)
    show(
        {"launcher": record.launcher, "id": record.id, "folder": str(record.folder)},
        f"job {record.id} sent to {record.launcher}; watch it with: headrace status {config}",
        as_json=as_json,
    )


@app.command()
def status(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say where a run stands: its job, steps, loss, checkpoints and alias."""
    from pipeline.config import load_config
    from pipeline.status import status_record, status_text
    from pipeline.workspace import workspace_of

    run = load_config(config, overrides or ())
    record = status_record(run, workspace_of(run))  # not made: who only looks leaves no folder behind
    main_score = run.promote.gate.main if run.promote else "heldout/bits_per_byte"
    show(record, status_text(record, main_score), as_json=as_json)


@app.command()
def logs(
    config: Config,
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print what a run's job has logged."""
    from cluster.job import launcher_of

    run = opened(config, overrides)
    job = the_job(run)
    for line in launcher_of(job, run.config.cluster).logs(job, follow=follow):
        print(line)


@app.command()
def cancel(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Tell a run's job, or whoever trains it by hand, to save and stop."""
    from data_prep.files import plain
    from pipeline.cancel import cancel_run

    run = opened(config, overrides)
    done = cancel_run(run.config, run.workspace)
    hint = f"; watch it with: headrace status {config}" if done.state is None and done.id else ""
    show(plain(done), done.said + hint, as_json=as_json)


def the_job(run: Opened) -> Any:
    from cluster.job import load_job

    job = load_job(run.workspace.run(run.config.name).job)
    if job is None:
        raise Mistake(f"run {run.config.name} has no job yet; send one with: headrace submit CONFIG")
    return job


@app.command()
def sample(
    config: Config,
    overrides: Overrides = None,
    prompt: Annotated[str, typer.Option(help="How the text begins.")] = "",
    tokens: Annotated[int, typer.Option(help="Tokens to generate at most.", min=1)] = 100,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token each time.", min=0, callback=finite)
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Another seed, another text.", min=0, max=2**63 - 1)] = 0,
    step: Annotated[int | None, typer.Option(help="The checkpoint's step.", show_default="the promoted one")] = None,
    as_json: AsJson = False,
) -> None:
    """Print text that the promoted checkpoint, or a given one, generates."""
    from pipeline.sample import sample_text

    run = opened(config, overrides)
    made = sample_text(
        run.config, run.workspace, prompt=prompt, max_tokens=tokens, temperature=temperature, seed=seed, step=step
    )
    print(f"headrace: step {made.step} of run {made.run} writes", file=sys.stderr)
    record = {"run": made.run, "step": made.step, "prompt": prompt, "text": made.text}
    show(record, prompt + made.text, as_json=as_json)


@app.command()
def trace(
    config: Config,
    step: Annotated[int, typer.Option(help="As in the journal; the first is 1.", show_default=False)],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """List the documents behind a training step, done or to come."""
    from pipeline.provenance import trace_step, trace_text, visit_record

    run = opened(config, overrides)
    found = trace_step(run.config, run.workspace, step)
    record = {"run": found.run, "step": step, "trained": found.trained, "batch_digest": found.batch_digest}
    show(
        record | {"documents": [visit_record(visit) for visit in found.visits]},
        trace_text(found),
        as_json=as_json,
    )


@app.command()
def where(
    config: Config,
    document: Annotated[str, typer.Option("--id", help="The document's id.", show_default=False)],
    overrides: Overrides = None,
    source: Annotated[str | None, typer.Option(help="Look there only.", show_default="all")] = None,
    until_step: Annotated[
        int | None, typer.Option(help="Look ahead, or less far.", min=0, show_default="the steps so far")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the training steps that saw a document."""
    from pipeline.provenance import visit_record, where_document, where_text

    run = opened(config, overrides)
    found = where_document(run.config, run.workspace, document, source, until_step)
    record = {
        "run": found.run,
        "id": document,
        "until_step": found.until_step,
        "sources": found.sources,
        "held_out": found.held_out,
    }
    show(record | {"visits": [visit_record(visit) for visit in found.visits]}, where_text(found), as_json=as_json)


@app.command()
def export(
    config: Config,
    out_folder: Annotated[Path, typer.Argument(help="New, empty, or an earlier export.", show_default=False)],
    overrides: Overrides = None,
    step: Annotated[int | None, typer.Option(help="The checkpoint's step.", show_default="the promoted one")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the promoted checkpoint, or a given one, as transformers and vLLM read it."""
    from pipeline.export import export_model

    run = opened(config, overrides)
    made, before = export_model(run.config, run.workspace, out_folder, step)
    replaced = {"run": before.run, "step": before.step, "checkpoint": before.checkpoint_digest} if before else None
    record = {"folder": str(out_folder), "run": made.run, "step": made.step, "checkpoint": made.checkpoint_digest}
    show(
        record | {"replaced": replaced, "files": sorted(made.files)},
        f"{out_folder}: step {made.step} of {made.run} (checkpoint {made.checkpoint_digest[:12]})"
        + (f", replaces step {before.step} of {before.run} ({before.checkpoint_digest[:12]})" if before else ""),
        as_json=as_json,
    )


def main() -> None:
    """The `headrace` command. `--debug` may stand anywhere."""
    lines_in_one_piece()
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    given: list[str] = []
    with one_line_errors(debug=debug, as_json="--json" in arguments, given=given):
        code = app(arguments or ["--help"], prog_name="headrace", standalone_mode=False, obj=given)
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt


if __name__ == "__main__":
    main()
