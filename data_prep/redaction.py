"""Personal data in a batch of texts: one pass over the bytes says which texts may hold any; only those are searched.

texts -> a kernel says which kinds each may hold -> `pii.redact` one by one -> texts
"""

from collections.abc import Sequence

import numpy as np

from data_prep.native import kernel
from data_prep.pii import FINDERS, LEAST_DIGITS, LONG_TOKEN, TOKEN_BYTES, WITHIN_CHARACTERS, Region, redact
from data_prep.texts import Bytes, Int64s, Texts, replaced

DIGIT, TOKEN, HEX, SIGN, GROUPING, CAPITAL = 1, 2, 4, 8, 16, 32
CLASSES = np.array(
    [
        DIGIT * (chr(b) in "0123456789")
        + TOKEN * TOKEN_BYTES[b]
        + HEX * (chr(b) in "0123456789abcdefABCDEF")
        + SIGN * (chr(b) in "@.:P")
        + GROUPING * (chr(b) in " ().-")
        + CAPITAL * (chr(b) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        for b in range(256)
    ],
    dtype=np.uint8,
)
"""What each byte may be a part of."""
EMAIL, NUMBER, IP, API_KEY, PRIVATE_KEY = 1, 2, 4, 8, 16
SIGNS_OF = {
    "private_key": PRIVATE_KEY,
    "api_key": API_KEY,
    "email": EMAIL,
    "iban": NUMBER,
    "card": NUMBER,
    "ip": IP,
    "phone": NUMBER,
}
PEM_LABEL = np.frombuffer(b"PRIVATE KEY", dtype=np.uint8)
KEY_BEGINNINGS = np.zeros((256, 256), dtype=np.bool_)
"""The first two bytes of every key in `pii.API_KEYS`."""
for pair in (b"AK", b"AS", b"gh", b"gi", b"gl", b"xo", b"AI", b"pk", b"rk", b"sk", b"hf", b"np", b"py", b"SG", b"ey"):
    KEY_BEGINNINGS[pair[0], pair[1]] = True
LEAST_TOKEN, LEAST_WEB_TOKEN = len(LONG_TOKEN), 13
LAST_DIGITS = LEAST_DIGITS - 1


def redact_all(
    texts: Texts, kinds: Sequence[str], regions: Sequence[Region] = ("US",)
) -> tuple[Texts, dict[str, Int64s]]:
    """The texts as `pii.redact` leaves them, and for each kind how many were found in each text."""
    counts = {kind: np.zeros(len(texts), dtype=np.int64) for kind in FINDERS if kind in kinds}
    held = may_hold(texts.data, texts.offsets)
    changed: dict[int, bytes] = {}
    for place in np.flatnonzero(held & sum({SIGNS_OF[kind] for kind in counts})).tolist():
        absent = [kind for kind in counts if not held[place] & SIGNS_OF[kind]]
        redacted = redact(texts[place].decode(), kinds, regions, absent)
        if redacted.counts:
            changed[place] = redacted.text.encode()
            for kind, count in redacted.counts.items():
                counts[kind][place] = count
    return replaced(texts, changed), counts


@kernel
def may_hold(data: Bytes, offsets: Int64s) -> Bytes:
    """What each text may hold, as a sum of `SIGNS_OF`. The conditions are those of `pii`'s finders, or weaker."""
    held = np.zeros(len(offsets) - 1, dtype=np.uint8)
    digits = np.zeros(LEAST_DIGITS, dtype=np.int64)  # where the last ones stand, in characters
    for text in range(len(held)):
        bytes_ = data[offsets[text] : offsets[text + 1]]
        email = beginning = near = grouped = ip = key = private_key = False
        token = num_digits = characters = chain = gap = 0
        for at in range(len(bytes_)):
            byte = bytes_[at]
            kind = CLASSES[byte]
            characters += (byte & 0xC0) != 0x80
            token = token + 1 if kind & TOKEN else 0
            if token == 2:
                beginning = KEY_BEGINNINGS[bytes_[at - 1], byte]
            elif beginning:
                key |= token >= (LEAST_WEB_TOKEN if bytes_[at - token + 1] == ord("e") else LEAST_TOKEN)
                if not token:
                    key |= byte == ord(".") and bytes_[at - 1] == ord("G")  # SG.
                    beginning = False
            if kind & DIGIT or byte >= 0x80:  # other scripts have digits too
                chain, gap = chain + 1, 0
                grouped |= chain >= LEAST_DIGITS
                if kind & DIGIT:
                    oldest = digits[(num_digits + 1) % LEAST_DIGITS]
                    digits[num_digits % LEAST_DIGITS] = characters
                    near |= num_digits >= LAST_DIGITS and characters - oldest < WITHIN_CHARACTERS
                    grouped |= at >= 2 and bool(CLASSES[bytes_[at - 1]] & CLASSES[bytes_[at - 2]] & CAPITAL)  # an IBAN
                    num_digits += 1
            elif chain:
                gap += 1
                if gap > 2 or not kind & GROUPING:
                    chain = 0
            if kind & SIGN:
                email |= byte == ord("@") and is_in_address(bytes_, at)
                ip |= byte == ord(".") and is_dotted(bytes_, at)
                ip |= byte == ord(":") and is_behind_group(bytes_, at)
                private_key |= byte == ord("P") and is_private_key(bytes_, at)
        held[text] = email * EMAIL + (near and grouped) * NUMBER + ip * IP + key * API_KEY + private_key * PRIVATE_KEY
    return held


@kernel
def is_in_address(data: Bytes, at: int) -> bool:
    """Characters of a name on either side of the '@'."""
    if at == 0 or at + 1 == len(data):
        return False
    before, behind = data[at - 1], data[at + 1]
    named = before >= 0x80 or CLASSES[before] & TOKEN or before == ord("+")
    return bool(named) and bool(behind >= 0x80 or CLASSES[behind] & TOKEN)


@kernel
def is_dotted(data: Bytes, at: int) -> bool:
    """The first point of an IPv4 address."""
    for _ in range(2):
        start = at + 1
        at = start
        while at < len(data) and CLASSES[data[at]] & DIGIT:
            at += 1
        if not 1 <= at - start <= 3 or at == len(data) or data[at] != ord("."):
            return False
    return at + 1 < len(data) and bool(CLASSES[data[at + 1]] & DIGIT)


@kernel
def is_behind_group(data: Bytes, at: int) -> bool:
    """The first colon of a public IPv6 address: they begin with 2 or 3, and the next colon is near."""
    if at < 4 or (data[at - 4] != ord("2") and data[at - 4] != ord("3")):
        return False
    for place in range(at - 3, at):
        if not CLASSES[data[place]] & HEX:
            return False
    second = False
    for place in range(at + 1, min(at + 6, len(data))):
        second |= data[place] == ord(":")
    return second


@kernel
def is_private_key(data: Bytes, at: int) -> bool:
    same = 0
    while same < len(PEM_LABEL) and at + same < len(data) and data[at + same] == PEM_LABEL[same]:
        same += 1
    return same == len(PEM_LABEL)
