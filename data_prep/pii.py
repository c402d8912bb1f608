"""Personal data and secrets: found by pattern, proved by a check, replaced by a placeholder that names the kind.

    kind          found by                                        proved by
    private_key   a PEM header                                    –
    api_key       the issuers' prefixes                           their lengths and alphabets
    email         local@domain                                    a top-level domain that is no file's or method's name
    iban          country, two digits, groups                     the country's length, mod 97 (ISO 13616)
    card          13 to 19 digits, grouped as cards are           the network's prefixes and lengths, Luhn (ISO 7812)
    ip            dotted or colon-separated numbers               `ipaddress`; only public addresses are anyone's
    phone         grouped digits, or a country code               `phonenumbers`: valid in its plan, grouped as there

What is found is counted and never kept. Each pattern stands behind a test that costs next to nothing, so that text
without anything of the kind passes at hundreds of MB/s.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?!-----BEGIN ).)*?-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"|-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\s*[A-Za-z0-9+/=]{16,})+",  # cut off before its end
    re.DOTALL,
)
API_KEYS = {
    "AKIA": r"AKIA[0-9A-Z]{16}",  # AWS
    "ASIA": r"ASIA[0-9A-Z]{16}",
    "gh": r"gh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub
    "github_pat_": r"github_pat_[A-Za-z0-9_]{60,255}",
    "glpat-": r"glpat-[A-Za-z0-9_-]{20,64}",  # GitLab
    "xox": r"xox[abeoprs]-[A-Za-z0-9-]{20,255}",  # Slack
    "AIza": r"AIza[A-Za-z0-9_-]{35}",  # Google
    "_live_": r"[prs]k_live_[A-Za-z0-9]{20,255}",  # Stripe
    "_test_": r"[prs]k_test_[A-Za-z0-9]{20,255}",
    "sk-": r"sk-(?:(?:proj|ant|svcacct|or)-[A-Za-z0-9_-]{20,255}|[A-Za-z0-9]{40,64})",  # OpenAI, Anthropic
    "hf_": r"hf_[A-Za-z]{34}",  # Hugging Face
    "npm_": r"npm_[A-Za-z0-9]{36}",
    "pypi-": r"pypi-AgE[A-Za-z0-9_-]{50,255}",
    "SG.": r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    "eyJ": r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",  # JSON Web Token
}
"""What every key of a kind holds -> the pattern of the whole key."""
API_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{'|'.join(API_KEYS.values())})(?![A-Za-z0-9_-])")
TOKEN_BYTES = bytes(b < 0x80 and (chr(b).isalnum() or chr(b) in "_-") for b in range(256))
LONG_TOKEN = b"\1" * 20
"""Every key has such a run. Prose has few words as long, and looking for them skips twenty bytes at a time."""
EMAIL = re.compile(
    r"(?<![\w.+-])[\w+-](?:[\w.+-]{0,62}[\w+-])?@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,5}([A-Za-z]{2,24})(?![\w(@-])"
)
NO_DOMAINS = re.compile(r"png|jpe?g|gif|svg|webp|css|js|py|so|md|txt|html|json|ya?ml|service|target|socket|timer", re.I)
"""What looks like a top-level domain in `icon@2x.png` and `getty@tty.service`."""
NOBODY = ("git@", "noreply@", "no-reply@")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
CARD = re.compile(
    r"(?<![\w.+/-])"
    r"(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5})"
    r"(?![\w/-]|\.\d)"
)
IPV4 = re.compile(r"(?<![\w.+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w+-]|\.\d|\.\*)")
IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)")
DOTTED = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d")
"""In every IPv4 address; begins with a literal, so that looking for it is fast."""
VERSION_BEFORE = re.compile(r"(?:\bv|version|release|ver|rev|build|firmware|chapter|section|§)\W{0,3}$", re.IGNORECASE)
PHONE = re.compile(r"(?<![\w.,:/+#=-])(?:\+\d|\(\d|\d)(?:[ ().-]{0,2}\d){6,16}(?![\w:/=-]|[.,]\d)")
DATE = re.compile(r"(?:19|20)\d\d[-./ ][01]?\d[-./ ][0-3]?\d|[0-3]?\d[-./ ][01]?\d[-./ ](?:19|20)\d\d")

Region = str
Finder = Callable[[str, Sequence[Region]], Iterable[tuple[int, int]]]
"""text, regions of national phone numbers -> (start, end) of what is found."""


@dataclass(frozen=True, slots=True)
class Redacted:
    text: str
    counts: dict[str, int]
    """Kind -> how many were found."""


def redact(
    text: str, kinds: Collection[str], regions: Sequence[Region] = ("US",), absent: Collection[str] = ()
) -> Redacted:
    """Replaces what is found of the kinds by `<KIND>`. What an earlier kind took, a later one does not see.

    `absent` are kinds known not to be in the text; they are looked for only once it has changed.
    """
    counts: dict[str, int] = {}
    for kind, finder in FINDERS.items():
        if kind in kinds and (counts or kind not in absent) and (spans := list(finder(text, regions))):
            counts[kind] = len(spans)
            text = _replaced(text, spans, f"<{kind.upper()}>")
    return Redacted(text, counts)


def _replaced(text: str, spans: Sequence[tuple[int, int]], placeholder: str) -> str:
    pieces, last = [], 0
    for start, end in spans:
        pieces += [text[last:start], placeholder]
        last = end
    return "".join((*pieces, text[last:]))


LEAST_DIGITS, WITHIN_CHARACTERS = 7, 21
"""Seven digits among 21 characters: the least that a phone number, the shortest of its kind, can be."""
MARGIN = 64
"""Characters around such digits that may belong to the same number."""


@lru_cache(maxsize=1)
def digit_windows(text: str) -> Sequence[tuple[int, int]]:
    """(start, end) of what may hold an IBAN, a card's or a phone's number: few or none in most texts."""
    wide = not text.isascii()
    codes = np.frombuffer(text.encode("utf-32-le" if wide else "ascii"), dtype="<u4" if wide else "u1")
    places = np.flatnonzero((codes >= ord("0")) & (codes <= ord("9")))
    starts = places[: 1 - LEAST_DIGITS]
    starts = starts[(places[LEAST_DIGITS - 1 :] - starts) < WITHIN_CHARACTERS] if len(starts) else starts
    windows: list[tuple[int, int]] = []
    for start in starts.tolist():
        if windows and start - MARGIN <= windows[-1][1]:
            windows[-1] = (windows[-1][0], start + MARGIN)
        else:
            windows.append((max(0, start - MARGIN), start + MARGIN))
    return windows


def _in_windows(pattern: re.Pattern[str], text: str) -> Iterable[re.Match[str]]:
    return (match for start, end in digit_windows(text) for match in pattern.finditer(text, start, end))


def find_private_keys(text: str, regions: Sequence[Region]) -> Iterable[tuple[int, int]]:
    return [match.span() for match in PRIVATE_KEY.finditer(text)] if "PRIVATE KEY" in text else []


def find_api_keys(text: str, regions: Sequence[Region]) -> Iterable[tuple[int, int]]:
    tokens = text.encode().translate(TOKEN_BYTES)
    if LONG_TOKEN not in tokens or not any(mark in text for mark in API_KEYS):
        return []
    return list(_at(API_KEY, text, sorted(_places_of(API_KEYS, text))))


def _places_of(marks: Iterable[str], text: str) -> Iterable[int]:
    """Where a key may begin: with its mark, or two characters before "_live_" and "_test_"."""
    for mark in marks:
        place = text.find(mark)
        while place >= 0:
            yield max(0, place - 2 * mark.startswith("_"))
            place = text.find(mark, place + 1)


def _at(pattern: re.Pattern[str], text: str, places: Iterable[int]) -> Iterable[tuple[int, int]]:
    """What `finditer` gives, if a match can begin at these ascending places only: ten times as fast."""
    last = 0
    for place in places:
        if place >= last and (match := pattern.match(text, place)):
            yield match.span()
            last = match.end()


def find_emails(text: str, regions: Sequence[Region]) -> Iterable[tuple[int, int]]:
    """`git@host` and the like name a service and no person."""
    last = 0
    at = text.find("@")
    while at >= 0:
        if at and (text[at - 1].isalnum() or text[at - 1] in "_+-") and text[at + 1 : at + 2].isalnum():
            match = EMAIL.search(text, max(last, at - 64), at + 320)
            if match and not NO_DOMAINS.fullmatch(match[1]) and not match[0].startswith(NOBODY):
                yield match.span()
                last = match.end()
        at = text.find("@", max(at + 1, last))


def find_ibans(text: str, regions: Sequence[Region]) -> Iterable[tuple[int, int]]:
    """The pattern may take a word too many behind the number, so the country's length says where it ends."""
    for match in _in_windows(IBAN, text):
        length = IBAN_LENGTHS.get(match[0][:2], 0)
        end, found = match.start(), 0
        while end < match.end() and found < length:
            found += text[end] != " "
            end += 1
        number = text[match.start() : end].replace(" ", "")
        whole = found == length > 0 and not text[end : end + 1].isalnum()
        if whole and int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1:
            yield match.start(), end


