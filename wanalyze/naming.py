"""What a module's name says: its layer in the stack and its kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

_KINDS = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query", "key", "value", "o_proj"),
    *("gate_proj", "up_proj", "gate_up_proj", "c_fc", "down_proj", "c_proj"),
    *("embed_tokens", "wte", "lm_head"),
)
_EXPERT = re.compile(r"\[[0-9]+\]")  # which one of a stack
_LONGEST_KIND = 16  # parts; names of strangers may have a hundred thousand


@dataclass(frozen=True)
class Place:
    """`layer` is the first number in the name, None outside the stack; `kind` what the module is."""

    layer: int | None
    kind: str


def module_name(tensor: str) -> str:
    """A tensor's name without the trailing `.weight`."""
    return tensor.removesuffix(".weight")


def places(modules: Iterable[str]) -> dict[str, Place]:
    """The place of each module. Its kind is the shortest end of its name that names no other kind.

    The experts of a stack are of one kind; the parts of a fused weight are of one each.

    >>> found = places(["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.1.attn.c_proj", "wte"])
    >>> found["h.1.attn.c_proj"], found["h.0.mlp.c_proj"].kind, found["wte"]
    (Place(layer=1, kind='attn.c_proj'), 'mlp.c_proj', Place(layer=None, kind='wte'))
    >>> places(["l.0.experts.gate_up_proj[7][up]", "l.0.experts.down_proj[7]"])["l.0.experts.gate_up_proj[7][up]"].kind
    'gate_up_proj[up]'
    """
    templates = {module: _template(module) for module in modules}
    ends = Counter(end for template in set(templates.values()) for end in _ends(template))
    return {
        module: Place(_layer(module), next((end for end in _ends(template) if ends[end] == 1), ".".join(template)))
        for module, template in templates.items()
    }


def matches(name: str, glob: str) -> bool:
    """Whether a name is what `glob` asks for. A name is also a glob for itself, whatever brackets it has.

    >>> matches("l.0.q_proj", "*q_proj"), matches("experts.down_proj[3]", "experts.down_proj[3]")
    (True, True)
    """
    return name == glob or fnmatchcase(name, glob)


def kind_order(kind: str) -> tuple[int, str]:
    """A sort key: kinds in the order in which a layer uses them, unknown ones last.

    >>> sorted(["down_proj", "mlp.router", "q_proj"], key=kind_order)
    ['q_proj', 'down_proj', 'mlp.router']
    """
    last = kind.rpartition(".")[2]
    return (_KINDS.index(last) if last in _KINDS else len(_KINDS), kind)


def _template(module: str) -> tuple[str, ...]:
    """The name without its numbers: equal for the same module of every layer and expert."""
    parts = tuple(part for part in _EXPERT.sub("", module).split(".") if not part.isdecimal())
    return parts or (module,)


def _ends(template: tuple[str, ...]) -> list[str]:
    end = template[-_LONGEST_KIND:]
    return [".".join(end[start:]) for start in reversed(range(len(end)))]


def _layer(module: str) -> int | None:
    return next((int(part) for part in module.split(".") if part.isdecimal() and len(part) < 7), None)
