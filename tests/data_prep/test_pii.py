"""Personal data and secrets: planted examples are found, look-alikes are left alone, values are never kept.

Numbers are made up with right check digits, or are those that issuers publish for tests.
"""

import base64
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.build import prepare
from data_prep.config import PII_KINDS, HeldoutConfig, PiiConfig, SourceConfig, check_config
from data_prep.errors import DataMistake
from data_prep.manifest import Manifest
from data_prep.pii import FINDERS, IBAN_LENGTHS, luhn, redact
from data_prep.plan import shaping
from tests.data_prep.corpora import config, files_of, write_lines

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def secret(length: int, seed: int, alphabet: str = LETTERS) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=length))


def card(prefix: str, length: int, seed: int) -> str:
    body = prefix + secret(length - len(prefix) - 1, seed, "0123456789")
    return next(body + digit for digit in "0123456789" if luhn(body + digit))


def iban(country: str, seed: int) -> str:
    account = secret(IBAN_LENGTHS[country] - 4, seed, "0123456789")
    number = int("".join(str(int(c, 36)) for c in account + country + "00"))
    return f"{country}{98 - number % 97:02d}{account}"


def in_fours(number: str, between: str = " ") -> str:
    return between.join(number[i : i + 4] for i in range(0, len(number), 4))


def pem(label: str) -> str:
    body = base64.encodebytes(hashlib.sha512(label.encode()).digest() * 12).decode().strip()
    return f"-----BEGIN {label}PRIVATE KEY-----\n{body}\n-----END {label}PRIVATE KEY-----"


PLANTED: dict[str, list[str]] = {
    "email": [
        "jane.doe@mill-river.net",
        "j_d+news@sub.domain.co.uk",
        "UPPER@CASE.ORG",
        "x@y.io",
        "jörg@müller.de",
        "first-last@host.museum",
    ],
    "phone": [
        "+44 20 7946 0958",
        "(650) 253-0000",
        "650-253-0000",
        "650.253.0000",
        "+49 30 901820",
        "+1 650-253-0000",
        "+33 1 42 68 53 00",
        "+442079460958",
    ],
    "ip": ["8.8.4.4", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "2001:4860:4860::8888"],
    "card": [
        "4111111111111111",
        "5555 5555 5555 4444",
        card("4", 16, 1),
        in_fours(card("51", 16, 2)),
        in_fours(card("2221", 16, 3), "-"),
        card("6011", 16, 4),
        card("36", 14, 5),
        card("34", 15, 6),
        "3782 822463 10005",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        *(in_fours(iban(country, i)) for i, country in enumerate(["FR", "NL", "CH", "NO", "MT"])),
        iban("ES", 9),
    ],
    "api_key": [
        "AKIA" + secret(16, 1, "ABCDEFGH23456"),
        "ghp_" + secret(36, 2),
        "github_pat_" + secret(82, 3),
        "glpat-" + secret(20, 4),
        "xoxb-" + secret(40, 5),
        "AIza" + secret(35, 6),
        "sk_live_" + secret(24, 7),
        "sk-proj-" + secret(60, 8),
        "hf_" + secret(34, 9, LETTERS[:52]),
        "npm_" + secret(36, 10),
        "SG." + secret(22, 11) + "." + secret(43, 12),
        "eyJ" + secret(20, 13) + ".eyJ" + secret(40, 14) + "." + secret(43, 15),
    ],
    "private_key": [pem(""), pem("RSA "), pem("OPENSSH "), pem("EC ").rpartition("\n")[0]],
}

