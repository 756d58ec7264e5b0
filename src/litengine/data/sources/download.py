"""Download one file: complete and checked under its name, or not at all."""

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from .progress import progress_bar

TRIES = 3
BACK_OFF_SECONDS = 1.0  # before the second try; doubled before the third
TIMEOUT_SECONDS = 30.0
CHUNK = 1 << 18


def download(url: str, target: Path, md5: str, remedy: str) -> None:
    """Fetch `url` into `target`, with a progress bar; a connection that fails is tried three times.

    The file has another name until its length and md5 are checked, so a part of it is never taken for the whole.
    Hold a lock if two processes may do it at once. `remedy` ends each message.

    Raises OSError if the address cannot be reached, keeps dropping the connection or answers with an error; ValueError
    if `url` is not an address or its content has another md5.
    """
    from torchvision.datasets.utils import check_integrity

    partial = target.with_name(target.name + ".partial")
    try:
        for attempt in range(TRIES):
            time.sleep(attempt and BACK_OFF_SECONDS * 2 ** (attempt - 1))
            try:
                _fetch(url, partial)
                break
            except urllib.error.HTTPError as error:
                error.close()  # it is the response too
                if error.code < 500 and error.code not in (408, 429):  # asking again does not help
                    raise OSError(f"{url} answers {error.code} {error.reason}. {remedy}") from error
                reason: object = f"{error.code} {error.reason}"
            # errors of the network; any other OSError comes from the disk
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = getattr(error, "reason", None) or error or type(error).__name__
            except ValueError as error:
                raise ValueError(f"{url!r} is not an address: {error}. {remedy}") from error
        else:
            raise OSError(f"Cannot download {url}, tried {TRIES} times: {reason}. {remedy}")
        if not check_integrity(partial, md5):
            raise ValueError(f"{url} gave another file than expected: the md5 of {target.name} must be {md5}. {remedy}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _fetch(url: str, partial: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "litengine"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, partial.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        with progress_bar(f"Downloading {url.rpartition('/')[2]}", total, unit="bytes") as advance:
            while chunk := _receive(response):
                advance(file.write(chunk))
    if (received := partial.stat().st_size) < total:  # read() in pieces does not say so itself
        raise ConnectionError(f"the connection was dropped after {received:,} of {total:,} bytes")


def _receive(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except OSError as error:  # of the network, as "no route to host": told apart from those of the disk
        raise ConnectionError(str(error)) from error
