"""Web pages: the text of an HTML page, and the pages of a WARC file. Resiliparse and FastWARC do the work.

FastWARC takes a WARC that was cut off for a shorter one without a word. So it reads from a stream that keeps its own
errors, every record must be as long as it says, and the stream must end as a record does.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

RECORD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Page:
    id: str
    """WARC-Record-ID, else the target URI."""
    html: bytes
    charset: str | None
    """As the server said."""


def page_text(html: bytes, charset: str | None = None) -> str:
    """The main content of a page as text: no navigation, header, footer, scripts or markup."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    encoding = charset or detect_encoding(html, from_html_meta=True) or "utf-8"
    return str(extract_plain_text(bytes_to_str(html, encoding), main_content=True))


def warc_pages(chunks: Iterator[bytes]) -> Iterator[Page | str]:
    """The HTML pages among a WARC's responses; for other responses why they are none: `not_html`, `http_error`,
    `not_decodable`. Records of other types are no documents. Raises EOFError if the file is cut off or no WARC."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    stream = _Stream(chunks)
    try:
        for record in ArchiveIterator(stream, parse_http=False):
            block = record.reader.read()
            if stream.error is None and len(block) != record.content_length:
                raise EOFError("it ends inside a record")
            if record.record_type == WarcRecordType.response and record.is_http:
                name = record.headers.get("WARC-Record-ID") or record.headers.get("WARC-Target-URI") or ""
                yield _page(name.strip("<>"), block)
    except OSError as error:
        raise stream.error or EOFError(str(error)) from error
    if stream.error is not None:
        raise stream.error
    if stream.tail not in (b"", RECORD_END):
        raise EOFError("it ends inside a record")


def _page(name: str, block: bytes) -> Page | str:
    """The HTTP message, chunks and compression undone. Read as a record of its own: a bad one must not end the file."""
    from fastwarc.warc import ArchiveIterator

    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {len(block)}\r\n\r\n"
    try:
        record = next(ArchiveIterator(io.BytesIO(head.encode() + block + RECORD_END), auto_decode="all"))
        if not (record.http_content_type or "").lower().startswith("text/html"):
            return "not_html"
        if record.http_headers.status_code != 200:
            return "http_error"
        html = record.reader.read()
    except OSError:
        return "not_decodable"
    return Page(name, html, record.http_charset)


class _Stream(io.RawIOBase):
    """A file to FastWARC. An error of the source ends it and is kept, as it would not come through whole."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.error: Exception | None = None
        self.tail = b""
        """The last bytes that were read."""
        self._chunks = chunks
        self._held = b""
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        while not self._held and self.error is None:
            try:
                self._held = next(self._chunks)
            except StopIteration:
                break
            except Exception as error:
                self.error = error
        data, self._held = (self._held, b"") if size < 0 else (self._held[:size], self._held[size:])
        self._position += len(data)
        self.tail = (self.tail + data[-len(RECORD_END) :])[-len(RECORD_END) :]
        return data
