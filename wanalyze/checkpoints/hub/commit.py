"""The commit that a revision stands for, found once, so that everything is read from one state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from huggingface_hub import constants
from pydantic import BaseModel, Field, ValidationError

from wanalyze.checkpoints.hub import cache
from wanalyze.checkpoints.hub.transport import get
from wanalyze.checkpoints.location import HubLocation
from wanalyze.errors import CheckpointError

_SHA = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Commit:
    """One state of a repository; what is not in the user's cache is out of reach when it is `offline`."""

    location: HubLocation
    sha: str
    offline: bool

    @property
    def repository(self) -> str:
        return self.location.repository


class _Info(BaseModel):
    sha: str = Field(pattern=r"^[0-9a-f]{40}$")


def resolve(location: HubLocation, *, offline: bool) -> Commit:
    """The commit of a location's branch, tag or pull request; one request, none for a whole commit hash."""
    revision = location.revision
    if revision is not None and _SHA.fullmatch(revision):
        return Commit(location, revision, offline)
    if offline:
        return Commit(location, cache.commit_of(location), offline)
    asked = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    answer = get(f"{constants.ENDPOINT}/api/models/{location.repository}{asked}", location)
    try:
        return Commit(location, _Info.model_validate_json(bytes(answer.body)).sha, offline)
    except ValidationError:
        raise CheckpointError(f"{location}: the Hub's answer names no commit; is HF_ENDPOINT right?") from None
