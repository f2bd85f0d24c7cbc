"""What the elements of a tensor are, against numpy, whatever its dtype and however often it is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import normal
from wanalyze.auditing import elements as module
from wanalyze.auditing.elements import Elements, elements


def by_numpy(tensor: Tensor) -> Elements:
    values = tensor.to(torch.float64).numpy()
    sizes = np.abs(values)
    finite = np.isfinite(values)
    strange = np.argwhere(~finite)
    largest = float(sizes[finite].max()) if finite.any() else 0.0
    places = np.argwhere(finite & (sizes == largest))
    return Elements(
        count=values.size,
        nan=int(np.isnan(values).sum()),
        infinite=int(np.isinf(values).sum()),
        first=tuple(map(int, strange[0])) if len(strange) else None,
        largest=largest,
        peak=tuple(map(int, places[0])) if largest else None,
        median=float(np.sort(sizes[finite])[(finite.sum() - 1) // 2]) if finite.any() else 0.0,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(9, 14), (3, 5, 8), (7,), (), (0, 3)])
@pytest.mark.parametrize("block", [2**22, 10])
def test_elements_are_counted(
    dtype: torch.dtype, shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    tensor = normal(*shape) if shape else torch.tensor(-1.5)
    if tensor.numel() > 5:
        flat = tensor.view(-1)
        flat[1], flat[4] = torch.nan, torch.nan
        flat[3] = -torch.inf if dtype is not torch.float8_e4m3fn else torch.nan
        flat[2] = -9.5
    tensor = tensor.to(dtype)
    assert elements(tensor) == by_numpy(tensor)


def test_the_largest_of_float64_is_not_rounded_to_infinity() -> None:
    tensor = torch.tensor([1e200, 1e300, 2.0], dtype=torch.float64)
    found = elements(tensor)
    assert (found.largest, found.peak, found.infinite) == (1e300, (1,), 0)


def test_zeros() -> None:
    found = elements(torch.zeros(4, 4))
    assert found.is_zero
    assert found.peak is None
