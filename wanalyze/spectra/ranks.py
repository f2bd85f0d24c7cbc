"""What a spectrum says in one number. Singular values (..., r) in, descending; one number per spectrum out.

All are undefined for a spectrum of zeros: callers leave those out first.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Sums of equal values differ in the last digits from one machine to the next; a tie must not.
_TIE = 1e-9


def effective_rank(values: Tensor) -> Tensor:
    """exp(−Σ p ln p), p = σ/Σσ (Roy and Vetterli 2007).

    >>> effective_rank(torch.tensor([3.0, 3.0, 0.0], dtype=torch.float64)).item()
    2.0
    """
    return _perplexity(values)


def effective_rank_energy(values: Tensor) -> Tensor:
    """exp(−Σ p ln p), p = σ²/Σσ².

    >>> effective_rank_energy(torch.tensor([1.0, 0.0], dtype=torch.float64)).item()
    1.0
    """
    return _perplexity(values.square())


def stable_rank(values: Tensor) -> Tensor:
    """Σσ² / σ₁².

    >>> stable_rank(torch.tensor([2.0, 1.0, 1.0])).item()
    1.5
    """
    return values.square().sum(-1) / values[..., 0].square()


def participation_ratio(values: Tensor) -> Tensor:
    """(Σσ²)² / Σσ⁴.

    >>> participation_ratio(torch.tensor([1.0, 1.0, 1.0])).item()
    3.0
    """
    unit = values / values[..., :1]
    return unit.square().sum(-1).square() / unit.pow(4).sum(-1)


def energy_rank(values: Tensor, share: float) -> Tensor:
    """The smallest k with Σ_{i≤k} σ² ≥ share · Σσ².

    >>> energy_rank(torch.tensor([2.0, 1.0, 1.0]), 0.9).item()
    3
    """
    energy = values.square().cumsum(-1)
    enough = energy >= share * energy[..., -1:] * (1 - _TIE)
    return enough.shape[-1] - enough.sum(-1) + 1


def numerical_rank(values: Tensor, tolerance: float) -> Tensor:
    """How many σ exceed tolerance · σ₁.

    >>> numerical_rank(torch.tensor([1.0, 1e-3, 1e-9]), 1e-6).item()
    2
    """
    return (values > tolerance * values[..., :1]).sum(-1)


def _perplexity(weights: Tensor) -> Tensor:
    p = weights / weights.sum(-1, keepdim=True)
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy.exp()
