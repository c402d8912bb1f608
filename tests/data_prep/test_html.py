"""HTML files: a file is a document, its main content is the text."""

import gzip
from pathlib import Path

import pytest

from tests.data_prep.test_documents import read

PARAGRAPH = "The wheel turns in the river, and the miller of Mühlheim sleeps until the morning comes. " * 6
PAGE = f"""<!DOCTYPE html><html><head><title>Mills</title><style>p {{ color: red }}</style></head><body>
<nav><a href="/">Home</a><a href="/about">About us</a></nav>
<main><h1>The mill</h1><p>{PARAGRAPH}</p><script>track("you")</script><p>It is &lt;old&gt; &amp; slow.</p></main>
<footer>All rights reserved</footer></body></html>"""


@pytest.mark.parametrize("name", ["a.html", "b/c.htm", "a.html.gz"])
def test_a_page_is_a_document(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(gzip.compress(PAGE.encode()) if name.endswith("gz") else PAGE.encode())
    [(document_id, text)] = read(tmp_path)
    assert document_id == name
    assert text.split("\n\n") == ["The mill", PARAGRAPH.strip(), "It is <old> & slow."]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_the_encoding_is_found(tmp_path: Path, encoding: str) -> None:
    page = PAGE.replace("<title>", f'<meta charset="{encoding}"><title>')
    (tmp_path / "a.html").write_bytes(page.encode(encoding))
    [(_, text)] = read(tmp_path)
    assert "Mühlheim" in text


@pytest.mark.parametrize("data", [b"", b"\x00\xff\xfe<<<p", b"just words, no markup at all"])
def test_any_bytes_are_a_page(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.html").write_bytes(data)
    assert len(read(tmp_path)) == 1
