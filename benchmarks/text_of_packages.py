"""Real text to measure with: the documentation and source code in packages of the Debian archive.

    python -m benchmarks.text_of_packages CACHE_FOLDER [--prose MB] [--reference MB] [--code MB]

Needs Debian's `apt-get` and `dpkg-deb`; nothing is installed. Prose is manuals, reference is pages made from an API's
comments, both HTML that is freed of its markup; code is the Linux kernel, as it is.

    apt-get download -> PACKAGE.deb -> members of its tar, never unpacked -> clean text -> KIND.jsonl -> part-*.jsonl

A document is a file. All documents of a kind lie in the order of a hash of their names, so that any beginning of it is
a fair sample of the whole, and equal packages give equal bytes. Text is as `data_prep` would leave it (`clean`), in
documents of at most 1 MB that do not spell an end of text: then every tokenizer sees the same bytes, and counts of
tokens can be compared.
"""

import argparse
import hashlib
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from data_prep.clean import clean
from data_prep.files import atomic_file, sha256_file, write_atomic
from data_prep.web import page_text

PACKAGES = {
    "prose": (
        "cmake-doc",
        "debian-reference-en",
        "git-doc",
        "libreoffice-help-en-us",
        "linux-doc-6.1",
        "postgresql-doc-15",
        "python-django-doc",
        "python-sqlalchemy-doc",
        "python3.11-doc",
    ),
    "reference": ("libboost1.74-doc", "openjdk-17-doc", "rust-doc"),
    "code": ("linux-source-6.1",),
}
SUFFIXES = {
    "prose": (".html",),
    "reference": (".html",),
    "code": (".c", ".h", ".rst", ".S", ".dts", ".dtsi", ".py", ".sh"),
}
LEAST_BYTES, MOST_BYTES = 200, 1_000_000
"""Of a document. Shorter ones are redirects, longer ones generated tables; over 1 MB a tokenizer may cut."""
END_OF_TEXT = "<|endoftext|>"
FILE_BYTES = 64_000_000


def text_of_packages(cache: Path, megabytes: dict[str, int]) -> Path:
    """A folder of JSON lines `{"id", "text"}` in files of up to 64 MB and of about one size, an even number of them, so
    that two workers have equal work. `megabytes`: how much of each kind. Made once, then found in `cache`."""
    folder = cache / "text" / "-".join(f"{kind}-{size}" for kind, size in sorted(megabytes.items()))
    done = folder / "done.txt"
    if not done.is_file():
        lines = [line for kind, size in megabytes.items() for line in beginning(everything(cache, kind), size)]
        parts = dealt(lines, 2 * -(-sum(map(len, lines)) // (2 * FILE_BYTES)))
        for number, part in enumerate(parts):
            with atomic_file(folder / f"part-{number:02}.jsonl") as file:
                file.writelines(part)
        write_atomic(done, f"{len(lines)} documents in {len(parts)} files\n".encode())
    return folder


def dealt(lines: list[bytes], hands: int) -> list[list[bytes]]:
    """The lines in mixed order, each dealt to the hand that has the fewest bytes."""
    parts: list[list[bytes]] = [[] for _ in range(hands)]
    sizes = [0] * hands
    for line in sorted(lines, key=lambda line: hashlib.sha256(line).digest()):
        least = sizes.index(min(sizes))
        parts[least].append(line)
        sizes[least] += len(line)
    return parts


def beginning(path: Path, megabytes: int) -> Iterator[bytes]:
    """The first lines of a file. Raises ValueError if it has fewer bytes than asked for."""
    left = megabytes * 1_000_000
    with path.open("rb") as file:
        while left > 0:
            line = file.readline()
            if not line:
                raise ValueError(f"{path} ends {left:,} bytes before {megabytes} MB; ask for less, or add a package")
            left -= len(line)
            yield line


def everything(cache: Path, kind: str) -> Path:
    """All documents of a kind, one a line, in the order of their names' hashes."""
    path = cache / "text" / f"{kind}.jsonl"
    if not path.is_file():
        lines = {}
        for package in PACKAGES[kind]:
            for name, data in members(download(cache, package)):
                if name.endswith(SUFFIXES[kind]) and (text := document(name, data)):
                    key = f"{package}:{name}"
                    lines[hashlib.sha256(key.encode()).digest()] = orjson.dumps({"id": key, "text": text}) + b"\n"
        with atomic_file(path) as file:
            file.writelines(lines[key] for key in sorted(lines))
    return path


def download(cache: Path, package: str) -> Path:
    folder = cache / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(folder.glob(f"{package}_*.deb"))):
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        found = sorted(folder.glob(f"{package}_*.deb"))
    return found[-1]


def members(package: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the files of a package, those of a tar inside it too."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar,
    ):
        yield from _members(tar)
    if unpacking.returncode:
        raise ValueError(f"{package} is damaged; remove it and run again")


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for entry in tar:
        if (file := tar.extractfile(entry) if entry.isfile() else None) is None:
            continue
        if entry.name.endswith(".tar.xz"):
            with tarfile.open(fileobj=file, mode="r|xz") as inner:
                yield from _members(inner)
        else:
            yield entry.name, file.read()


def document(name: str, data: bytes) -> str | None:
    """The text of a file; None if it is none, or not one to measure with."""
    if not LEAST_BYTES <= len(data) <= 4 * MOST_BYTES:
        return None
    try:
        text = clean(page_text(data) if name.endswith(".html") else data.decode())
    except UnicodeDecodeError:
        return None
    fits = LEAST_BYTES <= len(text.encode()) <= MOST_BYTES
    return text if fits and END_OF_TEXT not in text else None


def provenance(cache: Path, kinds: Iterable[str]) -> list[str]:
    """Where the text came from, one line a package and a kind."""
    packages = [download(cache, package) for kind in kinds for package in PACKAGES[kind]]
    texts = [everything(cache, kind) for kind in kinds]
    return [f"{sha256_file(path)}  {path.stat().st_size / 1e6:7.1f} MB  {path.name}" for path in packages + texts]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("cache", type=Path)
    for kind in PACKAGES:
        options.add_argument(f"--{kind}", type=int, default=0, help="MB")
    chosen = options.parse_args()
    megabytes = {kind: getattr(chosen, kind) for kind in PACKAGES if getattr(chosen, kind)}
    print(text_of_packages(chosen.cache, megabytes))
    print("\n".join(provenance(chosen.cache, megabytes)))


if __name__ == "__main__":
    main()
