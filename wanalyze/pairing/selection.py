"""--only and --skip."""

from __future__ import annotations

from dataclasses import dataclass

from wanalyze.naming import matches


@dataclass(frozen=True)
class Selection:
    """Globs over module names."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether `name` is to be compared. A name is also a glob for itself, whatever brackets it has.

        >>> Selection(only=("*q_proj",)).takes("model.layers.0.self_attn.q_proj")
        True
        >>> Selection(skip=("mlp.experts.down_proj[3]",)).takes("mlp.experts.down_proj[3]")
        False
        """
        return (not self.only or _is_among(name, self.only)) and not _is_among(name, self.skip)


def _is_among(name: str, globs: tuple[str, ...]) -> bool:
    return any(matches(name, glob) for glob in globs)
