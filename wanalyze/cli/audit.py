"""`wanalyze audit ADAPTER...`."""

from __future__ import annotations

import click

from wanalyze.cli import options
from wanalyze.errors import ExitCode, UsageError

_CODES = {"passed": ExitCode.done, "failed": ExitCode.policy_failed, "unreadable": ExitCode.unreadable}


@click.command()
@click.argument("adapters", metavar="ADAPTER...", nargs=-1)
@click.option("--base", metavar="REF", help="The base of the adapters: checks that they fit it.")
@click.option("--policy", metavar="FILE|PRESET", help="default, strict, serving-vllm, or a TOML file.")
@click.option("--show-policy", is_flag=True, help="Print the effective policy, with the origin of each line, and stop.")
@options.format_option("table", "json")
@options.offline
@options.quiet
@options.verbose
def audit(
    adapters: tuple[str, ...],
    base: str | None,
    policy: str | None,
    show_policy: bool,
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
    from wanalyze.auditing import Audit, effective_policy, policy_text
    from wanalyze.cli.progress import shown

    if show_policy:
        click.echo(policy_text(effective_policy(policy)), nl=False)
        return ExitCode.done
    if not adapters:
        raise UsageError("name at least one adapter: wanalyze audit ADAPTER...")
    with shown(quiet=quiet) as progress:
        found = wanalyze.audit(*adapters, base=base, policy=policy, offline=offline, progress=progress)
    write = {"table": terminal.audit, "json": Audit.to_json}[format_]
    click.echo(write(found), nl=False)
    return _CODES[found.verdict.value]