def find_cards(text: str, regions: Sequence[Region]) -> Iterable[tuple[int, int]]:
    for match in _in_windows(CARD, text):
        digits = match[0].replace(" ", "").replace("-", "")
        if _is_card(digits) and luhn(digits):
            yield match.span()


def luhn(digits: str) -> bool:
    """The check digit of ISO 7812: every second digit from the right doubled, the sum divisible by 10."""
    values = [int(digit) for digit in reversed(digits)]
    return sum(values[::2] + [2 * value - 9 * (value > 4) for value in values[1::2]]) % 10 == 0


def _is_card(digits: str) -> bool:
    """Whether a network issues such numbers: prefix and length."""
    two, four = int(digits[:2]), int(digits[:4])
    if digits[0] == "4":  # Visa
        return len(digits) in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:  # Mastercard
        return len(digits) == 16
    if two in (34, 37):  # American Express
        return len(digits) == 15
    if two in (36, 38) or 3000 <= four <= 3059:  # Diners Club
        return len(digits) == 14
    return len(digits) >= 16 and (four == 6011 or two in (62, 65) or 3528 <= four <= 3589)  # Discover, UnionPay, JCB


def find_ips(text: str, regions: Sequence[Region]) -> Iterable[tuple[int, int]]:
    spans = [
        (start, end)
        for start, end in _at(IPV4, text, _before_dots(text))
        if _is_public(text[start:end]) and not VERSION_BEFORE.search(text[max(0, start - 12) : start])
    ]
    spans += [(start, end) for start, end in _at(IPV6, text, _before_colons(text)) if _is_public(text[start:end])]
    return sorted(spans)