HARMLESS = [
    "version 1.2.3.4 and v10.20.30.40, release 93.184.216.34",
    "package-4.18.305.2, 1.2.3.4.5 and 1.2.3.4-5, 10.0.19041.1",
    "127.0.0.1, 192.168.1.254, 10.1.2.3, 0.0.0.0, 255.255.255.0, 999.1.1.1, 224.0.0.251",
    "12:30:45, 00:1a:2b:3c:4d:5e, std::vector<int>::size, ::1, fe80::1, dead::beef",
    "2024-01-15 10:20:30, 15.01.2024, 2024/01/15, 1999-12-31T23:59:59.999999",
    "d41d8cd98f00b204e9800998ecf8427e and da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "123e4567-e89b-12d3-a456-426614174000",
    "0.6502530000, 0.577-215-6649, (+35236450), +35236450 5",
    "3.14159265358979323846, 1,234,567,890 and 1e-10, 0x7fffffff, 6.02214076e23",
    "ISBN 978-3-16-148410-0, DOI 10.1000/182, RFC 2822, PEP 8, pages 123-456",
    "4111 1111 1111 1112 has a wrong check digit, 1234567890123456 no network",
    "4000000000000, 4000000000000000, 5555555555555555, 4444444444444444, 5100000000000000",
    "DE89 3704 0044 0532 0130 01 and GB00WEST12345698765432",
    "git@github.com:owner/name.git, icon@2x.png, getty@tty1.service, @decorator, a @ b, q@k.transpose()",
    "1700000000, 1700000000000, 20240115, 0123456789, 1 2 3 4 5 6 7 8 9 10 11 12 13",
    "task-runner sk-learn sk-SK AKIA ghp_ short eyJ xox-box disk-encryption-keys",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBg\n-----END PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQQGEwJJRTES\n-----END CERTIFICATE-----",
    "rows 100-200-300, 10 000 000 people, $1 000 000.00, chapter 12.3.4.1, section 8.8.4.4",
]


def test_the_config_knows_the_kinds() -> None:
    assert tuple(FINDERS) == PII_KINDS


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in PLANTED.items() for value in values])
@pytest.mark.parametrize("around", ["{}", "see {}.", "({})", "a: {}, b", 'x="{}"\n', "über {} und"])
def test_what_is_planted_is_replaced_whole(kind: str, value: str, around: str) -> None:
    if kind == "private_key" and not value.endswith("-----") and around == "{}":
        value += "\n"
    redacted = redact(around.format(value), PII_KINDS)
    assert redacted.text == around.format(f"<{kind.upper()}>") + "\n" * (value.endswith("\n"))
    assert redacted.counts == {kind: 1}


@pytest.mark.parametrize("text", HARMLESS)
def test_look_alikes_stay(text: str) -> None:
    redacted = redact(text, PII_KINDS)
    assert (redacted.text, redacted.counts) == (text, {})


def test_precision_and_recall_over_a_page_of_everything() -> None:
    draw = random.Random(0)
    pieces = [(kind, value) for kind, values in PLANTED.items() for value in values] + [("", line) for line in HARMLESS]
    draw.shuffle(pieces)
    redacted = redact("\n\n".join(f"The mill has {value} here." for _, value in pieces), PII_KINDS)
    expected = "\n\n".join(f"The mill has {f'<{kind.upper()}>' if kind else value} here." for kind, value in pieces)
    planted = {kind: len(values) for kind, values in PLANTED.items()}
    found = sum(min(count, redacted.counts.get(kind, 0)) for kind, count in planted.items())
    assert found / sum(planted.values()) == 1.0  # recall
    assert found / sum(redacted.counts.values()) == 1.0  # precision
    assert redacted.text == expected


def test_only_the_kinds_that_are_asked_for() -> None:
    text = "jane@mill.net from 8.8.4.4"
    assert redact(text, ["ip"]).text == "jane@mill.net from <IP>"
    assert redact(text, []).text == text


def test_national_phone_numbers_are_those_of_the_regions() -> None:
    assert redact("Tel. 020 7946 0958", ["phone"], ("GB",)).text == "Tel. <PHONE>"
    assert redact("Tel. 020 7946 0958", ["phone"], ("US",)).counts == {}
    assert redact("Tel. 650-253-0000", ["phone"], ("GB", "US")).counts == {"phone": 1}


