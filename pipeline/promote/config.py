"""What must be proved before an alias moves, and which alias that is."""

import re
from dataclasses import dataclass, field

CONFIG = {"extra": "forbid"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_name(text: str) -> bool:
    """True if a model's or an alias's name is safe as a file's name: no separators, no leading dot, 100 characters."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    __pydantic_config__ = CONFIG

    main: str = "heldout/bits_per_byte"
    """The measure on which a candidate must be proved better than the champion."""
    confidence: float = 0.95
    """1 minus the chance that any candidate ever judged against one champion is promoted without being better."""
    margin: float = 0.01
    """How much worse than the champion, relative to it, a candidate may be on any one source."""

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}; it must lie between 0.5 and 1, for example 0.95")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin is {self.margin}; it must be at least 0 and below 1, for example 0.01")


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    __pydantic_config__ = CONFIG

    model: str
    """The model's name in the registry: `registry/MODEL/`."""
    alias: str = "production"
    """The pointer that a promotion moves: `registry/MODEL/aliases/ALIAS.json`."""
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        for name in (self.model, self.alias):
            if not is_name(name):
                raise ValueError(
                    f"{name!r} is not a name; use letters, digits, '.', '_' and '-', and begin with no '.'"
                )
