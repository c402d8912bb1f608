"""JSON lines to documents: a kernel reads the lines that are plainly right, orjson every other.

    block of whole lines -> kernel -> texts, ids
                              └ a line it does not know -> orjson -> text and id, or the reason why there is none

orjson's verdict is the truth. The kernel knows less JSON than orjson and makes nothing of what it does not know: an
escaped or doubled key, a number of unusual length, deep nesting, an odd surrogate. So a line that it accepts, orjson
accepts with the same text and id; a test compares the two. The reason for a kernel: a text goes from the block to
`Texts` in one pass, without a Python object for it or for the fields that nobody asked for. Of lines
that are mostly not ASCII, orjson and `str.encode` read 118 to 134 MB/s, `read_lines` 325; of ASCII 550 and 700.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
import orjson

from data_prep.texts import Bytes, Int64s, Texts

Words = npt.NDArray[np.uint64]
"""The eight bytes from each byte on, overlapping."""
Word = Any
"""A uint64: eight bytes, the first lowest, or a number that is computed with them. Mixed with others it is a float."""
QUOTE, BACKSLASH, COMMA, COLON, MINUS, DOT, ZERO, NINE = b'"\\,:-.09'
SPACE, TAB, RETURN, NEWLINE = b" \t\r\n"
OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = b"{}[]"
LONGEST_INTEGER, LONGEST_NUMBER, DEEPEST = 18, 40, 60
"""Digits of an id, bytes of a number, levels of nesting; what goes beyond is for orjson."""
NONE, ONE, TWO, THREE, FOUR, SEVEN, EIGHT, FIFTY_SIX = (np.uint64(number) for number in (0, 1, 2, 3, 4, 7, 8, 56))
TWO_BYTES, TWO_BYTES_MASK, TWO_BYTES_LEAST = np.uint64(0x80C0), np.uint64(0xC0E0), np.uint64(0x1E)
THREE_BYTES, THREE_BYTES_MASK = np.uint64(0x8080E0), np.uint64(0xC0C0F0)
THREE_BYTES_HIGH, SURROGATES = np.uint64(0x200F), np.uint64(0x200D)
FOUR_BYTES, FOUR_BYTES_MASK = np.uint64(0x808080F0), np.uint64(0xC0C0C0F8)
FOUR_BYTES_HIGH, FOUR_BYTES_FIRST, FOUR_BYTES_LAST = np.uint64(0x3000), np.uint64(0x10), np.uint64(0x400)
ONES, HIGH_BITS, SPACES, QUOTES, BACKSLASHES = (
    np.uint64(byte * 0x0101010101010101) for byte in (1, 0x80, SPACE, QUOTE, BACKSLASH)
)
HEX = np.full(256, -1, dtype=np.int64)
HEX[list(b"0123456789abcdef")] = HEX[list(b"0123456789ABCDEF")] = range(16)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PADDING = 16
"""Bytes behind what is read or written, so that eight can be taken at once wherever one may be."""
END = b"\n" * PADDING
START, TEXT_END, ID_END = range(3)
"""Columns of the table of documents: where its line begins in the file, where its text and id end in their buffers.
Row 0 stands before the first."""
FEW_DOCUMENTS = 4096
"""Rows of the table at first."""


def read_lines(
    block: bytes, offset: int, file: str, text_field: str, id_field: str
) -> tuple[list[str], Texts, Counter[str]]:
    """The documents of whole lines that begin at a byte offset of a file: their ids, their texts, and counted reasons.

    Lines of white space are no documents. A byte order mark may open the file. The last newline may be missing.
    """
    lines = Lines(file, text_field, id_field, len(block))
    lines.read(block + END, offset)
    return lines.documents()


class Lines:
    """Documents gathered from blocks of a file's lines, one after another into the same buffers."""

    def __init__(self, file: str, text_field: str, id_field: str, num_bytes: int) -> None:
        """`num_bytes`: room for texts, and for ids."""
        self._file, self._fields = file, (text_field, id_field)
        self._keys = (_bytes(text_field), _bytes(id_field))
        self._texts = np.empty(num_bytes + 2 * PADDING, dtype=np.uint8)
        self._ids = np.empty_like(self._texts)
        self._table = np.zeros((FEW_DOCUMENTS, 3), dtype=np.int64)
        self._done = 0
        self._bad: Counter[str] = Counter()

    def has_room(self, num_bytes: int) -> bool:
        """Whether lines of so many bytes can be read, whatever is in them."""
        return int(self._table[self._done, TEXT_END:].max()) + num_bytes + 2 * PADDING <= len(self._texts)

    def read(self, block: bytes, offset: int) -> None:
        """Reads whole lines, `END` behind them, that begin at a byte offset of the file."""
        size = len(block) - len(END)
        if offset == 0 and block.startswith(BYTE_ORDER_MARK):
            block = b"   " + block[len(BYTE_ORDER_MARK) :]  # keeps the offsets, and is white space to JSON
        data = np.frombuffer(block, dtype=np.uint8)
        written = (self._texts, _words(self._texts), self._ids, _words(self._ids))
        position = 0
        while position < size:
            self._make_room()
            position, self._done = _scan(
                position, size, offset, *self._keys, data, _words(data), *written, self._table, self._done
            )
            if position < size and self._done + 1 < len(self._table):
                position = self._read_with_orjson(block, position, size, offset)

    def _make_room(self) -> None:
        """For more documents: the scan stops when the table is full."""
        if self._done + 1 == len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])

    def _read_with_orjson(self, block: bytes, position: int, size: int, offset: int) -> int:
        """Reads the line at a position of the block; returns where the next begins."""
        end = newline if 0 < (newline := block.find(b"\n", position) + 1) < size else size
        found = _ask_orjson(block[position:end], *self._fields)
        if isinstance(found, str):
            self._bad[found] += 1
        elif found is not None:
            _, text_end, id_end = self._table[self._done].tolist()
            text_end, id_end = _append(self._texts, text_end, found[0]), _append(self._ids, id_end, found[1])
            self._done += 1
            self._table[self._done] = offset + position, text_end, id_end
        return end

    def documents(self) -> tuple[list[str], Texts, Counter[str]]:
        """What was read: ids, texts, and the reasons why other lines are no documents."""
        table = self._table[: self._done + 1]
        texts = Texts(self._texts[: table[-1, TEXT_END]], np.ascontiguousarray(table[:, TEXT_END]))
        return _names(self._ids, table, self._file), texts, self._bad


