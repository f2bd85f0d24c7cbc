"""What lies at a place: a checkpoint (one file, shards, a folder of either) or an adapter."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from wanalyze.checkpoints import distributed
from wanalyze.checkpoints.checkpoint import Checkpoint
from wanalyze.checkpoints.files import LocalFile, WeightFile
from wanalyze.checkpoints.folders import Folder, LocalFolder
from wanalyze.checkpoints.formats import FORMATS, SAFETENSORS, Format, Listing, format_of
from wanalyze.checkpoints.hyperparameters import read_hyperparameters
from wanalyze.checkpoints.location import HubLocation
from wanalyze.checkpoints.mix import Mix
from wanalyze.checkpoints.quantised import restore
from wanalyze.checkpoints.recognise import BESIDE, recognise
from wanalyze.checkpoints.reference import Location
from wanalyze.checkpoints.shards import Family, families, family_of, read_family, read_index
from wanalyze.checkpoints.strict_json import read_object
from wanalyze.errors import CheckpointError, UsageError
from wanalyze.printable import printable

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
# Names of weights to which adapter_config.json belongs, peft's first; `adapters` is MLX's.
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapters.safetensors", "adapter_model.bin", "adapter_model.pt")
_ADAPTER_STEP = re.compile(r"[0-9]+_adapters\.safetensors")  # what MLX keeps of a training's way
_PIPELINE = "model_index.json"
# What trainers leave beside the weights: pickles that hold no model.
_LEFTOVERS = re.compile(
    r"(?:training_args|optimizer|scheduler|scaler|trainer_state|rng_state.*|random_states.*|.*optim_states)"
    r"\.(?:bin|pt|pth|pkl)"
)
# Of several sets of weights in a folder, the one that libraries load when they are not told otherwise.
_USUAL = ("model", "diffusion_pytorch_model", "pytorch_model")
_NO_FORMAT = {
    "flax_model.msgpack": "a Flax file",
    "tf_model.h5": "a TensorFlow file",
    "model.onnx": "an ONNX file",
    "weights.npz": "an old MLX file",
}


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter as it lies on disk, not yet understood: its config and its tensors."""

    config: Mapping[str, object]
    weights: Checkpoint

    @property
    def name(self) -> str:
        return self.weights.name


@dataclass(frozen=True)
class _Choice:
    """A set of weights in a folder: a file, an index or a family of shards."""

    name: str
    stem: str
    format: Format
    family: Family | None = None

    @property
    def is_index(self) -> bool:
        return self.name.endswith(".json")


Source: TypeAlias = "Checkpoint | AdapterFiles"


@dataclass(frozen=True)
class Found:
    """A folder, and the file in it that is meant; `name` None where it is the folder as a whole.

    `named` is the file where the user named it on this machine: wherever its link leads is the user's choice.
    """

    folder: Folder
    name: str | None = None
    named: Path | None = None

    @property
    def where(self) -> str:
        if self.named is not None:
            return str(self.named)
        return self.folder.where if self.name is None else f"{self.folder.where}/{self.name}"


def open_source(location: Location, *, offline: bool = False) -> Source:
    """The checkpoint or adapter at a place; reads headers, index and config, no tensor.

    What lies on the Hub is, with `offline`, read from the user's Hub cache alone.
    """
    return open_found(find(location, offline=offline))


def find(location: Location, *, offline: bool = False) -> Found:
    """The folder that a place lies in; of one on the Hub, of the commit that it is at now."""
    if isinstance(location, Mix):
        raise UsageError(
            f"{location}: a sum of adapters can be compared with a base and nothing else; pass one of them"
        )
    return _find_hub(location, offline) if isinstance(location, HubLocation) else _find_path(location)


def open_found(found: Found) -> Source:
    if found.name is None:
        return open_folder(found.folder)
    return _open_file(found.folder, found.name, found.where, partial(_opened, found, found.name))


def _opened(found: Found, name: str) -> WeightFile:
    return found.folder.open(name) if found.named is None else LocalFile.open(found.named, name=name)


def _find_path(path: Path) -> Found:
    try:
        is_folder, exists = path.is_dir(), path.exists() or path.is_symlink()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if not exists:
        raise CheckpointError(f"{path}: no such file or folder")
    return Found(LocalFolder(path)) if is_folder else Found(LocalFolder(path.parent), path.name, path)


def _find_hub(location: HubLocation, offline: bool) -> Found:
    from wanalyze.checkpoints import hub  # the client takes half a second to import, and local files need none

    return Found(*hub.find(location, offline=offline))


