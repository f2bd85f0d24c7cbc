"""Updates that are sparse after a transform: FourierFT (Gao et al., 2024) and WaveFT (Bilican et al., 2025)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from wanalyze.adapters.adapter import Adapter, Build, Parts, Update
from wanalyze.adapters.layout import are_smaller, one_of, sides, sizes
from wanalyze.adapters.peft import Finite, PeftConfig, Positive, Seed, adapter_of, config_of, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError
from wanalyze.operators import Dense, LowRank, widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.operators import Operator

_HAAR = "db1"


class _Config(PeftConfig):
    n_frequency: Positive
    n_frequency_pattern: dict[str, Positive] = Field(default_factory=dict)
    random_loc_seed: Seed = 777

    @property
    def counts(self) -> set[int]:
        return {self.n_frequency, *self.n_frequency_pattern.values()}


class _Fourier(_Config):
    scaling: Finite = 150.0


class _Wave(_Config):
    scaling: Finite = 25.0
    wavelet_family: str = _HAAR
    use_idwt: bool = True
    proportional_parameters: bool = False


def parse_fourierft(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT FourierFT adapter."""
    config = config_of(files, _Fourier)
    build = partial(_fourier, scaling=config.scaling, seed=config.random_loc_seed)
    return _parse(files, config, config.scaling, build, kind="FOURIERFT", method="FourierFT", known=config.counts)


def parse_waveft(files: AdapterFiles, base: Checkpoint | None) -> Adapter:  # noqa: ARG001 - its rows all have it
    """The updates of a PEFT WaveFT adapter; AdapterError for another wavelet than Haar's."""
    config = config_of(files, _Wave)
    if config.use_idwt and config.wavelet_family != _HAAR:
        raise AdapterError(
            f"{files.name}: the wavelet {config.wavelet_family[:40]!r} is not read, only {_HAAR!r}, Haar's; merge the "
            "adapter with peft and compare the merged model"
        )
    build = partial(_wave if config.use_idwt else _sparse, scaling=config.scaling, seed=config.random_loc_seed)
    known = set() if config.proportional_parameters else config.counts
    return _parse(files, config, config.scaling, build, kind="WAVEFT", method="WaveFT", known=known)


def _parse(
    files: AdapterFiles,
    config: _Config,
    scaling: float,
    build: Callable[..., Operator],
    *,
    kind: str,
    method: str,
    known: set[int],
) -> Adapter:
    stem = f"{kind.lower()}_spectrum"
    tensors = sorted_tensors(files, {stem: "spectrum"}, kind=method, marker=f"{kind.lower()}_")
    updates = [
        _update(files.name, module, parts, build, scaling, known) for module, parts in sorted(tensors.modules.items())
    ]
    counts = spread([update.parts["spectrum"].shape[0] for update in updates] or [config.n_frequency])
    return adapter_of(files, config, updates, tensors, kind=kind, method=f"{method} ({counts} coefficients)")


def _update(
    where: str,
    module: str,
    parts: Mapping[str, TensorEntry],
    build: Callable[..., Operator],
    scale: float,
    known: set[int],
) -> Update:
    found = sizes(parts, {"spectrum": "count"}, module=module, where=where)
    if known:
        one_of(found["count"], known, field="n_frequency", module=module, where=where)
    made: Build = partial(build, module=module)
    return Update(module, parts, made, None, scale=scale, needs_base=True)


def _fourier(parts: Parts, base: Tensor | None, *, module: str, scaling: float, seed: int) -> Operator:
    spectrum, rows, columns, shape = _located(parts, base, module, seed)
    if not are_smaller(2 * len(spectrum), shape):
        placed = spectrum.new_zeros(shape)
        placed[rows, columns] = spectrum
        return Dense(scaling * torch.fft.ifft2(placed).real)
    # Each frequency is a cosine over the matrix, cos(x + y) = cos x cos y − sin x sin y: two directions.
    left, right = _waves(rows, shape[0]) * spectrum, _waves(columns, shape[1])
    factors = torch.cat([left.real, -left.imag], 1), torch.cat([right.real, right.imag], 1).mT
    return LowRank(*factors, scaling / math.prod(shape))


def _waves(frequencies: Tensor, size: int) -> Tensor:
    """exp(2πi · frequency · t / size) for t = 0, 1, … (size, frequencies)."""
    steps = torch.arange(size, device=frequencies.device)[:, None] * frequencies % size  # whole turns are exact
    angles = steps.double() * (2 * math.pi / size)
    return torch.polar(torch.ones_like(angles), angles)


def _wave(parts: Parts, base: Tensor | None, *, module: str, scaling: float, seed: int) -> Operator:
    spectrum, rows, columns, (out, inp) = _located(parts, base, module, seed)
    height, width = -(-out // 2), -(-inp // 2)
    placed = spectrum.new_zeros(2 * height, 2 * width)
    placed[rows, columns] = spectrum
    whole = _inverse_haar(placed.unfold(0, height, height).unfold(1, width, width))
    return Dense(scaling * whole[:out, :inp])


def _inverse_haar(quarters: Tensor) -> Tensor:
    """One level of the inverse transform of [[mean, across rows], [across columns, both]], each (m, n): (2m, 2n)."""
    (mean, rows), (columns, both) = quarters
    even, odd = mean + columns, mean - columns
    plus, minus = rows + both, rows - both
    cells = torch.stack([even + plus, odd + minus, even - plus, odd - minus], -1) / 2
    m, n, _ = cells.shape
    return cells.reshape(m, n, 2, 2).permute(0, 2, 1, 3).reshape(2 * m, 2 * n)


def _sparse(parts: Parts, base: Tensor | None, *, module: str, scaling: float, seed: int) -> Operator:
    spectrum, rows, columns, shape = _located(parts, base, module, seed)
    placed = spectrum.new_zeros(shape)
    placed[rows, columns] = scaling * spectrum
    return Dense(placed)


def _located(
    parts: Parts, base: Tensor | None, module: str, seed: int
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """The coefficients, their rows and columns, and the shape they lie in."""
    shape = sides(base, module=module)
    spectrum = widened(parts["spectrum"], torch.float64)
    if len(spectrum) > math.prod(shape):
        raise AdapterError(f"{module[:80]!r}: {len(spectrum)} coefficients for a weight of {shape[0]} x {shape[1]}")
    places = _places(math.prod(shape), len(spectrum), seed).to(spectrum.device)
    return spectrum, places // shape[1], places % shape[1], shape


@lru_cache(maxsize=4)  # matrices of one shape share them, and shuffling all places of a large one takes a second
def _places(size: int, count: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].clone()
