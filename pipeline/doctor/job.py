"""`headrace doctor` from outside: the config's ranks are started as training would start them, and their report read.

Imports no torch: what is heavy happens in the ranks.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace

from cluster.job import JobRecord, Launcher, launcher_for, living_job, load_exit
from data_prep.files import read_record
from pipeline.config import RunConfig
from pipeline.doctor.report import REPORT_NAME, Report
from pipeline.errors import Mistake, PipelineError
from pipeline.last_words import last_words
from pipeline.scheduler import training_job
from pipeline.workspace import RunFolder, Workspace


def examine(config: RunConfig, workspace: Workspace, words: Sequence[str], timeout_s: float) -> Report:
    """Sends the examination to the config's launcher and waits for its end. `words` are the YAML file and overrides.

    Raises Mistake if one is under way or the ranks refuse the config, PipelineError if they left no report.
    """
    folder = RunFolder(path=workspace.run(config.name).path / "doctor")
    launcher = launcher_for(config.cluster)
    if living_job(folder.job, launcher):
        raise Mistake(f"run {config.name} is being examined already; its log: {folder.job / 'log.txt'}")
    shutil.rmtree(folder.path, ignore_errors=True)
    spec = replace(
        training_job(config, folder, ()),
        name=f"headrace-doctor-{config.name}",
        command=("-m", "pipeline.cli", "doctor", *words, "--timeout-s", str(timeout_s)),
    )
    job = launcher.submit(spec)
    try:
        relay(launcher, job)
    except KeyboardInterrupt:
        launcher.cancel(job)
        raise
    try:
        return read_record(Report, folder.path / REPORT_NAME)
    except FileNotFoundError:
        kind = Mistake if load_exit(job) == Mistake.exit_code else PipelineError
        raise kind(f"the ranks left no report: {last_words(folder)}") from None


def relay(launcher: Launcher, job: JobRecord) -> None:
    """Passes on what the ranks say of their progress, until the job ends."""
    for line in launcher.logs(job, follow=True):
        if line.startswith("headrace: doctor: "):
            print(line, file=sys.stderr, flush=True)
