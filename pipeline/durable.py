"""The durable tier: what of a workspace also lies at `remote`, so that a machine that has nothing can go on.

    REMOTE/corpora/NAME-DIGEST/     shards/ heldout/ tokenizer.json shards.npy, last manifest.json
    REMOTE/runs/NAME/               config.yaml  state.json  guard.json  metrics.jsonl  checkpoints/step-00000500/

The workspace is the fast tier, and what counts for whoever works in it: only what it lacks is fetched, each file
compared with the record that covers it. Here are the corpora and what a run has pinned; its checkpoints go and come by
`pipeline.train.upload` and `pipeline.train.tiers`.
"""

import shutil
from pathlib import Path

from data_prep.files import parse_record, sync_folder, sync_names, write_atomic, write_record
from data_prep.manifest import MANIFEST_NAME, SHARD_SUFFIX, SHARDS_NAME, read_manifest_record
from data_prep.verify import covered
from pipeline.config import RunConfig, changed_keys
from pipeline.errors import Mistake
from pipeline.locks import locked
from pipeline.remote import STORE_AGAIN, Damaged, Moved, RemoteFolder, nobody_looks, plain_path, side_by_side
from pipeline.runs import RunState, read_state
from pipeline.workspace import STATE_NAME, RunFolder, Workspace

FOR_PEOPLE = ("statistics.json", "report.html")
"""What no digest covers, and nothing but a page is made of."""


def remote_of(config: RunConfig) -> RemoteFolder | None:
    return RemoteFolder(config.remote) if config.remote is not None else None


def remote_run(config: RunConfig) -> RemoteFolder | None:
    """Where the run's files lie at `remote`."""
    remote = remote_of(config)
    return remote.at(f"runs/{config.name}") if remote else None


def bring_pins(config: RunConfig, workspace: Workspace) -> None:
    """A run that has begun elsewhere is the same one here: what it has pinned comes first. Raises Damaged."""
    remote, run = remote_run(config), workspace.run(config.name)
    if remote is None or read_state(run) is not None:
        return
    with locked(run.path / ".bring.lock"):  # each rank asks; the first one brings it
        state = pins_at(remote)
        if state is None or read_state(run) is not None:
            return
        write_atomic(run.config, remote.read(run.config.name) or b"")
        write_record(run.state, state)


def check_pins(run: RunFolder, remote: RemoteFolder) -> None:
    """That the run at the remote, if there is one, is the one that has begun here. A record of it that is damaged says
    nothing, and the next upload mends it.

    Raises Mistake: an older run of that name must not be taken for this one, nor be written over.
    """
    here = read_state(run)
    try:
        there = pins_at(remote)
    except Damaged:
        return
    if here and there and (here.config_digest, here.manifest_digest) != (there.config_digest, there.manifest_digest):
        changes = changed_keys(there.weight_shaping, here.weight_shaping) or ["the corpus"]
        raise Mistake(
            f"remote: {remote.url} holds another run of this name ({'; '.join(changes)}); give this one another name, "
            "or another remote"
        )


def pins_at(remote: RemoteFolder) -> RunState | None:
    """What the run at the remote has pinned; None if none has begun there. Raises Damaged."""
    data = remote.read(STATE_NAME)
    if data is None:
        return None
    try:
        state = parse_record(RunState, data, f"{remote.url}/{STATE_NAME}")
    except ValueError as error:
        raise Damaged(f"{error}; put the one of the workspace there that the run began in") from error
    plain_path(state.corpus)
    return state


def bring_corpus(
    config: RunConfig, workspace: Workspace, moved: Moved = nobody_looks, *, hash_inputs: bool = False
) -> Path | None:
    """Fetches the corpus that the run has pinned, or that its config and inputs name, if the workspace lacks it and the
    remote has it; without its shards if training shall read them from there. Gives its folder if it is here then.

    Without `hash_inputs`, inputs that were never hashed on this machine name none. Raises Damaged.
    """
    remote, state = remote_of(config), read_state(workspace.run(config.name))
    if remote is None:
        return None
    if state is not None:
        folder = workspace.corpora / state.corpus
    else:
        from data_prep.plan import make_plan, try_plan  # brings pyarrow

        plan = (make_plan if hash_inputs else try_plan)(config.data, workspace.corpora, config.name)
        if plan is None:
            return None
        folder = plan.folder
    shards = config.data.cache_bytes is None
    if not is_here(folder, shards=shards):
        with locked(workspace.corpora / f".fetching-{folder.name}.lock"):  # each rank asks; the first one fetches it
            if not is_here(folder, shards=shards):
                pinned = state.manifest_digest if state is not None else None
                try:
                    fetch_corpus(remote.at(f"corpora/{folder.name}"), folder, moved, pinned, shards=shards)
                except Damaged as error:
                    raise Damaged(f"{error}; {STORE_AGAIN}") from error
    return folder if is_here(folder, shards=shards) else None