def _bytes(field: str) -> Bytes:
    return np.frombuffer(field.encode(), dtype=np.uint8)


def _words(data: Bytes) -> Words:
    return np.ndarray(len(data) - 7, dtype=np.uint64, buffer=data, strides=(1,))


def _append(buffer: Bytes, end: int, data: bytes) -> int:
    """There is room: no character is longer in UTF-8 than in JSON. (An id's number is no longer than its digits.)"""
    buffer[end : end + len(data)] = np.frombuffer(data, dtype=np.uint8)
    return end + len(data)


def _names(ids: Bytes, table: Int64s, file: str) -> list[str]:
    """The documents' own ids, else their places."""
    ends = table[:, ID_END].tolist()
    data = ids[: ends[-1]].tobytes()
    return [
        data[begin:end].decode() if end > begin else f"{file}#{start}"
        for begin, end, start in zip(ends, ends[1:], table[1:, START].tolist(), strict=False)
    ]


def _ask_orjson(line: bytes, text_field: str, id_field: str) -> tuple[bytes, bytes] | str | None:
    """(text, id) of a line, the reason why it has none, or None if it is white space. No id is an empty one."""
    if line.isspace():
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "not_json" if is_utf8(line) else "not_utf8"
    text = record.get(text_field) if isinstance(record, dict) else None
    return (text.encode(), id_of(record.get(id_field)).encode()) if isinstance(text, str) else "no_text"


