"""`wanalyze explain METRIC_OR_CODE`."""

from __future__ import annotations

import dataclasses
import json
from difflib import get_close_matches

import click

from wanalyze.cli import options
from wanalyze.cli.output import give, say
from wanalyze.errors import ExitCode, UsageError
from wanalyze.metrics import EXPLAINED, Metric


@click.command()
@click.argument("name", required=False, metavar="METRIC_OR_CODE")
@options.format_option("text", "json")
@options.verbose
def explain(name: str | None, format_: str, verbose: bool) -> int:  # noqa: ARG001 - read by main
    """Say how a number, a finding or a rule of `audit` is defined, where it comes from, and what it does not say.

    Without a name, list them all.
    """
    from wanalyze.auditing import RULES
    from wanalyze.findings import CHECKS

    known = {
        **EXPLAINED,
        **{code: check.explained() for code, check in CHECKS.items()},
        **{code: rule.explained() for code, rule in RULES.items()},
    }
    if name is not None and name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"no metric, finding or rule is called {name!r}; {hint}`wanalyze explain` lists them all")
    chosen = [known[name]] if name else list(known.values())
    if format_ == "json":
        give(json.dumps([dataclasses.asdict(metric) for metric in chosen], indent=1, ensure_ascii=False) + "\n")
    else:
        say(_text(chosen[0]) if name else _list(chosen))
    return ExitCode.done


def _text(metric: Metric) -> str:
    return (
        f"{metric.key}: {metric.title} [{metric.unit}]\n\n  {metric.definition}\n\n"
        f"source  {metric.source}\nlimits  {metric.limits}\n"
    )


def _list(metrics: list[Metric]) -> str:
    width = max(len(metric.key) for metric in metrics)
    return "".join(f"{metric.key:<{width}}  {metric.title} [{metric.unit}]\n" for metric in metrics)