def is_here(folder: Path, *, shards: bool) -> bool:
    """Whether a corpus is in its folder, and if asked for with its shards."""
    return (folder / MANIFEST_NAME).is_file() and not (shards and lacks_shards(folder))


def lacks_shards(corpus: Path) -> bool:
    """Whether a corpus folder was fetched without its shards, which come all or none."""
    return next((corpus / "shards").glob(f"*{SHARD_SUFFIX}"), None) is None


def check_shards(config: RunConfig, corpus: Path) -> None:
    """Raises Mistake if the corpus has no shards here, and the config names no place to read them from."""
    if lacks_shards(corpus) and (config.remote is None or config.data.cache_bytes is None):
        raise Mistake(
            f"{corpus} was fetched without its shards, for a run with data.cache_bytes; give remote and "
            "data.cache_bytes again, or remove this folder and run headrace prep"
        )


def fetch_corpus(
    remote: RemoteFolder, folder: Path, moved: Moved, manifest_digest: str | None = None, *, shards: bool = True
) -> None:
    """Brings a corpus here, if it is there; what an interrupted call has brought is not asked for again.

    Raises Damaged, also if its manifest is not the one that a run has pinned.
    """
    data = remote.read(MANIFEST_NAME)
    if data is None:
        return
    coming = folder.with_name(f".fetching-{folder.name}")
    write_atomic(coming / MANIFEST_NAME, data)
    try:
        record = read_manifest_record(coming)
    except ValueError as error:
        raise Damaged(f"{remote.url}/{MANIFEST_NAME}: {error}") from error
    if manifest_digest not in (None, record.digest):
        raise Damaged(f"{remote.url}/{MANIFEST_NAME} is not that of the corpus that the run began with")
    remote.fetch(SHARDS_NAME, coming / SHARDS_NAME, record.shards_sha256)
    files = [
        (path.relative_to(coming).as_posix(), sha256)
        for path, sha256 in covered(coming)
        if shards or path.suffix != SHARD_SUFFIX
    ]
    side_by_side(lambda file: remote.fetch(file[0], coming / file[0], file[1]), files, moved)
    for name in FOR_PEOPLE:
        page = remote.read(name)
        if page is not None:
            write_atomic(coming / name, page)
    if folder.exists():  # a build that was broken off, or a corpus without its shards
        shutil.rmtree(folder)
    sync_names(coming)
    coming.rename(folder)
    sync_folder(folder.parent)


def upload_corpus(folder: Path, remote: RemoteFolder, moved: Moved = nobody_looks) -> None:
    """Stores a finished corpus, its manifest last; nothing if it is there. `remote` is its folder in the store.

    A folder's name says what its bytes are, so a file that is there in full, from an upload that was broken off, is not
    sent again. Raises Mistake if there is another corpus under this name, as one of another version of headrace: shards
    of the same length would stay there under this one's manifest.
    """
    manifest, there = (folder / MANIFEST_NAME).read_bytes(), remote.read(MANIFEST_NAME)
    if there == manifest:
        return
    if there is not None:
        raise Mistake(f"remote: {remote.url} holds another corpus under this name than {folder}; {STORE_AGAIN}")
    paths = [path for path, _ in covered(folder)] + [folder / SHARDS_NAME, *(folder / name for name in FOR_PEOPLE)]

    def send(path: Path) -> None:
        name = path.relative_to(folder).as_posix()
        if remote.size_bytes(name) != path.stat().st_size:
            remote.put(name, path)

    side_by_side(send, [path for path in paths if path.exists()], moved)
    remote.write(MANIFEST_NAME, manifest)
