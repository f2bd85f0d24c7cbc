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
        "Near or above 1 the update can put a direction of its own at the top of the spectrum of W1. An audit finds "
        "σ₁(W0) of a large matrix from below, to about one part in a thousand.",
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

# --- what an audit asks of an update; together with ALONE and two energy ranks ---

_BACKDOORS = "Puertolas Merenciano et al., arXiv 2602.15195, one of five statistics of the q, k, v and o projections"
_NO_VERDICT = (
    "Published detectors do not carry over: with the recipe held equal none of the 20 features of arXiv 2602.15195 "
    "told poisoned from clean by its range (an independent replication with 21 adapters), norms that separate on one "
    "base need calibrating on the next (arXiv 2605.30189), the same statistics score AUC 1.00 within one training "
    "method and 0.00 across methods (arXiv 2604.08844), adapters harmless alone can be harmful together "
    "(arXiv 2603.12681), and an attacker who knows the test can train against it. Read it beside a bank of the same "
    "recipe; it says where to look, never safe or backdoored."
)
_STATISTICS = (
    Metric(
        "dominance",
        "energy of the first direction",
        "share",
        "σ₁² / Σσ² over the singular values of ΔW: 1 for one direction, 1/r for r equal ones.",
        "arXiv 2607.01854 (as E1, of abliterated models)",
        f"The inverse of stable_rank. {_NO_VERDICT}",
    ),
    Metric(
        "concentration",
        "weight of the first singular value",
        "share",
        "σ₁ / Σσ over the singular values of ΔW.",
        f"{_BACKDOORS} (E)",
        _NO_VERDICT,
    ),
    Metric(
        "spectral_entropy",
        "entropy of the spectrum",
        "nats",
        "−Σ p ln p with p = σ/Σσ over the singular values of ΔW: the logarithm of effective_rank.",
        f"{_BACKDOORS} (H)",
        _NO_VERDICT,
    ),
    Metric(
        "weakest_direction",
        "weakest promised direction",
        "ratio",
        "σ_r / σ₁ of ΔW, r the inner dimension of its factors or the short side of the matrix if that is smaller.",
        "wanalyze",
        "0 where a promised direction is unused, as of a factor that never left its zero start.",
    ),
    Metric(
        "kurtosis",
        "kurtosis of the entries",
        "ratio",
        "E(x − μ)⁴ / (E(x − μ)²)² over all entries x of ΔW: 3 for normal entries, 9 for the outer product of two "
        "normal vectors. Of factors, from the fourth moments of their rows where that is cheap; of larger ones an "
        "estimate from some 260,000 of them, in rows or columns drawn with probability ∝ norm⁴, see kurtosis_error.",
        _BACKDOORS,
        _NO_VERDICT,
    ),
    Metric(
        "kurtosis_error",
        "standard error of the kurtosis",
        "ratio",
        "Of an estimate, the standard deviation over the rows drawn by the square root of their number; 0 where every "
        "entry counts.",
        "wanalyze",
        "The rows are drawn with a fixed seed: equal on every run, not bounded.",
    ),
    *(
        Metric(
            f"{line}_peak",
            f"strongest {line} against the median",
            "ratio",
            f"The largest norm of a {line} of ΔW over the median of them, the lower of two; {line}s are {meaning}.",
            f"wanalyze; AdapterSentry 2.0.2 looks at {line}s as well",
            "High where an update was aimed at few neurons or tokens, and also where a trained model has outlier "
            "channels, which many have.",
        )
        for line, meaning in (("row", "outputs"), ("column", "inputs"))
    ),
)

_BANK = (
    Metric(
        "percentile",
        "where a number stands in a bank",
        "per cent",
        "Of a statistic over the modules of one kind (smallest, median, largest over layers): 100 times the share of "
        "the bank's adapters that lie below, ties by half, with its 95 % interval (Wilson 1927). Against adapters of "
        "the same recipe only (base named, method, ranks, kinds of module) or, where there are none, against all, "
        "which is said; never against the adapter itself.",
        "rank statistics: of n exchangeable adapters none can tell more finely than 100 / (n + 1)",
        f"An adapter for another task lies outside as well. {_NO_VERDICT}",
    ),
)

_STORED = (
    "R rounds to {numbers}, once, from the exact sum"
    "; a merge that is computed in 16 bits as well loses more. Where the base is stored in finer numbers than these, "
    "R(W0) is what the same conversion makes of it"
)
_MERGED = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8 e4m3 with a scale for each row of the merged matrix, its largest entry at 448",
}
_FIDELITY = (
    *(
        metric
        for name, numbers in _MERGED.items()
        for metric in (
            Metric(
                f"merge_error_{name}",
                f"error of the update after merging into {name}",
                "ratio",
                f"‖(R(W0 + ΔW) − R(W0)) − ΔW‖_F / ‖ΔW‖_F. {_STORED.format(numbers=numbers)}.",
                "wanalyze; reported as a loss of merged models in peft #1388, torchtune #1101, unsloth #3091",
                "Counts noise as well as loss: above 1 the merged update is more rounding than update.",
            ),
            Metric(
                f"merge_swallowed_{name}",
                f"energy of the update that merging into {name} swallows",
                "share",
                "Σ δ² over the entries with R(w0 + δ) = R(w0), by Σ δ² over all: the part of ΔW that is not in the "
                f"merged matrix at all. {_STORED.format(numbers=numbers)}.",
                "wanalyze",
                "What is not swallowed is rounded, see merge_error; that the outputs change in proportion is not said.",
            ),
        )
    ),
    Metric(
        "merge_overflow_fp16",
        "overflow when merged into fp16",
        "entries",
        "How many entries of W0 + ΔW round to infinity in float16: from 65520 on.",
        "IEEE 754",
        "bf16 has the range of float32, and fp8 is scaled: neither overflows.",
    ),
)
SIGNATURE = ("delta_spectral_norm", "delta_norm", "concentration", "spectral_entropy", "kurtosis")  # arXiv 2602.15195
STATISTICS = ("energy_rank_90", "energy_rank_99", *(metric.key for metric in _STATISTICS))  # beside ALONE
FIDELITY = tuple(metric.key for metric in _FIDELITY)
INTRUDERS = ("intruders_left", "intruders_right", "intruder_energy_left", "intruder_energy_right")
WITH_BASE = ("relative_norm", "relative_spectral_norm", *FIDELITY)  # with the base at hand, and not taken apart
EXPLAINED: MappingProxyType[str, Metric] = MappingProxyType(
    {**METRICS, **{metric.key: metric for metric in (*_COSINES, *_STATISTICS, *_BANK, *_FIDELITY)}}
)
