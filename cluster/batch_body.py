"""The part of a Slurm batch script that is the same for every job.

What differs stands above it, as flags and variables: folder, python, nodes, processes_per_node, command.
`slurm/train.sbatch` shows both together.
"""

BODY = r"""# ---- the same for every job from here on ---------------------------------------------------------
# One stretch of the job: a requeue starts this script again under the same job id.
attempt=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
place=$folder/attempts/$attempt
world_size=$((nodes * processes_per_node))
mkdir -p "$place"
rm -f "$folder/exit.json"
export HEADRACE_JOB_ID=$SLURM_JOB_ID
echo "headrace: job $attempt starts on $SLURM_JOB_NODELIST"

# Before the time limit Slurm signals this shell only (B:USR1); before a preemption or a cancel it sends TERM, at some
# sites USR1 too. The ranks of all nodes learn it from a file: they save, and stop together.
noticed=
notice() {
  noticed=$1
  touch "$place/stop"
  echo "headrace: $1: told the ranks to save and stop"
}
trap 'notice USR1' USR1
trap 'notice TERM' TERM

# Nodes and their network are shared: the port comes from the job id, so that two jobs do not meet at one rendezvous.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((10000 + SLURM_JOB_ID % 20000))

# A single rank needs no torchrun. torchrun would answer TERM by killing its ranks after 30 s, however long the site
# lets them save; so it ignores TERM, and cluster.rank, which the file reaches, stops them instead.
torchrun=()
if [ "$world_size" -gt 1 ]; then
  torchrun=(-m torch.distributed.run --nnodes="$nodes" --nproc-per-node="$processes_per_node" --max-restarts=0
    --rdzv-backend=static --master-addr="$head" --master-port="$port" --signals-to-handle=SIGINT)
fi
# --cpus-per-task: since Slurm 22.05 srun does not take it over from sbatch. --wait=0: ranks may end at different times.
srun --nodes="$nodes" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 --wait=0 \
  bash -c 'trap "" TERM; PET_NODE_RANK=$SLURM_NODEID exec "$@"' srun-task \
  "$python" "${torchrun[@]}" -m cluster.rank "$place" "${command[@]}" &
srun=$!

# A trap ends `wait` early, so wait until srun is really gone.
code=1
while kill -0 "$srun" 2>/dev/null; do
  wait "$srun"
  code=$?
done
# srun and torchrun know only that something failed; the ranks wrote down how they ended. 75: stopped, run me again.
code=$("$python" -m cluster.outcome "$folder" "$attempt" "$world_size" "$code") || code=3
echo "headrace: job $attempt ended with $code"

# Stopped in time: back into the queue. Not when Slurm is ending the job itself, by a cancel or its own requeue: it is
# no longer RUNNING then. A preempted job still is, during its grace time, and would be lost if it just ended here.
if [ "$code" = 75 ] && [ -n "$noticed" ] && [ ! -e "$folder/attempts/$SLURM_JOB_ID/cancelled" ] &&
  [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ] && scontrol requeue "$SLURM_JOB_ID"; then
  echo "headrace: job $SLURM_JOB_ID is back in the queue"
  exit 0
fi

# The job's end is our own record: Slurm forgets finished jobs. Written last, by rename.
printf '{"id": "%s", "code": %d, "ended_at": %d}\n' "$SLURM_JOB_ID" "$code" "$(date +%s)" >"$place/exit.json"
mv "$place/exit.json" "$folder/exit.json"
exit "$code"
"""
