"""What the tests share: the trained checkpoints, small made-up ones, and the command line run in-process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wanalyze.cli import main
from wanalyze.result import Result, read_run

FIXTURES = Path(__file__).parent.parent / "fixtures"
HOSTILE = (
    '"></title><script>alert(1)</script>.0.x.weight',
    "<img src=x onerror=alert(1)>.1.x.weight",
    "{{ 7 * 7 }}.2.x.weight",
    "\x1b[31mred\x07.3.x.weight",
    "\u202eevil\u2066.4.x.weight",
    "=cmd|' /C calc'!A0.5.x.weight",
    f"{'long' * 2500}.6.x.weight",
    "line\nbreak.7.x.weight",
)
COMPARED = ("full", "lora-r8", "lora-r64", "half-frozen", "rslora-r64")


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `wanalyze` with these arguments."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(int(left.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests neither use nor fill the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANALYZE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the trained checkpoints."""
    import wanalyze

    folder = tmp_path_factory.mktemp("runs") / "trained"
    wanalyze.compare(FIXTURES / "base", *(FIXTURES / name for name in COMPARED), output=folder)
    return folder


@pytest.fixture(scope="session")
def trained(trained_run: Path) -> Result:
    return read_run(trained_run)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tiny_base(seed: int = 0) -> dict[str, Tensor]:
    """Two layers with unequal sides, a norm each, an embedding."""
    names = {"self_attn.q_proj": (12, 16), "mlp.up_proj": (20, 16), "mlp.down_proj": (16, 20)}
    tensors = {"model.embed_tokens.weight": normal(30, 16, seed=seed + 50)}
    for layer in range(2):
        for i, (name, shape) in enumerate(names.items()):
            tensors[f"model.layers.{layer}.{name}.weight"] = normal(*shape, seed=seed + 10 * layer + i)
        tensors[f"model.layers.{layer}.norm.weight"] = normal(16, seed=seed + 10 * layer + 7)
    return tensors


def save_checkpoint(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def save_adapter(folder: Path, tensors: dict[str, Tensor], **config: object) -> Path:
    """A LoRA adapter; a field given as None is left out of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    text = json.dumps({key: value for key, value in fields.items() if value is not None})
    (folder / "adapter_config.json").write_text(text)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def lora_factors(module: str, out: int, inp: int, *, rank: int = 2, seed: int = 0) -> dict[str, Tensor]:
    prefix = f"base_model.model.{module}"
    return {
        f"{prefix}.lora_A.weight": normal(rank, inp, seed=seed + 1),
        f"{prefix}.lora_B.weight": normal(out, rank, seed=seed + 2),
    }


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run over names that attack whoever shows them."""
    import wanalyze

    folder = tmp_path_factory.mktemp("hostile")
    base = {name: normal(6, 5, seed=i) for i, name in enumerate(HOSTILE)}
    tuned = {name: tensor + 0.1 * normal(6, 5, seed=77) for name, tensor in base.items()}
    save_checkpoint(folder / "base", base)
    return wanalyze.compare(folder / "base", save_checkpoint(folder / "tuned", tuned), output=folder / "run")
