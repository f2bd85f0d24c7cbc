"""What can go wrong, each kind with the exit code it leads to.

WanalyzeError          2   what the user can mend: shown as one line, without a traceback
├── UsageError         2   the request itself
├── CheckpointError    2   a file of weights
├── AdapterError       2   what an adapter says of itself
├── PairingError       2   what belongs to what
├── NumericsError      3   one matrix cannot be measured; the others can
├── ResultError        2   a finished run
└── FigureError        2   a figure for which a run has no numbers
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the shell is told."""

    done = 0
    policy_failed = 1
    unreadable = 2
    in_part = 3
    bug = 70
    interrupted = 130
    unread = 141


class WanalyzeError(Exception):
    """A sentence that names the thing, the value, the rule and the way out."""

    exit_code: ClassVar[ExitCode] = ExitCode.unreadable


class UsageError(WanalyzeError):
    pass


class CheckpointError(WanalyzeError):
    pass


class AdapterError(WanalyzeError):
    pass


class PairingError(WanalyzeError):
    pass


class NumericsError(WanalyzeError):
    exit_code: ClassVar[ExitCode] = ExitCode.in_part


class ResultError(WanalyzeError):
    pass


class FigureError(WanalyzeError):
    pass
