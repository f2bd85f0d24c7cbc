"""One GET to the Hub: bounded in time and in bytes, tried again where that helps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from huggingface_hub import get_session, get_token
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever client it is built on
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from wanalyze.checkpoints.files import Range
from wanalyze.checkpoints.hub import refusals
from wanalyze.checkpoints.location import HubLocation
from wanalyze.errors import CheckpointError
from wanalyze.version import VERSION

Found = TypeVar("Found")
Response: TypeAlias = Any  # of httpx or httpx2, whichever the client is built on

PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between tries
PATIENCE = 20.0  # seconds after the first failure; a longer Retry-After is not waited for
_SILENCE = 10.0  # seconds without a byte
_GRACE, _SLOWEST = 30.0, 20_000  # a body may take so many seconds, and one more for every so many bytes
_LIMIT = 16 * 2**20  # bytes of an answer in JSON
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Answer:
    """A body and the headers it came with."""

    body: bytearray
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Trouble:
    """What may be gone in a moment: the refusal if it is not, and the seconds that the server asks for."""

    refusal: CheckpointError
    pause: float = 0.0


def get(url: str, location: HubLocation, *, where: str | None = None, span: Range | None = None) -> Answer:
    """The answer to a GET, of `span` bytes of a file or of a small whole; CheckpointError in the Hub's stead."""
    return patiently(lambda: _once(url, location, where or str(location), span))


def patiently(once: Callable[[], Found | Trouble]) -> Found:
    """What `once` finds, tried again while it is in trouble and patience lasts."""
    pauses, end = iter(PAUSES), None
    while isinstance(found := once(), Trouble):
        end = end or time.monotonic() + PATIENCE
        pause = next(pauses, None)
        wait = max(pause or 0.0, found.pause)
        if pause is None or time.monotonic() + wait > end:
            raise found.refusal
        time.sleep(wait)
    return found


def _once(url: str, location: HubLocation, where: str, span: Range | None) -> Answer | Trouble:
    options: dict[str, Any] = {"headers": _headers(where, span), "timeout": _SILENCE, "follow_redirects": True}
    try:
        with get_session().stream("GET", url, **options) as response:
            if response.status_code in refusals.PASSING:
                refusal = refusals.of_answer(location, where, response.status_code, response.headers)
                return Trouble(refusal, _seconds(response.headers.get("Retry-After", "")))
            _check(response, url, location, where, span)
            return Answer(_body(response, where, _LIMIT if span is None else span[1]), response.headers)
    except (HTTPError, OSError) as error:
        refusal = refusals.of_error(location, where, error)
        if not refusals.may_pass(error):
            raise refusal from None
        return Trouble(refusal)


def _seconds(retry_after: str) -> float:
    return float(retry_after) if re.fullmatch(r"[0-9]{1,6}", retry_after) else 0.0


def _headers(where: str, span: Range | None) -> dict[str, str]:
    token = get_token()
    if token is not None and not _TOKEN.fullmatch(token):
        raise CheckpointError(
            f"{where}: the token of HF_TOKEN or of `hf auth login` holds characters that no token has; set it anew"
        )
    headers = build_hf_headers(library_name="wanalyze", library_version=VERSION)
    headers["Accept-Encoding"] = "identity"
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{span[0] + span[1] - 1}"
    return headers


def _check(response: Response, url: str, location: HubLocation, where: str, span: Range | None) -> None:
    """Refuse everything but the bytes that were asked for, before any of them is read."""
    status = response.status_code
    if status == 200 and span is not None:
        raise CheckpointError(
            f"{where}: the server sends the whole file where a part was asked for; run "
            f"`hf download {location.repository}` and pass the folder it prints"
        )
    if status != (200 if span is None else 206):
        raise refusals.of_answer(location, where, status, response.headers)
    if url.startswith("https:") and any(hop.url.scheme != "https" for hop in (*response.history, response)):
        raise CheckpointError(f"{where}: the Hub redirects to an address without encryption; refused")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise CheckpointError(f"{where}: the server packs what was asked for unpacked; is HF_ENDPOINT right?")


def _body(response: Response, where: str, most: int) -> bytearray:
    body = bytearray()
    begin = time.monotonic()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > most:
            raise CheckpointError(f"{where}: the server sends more than the {most} bytes that may come; refused")
        if time.monotonic() - begin > _GRACE + len(body) / _SLOWEST:
            raise CheckpointError(f"{where}: less than {_SLOWEST // 1000} kB/s arrive; run again on a better network")
    return body
