"""What updates that depend on the base have in common: finite numbers, and the base's tensors beside a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from wanalyze.adapters.layout import float64
from wanalyze.checkpoints import Checkpoint, TensorEntry
from wanalyze.errors import NumericsError
from wanalyze.operators import widened

if TYPE_CHECKING:
    from torch import Tensor

    from wanalyze.adapters.adapter import Parts


def wide(parts: Parts, base: Tensor | None, *, module: str) -> tuple[dict[str, Tensor], Tensor]:
    """All parts, and W0 (out, inp), in float64; NumericsError where one is not finite: no decomposition survives it."""
    assert base is not None, "only for updates that need the base"
    found = {**float64(parts), "base": widened(base, torch.float64)}
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise NumericsError(f"{module[:80]!r}: its {name} holds NaN or infinity")
    return found, found.pop("base")


def beside(base: Checkpoint | None, name: str) -> TensorEntry | None:
    """The base's tensor of this name, or the one whose name ends like it; None where there is none or are several."""
    if base is None or name in base.entries:
        return None if base is None else base.entries[name]
    alike = [entry for other, entry in base.entries.items() if other.endswith(f".{name}") or name.endswith(f".{other}")]
    return alike[0] if len(alike) == 1 else None


def may_have_bias(base: Checkpoint | None, module: str) -> bool:
    """False where the base is known to have the module's weight and no bias."""
    weight = beside(base, f"{module}.weight")
    return base is None or weight is None or f"{weight.name.removesuffix('weight')}bias" in base.entries


def triplets(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Uᵀ, σ and Vᵀ in float32, as peft finds them on a CPU, then widened.

    An adapter that trains the triplets of W0 starts from these: what is subtracted must carry the same errors, and
    of u, v and −u, −v the same.
    """
    try:
        u, s, v = (part.to(weight) for part in torch.linalg.svd(weight.float().cpu(), full_matrices=False))
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise NumericsError(f"the base's weight has no singular value decomposition in float32: {error}") from None
    return u.mT, s, v


def storage(base: Checkpoint | None, module: str) -> torch.dtype:
    """The 16-bit dtype that a module's weight is stored in, in which peft kept what it made of it; else float32."""
    entry = beside(base, f"{module}.weight")
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return known.get(entry.dtype.name, torch.float32) if entry is not None else torch.float32
