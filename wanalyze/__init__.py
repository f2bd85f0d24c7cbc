"""What did this fine-tune do to the weights?

Whatever a command does, one call here does: `compare`, `inspect`, `audit`, `build_bank`, `open_checkpoint`,
`open_adapter`. Importing the package does not import torch; the first call does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from wanalyze.version import VERSION as __version__

if TYPE_CHECKING:
    from wanalyze.adapters import Adapter
    from wanalyze.auditing import Audit, Bank
    from wanalyze.checkpoints import Checkpoint
    from wanalyze.engine import Plan, Step
    from wanalyze.result import Inventory, Result

__all__ = [
    "Result",
    "__version__",
    "audit",
    "build_bank",
    "compare",
    "inspect",
    "open_adapter",
    "open_checkpoint",
    "plan",
]

Ref: TypeAlias = "str | PathLike[str]"


def open_checkpoint(reference: Ref, *, offline: bool = False) -> Checkpoint:
    """The named tensors of a checkpoint: listed at once, read one at a time; with `offline`, no request is made."""
    from wanalyze import checkpoints

    return checkpoints.open_checkpoint(checkpoints.parse_reference(fspath(reference)).location, offline=offline)


def open_adapter(reference: Ref, *, offline: bool = False) -> Adapter:
    """What an adapter does to which modules, as structured updates; AdapterError if it is none."""
    from wanalyze import adapters, checkpoints, errors

    source = checkpoints.open_source(checkpoints.parse_reference(fspath(reference)).location, offline=offline)
    if isinstance(source, checkpoints.Checkpoint):
        raise errors.AdapterError(f"{reference}: is a checkpoint, not an adapter (no adapter_config.json)")
    return adapters.parse_adapter(source)


def inspect(
    reference: Ref,
    base: Ref | None = None,
    *,
    headers: bool = False,
    offline: bool = False,
    progress: Callable[[Step], None] | None = None,
) -> Inventory:
    """What is in a checkpoint, from its headers, or in an adapter, with the size and rank of each update.

    With a `base` the updates go by its names, and those that depend on its weights are measured too; with `headers`
    no tensor is read and none is measured.
    """
    from wanalyze import checkpoints, inspection

    place = checkpoints.parse_reference(fspath(reference))
    under = None if base is None else checkpoints.parse_reference(fspath(base))
    return inspection.inspect(place, under, progress or _silent, headers=headers, offline=offline)


def audit(
    *adapters: Ref,
    base: Ref | None = None,
    policy: Ref | None = None,
    bank: Ref | None = None,
    intruders: bool = False,
    baseline: Ref | None = None,
    offline: bool = False,
    progress: Callable[[Step], None] | None = None,
) -> Audit:
    """Hold adapters, or every adapter in a folder, against a policy: the name of a preset, or a TOML file.

    Without a `base`, what could not be checked is said. A `bank` is a file that `build_bank` made. `intruders` are
    counted if asked for, which takes as long as `compare`. An adapter that cannot be read is a record that says why,
    not an exception; WanalyzeError for a request, a base or a policy that is wrong.
    """
    from wanalyze import auditing, checkpoints

    references = [checkpoints.parse_reference(fspath(text)) for text in adapters]
    under = None if base is None else checkpoints.parse_reference(fspath(base))
    effective = auditing.effective_policy(None if policy is None else fspath(policy))
    trusted, before = (None if path is None else Path(fspath(path)) for path in (bank, baseline))
    return auditing.audit(
        references,
        under,
        effective,
        progress or _silent,
        bank=trusted,
        intruders=intruders,
        baseline=before,
        offline=offline,
    )


def build_bank(
    *adapters: Ref,
    base: Ref | None = None,
    offline: bool = False,
    progress: Callable[[Step], None] | None = None,
) -> Bank:
    """Measure adapters that you trust, or every adapter in a folder, for others to be held against.

    The `base` is needed by those whose updates depend on its weights.
    """
    from wanalyze import auditing, checkpoints

    references = [checkpoints.parse_reference(fspath(text)) for text in adapters]
    under = None if base is None else checkpoints.parse_reference(fspath(base))
    return auditing.build_bank(references, under, progress or _silent, offline=offline)


def plan(
    base: Ref,
    *tuned: Ref,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    top_k: int = 10,
    epsilon: float = 0.5,
    device: str = "auto",
    jobs: int | None = None,
    allow_unmatched: bool = False,
    precision: Literal["exact", "fast"] = "exact",
    cache: bool = True,
    offline: bool = False,
    name_map: Ref | None = None,
) -> Plan:
    """What `compare` with the same arguments would do, from headers alone."""
    from wanalyze import checkpoints, engine
    from wanalyze.pairing import Selection, read_map

    references = [checkpoints.parse_reference(fspath(text)) for text in (base, *tuned)]
    options = engine.Options(
        top_k=top_k,
        epsilon=epsilon,
        selection=Selection(tuple(only), tuple(skip)),
        device=device,
        jobs=jobs,
        allow_unmatched=allow_unmatched,
        precision=precision,
        cache=cache,
        offline=offline,
        name_map=None if name_map is None else read_map(Path(name_map)),
    )
    return engine.plan(references[0], references[1:], options)


def compare(
    base: Ref,
    *tuned: Ref,
    output: Ref | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    top_k: int = 10,
    epsilon: float = 0.5,
    device: str = "auto",
    jobs: int | None = None,
    allow_unmatched: bool = False,
    precision: Literal["exact", "fast"] = "exact",
    cache: bool = True,
    offline: bool = False,
    name_map: Ref | None = None,
    progress: Callable[[Step], None] | None = None,
) -> Result:
    """Measure what was made from `base`; each of `tuned` is `[label=]PATH` or
    `[label=]hf:org/name[@revision][/subfolder]` of a checkpoint or adapter.

    A weighted sum of adapters is one tuned model, W0 + Σ wᵢ ΔWᵢ: `[label=]0.7*PATH+0.3*hf:org/name-0.5*PATH`. It is
    peft's `add_weighted_adapter` with `combination_type="cat"`, of any kinds, and not "linear", which adds the factors.
    Of checkpoints on the Hub only what is compared is transferred; with `offline`, nothing is: they are read from the
    user's Hub cache. `only` and `skip` are globs over module names; `name_map` is a file of two columns, the
    tuned's names and the base's, for what the two call differently. With `output`, the run folder is written there:
    result.json, modules.csv, arrays.safetensors, report.html. Raises WanalyzeError for what the caller
    can mend; a matrix that cannot be measured is a record with status `failed`, not an exception.
    """
    from wanalyze import engine, report, result

    if output is not None:
        result.check_output(Path(output))
    prepared = plan(
        base,
        *tuned,
        only=only,
        skip=skip,
        top_k=top_k,
        epsilon=epsilon,
        device=device,
        jobs=jobs,
        allow_unmatched=allow_unmatched,
        precision=precision,
        cache=cache,
        offline=offline,
        name_map=name_map,
    )
    found = engine.run(prepared, progress or _silent)
    if output is not None:
        result.write_run(Path(output), found, report.page(found))
    return found


def _silent(step: Step) -> None:
    pass


def __getattr__(name: str) -> object:
    if name == "Result":
        from wanalyze.result import Result

        return Result
    raise AttributeError(f"module 'wanalyze' has no attribute {name!r}")
