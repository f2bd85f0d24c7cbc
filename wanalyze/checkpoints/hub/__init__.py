"""The Hugging Face Hub as a folder of files, of which only what is needed is transferred.

This is the only place that imports `huggingface_hub`, and `sources` imports it only for what lies on the Hub.
"""

from __future__ import annotations

import re

from huggingface_hub import constants

from wanalyze.checkpoints.formats import names_file
from wanalyze.checkpoints.hub.commit import resolve
from wanalyze.checkpoints.hub.folder import HubFolder
from wanalyze.checkpoints.hub.listing import files_of
from wanalyze.checkpoints.location import HubLocation
from wanalyze.errors import UsageError

_ENDPOINT = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?")

__all__ = ["HubFolder", "find"]


def find(location: HubLocation, *, offline: bool) -> tuple[HubFolder, str | None]:
    """The folder at a location, and the file in it where the location names one; at most two requests."""
    _check_endpoint()
    commit = resolve(location, offline=offline or constants.HF_HUB_OFFLINE)
    path, name = location.subfolder, None
    if names_file(path):
        path, _, name = path.rpartition("/")
    return HubFolder(commit, path, files_of(commit, path)), name


def _check_endpoint() -> None:
    if not _ENDPOINT.fullmatch(constants.ENDPOINT):
        raise UsageError("HF_ENDPOINT is no address of the form https://host[:port]; unset it, or correct it")
