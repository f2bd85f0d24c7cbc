"""Quantised weights, restored one by one: what lies beside a weight in a file becomes one tensor that can be read.

The formulas are those of the libraries that wrote the files, in plain tensor operations; none of them is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from wanalyze.checkpoints.checkpoint import TensorEntry
from wanalyze.checkpoints.content import Content, expect
from wanalyze.checkpoints.quantised import awq, bitsandbytes, compressed_tensors, fp4, gptq, refused, scaled
from wanalyze.checkpoints.quantised.dequantised import Dequantised
from wanalyze.checkpoints.quantised.group import Group
from wanalyze.checkpoints.quantised.settings import Settings, settings_of
from wanalyze.errors import CheckpointError

__all__ = ["Dequantised", "restore"]


def _any(_: Mapping[str, Content]) -> bool:
    return True


def _packed_bytes(members: Mapping[str, Content]) -> bool:
    return members["_blocks" if "_blocks" in members else ""].dtype.name == "uint8"


@dataclass(frozen=True)
class Family:
    """A layout of tensors beside one another, told by the endings of their names; `methods` are its quant_methods.

    A name that ends in one of `marks` begins a group: if nothing else is called so (`is_certain`), all that it
    `needs`, and `one_of` some, must be there; otherwise it is a group only if it is whole. `optional` members are
    taken where they are, `early` ones are read to list the weight, whose name is the common part with `target`.
    """

    name: str
    methods: frozenset[str]
    marks: tuple[str, ...]
    needs: tuple[str, ...]
    build: Callable[[Group], Dequantised]
    one_of: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    early: tuple[str, ...] = ()
    target: str = ""
    fits: Callable[[Mapping[str, Content]], bool] = _any
    is_certain: bool = True


_MODELOPT = frozenset({"modelopt", "modelopt_fp4", "modelopt_fp8", "modelopt_mixed", "modelopt_mxfp8"})
_CT = frozenset({"compressed-tensors"})
_STATES = tuple(bitsandbytes.STATE)
_Q = (".qweight", ".qzeros", ".scales")

FAMILIES = (
    Family(
        "bitsandbytes 4-bit",
        frozenset({"bitsandbytes"}),
        marks=(*_STATES, ".quant_map", ".absmax", ".nested_absmax", ".nested_quant_map"),
        needs=("", ".absmax", ".quant_map"),
        build=bitsandbytes.four_bits,
        one_of=_STATES,
        optional=(".nested_absmax", ".nested_quant_map"),
        early=_STATES,
    ),
    Family(
        "bitsandbytes 8-bit",
        frozenset({"bitsandbytes"}),
        marks=(".SCB",),
        needs=(".weight", ".SCB"),
        build=bitsandbytes.eight_bits,
        optional=(".weight_format",),
        target=".weight",
    ),
    Family(
        "GPTQ",
        frozenset({"gptq"}),
        marks=(".qweight", ".qzeros"),
        needs=_Q,
        build=gptq.gptq,
        optional=(".g_idx",),
        target=".weight",
        fits=gptq.fits,
    ),
    Family(
        "AWQ",
        frozenset({"awq"}),
        marks=(".qweight",),
        needs=_Q,
        build=awq.awq,
        target=".weight",
        fits=awq.fits,
    ),
    Family(
        "compressed-tensors",
        _CT,
        marks=(".weight_packed",),
        needs=(".weight_packed", ".weight_scale"),
        build=compressed_tensors.packed,
        optional=(".weight_shape", ".weight_zero_point", ".weight_g_idx", ".weight_global_scale"),
        early=(compressed_tensors.SHAPE,),
        target=".weight",
    ),
    Family(
        "NVFP4",
        _MODELOPT,
        marks=("_scale_2",),
        needs=("", "_scale", "_scale_2"),
        build=fp4.modelopt,
        fits=_packed_bytes,
        is_certain=False,
    ),
    Family(
        "8-bit codes with scales",
        _MODELOPT | _CT | {"fp8", "fbgemm_fp8", "mxfp8"},
        marks=("_scale_inv", "_scale"),
        needs=("",),
        build=scaled.scaled,
        optional=("_scale_inv", "_scale", "_zero_point"),
        fits=scaled.fits,
        is_certain=False,
    ),
    Family(
        "MXFP4",
        frozenset({"mxfp4"}),
        marks=("_blocks", "_scales"),
        needs=("_blocks", "_scales"),
        build=fp4.gpt_oss,
        fits=_packed_bytes,
        is_certain=False,
    ),
)
_MARKS = tuple(dict.fromkeys(mark for family in FAMILIES for mark in family.marks))
_METHODS = frozenset[str]().union(*(family.methods for family in FAMILIES))
# Scales of activations, which lie beside a weight and say nothing of it.
_ACTIVATIONS = tuple(
    f"{start}{name}"
    for start in (".", "_")
    for name in ("input_scale", "input_global_scale", "input_zero_point", "activation_scale", "input_activation_scale")
)
_CHANGED = {
    ".pre_quant_scale": "is scaled once more at its input (pre_quant_scale), which is not undone",
    ".bitmask": "is sparse (bitmask), which is not read",
    ".meta": "is sparse (meta), which is not read",
}


def restore(
    entries: Mapping[str, TensorEntry], config: Mapping[str, object], *, where: str
) -> tuple[dict[str, TensorEntry], tuple[str, ...]]:
    """`entries` with every quantised weight as one tensor in place of those it is stored in, and notes on that.

    A restored weight is read as float32 with outputs as rows, as the unquantised model has it; only gpt-oss's
    experts are stacked (experts, in, out), as its modules have them. Tensors that are not quantised stay as they
    are. `config` is the model's config.json: what it says must agree with the tensors. CheckpointError if it does
    not, if a tensor of a weight is missing, and for quantisations that are not read.
    """
    settings = settings_of(config, where)
    _check_method(settings)
    marked = [name for name in entries if name.endswith((*_MARKS, *refused.MARKS))]
    refused.check_names(marked, entries, where)
    groups = [*_groups(marked, entries, settings)] if marked else []
    expect(group.members[early] for family, group in groups for early in family.early if early in group)
    restored = _restored(groups, settings, entries)
    found = _replaced(entries, groups, restored) if groups else dict(entries)
    _check_left(found, settings)
    kinds = Counter(content.label for content in restored.values())
    return found, tuple(f"{n} weight{'s' * (n > 1)} dequantised from {label}" for label, n in kinds.items())


def _check_method(settings: Settings) -> None:
    refused.check_method(settings)
    if settings.method is not None and settings.method not in _METHODS:
        settings.refuse(f"quant_method {settings.method!r} is not known; pass the 16-bit original")


def _groups(
    marked: Iterable[str], entries: Mapping[str, TensorEntry], settings: Settings
) -> Iterator[tuple[Family, Group]]:
    """Every tensor that begins a group, with those of its family; no tensor belongs to two."""
    taken: set[str] = set()
    for family in sorted(FAMILIES, key=lambda family: settings.method not in family.methods):
        for name in marked:
            mark = next((mark for mark in family.marks if name.endswith(mark)), None)
            if mark is None or name in taken:
                continue
            prefix = name.removesuffix(mark)
            group = _group(family, prefix, entries, settings)
            if group:
                taken.update(prefix + suffix for suffix in group.members)
                yield family, group
    for name in marked:
        if name not in taken and name.endswith(".qweight"):
            raise CheckpointError(
                f"{settings.where}: {name[:160]!r} fits the shapes of neither GPTQ nor AWQ; pass the 16-bit original"
            )


def _group(family: Family, prefix: str, entries: Mapping[str, TensorEntry], settings: Settings) -> Group | None:
    suffixes = (*family.needs, *family.one_of, *family.optional)
    members = {suffix: entries[prefix + suffix].content for suffix in suffixes if prefix + suffix in entries}
    group = Group(settings, family.name, prefix, members)
    missing = [suffix for suffix in family.needs if suffix not in members]
    if family.one_of and not any(suffix in members for suffix in family.one_of):
        missing.append(family.one_of[0])
    if missing and family.is_certain:
        group.refuse("is missing; pass the whole checkpoint, or download it again", missing[0])
    return None if missing or not family.fits(members) else group


def _target(family: Family, group: Group) -> str:
    return group.prefix + family.target


def _restored(
    groups: Iterable[tuple[Family, Group]], settings: Settings, entries: Mapping[str, TensorEntry]
) -> dict[str, Dequantised]:
    found: dict[str, Dequantised] = {}
    for family, group in groups:
        _check(family, group, settings, entries)
        if _target(family, group) in found:
            group.refuse("is there in two quantisations; which of the two is meant?", family.target)
        found[_target(family, group)] = family.build(group)
    return found


def _check(family: Family, group: Group, settings: Settings, entries: Mapping[str, TensorEntry]) -> None:
    if settings.method is not None and settings.method not in family.methods:
        group.refuse(f"is not {settings.method}, which config.json says; the two must agree")
    if _target(family, group) in entries and family.target not in group:
        group.refuse("is there as it is and quantised; which of the two is meant?", family.target)
    module = group.prefix.removesuffix(".weight")
    for ending, why in _CHANGED.items():
        if module + ending in entries:
            group.refuse(f"{why}; pass the 16-bit original")


def _replaced(
    entries: Mapping[str, TensorEntry], groups: Iterable[tuple[Family, Group]], restored: Mapping[str, Dequantised]
) -> dict[str, TensorEntry]:
    """The restored weights where their first tensor stood, the others of their group gone."""
    place: dict[str, str] = {}
    gone: set[str] = set()
    for family, group in groups:
        place |= {group.prefix + suffix: _target(family, group) for suffix in group.members}
        gone |= {start + end for start in (group.prefix, group.prefix.removesuffix(".weight")) for end in _ACTIVATIONS}
    found: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        if name in place:
            found.setdefault(place[name], TensorEntry(place[name], restored[place[name]]))
        elif name not in gone:
            found[name] = entry
    return found


def _check_left(entries: Mapping[str, TensorEntry], settings: Settings) -> None:
    """8-bit floats without a scale are weights only where the config does not say that they have one."""
    if settings.method is None:
        return
    for name, entry in entries.items():
        if entry.dtype.name in scaled.FLOATS and len(entry.shape) > 1:
            raise CheckpointError(
                f"{settings.where}: {name[:160]!r} is stored in {entry.dtype.name}, config.json says {settings.method},"
                " and no scale lies beside it; download the checkpoint again"
            )