def _before_dots(text: str) -> Iterable[int]:
    """Where an IPv4 address may begin."""
    for dotted in DOTTED.finditer(text):
        yield from range(max(0, dotted.start() - 3), dotted.start())


def _before_colons(text: str) -> Iterable[int]:
    """Where a public IPv6 address may begin: four characters before a colon, with 2 or 3."""
    place = text.find(":", 4)
    while place >= 0:
        if text[place - 4] in "23":
            yield place - 4
        place = text.find(":", place + 1)


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_global and not found.is_multicast and not address.endswith(".0.0")


LEAST_BARE = 11
"""Characters of "+", a country code and a number without any grouping; shorter ones are mostly other numbers."""


def find_phones(text: str, regions: Sequence[Region]) -> Iterable[tuple[int, int]]:
    """National numbers must be grouped as their region groups them; bare digits are no phone number to anyone."""
    for match in _in_windows(PHONE, text):
        candidate = match[0]
        if candidate.isdigit() or DATE.match(candidate):
            continue
        found = _phone_in(candidate, regions)
        if found:
            yield match.start() + found[0], match.start() + found[1]


def _phone_in(candidate: str, regions: Sequence[Region]) -> tuple[int, int] | None:
    import phonenumbers

    for region in (None,) if candidate[0] == "+" else regions:
        for found in phonenumbers.PhoneNumberMatcher(candidate, region, leniency=phonenumbers.Leniency.STRICT_GROUPING):
            if found.raw_string[1:].isdigit() and len(found.raw_string) < LEAST_BARE:
                return None
            if any(map(str.isdigit, candidate[: found.start])):
                return None  # "0.6502530000" is no phone number behind its point
            unpaired = candidate[found.start] == "(" and ")" not in found.raw_string
            return found.start + unpaired, found.end
    return None


FINDERS: dict[str, Finder] = {
    "private_key": find_private_keys,
    "api_key": find_api_keys,
    "email": find_emails,
    "iban": find_ibans,
    "card": find_cards,
    "ip": find_ips,
    "phone": find_phones,
}

IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO EG GT HU LB NI PL SV",
        29: "BR PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
"""Characters of a country's IBAN: SWIFT's IBAN registry."""
