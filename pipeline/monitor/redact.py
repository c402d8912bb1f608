"""Takes secrets out of a config before it leaves the machine."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_SECRET_WORDS = {
    "apikey", "auth", "authorization", "credential", "credentials", "key", "passphrase", "passwd", "password", "secret",
    "secrets", "token",
}  # fmt: skip

_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY_VALUE = re.compile(r"([?&][^=&\s]+=)[^&\s]+")


def without_secrets(value: Any, name: str = "") -> Any:
    """The value with whatever its name or its look says is a secret replaced by `***`.

    By name: `api_key`, `authToken`; a whole word, so that `tokens` and `tokenizer` stay. By look: the user and password
    in a URL, and the values of a URL's query, where signed links carry their signature.
    """
    if value is not None and _SECRET_WORDS & set(_words(name)):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(key): without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if isinstance(value, str) and "://" in value:
        return _QUERY_VALUE.sub(rf"\1{HIDDEN}", _USERINFO.sub(HIDDEN, value))
    return value


def _words(name: str) -> list[str]:
    """`apiKey`, `api-key` and `API_KEY` are all ["api", "key"]."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).replace("_", " ").replace("-", " ").lower().split()
