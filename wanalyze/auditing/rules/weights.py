"""What the updates look like: shape statistics, outliers, a bank. They inform; none of them tells a backdoor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from wanalyze.auditing.peers import FEWEST, Distance, distances
from wanalyze.auditing.records import Severity
from wanalyze.auditing.rule import Hit, Need, Rule
from wanalyze.auditing.subject import Subject
from wanalyze.result import Change

_NEEDS = (Need.weights, Need.adapter, Need.numbers)
_LOOK = "look at these modules; nothing follows from the number alone"
_LIMITS = (
    "Says where to look, never safe or backdoored: at equal recipes none of the published statistics told poisoned "
    "adapters from clean ones by its range, thresholds do not carry over to another base or training method, and an "
    "attacker who knows the test can train against it. `wanalyze explain kurtosis` has the sources."
)

Number: TypeAlias = Callable[[Change], float | None]


def _used_rank(change: Change) -> float | None:
    used = change.metrics.get("energy_rank_99")
    if used is None or not change.rank or not change.shape:
        return None
    return used / min(change.rank, *change.shape)


def _dominance(change: Change) -> float | None:
    return None if change.rank == 1 else change.metrics.get("dominance")


def _peak(change: Change) -> float | None:
    return max((change.metrics.get("row_peak") or 0, change.metrics.get("column_peak") or 0)) or None


def _intruder_energy(change: Change) -> float | None:
    sides = (change.metrics.get("intruder_energy_left"), change.metrics.get("intruder_energy_right"))
    return max((energy for energy in sides if energy is not None), default=None)


def _spectral(change: Change) -> float | None:
    return change.metrics.get("relative_spectral_norm")


def _beyond(code: str, number: Number, words: str, *, low: bool = False) -> Callable[[Subject], Iterator[Hit]]:
    """A check of all modules of each kind against the rule's limit: one hit for each kind, at its worst module."""
    sign = -1 if low else 1

    def check(subject: Subject) -> Iterator[Hit]:
        limit = subject.limits[code]
        kinds: dict[str, list[tuple[float, Change]]] = {}
        for change in subject.changes.values():
            if (value := number(change)) is not None:
                kinds.setdefault(change.kind, []).append((value, change))
        for kind, known in kinds.items():
            broken = [item for item in known if sign * item[0] >= sign * limit]
            if broken:
                value, worst = max(broken, key=lambda item: sign * item[0])
                message = f"{len(broken)} of {len(known)} {kind[:80]} {words}: {worst.name[:160]} {value:.3g}"
                yield Hit(message, _LOOK, module=worst.name, value=value, limit=limit)

    return check


def _outliers(subject: Subject) -> Iterator[Hit]:
    limit = subject.limits["outlier-module"]
    worst: dict[str, Distance] = {}
    for found in distances(subject.changes.values()):
        name = found.change.name
        if abs(found.z) >= limit and (name not in worst or abs(found.z) > abs(worst[name].z)):
            worst[name] = found
    for name, found in worst.items():
        value = found.change.metrics[found.statistic]
        yield Hit(
            f"{name[:160]}: {found.statistic} {value:.3g} lies {found.z:+.3g} robust deviations from its {found.peers} "
            "peers",
            _LOOK,
            module=name,
            value=found.z,
            limit=limit,
        )


def _outside_bank(subject: Subject) -> Iterator[Hit]:
    limit, found = subject.limits["outside-bank"], subject.standings
    if found is None or not found.matched or found.outside < limit * found.expected:
        return
    yield Hit(
        f"{found.outside} of {len(found.standings)} numbers lie outside the range of the {found.adapters} adapters of "
        f"this recipe in the bank; {found.expected:.0f} would if it had been made as they were",
        "look at the numbers outside, under `bank` in the JSON",
        value=found.outside / found.expected,
        limit=limit,
    )


