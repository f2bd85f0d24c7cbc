"""Which tool saved an adapter, by the names of its tensors: a file of weights need not say that it is one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

_LORA_PAIRS = (
    *(".lora_A.weight", ".lora_A.default.weight", ".lora_A"),
    *(".lora_down.weight", ".lora.down.weight", "_lora.down.weight", ".lora_linear_layer.down.weight"),
)
_LYCORIS = (
    *(f".hada_w{i}_{side}" for i in (1, 2) for side in "ab"),
    *(".hada_t1", ".hada_t2", ".lokr_w1", ".lokr_w2", ".lokr_t2"),
    *(f".lokr_w{i}_{side}" for i in (1, 2) for side in "ab"),
    *(".oft_blocks", ".rescale", ".on_input", ".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight", ".bm.weight"),
    *(".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight", ".reshape_weight", ".dora_scale"),
    *(".lambda_layer", ".p_layer.weight", ".q_layer.weight"),
)
_ENDINGS = (
    *_LORA_PAIRS,
    *(ending.replace("lora_A", "lora_B").replace("down", "up") for ending in _LORA_PAIRS),
    *_LYCORIS,
    *(".lora_mid.weight", ".alpha", ".lora_B.bias", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
    *(".lora_a", ".lora_b", ".m", ".lora_a.weight", ".lora_b.weight", ".magnitude"),
)
_HOME_MADE = re.compile(r"w_[ab]_[0-9]{3}")


class Sign(NamedTuple):
    """A tool, and what some name in its files holds that no name in those of the tools below does."""

    tool: str
    pattern: re.Pattern[str]


_LITGPT_MODULE = r"(?:^|\.)(?:attn\.(?:qkv|attn|proj)|mlp\.(?:experts\.[0-9]+\.)?(?:fc|fc_1|fc_2|proj|gate))"
_OF_LYCORIS = "|".join(re.escape(ending) for ending in (*_LYCORIS, ".lycoris_"))
# The first row that matches names the tool.
SIGNS = (
    Sign("peft", re.compile(r"^base_model\..*\.(?:lora_|hada_|lokr_)")),
    Sign("torchtune", re.compile(r"\.lora_[ab]\.weight$")),
    Sign("MLX", re.compile(r"\.lora_[ab]$")),
    Sign("litgpt", re.compile(rf"{_LITGPT_MODULE}\.lora_[AB]$")),
    Sign("ComfyUI", re.compile(r"^diffusion_model\.")),
    Sign("loralib", re.compile(r"\.lora_[AB]$")),
    Sign("home-made", _HOME_MADE),
    Sign("LyCORIS", re.compile(rf"^lycoris_|(?:{_OF_LYCORIS})$")),
    Sign("kohya", re.compile(r"\.lora_(?:down|up)\.weight$")),
    Sign("diffusers", re.compile(r"\.lora_[AB]\.(?:default\.)?weight$|lora(?:_linear_layer)?\.(?:down|up)\.weight$")),
)

# Tools whose files do not say all, and the file beside them that does.
BESIDE = {
    "peft": "adapter_config.json",
    "torchtune": "adapter_config.json",
    "MLX": "adapter_config.json",
    "loralib": "adapter_config.json",
    "litgpt": "hyperparameters.yaml",
}


def recognise(names: Collection[str], metadata: Mapping[str, str]) -> str | None:
    """The tool that saved these tensors as an adapter; None for whole weights, and for what is not known.

    Half of the names at least must be an adapter's, and no weight may lie under an update: models with adapters that
    were saved as a whole are checkpoints.

    >>> recognise(["lora_unet_a.lora_up.weight", "lora_unet_a.lora_down.weight", "lora_unet_a.alpha"], {})
    'kohya'
    >>> recognise(["a.weight", "a.bias", "b.lora_A"], {})
    """
    if metadata.get("general.type") == "adapter":
        return "GGUF"
    marked = [name for name in names if name.endswith(_ENDINGS) or _HOME_MADE.fullmatch(name)]
    if not marked or 2 * len(marked) < len(names) or _has_whole_weights(names):
        return None
    return next((sign.tool for sign in SIGNS if any(sign.pattern.search(name) for name in marked)), None)


def _has_whole_weights(names: Iterable[str]) -> bool:
    return any(name.endswith(".base_layer.weight") for name in names)
