"""What is told of a pickle that holds more than weights."""

from __future__ import annotations

from typing import NoReturn

from wanalyze.checkpoints.pickles.opcodes import Refused

_WHOLE_MODEL = "a whole model with its code, not a state dict; save `model.state_dict()` instead"
_OTHER_TENSOR = "a kind of tensor that is not read; save its dense values with safetensors"
_ELSE = "which is not part of a state dict; save its state dict with safetensors, where you trust it"
# By how the name begins; the first row that fits counts.
_WAYS_OUT = (
    ("torch.nn.modules.", _WHOLE_MODEL),
    ("__torch__", _WHOLE_MODEL),
    ("__main__.", "a class of the script that saved it; save `model.state_dict()` instead"),
    (
        "argparse.Namespace",
        "the arguments of a training script; where you trust the file, save only its weights: "
        "`torch.save(torch.load(path, weights_only=False)['state_dict'], path)`",
    ),
    ("torch._utils._rebuild_", _OTHER_TENSOR),
    ("torch._tensor.", _OTHER_TENSOR),
    ("torch.distributed.", "a tensor of a distributed run; gather it and save the full state dict"),
    ("torchao.", _OTHER_TENSOR),
)


def refuse_name(name: str) -> NoReturn:
    """Refused, for a name (module and all) that a pickle refers to and no state dict does."""
    why = next((why for start, why in _WAYS_OUT if name.startswith(start)), _ELSE)
    raise Refused(f"its pickle refers to {name[:200]!r}, {why}. Nothing in it was run")
