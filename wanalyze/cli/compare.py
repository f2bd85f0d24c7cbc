"""`wanalyze compare BASE TUNED...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanalyze.cli import options
from wanalyze.cli.output import give, say
from wanalyze.errors import ExitCode

if TYPE_CHECKING:
    from wanalyze.engine import Plan
    from wanalyze.result import Result


@click.command()
@click.argument("base")
@click.argument("tuned", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run.  [default: reports/LABEL]")
@options.format_option("text", "json")
@options.only
@options.skip
@click.option("--top-k", default=10, show_default=True, help="Singular vectors looked at for intruders.")
@click.option("--epsilon", default=0.5, show_default=True, help="Below this |cosine| a vector is an intruder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--jobs", type=int, help="Threads.  [default: one per core; one if all matrices are small]")
@click.option(
    "--precision",
    type=click.Choice(["exact", "fast"]),
    default="exact",
    show_default=True,
    help="fast: products in float32, for GPUs slow in float64; every number is an estimate.",
)
@click.option(
    "--cache/--no-cache", default=True, help="Keep the spectrum of the base for the next run.  [default: keep]"
)
@click.option(
    "--map",
    "name_map",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names that differ: two columns, the tuned's and the base's.",
)
@options.offline
@click.option("--allow-unmatched", is_flag=True, help="Leave out adapter modules the base has no weight for.")
@click.option("--dry-run", is_flag=True, help="Print what would be read and stop.")
@options.quiet
@options.verbose
def compare(
    base: str,
    tuned: tuple[str, ...],
    output: Path | None,
    format_: str,
    dry_run: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 - read by main
    **wanted: Any,
) -> int:
    """Say what was done to BASE to get each TUNED: a full fine-tune, an adapter or a merged model.

    BASE and TUNED are [label=]PATH: a safetensors file, a folder with one or with shards and an index, or
    the folder of an adapter; or [label=]hf:org/name[@revision][/subfolder] on the Hugging Face Hub.
    A weighted sum of adapters is one TUNED: 'mix=0.7*PATH+0.3*PATH', in quotes because of the *.
    """
    import wanalyze

    if dry_run:
        say(_plan_text(wanalyze.plan(base, *tuned, **wanted)))
        return ExitCode.done
    from wanalyze.cli.progress import shown

    folder = output or _default_folder(tuned)
    with shown(quiet=quiet) as progress:
        result = wanalyze.compare(base, *tuned, output=folder, progress=progress, **wanted)
    _print(result, folder, format_, quiet=quiet)
    return _code(result)


def _code(result: Result) -> ExitCode:
    """In part if something failed, unreadable if nothing else is left."""
    if not any(model.summary.failed for model in result.models):
        return ExitCode.done
    compared = any(item.status.value != "failed" for items in (result.modules, result.vectors) for item in items)
    return ExitCode.in_part if compared else ExitCode.unreadable


def _default_folder(tuned: tuple[str, ...]) -> Path:
    from wanalyze.checkpoints import parse_reference

    labels = "+".join(parse_reference(text).label for text in tuned)
    return Path("reports") / labels[:100]


def _print(result: Result, folder: Path, format_: str, *, quiet: bool) -> None:
    from wanalyze import terminal

    if format_ == "json":
        give(result.to_json())
    elif not quiet:
        say(terminal.summary(result, str(folder)))


def _plan_text(plan: Plan) -> str:
    from wanalyze import terminal
    from wanalyze.engine.batches import pair_bytes
    from wanalyze.engine.cache import default_folder

    largest = max(
        (job[1].shape for _, jobs in plan.matrices for job in jobs), key=lambda s: s[0] * s[1], default=(0, 0)
    )
    facts: list[tuple[str, object]] = [
        ("base", plan.base.name),
        *((tuned.label, f"{tuned.method}, {len(tuned.pairing.skipped)} tensors skipped") for tuned in plan.tuned),
        ("matrices", f"{len(plan.matrices)}, the largest {largest[0]} × {largest[1]}"),
        ("to read", f"{plan.bytes_to_read / 1e6:,.1f} MB of matrices"),
        ("memory", f"about {pair_bytes(largest) / 1e6:,.0f} MB a pair, beside torch (estimate)"),
        ("cache", default_folder() if plan.options.cache else "off"),
        ("device", plan.device),
    ]
    return terminal.facts_table(facts)
