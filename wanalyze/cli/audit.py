"""`wanalyze audit ADAPTER...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wanalyze.cli import options
from wanalyze.cli.output import give, keep, say
from wanalyze.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from wanalyze.auditing import Audit

_OF_MODELS = ("adapter_config.json", "config.json", "tokenizer_config.json", "README.md")
_INDEX = ".index.json"
_CODES = {"passed": ExitCode.done, "failed": ExitCode.policy_failed, "unreadable": ExitCode.unreadable}


@click.command()
@click.argument("adapters", metavar="ADAPTER...", nargs=-1)
@click.option("--base", metavar="REF", help="The base of the adapters: checks that they fit it.")
@click.option("--policy", metavar="FILE|PRESET", help="default, strict, serving-vllm, or a TOML file.")
@click.option(
    "--bank", type=click.Path(path_type=Path), metavar="FILE", help="Trusted adapters to compare with: `wanalyze bank`."
)
@click.option("--intruders", is_flag=True, help="With --base: count intruder dimensions; takes as long as compare.")
@click.option("--statistics", is_flag=True, help="Print the statistics of the updates as well, by kind of module.")
@click.option("--show-policy", is_flag=True, help="Print the effective policy, with the origin of each line, and stop.")
@click.option("--baseline", type=click.Path(path_type=Path), metavar="FILE", help="Report only what this JSON lacks.")
@click.option(
    "-o",
    "--output",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write a file: .json, .sarif, .xml (JUnit), .md or .html; repeatable.",
)
@options.format_option("table", "json", "sarif", "junit", "github", "markdown", "html")
@options.offline
@options.quiet
@options.verbose
def audit(
    adapters: tuple[str, ...],
    base: str | None,
    policy: str | None,
    bank: Path | None,
    intruders: bool,
    statistics: bool,
    show_policy: bool,
    baseline: Path | None,
    output: tuple[Path, ...],
    format_: str,
    offline: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001 - read by main
) -> int:
    """Hold every ADAPTER, or every adapter in a folder, against a policy: may it be deployed?

    Exit code 0: the policy holds; 1: an adapter breaks it; 2: an adapter, or the request, could not be read.
    """
    import wanalyze
    from wanalyze import terminal
    from wanalyze.auditing import effective_policy, policy_text
    from wanalyze.cli.progress import shown

    if show_policy:
        give(policy_text(effective_policy(policy)))
        return ExitCode.done
    if not adapters:
        raise UsageError("name at least one adapter: wanalyze audit ADAPTER...")
    formats = [(path, _format_of(path)) for path in output]
    _check_free(output, [path for path in (bank, baseline) if path is not None])
    with shown(quiet=quiet) as progress:
        found = wanalyze.audit(
            *adapters,
            base=base,
            policy=policy,
            bank=bank,
            intruders=intruders,
            baseline=baseline,
            offline=offline,
            progress=progress,
        )
    for path, name in formats:
        keep(path, _text(found, name))
    if format_ != "table":
        give(_text(found, format_))
    elif not quiet:
        say(_text(found, format_))
    if format_ == "table" and statistics:
        say(terminal.statistics(found))
    return _CODES[found.verdict.value]


def _text(found: Audit, format_: str) -> str:
    if format_ == "html":
        from wanalyze import report

        return report.audit_page(found)
    from wanalyze import terminal
    from wanalyze.auditing import WRITERS

    return {**WRITERS, "table": terminal.audit}[format_](found)


def _format_of(path: Path) -> str:
    """The format that a file's name asks for; said before the work begins."""
    from wanalyze.auditing import ENDINGS

    endings = {**ENDINGS, ".html": "html"}
    found = next((name for ending, name in endings.items() if path.name.endswith(ending)), None)
    if found is None:
        raise UsageError(f"{path}: its name must end in {', '.join(endings)}, which says what to write")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: no such folder; make it first")
    return found


def _check_free(output: Sequence[Path], read: Sequence[Path]) -> None:
    """That no file is written over what is read: the bank, the baseline, or a file that belongs to a model."""
    inputs = {path.resolve() for path in read}
    for path in output:
        is_of_model = path.exists() and (path.name in _OF_MODELS or path.name.endswith(_INDEX))
        if is_of_model or path.resolve() in inputs:
            raise UsageError(
                f"{path}: is there already, and is read or belongs to a model; choose another file with -o"
            )
        if output.count(path) > 1:
            raise UsageError(f"{path}: is named twice; name each file once with -o")
