"""The Decision: who was judged against whom, each rule with its figures, and the verdict."""

from dataclasses import dataclass
from typing import Literal

from pipeline.promote.config import GateConfig

GATE_VERSION = 1
"""Changes whenever the same reports could get another verdict; a replay says so instead of calling the proof wrong."""

Figure = float | int | str | None


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    name: str
    """`trained`, `finite`, `scores`, `same_data`, `better_than_uniform`, `better` or `not_worse`."""
    passed: bool
    detail: str
    """One line for a person, with the figures."""
    figures: dict[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Decision:
    gate_version: int
    candidate: str
    """Digest of the candidate's report."""
    champion: str | None
    """Digest of the champion's report; None if the alias pointed nowhere."""
    candidate_checkpoint: str
    champion_checkpoint: str | None
    config: GateConfig
    looks: int
    """How many candidates had been judged against this champion before this one."""
    rules: tuple[RuleResult, ...]
    """In the order judged; what a failed rule makes meaningless is left out."""
    verdict: Literal["promote", "refuse"]

    def why(self) -> str:
        """The reason in one line: what failed, or the last thing proved on the main measure."""
        failed = [rule.detail for rule in self.rules if not rule.passed]
        decisive = [rule.detail for rule in self.rules if rule.name.startswith("better")]
        return "; ".join(failed or decisive)
