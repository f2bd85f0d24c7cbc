"""Adapters made with peft on a small model, and what peft itself makes of the weights: the oracle in float64."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import wanalyze
from tests.conftest import save_checkpoint
from wanalyze.adapters import Adapter


class Toy(nn.Module):
    """Layers of every type, sides unequal so that a transposition shows, square ones where only values do."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"model_type": "toy", "tie_word_embeddings": False}
        self.tokens = nn.Embedding(10, 12)
        self.up = nn.Linear(12, 20)
        self.down = nn.Linear(20, 12)
        self.middle = nn.Linear(12, 12)
        self.square = Conv1D(12, 12)
        self.wide = Conv1D(36, 12)
        self.norm = nn.LayerNorm(12)
        self.line = nn.Conv1d(12, 8, 3)
        self.plane = nn.Conv2d(4, 8, 3)
        self.point = nn.Conv2d(4, 8, 1)
        self.space = nn.Conv3d(2, 4, 2)
        self.attention = nn.MultiheadAttention(12, 3)
        self.score = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class Made:
    """An adapter on disk, the weights it was made for, and ΔW of every tensor that peft's merge changes (float64)."""

    folder: Path
    base: Path
    before: Mapping[str, Tensor]
    deltas: Mapping[str, Tensor]

    def adapter(self) -> Adapter:
        from wanalyze.adapters import parse_adapter
        from wanalyze.checkpoints import AdapterFiles, open_source

        source = open_source(self.folder)
        assert isinstance(source, AdapterFiles)
        return parse_adapter(source, wanalyze.open_checkpoint(self.base))


def make(
    folder: Path,
    config: PeftConfig,
    *,
    model: Callable[[], nn.Module] = Toy,
    noise: float = 0.05,
    merge: bool = True,
    dtype: torch.dtype = torch.float64,
    change: Callable[[nn.Module], None] = lambda tuned: None,
) -> Made:
    """Train nothing, but move every trainable parameter off its initial value, which would hide errors."""
    torch.manual_seed(0)
    start = model().to(dtype)
    before = {name: tensor.detach().clone() for name, tensor in start.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(start, config)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data += noise * torch.randn_like(parameter)
        change(tuned)
        tuned.save_pretrained(folder / "adapter", save_embedding_layers=False)
        after = copy.deepcopy(tuned).merge_and_unload(safe_merge=True).state_dict() if merge else before
    save_checkpoint(folder / "base", before)
    moved = {name: after[name].double() - tensor.double() for name, tensor in before.items() if name in after}
    deltas = {name: delta for name, delta in moved.items() if delta.any()}
    return Made(folder / "adapter", folder / "base", before, deltas)


def ours(made: Made) -> dict[str, Tensor]:
    """ΔW of every matrix by our reading, in the layout of the base's tensor (Conv1D and kernels as stored)."""
    found: dict[str, Tensor] = {}
    for update in made.adapter().updates:
        stored = made.before[update.target]
        is_input_first = update.module.rpartition(".")[2] in ("square", "wide")
        weight = (stored.mT if is_input_first else stored).double()
        flat = weight.reshape(len(weight), -1)
        delta = update.read(flat).map(lambda tensor: tensor.double()).dense()
        assert delta.shape == flat.shape
        assert update.shape in (None, tuple(flat.shape))
        delta = delta.mT if is_input_first else delta
        found[update.target] = found.get(update.target, 0) + delta.reshape(stored.shape)
    return found


def assert_as_merged(made: Made, *, rtol: float = 1e-6) -> None:
    """Every matrix that peft's merge changes is changed by us, and equally; no other is."""
    found = ours(made)
    matrices = {name: delta for name, delta in made.deltas.items() if delta.ndim > 1}
    assert found.keys() == matrices.keys()
    assert matrices
    for name, delta in matrices.items():
        error = (found[name] - delta).norm() / delta.norm()
        assert error < rtol, (name, error.item())
