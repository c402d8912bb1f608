"""What is sent to Slurm and what is made of its answers, without a Slurm. `python -m tests.cluster.test_slurm_script`
writes slurm/train.sbatch anew after a change of the script."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config import ClusterConfig, SlurmConfig
from cluster.errors import ClusterMistake
from cluster.job import JobSpec, JobState, launcher_for, load_job
from cluster.slurm import NoController, batch_script, job_comment, job_state, sbatch_flags, slurm_word

EXAMPLE = Path(__file__).parents[2] / "slurm" / "train.sbatch"
SPEC = JobSpec(
    name="quickstart",
    command=("-m", "pipeline.cli", "train", "configs/cluster.yaml"),
    folder=Path("/shared/workspace/runs/quickstart/job"),
    nodes=2,
    processes_per_node=8,
    gpus_per_node=8,
    env={"OMP_NUM_THREADS": "8", "NCCL_DEBUG": "WARN"},
    python="/shared/headrace/.venv/bin/python",
    workdir=Path("/shared/headrace"),
)
CONFIG = ClusterConfig(
    launcher="slurm",
    slurm=SlurmConfig(
        partition="gpu",
        time_limit_min=24 * 60,
        notice_s=300,
        cpus_per_node=96,
        flags=("--exclusive",),
        setup=("ulimit -n 65536",),
    ),
)


def test_the_example_that_users_read_is_what_would_be_sent() -> None:
    assert EXAMPLE.read_text() == batch_script(SPEC, CONFIG), "python -m tests.cluster.test_slurm_script writes it anew"


def test_the_script_is_valid_bash_and_holds_odd_names_together(tmp_path: Path) -> None:
    odd = replace(SPEC, folder=tmp_path / "it's 100% odd", command=("-c", "print('$HOME')"), env={"A": 'a "b" $c'})
    script = batch_script(odd, CONFIG)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    variables = script.split("# ---- the same")[0] + '\nprintf "%s\\n" "$folder" "${command[@]}" "$A"'
    shown = subprocess.run(["bash"], input=variables, text=True, check=True, capture_output=True).stdout
    assert shown.splitlines() == [str(odd.folder), *odd.command, 'a "b" $c']


def test_flags_of_a_small_job_leave_the_rest_to_the_cluster() -> None:
    small = sbatch_flags(replace(SPEC, nodes=1, processes_per_node=2, gpus_per_node=0), SlurmConfig())
    assert "--cpus-per-task=2" in small, "one CPU a rank; Slurm's own default is one for all"
    for choice in ("partition", "account", "qos", "time", "gpus"):
        assert not any(flag.startswith(f"--{choice}") for flag in small)


def test_flags_always_ask_for_what_resuming_needs() -> None:
    flags = sbatch_flags(SPEC, SlurmConfig(notice_s=77, flags=("--signal=B:USR1@5",)))
    assert {"--requeue", "--open-mode=append", "--ntasks-per-node=1", "--signal=B:USR1@77"} <= set(flags)
    assert flags[-1] == "--signal=B:USR1@5", "the user's own flags come last, where they win"


def test_a_percent_sign_in_a_path_is_no_pattern() -> None:
    flags = sbatch_flags(replace(SPEC, folder=Path("/runs/5%j")), SlurmConfig())
    assert "--output=/runs/5%%j/log.txt" in flags


@pytest.mark.parametrize(
    ("slurm", "code", "cancelled", "state"),
    [
        ("PENDING", None, False, JobState.PENDING),
        ("RUNNING", None, False, JobState.RUNNING),
        ("COMPLETING", 0, False, JobState.RUNNING),
        # requeued: an earlier stretch's record must not make it look finished
        ("PENDING", 75, False, JobState.PENDING),
        ("REQUEUED", 75, False, JobState.PENDING),
        ("COMPLETED", 0, False, JobState.SUCCEEDED),
        ("FAILED", 75, False, JobState.STOPPED),
        ("FAILED", 1, False, JobState.FAILED),
        ("FAILED", None, False, JobState.FAILED),
        ("OUT_OF_MEMORY", None, False, JobState.FAILED),
        ("CANCELLED", 75, False, JobState.CANCELLED),
        ("CANCELLED", None, False, JobState.CANCELLED),
        ("CANCELLED", 0, True, JobState.SUCCEEDED),
        ("TIMEOUT", None, False, JobState.STOPPED),
        ("NODE_FAIL", None, False, JobState.STOPPED),
        ("TIMEOUT", None, True, JobState.CANCELLED),
        # forgotten by Slurm: our record remains
        (None, 0, False, JobState.SUCCEEDED),
        (None, 75, False, JobState.STOPPED),
        (None, None, False, JobState.UNKNOWN),
    ],
)
def test_job_state(slurm: str | None, code: int | None, cancelled: bool, state: JobState) -> None:
    assert job_state(slurm, code, cancelled=cancelled) is state


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Puts shell scripts in place of Slurm's commands."""
    folder.mkdir()
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin" if "sbatch" in commands else str(folder))


