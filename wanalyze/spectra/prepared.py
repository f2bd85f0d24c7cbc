"""A matrix of the base, with what is worked out once for all that is compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from wanalyze.operators import Operator
from wanalyze.spectra.certificate import Base, Pairs
from wanalyze.spectra.decomposition import EPS, KEPT, Decomposition
from wanalyze.spectra.triplets import Triplets, leading_triplets
from wanalyze.spectra.values import BACKWARD_ERROR, Spectrum, gram, spectra

_LEADING = ("u", "values", "v", "residual", "angle", "group")
_LEADING_STEPS = 10  # of a Krylov space for the leading triplets: those that need more are not leading much


@dataclass(frozen=True, eq=False)
class Prepared:
    """W0 (m, n), its singular values and its leading triplets; W0 is not zero."""

    matrix: Operator
    spectrum: Spectrum
    leading: Triplets
    dtype: torch.dtype = torch.float64
    _whole: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=dict, init=False)

    @cached_property
    def clusters(self) -> Base:
        return Base.of(self.spectrum, self.matrix.shape)

    @property
    def is_whole(self) -> bool:
        """Whether all its vectors are at hand, or cost no more than a look at a few."""
        return bool(self._whole) or self.spectrum.svd is not None

    def leading_pairs(self, directions: Tensor, side: str) -> Pairs:
        """The leading triplets seen from `directions` (m or n, d)."""
        vectors = self.leading.u if side == "left" else self.leading.v
        cosine = (vectors.mT @ directions.to(vectors)).abs()
        return Pairs(cosine.cpu(), self.leading.values.cpu(), self.leading.residual.cpu())

    def all_pairs(self, directions: Tensor, side: str) -> Pairs:
        """All triplets seen from `directions`: the last resort, one `eigh` of a Gram matrix, done once."""
        if not self._whole:
            svd = self.spectrum.svd
            self._whole["svd"] = _by_gram(self) if svd is None else _small(svd)
        near, far, values, residual = self._whole["svd"]
        m, n = self.matrix.shape
        directions = directions.to(near)
        if (side == "left") == (m <= n):
            cosine = near.mT @ directions
        elif far.numel():
            cosine = far.mT @ directions
        else:  # v_j = Wᵀu_j / σ_j, never formed
            across = (self.matrix if side == "right" else self.matrix.T) @ directions
            cosine = (near.mT @ across) / values[:, None]
        return Pairs(cosine.abs().cpu(), values.cpu(), residual.cpu())


def arrays_of(prepared: Prepared) -> dict[str, Tensor]:
    """What `restore` needs beside the matrix: float64, finite, on the CPU."""
    found = {"values": prepared.spectrum.values, "error": prepared.spectrum.error}
    found |= {f"leading_{name}": getattr(prepared.leading, name) for name in _LEADING}
    return {name: tensor.to("cpu", torch.float64).contiguous() for name, tensor in found.items()}


def shapes_of(shape: tuple[int, ...], k: int) -> dict[str, tuple[int, ...]]:
    """The shapes of `arrays_of` a matrix of `shape` with k leading triplets."""
    m, n = shape
    r = min(m, n)
    leading = dict.fromkeys((f"leading_{name}" for name in _LEADING), (k,))
    return {"values": (r,), "error": (r,), **leading, "leading_u": (m, k), "leading_v": (n, k)}


def restore(matrix: Operator, arrays: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Prepared:
    """The inverse of `arrays_of`."""
    on = {name: tensor.to(device) for name, tensor in arrays.items()}
    u, values, v, residual, angle, group = (on[f"leading_{name}"] for name in _LEADING)
    leading = Triplets(u, values, v, residual, angle, group.long())
    return Prepared(matrix, Spectrum(on["values"], on["error"]), leading, dtype)


def prepare(matrices: Sequence[Operator], k: int, dtype: torch.dtype = torch.float64) -> list[Prepared]:
    """Values and the k leading triplets of each matrix (m, n), none of them zero, all of one shape."""
    found = spectra(matrices, dtype)
    leading = leading_triplets(matrices, k, found, tolerance=1e-6, most_steps=_LEADING_STEPS, settle=False, dtype=dtype)
    return [Prepared(*parts, dtype) for parts in zip(matrices, found, leading, strict=True)]


def _small(svd: Decomposition) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    alive = svd.values > 0
    values = svd.values[alive]
    residual = BACKWARD_ERROR * EPS * values[0] * (values[0] / values).clamp(max=1 / KEPT)
    sides = (svd.u[:, alive], svd.v[:, alive])
    near, far = sides if len(svd.u) <= len(svd.v) else sides[::-1]
    return near, far, values, residual


def _by_gram(base: Prepared) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    vectors = torch.linalg.eigh(gram(base.matrix)[0]).eigenvectors.flip(-1)
    alive = len(base.clusters.values)
    values = base.clusters.values.to(vectors)
    # An error of eps · σ₁² in a Gram matrix is a residual of eps · σ₁² / σ in W.
    residual = BACKWARD_ERROR * EPS * values[0] * (values[0] / values)
    return vectors[:, :alive], vectors[:0], values, residual