@given(st.text(st.sampled_from("ab@.:-+ 0123456789\nDE<>"), max_size=80))
def test_any_text_is_redacted_once_and_for_all(text: str) -> None:
    once = redact(text, PII_KINDS)
    again = redact(once.text, PII_KINDS)
    assert sum(once.counts.values()) == sum(once.text.count(f"<{kind.upper()}>") for kind in PII_KINDS)
    assert not again.counts or again.text != once.text


@given(st.integers(10**12, 10**16))
def test_luhn_finds_every_wrong_digit(number: int) -> None:
    digits = next(f"{number}{check}" for check in range(10) if luhn(f"{number}{check}"))
    for place, digit in enumerate(digits):
        assert not luhn(f"{digits[:place]}{(int(digit) + 1) % 10}{digits[place + 1 :]}")


def test_a_build_counts_kinds_and_keeps_no_value(tmp_path: Path) -> None:
    clean_texts = [f"{i} the mill stands at the river and that is all\n" for i in range(40)]
    planted = [f"{i} write to jane{i}@mill-river.net from 8.8.4.4\n" for i in range(10)]
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": text} for text in clean_texts + planted])

    def built(**pii: Any) -> Manifest:
        source = SourceConfig(name="s", path=f"{tmp_path}/in/*.jsonl", pii=PiiConfig(**pii))
        made = config(tmp_path, sources=(source,), heldout=HeldoutConfig(fraction=0))
        folder, manifest = prepare(made, tmp_path / "out", "c", workers=0)
        if pii:
            assert not any(b"mill-river.net" in data for data in files_of(folder).values())
        return manifest

    replaced, dropped, off = built(action="replace"), built(action="drop", kinds=("email",)), built()
    assert replaced.sources[0].pii == {"email": 10, "ip": 10}
    assert replaced.sources[0].documents_kept == off.sources[0].documents_kept == 50
    assert (dropped.sources[0].pii, dropped.sources[0].dropped) == ({"email": 10}, {"pii": 10})
    assert off.sources[0].pii == {}
    assert len({manifest.config_digest for manifest in (replaced, dropped, off)}) == 3


def test_what_is_off_does_not_shape_a_corpus(tmp_path: Path) -> None:
    def shape(**changes: Any) -> dict[str, Any]:
        return shaping(config(tmp_path, sources=(SourceConfig(name="s", path="p", **changes),)))

    assert shape() == shape(pii=PiiConfig(kinds=("email",))) == shape(language_confidence=0.9)
    on = {"pii": PiiConfig(action="replace")}
    differing = [
        shape(),
        shape(**on),
        shape(pii=PiiConfig(action="drop")),
        shape(pii=PiiConfig(action="replace", phone_regions=("DE",))),
        shape(languages=("en",)),
        shape(languages=("en",), language_confidence=0.9),
        shape(rules="c4"),
        shape(rules=({"rule": "c4_lines", "min_words_per_line": 5},)),
    ]
    assert all(one != other for i, one in enumerate(differing) for other in differing[:i])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pii": PiiConfig(action="replace", kinds=("mail",))}, r"sources\.0\.pii\.kinds: 'mail' .* mean 'email'"),
        ({"pii": PiiConfig(phone_regions=("usa",))}, r"phone_regions: 'usa' is no country code"),
        ({"languages": ("English",)}, r"languages: 'English' is no language code"),
        ({"language_confidence": 65.0}, r"language_confidence: 65\.0 is not in \[0, 1\]"),
        (
            {"rules": ({"rule": "c4_line"},)},
            r"sources\.0\.rules\.0\.rule: 'c4_line' is unknown; did you mean 'c4_lines'",
        ),
        ({"rules": "fine-web"}, r"sources\.0\.rules: 'fine-web' is unknown; did you mean 'fineweb'\?"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataMistake, match=message):
        check_config(config(tmp_path, sources=(SourceConfig(name="s", path="p", **changes),)))