def open_checkpoint(location: Location, *, offline: bool = False) -> Checkpoint:
    """As `open_source`, for places where an adapter makes no sense."""
    source = open_source(location, offline=offline)
    if isinstance(source, AdapterFiles):
        raise CheckpointError(
            f"{location}: is an adapter, a checkpoint with the whole weights is needed here; "
            f"it was made for {source.config.get('base_model_name_or_path') or 'a base it does not name'!r}"
        )
    return source


def open_folder(folder: Folder) -> Source:
    """The one thing that a folder holds; CheckpointError, with the choices, where it holds several or none."""
    names = folder.names
    choices = _choices(names)
    if ADAPTER_CONFIG in names and (not choices or _has_adapter(folder)):
        if choices:
            raise CheckpointError(
                f"{folder.where}: holds an adapter and a checkpoint; pass {folder.where}/{_adapter_weights(folder)} "
                f"for the one or {folder.where}/{choices[0].name} for the other"
            )
        return _adapter(folder, _adapter_weights(folder))
    if _PIPELINE in names and not choices:
        parts = [name.rstrip("/") for name in names if name.endswith("/") and _choices(folder.below(name).names)]
        raise CheckpointError(
            f"{folder.where}: a diffusers pipeline of {', '.join(parts) or 'no components'}; "
            f"pass one of them, as in {folder.where}/{parts[0] if parts else 'unet'}"
        )
    if not choices and (home := distributed.home(folder)) is not None:
        return _checkpoint(folder, folder.where, *distributed.read_distributed(home), ())
    chosen = _chosen(choices)
    if chosen is None:
        raise CheckpointError(f"{folder.where}: {_why_not(folder, choices)}")
    files, listing = _listing(folder, chosen)
    notes = _notes(chosen, choices, {file.name for file in files})
    found = _checkpoint(folder, folder.where, files, listing, notes)
    if ADAPTER_CONFIG in names and isinstance(found, Checkpoint):
        raise CheckpointError(
            f"{folder.where}: holds an adapter and a checkpoint; {_ADAPTER_WEIGHTS[0]} of the one is missing, "
            f"pass {folder.where}/{chosen.name} for the other"
        )
    return found


def _open_file(folder: Folder, name: str, where: str, opened: Callable[[], WeightFile]) -> Source:
    if _is_adapter_weights(name):
        if ADAPTER_CONFIG not in folder.names:
            raise CheckpointError(f"{where}: no {ADAPTER_CONFIG} beside it, so its scale is unknown")
        return _adapter(folder, name)
    for format_ in FORMATS:
        if _is_index(name, format_):
            found = read_index(folder, name, format_)
            return _checkpoint(folder, folder.where, *found, ())
    format_ = _format(name)
    family = family_of(name, folder.names)
    if family and (family.is_parallel or format_.read_together is not None):
        return _checkpoint(folder, where, *read_family(folder, family, format_), ())
    file = opened()
    return _checkpoint(folder, where, (file,), format_.read(file), ())


def _choices(names: Sequence[str]) -> list[_Choice]:
    """Every set of weights among the files of a folder, those of preferred formats first."""
    found: list[_Choice] = []
    for format_ in FORMATS:
        files = [
            name
            for name in names
            if name.endswith(format_.suffixes) and not (_is_adapter_weights(name) or _LEFTOVERS.fullmatch(name))
        ]
        indexes = [name for name in names if _is_index(name, format_)]
        shards = families(files)
        stems = {_stem(name, format_) for name in indexes}
        singles = [name for name in files if not any(name in family.members for family in shards)]
        found += [_Choice(name, _stem(name, format_), format_) for name in indexes]
        found += [_Choice(f.members[0], f.name, format_, f) for f in shards if f.name not in stems]
        found += [_Choice(name, _stem(name, format_), format_) for name in singles]
    return found


def _is_index(name: str, format_: Format) -> bool:
    if format_.index is None or not name.endswith(".json"):
        return False
    return name.endswith(format_.index) or (f"{format_.index.removesuffix('.json')}." in name)


def _stem(name: str, format_: Format) -> str:
    """What a set of weights is called, with its variant.

    `model.safetensors.index.fp16.json` and `model.fp16.safetensors` are both `model.fp16`.
    """
    if name.endswith(".json"):
        assert format_.index is not None
        stem, _, variant = name.removesuffix(".json").partition(format_.index.removesuffix(".json"))
        return stem + variant
    return name.rpartition(".")[0]


def _chosen(choices: Sequence[_Choice]) -> _Choice | None:
    """The set that is meant: of the preferred format, and of several the usual one."""
    if not choices:
        return None
    best = [choice for choice in choices if choice.format is choices[0].format]
    for stem in _USUAL:
        usual = [choice for choice in best if choice.stem == stem]
        if usual:
            return usual[0]  # indexes come first
    return best[0] if len(best) == 1 else None


