"""`wanalyze completion SHELL`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from wanalyze.cli import options
from wanalyze.cli.output import give
from wanalyze.errors import ExitCode

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@options.verbose
@click.pass_context
def completion(context: click.Context, shell: str, verbose: bool) -> int:  # noqa: ARG001 - read by main
    r"""Print what makes SHELL complete the commands and options of wanalyze.

    \b
    bash  eval "$(wanalyze completion bash)"                      in ~/.bashrc
    zsh   eval "$(wanalyze completion zsh)"                       in ~/.zshrc
    fish  wanalyze completion fish > ~/.config/fish/completions/wanalyze.fish
    """
    root = context.find_root()
    found = get_completion_class(shell)
    assert found is not None
    template = found(root.command, {}, "wanalyze", "_WANALYZE_COMPLETE")
    give(template.source_template % template.source_vars() + "\n")
    return ExitCode.done
