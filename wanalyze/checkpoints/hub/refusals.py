"""What the Hub's answers and the network's failures mean: a sentence each, with what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from wanalyze.checkpoints.location import HubLocation
from wanalyze.errors import CheckpointError

_LOGIN = "log in: hf auth login, or set HF_TOKEN"
_AGAIN = "run again later"
_UNWRITABLE = "the Hub cache cannot be written; set HF_HOME to a folder of yours"

# By what the Hub says in X-Error-Code.
_CODES = {
    "RepoNotFound": f"no such repository on the Hub, or a private one; check the name, or {_LOGIN}",
    "GatedRepo": "its authors ask for a licence first; accept its licence at {page} and " + _LOGIN,
    "RevisionNotFound": "no such revision in the repository; a branch, a tag or a commit of it is needed",
    "EntryNotFound": "no such file or folder in the repository",
}
# By what it says in X-Error-Message, in part.
_MESSAGES = {
    "resource is disabled": "the Hub has disabled this repository; nobody can read it",
    "Invalid credentials": "the Hub does not know the token; log in again: hf auth login, or set HF_TOKEN anew",
}
_STATUSES = {
    401: _CODES["RepoNotFound"],
    403: f"the Hub forbids it; use a token that may read this repository, {_LOGIN}",
    404: "not found on the Hub; check the name",
    408: f"the Hub waited too long; {_AGAIN}",
    416: "is shorter than the Hub's own listing says; the mirror or proxy in between is out of date",
    429: f"the Hub asks for a pause (429, too many requests); {_AGAIN}, or for a higher limit {_LOGIN}",
}
# By the class of what the HTTP client raises, the most special first.
_FAILURES = {
    "ConnectTimeout": "{host} does not answer; check the network, or pass --offline to read what is in the cache",
    "TimeoutException": f"{{host}} stopped answering; {_AGAIN}",
    "ConnectError": "{host} cannot be reached; check the network, or pass --offline to read what is in the cache",
    "ProxyError": "the proxy refuses; check HTTPS_PROXY and NO_PROXY",
    "UnsupportedProtocol": "HF_ENDPOINT is {host}; it must begin with https://",
    "TooManyRedirects": "the Hub redirects in a circle; is HF_ENDPOINT right?",
    "TransportError": f"the transfer from {{host}} broke off; {_AGAIN}",
    "DecodingError": "the Hub's answer cannot be decoded; is HF_ENDPOINT right?",
    "OfflineModeIsEnabled": "is not in the cache, and HF_HUB_OFFLINE is set; unset it, or download it first",
    "FileMetadataError": "the server names no commit or no ETag, as the Hub does; is HF_ENDPOINT right?",
}
_DISK = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST), _UNWRITABLE),
    errno.ENOSPC: "no space left in the Hub cache; make room, or set HF_HOME",
    errno.EDQUOT: "the quota of the Hub cache is used up; make room, or set HF_HOME",
    errno.EROFS: "the Hub cache is read-only; set HF_HOME to a folder of yours",
}
PASSING = frozenset({408, 429, 500, 502, 503, 504})
_PASSING_FAILURES = {"TimeoutException", "NetworkError", "RemoteProtocolError"}
_OTHER = "the download did not arrive as the Hub announced it; run again, and if that does not help report it"


def of_answer(location: HubLocation, where: str, status: int, headers: Mapping[str, str]) -> CheckpointError:
    """What an HTTP answer that is no success means. Nothing in it is quoted: it may hold anything."""
    message = headers.get("X-Error-Message", "")
    said = _CODES.get(headers.get("X-Error-Code", "")) or next(
        (text for part, text in _MESSAGES.items() if part in message), None
    )
    if said is None:
        failing = f"the Hub itself fails ({status}); {_AGAIN}"
        said = _STATUSES.get(status) or (failing if status >= 500 else f"the Hub answers {status}; {_AGAIN}")
    return CheckpointError(f"{where}: {said.format(page=f'https://huggingface.co/{location.repository}')}")


def of_error(location: HubLocation, where: str, error: BaseException) -> CheckpointError:
    """What an exception of the client means; its own text is not quoted: it may hold the token."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return of_answer(location, where, cause.response.status_code, cause.response.headers)
    for cause in causes:
        if (said := _failure(cause)) is not None:
            return CheckpointError(f"{where}: {said.format(host=constants.ENDPOINT)}")
    return CheckpointError(f"{where}: {_OTHER}")


def may_pass(error: BaseException) -> bool:
    """Whether it is worth trying again."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING
    return bool(_PASSING_FAILURES & {kind.__name__ for kind in type(error).__mro__})


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what led to it: the client hides a failed request behind a missing file."""
    while error is not None:
        yield error
        error = error.__cause__


def _failure(error: BaseException) -> str | None:
    names = [kind.__name__ for kind in type(error).__mro__]
    found = next((text for name, text in _FAILURES.items() if name in names), None)
    if found is None and isinstance(error, OSError) and not isinstance(error, OfflineModeIsEnabled):
        return _DISK.get(error.errno or 0)
    return found