def _notes(chosen: _Choice, choices: Sequence[_Choice], read: Collection[str]) -> tuple[str, ...]:
    others = [printable(choice.name) for choice in choices if choice is not chosen]
    others = [name for name in others if name not in read]
    if not others:
        return ()
    listed = ", ".join(others[:4]) + (", …" if len(others) > 4 else "")
    return (f"{printable(chosen.name)} was read; {listed} beside it was not",)


def _why_not(folder: Folder, choices: Sequence[_Choice]) -> str:
    names = [choice.name for choice in choices]
    if names:
        return f"holds {', '.join(names[:4])}{', …' if len(names) > 4 else ''}: pass one of them by its path"
    alone = next((name for name in _ADAPTER_WEIGHTS if name in folder.names), None)
    if alone is not None:
        return f"holds {alone} but no {ADAPTER_CONFIG}, so its scale is unknown"
    for name in folder.names:
        if (what := _NO_FORMAT.get(name)) is not None:
            return f"holds only {name}, {what}, which is not read; convert it to safetensors"
    inside = [name.rstrip("/") for name in folder.names if name.endswith("/") and _is_adapter(folder.below(name))]
    if inside:
        return f"holds no weights itself, but adapters in {', '.join(inside[:4])}: pass one of them"
    return "no weights in it: a .safetensors file, an index of shards or an adapter_config.json is needed"


def _is_adapter(folder: Folder) -> bool:
    return ADAPTER_CONFIG in folder.names


def _is_adapter_weights(name: str) -> bool:
    return name in _ADAPTER_WEIGHTS or _ADAPTER_STEP.fullmatch(name) is not None


def _has_adapter(folder: Folder) -> bool:
    return any(name in folder.names for name in _ADAPTER_WEIGHTS)


def _adapter_weights(folder: Folder) -> str:
    return next((name for name in _ADAPTER_WEIGHTS if name in folder.names), _ADAPTER_WEIGHTS[0])


def _adapter(folder: Folder, name: str) -> AdapterFiles:
    if name not in folder.names:
        raise CheckpointError(f"{folder.where}: {ADAPTER_CONFIG} is there, {name} is missing; download it")
    others = [other for other in _ADAPTER_WEIGHTS if other in folder.names and other != name]
    notes = (f"{name} was read; {', '.join(others)} beside it was not",) if others else ()
    file = folder.open(name)
    listing = _format(name).read(file)
    config, beside = _read_beside(folder, ADAPTER_CONFIG)
    weights = Checkpoint(
        folder.where,
        (file,),
        {entry.name: entry for entry in listing.entries},
        revision=folder.revision,
        notes=(*notes, *listing.notes),
        metadata=listing.metadata,
        beside=beside,
    )
    return AdapterFiles(config, weights)


def _format(name: str) -> Format:
    return format_of(name) or SAFETENSORS


def _checkpoint(
    folder: Folder, name: str, files: tuple[WeightFile, ...], listing: Listing, notes: tuple[str, ...]
) -> Source:
    """What the files hold: a checkpoint, or by its names an adapter, with the config that belongs to it."""
    entries = {entry.name: entry for entry in listing.entries}
    tool = recognise(entries, listing.metadata)
    if tool is not None:
        config, beside = _read_beside(folder, BESIDE.get(tool))
        said = (*notes, *listing.notes)
        weights = Checkpoint(name, files, entries, {}, folder.revision, said, listing.metadata, beside)
        return AdapterFiles(config, weights)
    config, beside = _read_beside(folder, CONFIG)
    config = config if beside else listing.config
    entries, restored = restore(entries, config, where=name)
    said = (*notes, *listing.notes, *restored)
    beside = (*listing.beside, *beside)
    return Checkpoint(name, files, entries, config, folder.revision, said, listing.metadata, beside)


def _read_beside(folder: Folder, name: str | None) -> tuple[Mapping[str, object], tuple[WeightFile, ...]]:
    """What a config beside the weights says, and the file it stands in; nothing of one that is not there."""
    if name is None or name not in folder.names:
        return {}, ()
    file = folder.open(name)
    return (read_object if name.endswith(".json") else read_hyperparameters)(file), (file,)


def _listing(folder: Folder, chosen: _Choice) -> tuple[tuple[WeightFile, ...], Listing]:
    if chosen.is_index:
        return read_index(folder, chosen.name, chosen.format)
    if chosen.family:
        return read_family(folder, chosen.family, chosen.format)
    file = folder.open(chosen.name)
    return (file,), chosen.format.read(file)
