"""The docs say what is there: links lead somewhere, every verb is in the README, every key of the config is explained."""

import re
from pathlib import Path

import pytest
import typer

from pipeline.cli import app
from tests.config_page import page

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for folder in (".", "docs", "docs/design", "slurm") for path in (ROOT / folder).glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_every_verb_is_in_the_readme() -> None:
    table = [line.split("|")[1] for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    named = set(re.findall(r"[a-z]+", " ".join(table)))
    assert set(typer.main.get_command(app).commands) <= named  # type: ignore[attr-defined]


def test_every_key_of_the_config_is_explained_on_its_page() -> None:
    assert (ROOT / "docs/config.md").read_text() == page(), "python -m tests.config_page > docs/config.md"
    unexplained = re.findall(r"^\| `(\w+)` \| .* \|  \|$", page(), re.MULTILINE)
    assert unexplained == []
    titles = re.findall(r"^## (.*)$", page(), re.MULTILINE)
    links = re.findall(r"\(#([^)]*)\)", page())
    assert sorted(links) == sorted(re.sub(r"[^a-z0-9_-]", "", title) for title in titles)