def spec_in(folder: Path) -> JobSpec:
    return replace(SPEC, folder=folder / "job")


def test_without_slurm_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path / "bin", monkeypatch)
    with pytest.raises(ClusterMistake, match="squeue is not on the PATH: submit from a login node") as caught:
        launcher_for(CONFIG).submit(spec_in(tmp_path))
    assert "\n" not in str(caught.value)


UNCONFIGURED = """squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
squeue: error: fetch_config: DNS SRV lookup failed
squeue: error: _establish_config_source: failed to fetch config
squeue: fatal: Could not establish a configuration source"""


@pytest.mark.parametrize(
    ("conf", "said", "words"),
    [
        (None, UNCONFIGURED, "squeue tried its default slurm.conf, else DNS, as SLURM_CONF is not set, and says: "),
        (
            "/etc/x.conf",
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
            "squeue tried SLURM_CONF=/etc/x.conf, and says: slurm_load_jobs error: Unable to contact slurm controller",
        ),
    ],
)
def test_where_no_controller_answers_one_line_says_so_and_what_to_do(
    conf: str | None, said: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    if conf:
        monkeypatch.setenv("SLURM_CONF", conf)
    (tmp_path / "said").write_text(said)
    fails = f"cat {tmp_path}/said >&2; exit 1"
    fake(tmp_path / "bin", monkeypatch, squeue=fails, sbatch=fails)
    with pytest.raises(NoController) as told:
        launcher_for(CONFIG).submit(spec_in(tmp_path))
    assert str(told.value).startswith("no Slurm controller answers from here: ")
    assert words in str(told.value)
    assert "resolve_ctls" not in str(told.value)
    assert str(told.value).endswith("or set cluster.launcher=local")
    assert "\n" not in str(told.value)
    assert slurm_word("42") is None, "a job that is watched through an outage goes on"
    fake(tmp_path / "later", monkeypatch, squeue="", sbatch=fails)
    with pytest.raises(NoController):
        launcher_for(CONFIG).submit(spec_in(tmp_path))


def test_a_refusal_is_passed_on_and_leaves_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(
        tmp_path / "bin",
        monkeypatch,
        squeue="",
        sbatch="echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1",
    )
    with pytest.raises(ClusterMistake, match=r"Slurm refused the job .*invalid partition specified: gpu"):
        launcher_for(CONFIG).submit(spec_in(tmp_path))
    assert load_job(tmp_path / "job") is None


def test_a_job_whose_submitter_died_before_recording_it_is_found_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comment = job_comment(tmp_path / "job")
    fake(tmp_path / "bin", monkeypatch, squeue=f"echo '41 (null)'; echo '42 {comment}'", sbatch="exit 1")
    assert launcher_for(CONFIG).submit(spec_in(tmp_path)).id == "42"


def test_the_script_goes_in_by_stdin_and_the_record_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path / "bin", monkeypatch, squeue="", sbatch=f"cat >{tmp_path}/sent; echo '43;cluster'")
    record = launcher_for(CONFIG).submit(spec_in(tmp_path))
    assert record.id == "43"
    assert load_job(tmp_path / "job") == record
    assert (tmp_path / "sent").read_text() == batch_script(spec_in(tmp_path), CONFIG)


if __name__ == "__main__":
    EXAMPLE.write_text(batch_script(SPEC, CONFIG))
