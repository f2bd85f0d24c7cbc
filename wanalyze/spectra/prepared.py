"""A matrix of the base, with what is worked out once for all that is compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from wanalyze.operators import Operator
from wanalyze.spectra.certificate import Base, Pairs
from wanalyze.spectra.decomposition import EPS, Decomposition, decompose
from wanalyze.spectra.triplets import Triplets, leading_triplets
from wanalyze.spectra.values import BACKWARD_ERROR, Spectrum, exact, gram, residual_of, spectra

_LEADING = ("u", "values", "v", "residual", "angle", "group")
_LEADING_STEPS = 10  # of a Krylov space for the leading triplets: those that need more are not leading much


@dataclass(frozen=True, eq=False)
class _Vectors:
    """All singular vectors of W0: `near` (r, p) on the short side, `far` on the long one, None if not formed."""

    near: Tensor
    far: Tensor | None
    values: Tensor
    residual: Tensor
    relative: Tensor


@dataclass(frozen=True, eq=False)
class Prepared:
    """W0 (m, n), its singular values and its leading triplets; W0 is not zero."""

    matrix: Operator
    spectrum: Spectrum
    leading: Triplets
    dtype: torch.dtype = torch.float64
    _vectors: list[_Vectors] = field(default_factory=list, init=False)  # none or one, for all that is compared

    @cached_property
    def clusters(self) -> Base:
        return Base.of(self.spectrum, self.matrix.shape)

    @property
    def is_whole(self) -> bool:
        """Whether all vectors are at hand."""
        return bool(self._vectors) or self.spectrum.svd is not None

    def leading_pairs(self, directions: Tensor, side: str) -> Pairs:
        """The leading triplets seen from `directions` (m or n, d)."""
        vectors = self.leading.u if side == "left" else self.leading.v
        cosine = (vectors.mT @ directions.to(vectors)).abs()
        return Pairs(cosine.cpu(), self.leading.values.cpu(), self.leading.residual.cpu())

    @cached_property
    def exact(self) -> Prepared:
        """The same with all triplets, good to the last digits of σ₁ whatever their values; costs several `eigh`."""
        return replace(self, spectrum=exact(decompose(self.matrix)))

    def all_pairs(self, directions: Tensor, side: str) -> Pairs:
        """All triplets seen from `directions`: one `eigh` of a Gram matrix, done once, if they are not at hand."""
        if not self._vectors:
            self._vectors.append(_by_gram(self) if self.spectrum.svd is None else _of_svd(self.spectrum.svd))
        (found,) = self._vectors
        m, n = self.matrix.shape
        directions = directions.to(found.near)
        relative = torch.zeros_like(found.relative)
        if (side == "left") == (m <= n):
            cosine = found.near.mT @ directions
        elif found.far is not None:
            cosine = found.far.mT @ directions
        else:  # v_j = Wᵀu_j / σ_j, never formed
            across = (self.matrix if side == "right" else self.matrix.T) @ directions
            cosine, relative = (found.near.mT @ across) / found.values[:, None], found.relative
        return Pairs(cosine.abs().cpu(), found.values.cpu(), found.residual.cpu(), relative.cpu())


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


def prepare(
    matrices: Sequence[Operator],
    k: int,
    dtype: torch.dtype = torch.float64,
    found: Sequence[Spectrum] | None = None,
) -> list[Prepared]:
    """Values, unless they are `found`, and k leading triplets of each matrix (m, n), none zero, all of one shape."""
    found = spectra(matrices) if found is None else found
    leading = leading_triplets(matrices, k, found, tolerance=1e-6, most_steps=_LEADING_STEPS, settle=False, dtype=dtype)
    return [Prepared(*parts, dtype) for parts in zip(matrices, found, leading, strict=True)]


def _of_svd(svd: Decomposition) -> _Vectors:
    alive = svd.values > 0
    values = svd.values[alive]
    residual = residual_of(values, values[0])
    sides = (svd.u[:, alive], svd.v[:, alive])
    near, far = sides if len(svd.u) <= len(svd.v) else sides[::-1]
    return _Vectors(near, far, values, residual, torch.zeros_like(values))


def _by_gram(base: Prepared) -> _Vectors:
    vectors = torch.linalg.eigh(gram(base.matrix)[0]).eigenvectors.flip(-1)
    clusters = base.clusters
    values = clusters.values.to(vectors)
    # An error of eps · σ₁² in a Gram matrix is a residual of eps · σ₁² / σ in W, and one as large in σ itself.
    residual = BACKWARD_ERROR * EPS * values[0] * (values[0] / values)
    relative = (residual + clusters.error.to(values)) / values
    return _Vectors(vectors[:, : len(values)], None, values, residual, relative)
