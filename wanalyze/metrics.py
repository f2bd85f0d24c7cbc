"""What every number means: one written definition each, in one table.

`measure` computes them, `explain` and the report quote them, the schema is checked against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Metric:
    """A number: its unit, its definition, where it comes from, and what it does not say."""

    key: str
    title: str
    unit: str
    definition: str
    source: str
    limits: str


_ROUNDING = (
    "A merged or fully fine-tuned checkpoint stored in bf16 carries rounding in ΔW; where ‖ΔW‖ is below "
    "about 1 % of ‖W0‖ that rounding is spread over all directions and raises this number."
)
_INTRUDER = (
    "max over j of |cos(u_i, u_j(W0))| < ε over all j, for the k vectors of W1 = W0 + ΔW with the largest "
    "singular values; k and ε are the run's (10 and 0.5 unless set)"
)
_PAPER = "Shuttleworth, Andreas, Torralba, Sharma, arXiv 2410.21228v3, definition 3.1 and algorithm 1"

_TABLE = (
    Metric(
        "base_norm",
        "size of the base",
        "Frobenius norm",
        "‖W0‖_F, the square root of the sum of squares of the entries of the base.",
        "standard",
        "Grows with the shape: compare it within one kind of module only.",
    ),
    Metric(
        "delta_norm",
        "size of the update",
        "Frobenius norm",
        "‖ΔW‖_F with ΔW = W1 − W0.",
        "standard",
        "Grows with the shape; use relative_norm to compare modules.",
    ),
    Metric(
        "relative_norm",
        "relative size of the update",
        "ratio",
        "‖ΔW‖_F / ‖W0‖_F.",
        "standard",
        "Says how far the matrix moved, not in how many directions nor what it does to the outputs.",
    ),
    Metric(
        "delta_spectral_norm",
        "largest stretch of the update",
        "spectral norm",
        "σ₁(ΔW), the largest singular value of the update.",
        "standard",
        "One direction only.",
    ),
    Metric(
        "relative_spectral_norm",
        "largest stretch against the base's",
        "ratio",
        "σ₁(ΔW) / σ₁(W0).",
        "standard",
        "Near or above 1 the update can put a direction of its own at the top of the spectrum of W1.",
    ),
    Metric(
        "effective_rank",
        "effective rank",
        "directions",
        "exp(−Σ p ln p) with p = σ/Σσ over the singular values of ΔW: 1 for one direction, n for n equal ones.",
        "Roy and Vetterli, EUSIPCO 2007",
        _ROUNDING,
    ),
    Metric(
        "effective_rank_energy",
        "effective rank by energy",
        "directions",
        "exp(−Σ p ln p) with p = σ²/Σσ² over the singular values of ΔW.",
        "Roy and Vetterli's entropy on squared singular values, as WeightWatcher takes it",
        "Smaller than effective_rank, which weighs the tail more. The two must not be mixed in one table.",
    ),
    Metric(
        "stable_rank",
        "stable rank",
        "directions",
        "Σσ² / σ₁² of ΔW.",
        "Rudelson and Vershynin, J. ACM 2007",
        "Governed by the largest singular value alone.",
    ),
    Metric(
        "participation_ratio",
        "participation ratio",
        "directions",
        "(Σσ²)² / Σσ⁴ of ΔW.",
        "standard",
        "Blind to a long weak tail.",
    ),
    *(
        Metric(
            f"energy_rank_{share}",
            f"rank for {share} % of the energy",
            "directions",
            f"The smallest k with Σ_{{i≤k}} σ_i² ≥ {share / 100:g} · Σσ² over the singular values of ΔW.",
            "Biderman et al., arXiv 2405.09673, section 4.6 (at 90 %)",
            _ROUNDING,
        )
        for share in (50, 90, 95, 99)
    ),
    Metric(
        "numerical_rank",
        "numerical rank",
        "directions",
        "How many σ of ΔW exceed max(m, n) · eps · σ₁. eps is that of the coarser storage dtype of base and "
        "tuned; an update given by factors was never stored as a matrix, so its eps is float64's.",
        "the rule of numpy.linalg.matrix_rank (Golub and Van Loan, section 5.4.1)",
        "Not measured where max(m, n) · eps ≥ 1, as for bf16 matrices of 128 rows or more: there the limit "
        "exceeds σ₁ and the rule says nothing.",
    ),
    Metric(
        "noise_edge",
        "rounding edge",
        "singular value",
        "The largest singular value that rounding W1 to its storage dtype explains: that of one matrix of "
        "spacing(w1) · U(−½, ½) with a fixed seed, times 1 + 2 min(m, n)^(−⅔) for its fluctuation.",
        "wanalyze; for noise of unequal variance see Landa and Kluger, arXiv 2306.11263",
        "An upper edge: where most changes are smaller than the spacing (‖ΔW‖ below about 1 % of ‖W0‖ in bf16) they "
        "are swallowed rather than rounded, and the noise is smaller than this and not independent of ΔW.",
    ),
    Metric(
        "signal_rank",
        "rank above rounding",
        "directions",
        "How many σ of ΔW lie above noise_edge.",
        "wanalyze",
        "Recovers the rank of a merged adapter where ‖ΔW‖ is about 1 % of ‖W0‖ and more (bf16); below, weak "
        "directions drown. See merged_rank.",
    ),
    Metric(
        "merged_rank",
        "rank of a merged adapter",
        "directions",
        "The smallest r for which some ΔW of rank r, added to W0 and rounded to the storage dtype, gives W1 in every "
        "entry (to 1e-4 of the widths of the rounding intervals), if r − 1 fits at least 40 · 1024 / n times worse, n "
        "the short side of what is fitted.",
        "wanalyze: box consistency; low-rank recovery from quantised entries, arXiv 2310.03224",
        "Tried where signal_rank is at least 1 and at most 128 and a quarter of the short side. Of a matrix larger "
        "than 1024 x 1024 a random part of that size is fitted: an estimate. Null where the weights do not single out "
        "a rank (information-limited), which is common for small updates with a decaying spectrum.",
    ),
    Metric(
        "merged_sharpness",
        "how surely that rank",
        "ratio",
        "The misfit at rank r − 1 over that at r, r the smallest rank that fits; from 40 · 1024 / n on, n the short "
        "side of what is fitted, the rank is identified.",
        "wanalyze: box consistency",
        "A ratio of misfits, not a probability.",
    ),
    Metric(
        "changed_fraction",
        "share of entries changed",
        "share",
        "The share of entries of W1 that differ from W0 at all, as stored; for an adapter, of non-zero entries of ΔW.",
        "Mukherjee et al., arXiv 2505.11711 (there with a tolerance of 1e-5)",
        "bf16 hides changes below half a unit in the last place: a small merged update looks sparse.",
    ),
    Metric(
        "intruders_left",
        "intruder dimensions, output side",
        "of the top k",
        f"How many left singular vectors u_i of W1 have {_INTRUDER}.",
        _PAPER,
        "A count of certain cases: a vector listed in `ambiguous` is counted neither way. Directions of W0 with "
        "σ < 1e-7 σ₁ are null space, not singular vectors. Not normalised by "
        "the number of matrices, so totals of different models are not comparable.",
    ),
    Metric(
        "intruders_right",
        "intruder dimensions, input side",
        "of the top k",
        f"The same for right singular vectors: {_INTRUDER.replace('u_', 'v_')}.",
        f"{_PAPER}, applied to the input side",
        "The paper counts the left side only. For a tall matrix the left side is the stricter test, for a "
        "wide one the right side.",
    ),
    Metric(
        "intruder_energy_left",
        "energy in intruders, output side",
        "share",
        "Σσ_i(W1)² over the left intruders / Σσ_i(W1)² over the top k.",
        "wanalyze; the count saturates where this share does not",
        "A share of the top k, not of the whole matrix.",
    ),
    Metric(
        "intruder_energy_right",
        "energy in intruders, input side",
        "share",
        "Σσ_i(W1)² over the right intruders / Σσ_i(W1)² over the top k.",
        "wanalyze; the count saturates where this share does not",
        "A share of the top k, not of the whole matrix.",
    ),
    Metric(
        "magnitude_change",
        "change of row norms",
        "norm",
        "Mean over the rows (outputs) n of |‖w1_n‖ − ‖w0_n‖|.",
        "Liu et al., DoRA, arXiv 2402.09353, equation 3 (ΔM), over output rows as PEFT takes them",
        "The paper takes columns of its transposed weight; the axis here is the output.",
    ),
    Metric(
        "direction_change",
        "change of row directions",
        "1 − cosine",
        "Mean over the rows (outputs) n of 1 − cos(w1_n, w0_n); rows that are zero in either are left out.",
        "Liu et al., DoRA, arXiv 2402.09353, equation 4 (ΔD), over output rows as PEFT takes them",
        "The paper takes columns of its transposed weight; the axis here is the output.",
    ),
    Metric(
        "amplification",
        "amplification",
        "ratio",
        "‖ΔW‖_F / ‖U_rᵀ W0 V_r‖_F with U_r, V_r the top r singular vectors of ΔW; r is the run's k, or the rank of "
        "ΔW if that is smaller: signal_rank, or the number of non-zero σ where there is no rounding edge.",
        "Hu et al., LoRA, arXiv 2106.09685, section 7.3 and table 7",
        "The paper sets r to the adapter's rank; here it is at most k for all models of a run, so that full "
        "fine-tuning and LoRA stand on one footing. Null where that space is not separated from what follows.",
    ),
)

METRICS: MappingProxyType[str, Metric] = MappingProxyType({metric.key: metric for metric in _TABLE})
ALONE = ("delta_norm", "delta_spectral_norm", "effective_rank", "stable_rank")  # of an update without its base

_ENCLOSED = (
    "below: Ritz vectors and Davis and Kahan's bound on their angle; above: the block Christoffel function of a Krylov "
    "space started at the vectors of W1, or all vectors of the base"
)
_COSINES = (
    Metric(
        "max_cosine_left",
        "nearest base vector, output side",
        "[low, high]",
        "For each of the top k left singular vectors u_i of W1, an enclosure of max over all j of |cos(u_i, u_j(W0))|.",
        f"{_PAPER}; {_ENCLOSED}",
        "Directions of W0 with σ < 1e-7 σ₁ are null space, not singular vectors.",
    ),
    Metric(
        "max_cosine_right",
        "nearest base vector, input side",
        "[low, high]",
        "The same for the right singular vectors.",
        f"{_PAPER}, applied to the input side; {_ENCLOSED}",
        "Directions of W0 with σ < 1e-7 σ₁ are null space, not singular vectors.",
    ),
    *(
        Metric(
            f"matched_{side}",
            f"which base vector is nearest, {side} side",
            "index",
            "The j of the largest |cosine|, from 0; null for an intruder, and where several j share a singular value.",
            _PAPER,
            "A high j says that a weak direction of the base was raised to the top.",
        )
        for side in ("left", "right")
    ),
    Metric(
        "ambiguous",
        "vectors without an answer of their own",
        "list",
        "Vectors of W1 whose singular value is within 1e-6 σ₁ of a neighbour's, so that only their common subspace has "
        "a cosine (given, an upper bound where the base is degenerate as well), or whose enclosure contains ε.",
        "wanalyze",
        "They are counted neither as intruders nor as matched.",
    ),
)
EXPLAINED: MappingProxyType[str, Metric] = MappingProxyType({**METRICS, **{term.key: term for term in _COSINES}})