def id_of(value: Any) -> str:
    """A document's own id: a string or a whole number; empty if it is anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """`native.kernel` without reference counts, which a function that makes no array can do without.

    Numba counts the references of each array at each call: with calls as small as these, half of the time and more.
    """
    compiled: Function = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)
    return compiled


# Below, a position of -1 says: not known, ask orjson. Every block ends with a newline, at which each loop stops.


@kernel
def _scan(
    position: int,
    behind: int,
    offset: int,
    text_key: Bytes,
    id_key: Bytes,
    data: Bytes,
    words: Words,
    texts: Bytes,
    text_words: Words,
    ids: Bytes,
    id_words: Words,
    table: Int64s,
    done: int,
) -> tuple[int, int]:
    """Reads lines up to the first that it does not know, or that the table has no row for. Returns its place and how
    many documents there are now."""
    while position < behind:
        i = _space(data, position)
        if data[i] != NEWLINE:
            if done + 1 == len(table):
                break
            text_end, id_end = table[done, TEXT_END], table[done, ID_END]
            i, text_end, id_end = _record(
                data, words, i, text_key, id_key, texts, text_words, text_end, ids, id_words, id_end
            )
            if i < 0:
                break
            done += 1
            table[done, START], table[done, TEXT_END], table[done, ID_END] = offset + position, text_end, id_end
        position = i + 1
    return position, done


@kernel
def _record(
    data: Bytes,
    words: Words,
    i: int,
    text_key: Bytes,
    id_key: Bytes,
    texts: Bytes,
    text_words: Words,
    text_end: int,
    ids: Bytes,
    id_words: Words,
    id_end: int,
) -> tuple[int, int, int]:
    """The place of the newline behind a record that has a text, and the ends of its text and id, which it writes."""
    unknown = (-1, text_end, id_end)
    text_start, id_start = text_end, id_end
    has_text = has_id = False
    if data[i] != OPEN_OBJECT:
        return unknown
    while True:
        i = _space(data, i + 1)
        key = i + 1
        i, end = _string(data, words, i, texts, text_words, text_end)
        if i < 0 or end - text_end != i - 1 - key:  # a key with escapes may spell any name
            return unknown
        is_text, is_id = _same(data, key, i - 1, text_key), _same(data, key, i - 1, id_key)
        i = _space(data, i)
        if data[i] != COLON:
            return unknown
        i = _space(data, i + 1)
        if is_text:
            if has_text:
                return unknown
            has_text = True
            i, text_end = _string(data, words, i, texts, text_words, text_end)
        elif is_id:
            if has_id:
                return unknown
            has_id = True
            i, id_end = _id(data, words, i, ids, id_words, id_end)
        else:
            i = _skip(data, words, i, texts, text_words, text_end)
        if i < 0:
            return -1, text_start, id_start
        i = _space(data, i)
        if data[i] != COMMA:
            break
    if data[i] != CLOSE_OBJECT or not has_text:
        return -1, text_start, id_start
    i = _space(data, i + 1)
    return i if data[i] == NEWLINE else -1, text_end, id_end


@kernel
def _space(data: Bytes, i: int) -> int:
    while data[i] == SPACE or data[i] == TAB or data[i] == RETURN:
        i += 1
    return i


@kernel
def _same(data: Bytes, start: int, end: int, key: Bytes) -> bool:
    if end - start != len(key):
        return False
    for place in range(len(key)):
        if data[start + place] != key[place]:
            return False
    return True


@kernel
def _string(data: Bytes, words: Words, i: int, out: Bytes, out_words: Words, end: int) -> tuple[Any, Any]:
    """Writes the string that begins at i behind `end`. Returns the places behind it here and there."""
    if data[i] != QUOTE:
        return -1, end
    # An index that may be negative costs a test at each use, so here they are unsigned: twice as fast.
    here: Word = np.uint64(i + 1)
    there: Word = np.uint64(end)
    while True:
        word = words[here]
        odd = _odd_bytes(word)
        out_words[there] = word
        if odd == 0:
            here, there = here + EIGHT, there + EIGHT
            continue
        plain = _zero_bytes_below(odd)
        here, there = here + plain, there + plain
        byte = data[here]
        if byte == QUOTE:
            return np.int64(here) + 1, np.int64(there)
        if byte < SPACE:
            return -1, end
        while byte == BACKSLASH:
            i, written = _escape(data, np.int64(here) + 1, out, np.int64(there))
            if i < 0:
                return -1, end
            here, there = np.uint64(i), np.uint64(written)
            byte = data[here]
        while byte >= 0x80:
            word = words[here]
            length = _wide(word)
            if length == 0:
                return -1, end
            out_words[there] = word
            here, there = here + length, there + length
            byte = data[here]


@kernel
def _odd_bytes(word: Word) -> Word:
    """The highest bit of each byte that is a quote, a backslash, a control character or not ASCII.

    Taking 1 from a byte of 0 borrows (Hacker's Delight, 6-1). The bytes above may then be marked wrongly, the lowest
    marked never is.
    """
    quotes, slashes = word ^ QUOTES, word ^ BACKSLASHES
    return (((quotes - ONES) & ~quotes) | ((slashes - ONES) & ~slashes) | (word - SPACES) | word) & HIGH_BITS


@kernel
def _zero_bytes_below(marks: Word) -> Word:
    """How many bytes are below the lowest marked one."""
    below = (marks & (~marks + ONE)) - ONE
    return ((below & ONES) * ONES >> FIFTY_SIX) - ONE


@kernel
def _wide(word: Word) -> Word:
    """Bytes of the character beyond ASCII at a word's lowest end, 0 if it is none (Unicode, table 3-7)."""
    if word & TWO_BYTES_MASK == TWO_BYTES:
        return TWO if word & TWO_BYTES_LEAST else NONE
    if word & THREE_BYTES_MASK == THREE_BYTES:
        high = word & THREE_BYTES_HIGH
        return THREE if high != NONE and high != SURROGATES else NONE
    if word & FOUR_BYTES_MASK == FOUR_BYTES:
        high = (word & SEVEN) << EIGHT | (word & FOUR_BYTES_HIGH) >> EIGHT
        return FOUR if FOUR_BYTES_FIRST <= high <= FOUR_BYTES_LAST else NONE
    return NONE


@kernel
def _escape(data: Bytes, i: Any, out: Bytes, end: Any) -> tuple[int, int]:
    byte = data[i]
    if byte == 0x75:  # u
        return _unicode(data, i + 1, out, end)
    if byte == 0x6E:  # n
        byte = 0x0A
    elif byte == 0x74:  # t
        byte = 0x09
    elif byte == 0x72:  # r
        byte = 0x0D
    elif byte == 0x62:  # b
        byte = 0x08
    elif byte == 0x66:  # f
        byte = 0x0C
    elif byte != QUOTE and byte != BACKSLASH and byte != 0x2F:  # /
        return -1, end
    out[end] = byte
    return i + 1, end + 1


@kernel
def _unicode(data: Bytes, i: int, out: Bytes, end: int) -> tuple[int, int]:
    """Four hex digits, and four more of the other half if they are the first half of a surrogate pair."""
    code = _four_digits(data, i)
    i += 4
    if 0xD800 <= code < 0xDC00 and data[i] == BACKSLASH and data[i + 1] == 0x75:
        low = _four_digits(data, i + 2)
        if low < 0xDC00 or low > 0xDFFF:
            return -1, end
        code = 0x10000 + (code - 0xD800) * 0x400 + low - 0xDC00
        i += 6
    if code < 0 or 0xD800 <= code < 0xE000:
        return -1, end
    if code < 0x80:
        out[end] = code
        return i, end + 1
    if code < 0x800:
        out[end] = 0xC0 | code >> 6
    elif code < 0x10000:
        out[end] = 0xE0 | code >> 12
        end += 1
        out[end] = 0x80 | code >> 6 & 0x3F
    else:
        out[end] = 0xF0 | code >> 18
        out[end + 1] = 0x80 | code >> 12 & 0x3F
        end += 2
        out[end] = 0x80 | code >> 6 & 0x3F
    out[end + 1] = 0x80 | code & 0x3F
    return i, end + 2


@kernel
def _four_digits(data: Bytes, i: int) -> Any:
    """Their value; negative if one is no digit."""
    return HEX[data[i]] << 12 | HEX[data[i + 1]] << 8 | HEX[data[i + 2]] << 4 | HEX[data[i + 3]]


@kernel
def _id(data: Bytes, words: Words, i: int, ids: Bytes, id_words: Words, end: int) -> tuple[int, int]:
    """Like `_string` for an id. One that is no string or whole number is none, and then nothing is written."""
    byte = data[i]
    if byte == QUOTE:
        return _string(data, words, i, ids, id_words, end)
    behind = _skip(data, words, i, ids, id_words, end)
    if byte == MINUS or ZERO <= byte <= NINE:
        if behind - i > LONGEST_INTEGER:
            return -1, end
        for place in range(i, behind):
            if data[place] < ZERO or data[place] > NINE:
                return -1, end
            ids[end] = data[place]
            end += 1
    return behind, end


@kernel
def _skip(data: Bytes, words: Words, i: int, out: Bytes, out_words: Words, end: int) -> int:
    """The place behind the value that begins at i. What its strings say is written behind `end` and of no use."""
    depth = objects = 0  # the last bit of `objects`: whether the innermost level is one
    while True:
        byte = data[i]
        if byte == QUOTE:
            i, _ = _string(data, words, i, out, out_words, end)
        elif byte in (OPEN_OBJECT, OPEN_ARRAY):
            is_object = byte == OPEN_OBJECT
            i = _space(data, i + 1)
            if data[i] == (CLOSE_OBJECT if is_object else CLOSE_ARRAY):
                i += 1
            elif depth == DEEPEST:
                return -1
            else:
                depth, objects = depth + 1, objects << 1 | is_object
                i = _behind_key(data, words, i, out, out_words, end) if is_object else i
                if i < 0:
                    return -1
                continue
        else:
            i = _number_or_word(data, i)
        if i < 0:
            return -1
        while depth:  # a value has ended
            i = _space(data, i)
            if data[i] == COMMA:
                break
            if data[i] != (CLOSE_OBJECT if objects & 1 else CLOSE_ARRAY):
                return -1
            i, depth, objects = i + 1, depth - 1, objects >> 1
        if depth == 0:
            return i
        i = _space(data, i + 1)
        i = _behind_key(data, words, i, out, out_words, end) if objects & 1 else i
        if i < 0:
            return -1


@kernel
def _behind_key(data: Bytes, words: Words, i: int, out: Bytes, out_words: Words, end: int) -> int:
    """Where the value begins whose key begins at i."""
    i, _ = _string(data, words, i, out, out_words, end)
    if i < 0:
        return -1
    i = _space(data, i)
    return _space(data, i + 1) if data[i] == COLON else -1


@kernel
def _number_or_word(data: Bytes, i: int) -> int:
    byte = data[i]
    if byte == 0x74:  # true
        return i + 4 if data[i + 1] == 0x72 and data[i + 2] == 0x75 and data[i + 3] == 0x65 else -1
    if byte == 0x6E:  # null
        return i + 4 if data[i + 1] == 0x75 and data[i + 2] == 0x6C and data[i + 3] == 0x6C else -1
    if byte == 0x66:  # false
        right = data[i + 1] == 0x61 and data[i + 2] == 0x6C and data[i + 3] == 0x73 and data[i + 4] == 0x65
        return i + 5 if right else -1
    return _number(data, i)


@kernel
def _number(data: Bytes, i: int) -> int:
    """Up to `LONGEST_NUMBER` bytes and an exponent of two digits, which no double overflows."""
    start = i
    if data[i] == MINUS:
        i += 1
    behind = _digits(data, i)
    if behind == i or (data[i] == ZERO and behind > i + 1):
        return -1
    i = behind
    if data[i] == DOT:
        behind = _digits(data, i + 1)
        if behind == i + 1:
            return -1
        i = behind
    if data[i] | 0x20 == 0x65:  # e
        i += 1
        if data[i] == 0x2B or data[i] == MINUS:
            i += 1
        behind = _digits(data, i)
        if behind == i or behind > i + 2:
            return -1
        i = behind
    return i if i - start <= LONGEST_NUMBER else -1


@kernel
def _digits(data: Bytes, i: int) -> int:
    while ZERO <= data[i] <= NINE:
        i += 1
    return i
