"""PEFT LoRA in all its forms: config and names in, updates out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from wanalyze.adapters.adapter import Adapter, Shift, Update
from wanalyze.adapters.lora.config import LoraConfig, refuse_unknown, variant_of
from wanalyze.adapters.lora.initial import name_of, notes_on_base, start_of
from wanalyze.adapters.lora.module import BIAS, DIAGONAL, IN_PROJ, MAGNITUDE, Context, Made, made_of
from wanalyze.adapters.lora.names import stored_shape
from wanalyze.adapters.lora.origin import origin_of, targets_of
from wanalyze.adapters.lora.replication import at_source, name_at_source, sources_of
from wanalyze.adapters.lora.stacks import stacks_of
from wanalyze.adapters.lora.tokens import TOKENS, notes_on_tokens, token_updates
from wanalyze.adapters.peft import Tensors, adapter_of, config_of, sorted_tensors, spread
from wanalyze.checkpoints import AdapterFiles, Checkpoint, TensorEntry
from wanalyze.errors import AdapterError

_STEMS = {
    **{name: name for name in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")},
    **{name: name for name in (MAGNITUDE, BIAS, DIAGONAL)},
    f"token_adapter.{TOKENS}": TOKENS,
}
_OF_TRAINING = (".lora_monteclora_sampler.", ".lora_velora_embed")  # noise and projections that merging leaves out
_NOTES = {
    "aLoRA": "conditional: active only from its invocation tokens on, so it cannot be merged",
    "MonteCLoRA": "its sampled noise is of training alone; ΔW is s·B·A, as peft merges it",
}
_TWICE = "peft up to 0.21.2 adds the update of an attention's out_proj twice; here it counts once, as it is defined"
_UNUSED = "the lora_B.bias of an attention's in_proj is saved by peft and never applied; it is left out"
_TIED = "the head is tied to the embedding, and the update of both is one: it is counted there"
_GROUPED = (
    "peft's LoRA on a grouped convolution mixes the channels of all groups, which no change of the base's kernel does: "
    "such a layer can be compared only where lora_A is for the channels of one group"
)


def parse_lora(files: AdapterFiles, base: Checkpoint | None) -> Adapter:
    """The updates of a PEFT LoRA adapter; AdapterError where config and tensors contradict each other."""
    config, variant = config_of(files, LoraConfig), variant_of(files)
    refuse_unknown(files)
    start = start_of(files, config)
    tensors = sorted_tensors(files, _STEMS, kind="LoRA", marker="lora_", ignored=_OF_TRAINING, whole=True)
    embeddings = _of_tokens(files.name, tensors, config)
    stacks = stacks_of(files.name, tensors.modules, config, base)
    modules = {name: parts for name, parts in sorted(tensors.modules.items()) if name not in stacks.modules}
    context = Context(files.name, config, start, modules.keys(), base)
    made = _counted_once([made_of(name, parts, context) for name, parts in modules.items()], context)
    rows = token_updates(files.name, embeddings, config.trainable_token_indices, base)
    if not made and not stacks.updates and not rows:
        raise AdapterError(f"{files.name}: holds no lora_A and lora_B tensors, so it changes nothing")
    layers = sources_of(config.layer_replication, where=files.name)
    updates, shifts, tensors = _at_source(files.name, layers, made, [*stacks.updates, *rows], tensors)
    ranks = Counter([each.rank for each in made] + _ranks(stacks.updates))
    return adapter_of(
        files,
        config,
        updates,
        tensors,
        kind="LORA",
        method=_method(ranks, config, variant or (name_of(start) if start else None)),
        shifts=shifts,
        layers=layers,
        facts=_facts(files, config, ranks),
        notes=[
            *_notes(made, variant, is_tied=len(made) < len(modules)),
            *notes_on_base(files, config, start),
            *notes_on_tokens(rows, base),
        ],
    )


def _of_tokens(where: str, tensors: Tensors, config: LoraConfig) -> dict[str, dict[str, TensorEntry]]:
    """The trainable tokens, taken out of the modules."""
    found = {name: parts for name, parts in sorted(tensors.modules.items()) if TOKENS in parts}
    if config.trainable_token_indices and not found:
        raise AdapterError(f"{where}: adapter_config.json has trainable_token_indices, but no tensor holds their rows")
    for name, parts in found.items():
        if len(parts) > 1:
            raise AdapterError(
                f"{where}: {name[:80]!r} has trainable tokens beside {', '.join(sorted(parts))}; one counts"
            )
        del tensors.modules[name]
    return found


def _counted_once(made: Sequence[Made], context: Context) -> list[Made]:
    """Without the copy of an embedding's update that `ensure_weight_tying` makes for a head the base does not store."""
    if not context.config.ensure_weight_tying or context.base is None:
        return list(made)
    embeddings = {(each.update.shape, each.rank) for each in made if "lora_embedding_A" in each.update.parts}
    return [
        each
        for each in made
        if "lora_embedding_A" in each.update.parts
        or (each.update.shape, each.rank) not in embeddings
        or stored_shape(context.base, each.update.target) is not None
    ]


def _at_source(
    where: str, layers: Sequence[int], made: Sequence[Made], others: Sequence[Update], tensors: Tensors
) -> tuple[list[Update], list[Shift], Tensors]:
    """All that the adapter changes, by the names of the base's layers."""
    updates, shifts = [*(each.update for each in made), *others], [shift for each in made for shift in each.shifts]
    if not layers:
        return updates, shifts, tensors
    named = partial(name_at_source, sources=layers, where=where)
    return (
        at_source(updates, layers, where=where),
        [replace(shift, target=named(shift.target)) for shift in shifts],
        replace(tensors, replaced={named(name): entry for name, entry in tensors.replaced.items()}),
    )


def _ranks(updates: Iterable[Update]) -> list[int]:
    """Of each parameter once, however many experts it has."""
    return list({(update.module, update.parameter): update.rank or 0 for update in updates}.values())


def _method(ranks: Mapping[int, int], config: LoraConfig, name: str | None) -> str:
    if not ranks:
        return "trainable tokens"
    plain = "rsLoRA" if config.use_rslora else "LoRA"
    scale = " (rsLoRA scale)" if name is not None and config.use_rslora else ""
    return f"{name or plain} r={spread(ranks)}{scale}"


def _facts(files: AdapterFiles, config: LoraConfig, ranks: Mapping[int, int]) -> dict[str, object]:
    return {
        "alpha": config.lora_alpha,
        "scale_rule": "alpha / sqrt(r)" if config.use_rslora else "alpha / r",
        "initialisation": str(config.init_lora_weights),
        **({"ranks": dict(sorted(ranks.items()))} if ranks else {}),
        **targets_of(files.config),
        **origin_of(files.config),
    }


def _notes(made: Sequence[Made], variant: str | None, *, is_tied: bool) -> list[str]:
    notes = [_NOTES[variant]] if variant in _NOTES else []
    notes += [_TIED] if is_tied else []
    projections = [each for each in made if each.update.parameter == IN_PROJ]
    if projections:
        notes.append(_TWICE)
    if any(each.has_bias for each in projections):
        notes.append(_UNUSED)
    if any(each.is_grouped for each in made):
        notes.append(_GROUPED)
    return notes
