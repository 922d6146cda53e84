"""The explanation of one number as a base value plus a contribution from each feature group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import shap  # type: ignore[import-untyped] # ships no types

__all__ = ["Contribution", "Explanation", "ExplanationKind"]

NOT_WORTH_TELLING = 0.005


class ExplanationKind(StrEnum):
    """The kind of number explained."""

    PROBABILITY = "probability"
    FACTOR_SCORE = "factor_score"


@dataclass(frozen=True, slots=True)
class Contribution:
    """The amount one feature group adds, the fact behind it in words, and the feature values."""

    name: str
    amount: float
    fact: str
    values: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """An additive explanation: `base` plus all contributions equals `total`, a probability or a factor score."""

    kind: ExplanationKind
    subject: str
    base: float
    total: float
    contributions: tuple[Contribution, ...]

    def data(self) -> dict[str, Any]:
        """Return the explanation as strict JSON values."""
        return {
            "kind": self.kind.value,
            "subject": self.subject,
            "base": self.base,
            "total": self.total,
            "contributions": [
                {"name": c.name, "amount": c.amount, "fact": c.fact, "values": dict(c.values)}
                for c in self.contributions
            ],
            "text": self.text,
        }

    @property
    def text(self) -> str:
        """The explanation in a few sentences, the largest contributions first."""
        raising = [c for c in self._by_size() if c.amount >= NOT_WORTH_TELLING]
        lowering = [c for c in self._by_size() if c.amount <= -NOT_WORTH_TELLING]
        parts = [self._headline(), _sentence("Raised by", raising), _sentence("Lowered by", lowering)]
        return " ".join(part for part in parts if part)

    def to_shap(self) -> shap.Explanation:
        """Convert to a `shap.Explanation` for shap's plots.

        Raises InputError if shap or matplotlib is not installed (the extra `plots`).
        """
        from flexiroaster.safety.shap_export import to_shap

        return to_shap(self)

    def to_html(self) -> str:
        """Render a table with bars as self-contained HTML: escaped, without scripts or external references."""
        widest = max((abs(c.amount) for c in self.contributions), default=0.0) or 1.0
        rows = "".join(_row(c, widest) for c in self._by_size())
        return (
            f'<figure style="font-family:sans-serif;margin:0"><figcaption>{escape(self._headline())}</figcaption>'
            f'<table style="border-collapse:collapse">{rows}</table></figure>'
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def _by_size(self) -> list[Contribution]:
        return sorted(self.contributions, key=lambda c: -abs(c.amount))

    def _headline(self) -> str:
        if self.kind is ExplanationKind.FACTOR_SCORE:
            return f"The factor score of {self.subject} is {self.total:.2f}."
        return f"{self.subject} fails with probability {self.total:.2f}; a typical run with {self.base:.2f}."


def _sentence(beginning: str, contributions: list[Contribution]) -> str:
    told = "; ".join(f"{c.name} {c.amount:+.2f} ({c.fact})" for c in contributions)
    return f"{beginning} {told}." if told else ""


def _row(contribution: Contribution, widest: float) -> str:
    colour = "#b3261e" if contribution.amount > 0 else "#1a5fb4"
    width = 100 * abs(contribution.amount) / widest
    bar = f'<div style="background:{colour};height:0.8em;width:{width:.1f}px"></div>'
    cells = (escape(contribution.name), f"{contribution.amount:+.3f}", bar, escape(contribution.fact))
    return "<tr>" + "".join(f'<td style="padding:2px 8px">{cell}</td>' for cell in cells) + "</tr>"