WEIGHTS = (
    Rule(
        "rank-collapsed",
        Severity.info,
        "few of the promised directions carry anything",
        "99 % of the energy of an update lies in at most this share of the directions that its rank promises: "
        "energy_rank_99 / r, r at most the short side.",
        "wanalyze; gradience calls stable_rank / r utilisation, about 0.17 on average over 86 adapters",
        _beyond("rank-collapsed", _used_rank, "use hardly any of their rank", low=True),
        _NEEDS,
        limit=0.125,
        caveat=f"A smaller rank would do, or training collapsed. {_LIMITS}",
    ),
    Rule(
        "one-direction",
        Severity.info,
        "one direction holds nearly all of an update",
        "dominance, σ₁² / Σσ² of ΔW, of an update of rank above 1 reaches the limit.",
        "arXiv 2607.01854 (abliterated models: AUROC 0.90 against other fine-tunes)",
        _beyond("one-direction", _dominance, "are nearly one direction"),
        _NEEDS,
        limit=0.95,
        caveat=f"Edits of one behaviour look like this, and so do many harmless adapters. {_LIMITS}",
    ),
    Rule(
        "extreme-lines",
        Severity.info,
        "single rows or columns stand out",
        "row_peak or column_peak, the largest norm of a row or column of ΔW over the median, reaches the limit.",
        "wanalyze",
        _beyond("extreme-lines", _peak, "have a row or column that stands out"),
        _NEEDS,
        limit=30,
        caveat=f"Outlier channels of the base show here as well. {_LIMITS}",
    ),
    Rule(
        "outlier-module",
        Severity.info,
        "a module is unlike its peers",
        f"Of ln of a norm, rank, kurtosis or peak: |x − median| / (1.4826 · MAD) over the modules of the same kind in "
        f"other layers reaches the limit; at least {FEWEST} of them.",
        "robust z; the limit is that of AdapterSentry 2.0.2, which reviews 5 % of 393 adapters of the Hub at z ≥ 14",
        _outliers,
        _NEEDS,
        limit=14,
        caveat=f"AdapterSentry takes a trend over the layers away first, this does not. {_LIMITS}",
    ),
    Rule(
        "large-update",
        Severity.info,
        "an update is as strong as its base",
        "relative_spectral_norm, σ₁(ΔW) / σ₁(W0), reaches the limit.",
        "Shuttleworth et al., arXiv 2410.21228v3: such a direction comes to the top of the merged matrix",
        _beyond("large-update", _spectral, "reach the strength of the base"),
        (*_NEEDS, Need.base),
        limit=1,
        caveat="Says that the top of the spectrum is new, not that what the base knew is lost.",
    ),
    Rule(
        "intruders",
        Severity.info,
        "the merged matrix has intruder dimensions",
        "intruder_energy_left or _right, the share of the energy of the top 10 singular vectors of W0 + ΔW in those "
        "whose largest |cosine| with every vector of W0 is below 0.5, reaches the limit.",
        "Shuttleworth et al., arXiv 2410.21228v3; the share is wanalyze's, for the count saturates",
        _beyond("intruders", _intruder_energy, "have intruder dimensions"),
        (*_NEEDS, Need.base, Need.comparison),
        limit=0.1,
        caveat="Tied to forgetting across learning rates (Spearman 0.97 and 0.59); the size of the update explains as "
        "much, and most trained LoRA have some.",
    ),
    Rule(
        "outside-bank",
        Severity.info,
        "unlike the adapters of the bank",
        "The numbers beyond the range of the bank's adapters of the same recipe are at least this many times as many "
        "as would be expected of one of them, 2 / (n + 1) of each number.",
        "exchangeability: a new value is beyond all n with probability 2 / (n + 1)",
        _outside_bank,
        (*_NEEDS, Need.bank),
        limit=3,
        caveat="The numbers depend on each other, so the count scatters widely about what is expected; an adapter for "
        f"another task lies outside as well. {_LIMITS}",
    ),
)
