"""Stability's names for the modules of a U-Net, which trainers use beside those of diffusers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_BLOCK = re.compile(
    r"(?P<side>down|up)_blocks\.(?P<block>[0-9])\.(?P<kind>resnets|attentions)\.(?P<at>[0-9])\.(?P<rest>.+)"
)
_RESIZE = re.compile(r"(?P<side>down|up)_blocks\.(?P<block>[0-9])\.(?:down|up)samplers\.0\.conv")
_MIDDLE = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<at>[0-9])\.(?P<rest>.+)")
_IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


@dataclass(frozen=True)
class UNet:
    """How many residual blocks a down block has, and which up blocks have attention: it decides the numbers."""

    resnets: int
    attending: frozenset[str]

    @classmethod
    def of(cls, modules: Iterable[str]) -> UNet | None:
        """None for modules that are no U-Net of diffusers."""
        found = [match for module in modules if (match := _BLOCK.fullmatch(module))]
        resnets = {match["at"] for match in found if match["side"] == "down" and match["kind"] == "resnets"}
        attending = {match["block"] for match in found if match["side"] == "up" and match["kind"] == "attentions"}
        return cls(len(resnets), frozenset(attending)) if resnets else None

    def name(self, module: str) -> str | None:
        """What Stability calls a module of diffusers; None for one that it does not have.

        >>> UNet(2, frozenset("01")).name("up_blocks.1.attentions.2.proj_in")
        'output_blocks.5.1.proj_in'
        """
        if module in _OUTSIDE:
            return _OUTSIDE[module]
        return next(filter(None, (rule(self, module) for rule in (_in_block, _resized, _in_middle))), None)

    def names(self, modules: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Every module, by Stability's name."""
        return ((name, module) for module in modules if (name := self.name(module)) is not None)

    def index(self, side: str, block: int, at: int) -> str:
        size = self.resnets + 1  # an up block has one more than a down block, which has its sampler instead
        return f"input_blocks.{size * block + at + 1}" if side == "down" else f"output_blocks.{size * block + at}"


def _in_block(net: UNet, module: str) -> str | None:
    found = _BLOCK.fullmatch(module)
    rest = found and _rest(found)
    if not found or rest is None:
        return None
    place = net.index(found["side"], int(found["block"]), int(found["at"]))
    return f"{place}.{0 if found['kind'] == 'resnets' else 1}.{rest}"


def _resized(net: UNet, module: str) -> str | None:
    found = _RESIZE.fullmatch(module)
    if not found:
        return None
    place = net.index(found["side"], int(found["block"]), net.resnets)
    return f"{place}.0.op" if found["side"] == "down" else f"{place}.{1 + (found['block'] in net.attending)}.conv"


def _in_middle(net: UNet, module: str) -> str | None:  # noqa: ARG001 - as the other rules
    found = _MIDDLE.fullmatch(module)
    rest = found and _rest(found)
    if not found or rest is None:
        return None
    return f"middle_block.{2 * int(found['at']) + (found['kind'] == 'attentions')}.{rest}"


def _rest(found: re.Match[str]) -> str | None:
    return found["rest"] if found["kind"] == "attentions" else _IN_RESNET.get(found["rest"])
