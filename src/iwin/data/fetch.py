"""Files from a web server or an object store: whole and verified, or not at all.

fsspec speaks to the servers, in an event loop that lives for one call. Its own loop runs in a thread that a forked
process does not have, and connections left open there would be shared with the parent; so nothing is kept here.
A file is streamed in one request, as not every server can send a part of a file.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import random
import re
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import fsspec

from iwin.data.whole_file import whole_file
from iwin.errors import ConfigError, DataError

SCHEMES = ("http", "https", "s3")
BUSY = (408, 429)  # besides 500 and above: answers that may be another one a moment later
CHUNK = 1 << 20
LONGEST_PAUSE_S = 60.0
WRONG_LIMIT = 2  # bytes that are wrong twice are wrong on the server
AT_A_TIME = 16  # files: indexes are small, and each costs a round trip

logger = logging.getLogger(__name__)
# Never the generators that the run has seeded: how often a server fails must not change what is drawn in training.
_jitter = random.SystemRandom()


class NotThere(DataError):
    """The server answers that there is no such file."""


class RemoteFile(NamedTuple):
    """A file to fetch to `target`. size: in bytes; sha256: in hex; each None where it is not known before."""

    url: str
    target: Path
    size: int | None = None
    sha256: str | None = None


class Patience(NamedTuple):
    """How long a server is waited for.

    timeout_s: without a connection, or without another byte, before an attempt is given up; however long a whole
    file takes. attempts: for each file. backoff_s: the mean pause after the first attempt; doubled each time.
    """

    timeout_s: float = 60.0
    attempts: int = 6
    backoff_s: float = 1.0


class Stop:
    """Ends, from any thread, the fetches that it was given to: they raise asyncio.CancelledError."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._task: asyncio.Task[Any] | None = None

    def ask(self) -> None:
        """End what is being fetched, and what will be."""
        with self._lock:
            self._asked = True
            if self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def begin(self) -> None:
        """The running task is a fetch that may be ended."""
        with self._lock:
            if self._asked:
                raise asyncio.CancelledError
            self._task = asyncio.current_task()

    def end(self) -> None:
        """It is over, and its loop is about to be closed."""
        with self._lock:
            self._task = None


class _Failure(Exception):
    """An attempt that failed and may go well when it is tried again."""


class _WrongBytes(_Failure):
    """A file that came whole and is not the right one."""


def check_url(url: str) -> None:
    """Raise ConfigError for what is not the plain URL of a folder at http, https or s3.

    fsspec itself would take more: chained URLs, local files, other protocols; WebDataset's runs commands.
    """
    # What may be a secret does not come into the message, whatever else is wrong.
    shown = repr(re.sub(r"//[^@]*@", "//***@", re.split(r"[?#]", url)[0]))
    kinds = "Give https://host/folder, http://host/folder or s3://bucket/folder."
    if "::" in url:
        raise ConfigError(f"{shown} is a chain of URLs (::), which would open one inside another. {kinds}")
    scheme, separator, rest = url.partition("://")
    if url.lstrip().startswith("!") or scheme == "pipe" or url.startswith("pipe:"):
        raise ConfigError(f"{shown} would run a command, which the place of a data set never does. {kinds}")
    if not separator or scheme not in SCHEMES:
        raise ConfigError(f"{shown} is not the URL of a data set: only http, https and s3 are fetched. {kinds}")
    if not url.isprintable() or " " in url:
        raise ConfigError(f"{shown} holds blanks or control characters. Write them as %20 and so on.")
    if "@" in rest.partition("/")[0] or "@" in urlsplit(url).netloc:
        raise ConfigError(
            f"{shown} holds a user or a password, which would stand in every log. Take them out; they are read from "
            "~/.netrc for http and https, from ~/.aws or the variables AWS_... for s3."
        )
    if "?" in url or "#" in url:
        raise ConfigError(f"{shown} goes on after a ? or #, and names of files are appended to it. {kinds}")
    try:
        host = urlsplit(url).hostname
        _ = urlsplit(url).port
    except ValueError as error:
        raise ConfigError(f"{shown} cannot be read as a URL ({error}). {kinds}") from error
    if not host:
        raise ConfigError(f"{shown} names no {'bucket' if scheme == 's3' else 'host'}. {kinds}")


def fetch_file(file: RemoteFile, patience: Patience, stop: Stop | None = None) -> str:
    """Fetch one file; see fetch_files. Returns its SHA-256 in hex."""
    return fetch_files([file], patience, stop)[0]


def fetch_files(files: Sequence[RemoteFile], patience: Patience, stop: Stop | None = None) -> list[str]:
    """Fetch each file to its target, where it appears whole and verified or not at all; the folders must be there.

    All must be of one scheme, and no other process may fetch to the same targets. What may pass (no connection, a
    busy server, no bytes for a while, a file cut short or damaged on the way) is tried again after a pause.
    stop: ends the call from another thread, which then raises asyncio.CancelledError.

    Returns the SHA-256 of each, in hex.

    Raises:
        ConfigError: not a URL that is fetched (see check_url), or what s3 needs is not installed.
        NotThere: no such file. DataError: access is refused, the file is not the one it was told to be, the
            attempts are used up, the disk is full. After an error none of the rest is fetched.
    """
    for file in files:
        check_url(file.url)
    return _run(_fetch_all(files, patience, stop)) if files else []


def _run(coroutine: Coroutine[Any, Any, list[str]]) -> list[str]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # A notebook has a loop in this very thread, and a thread runs one at a time.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def _fetch_all(files: Sequence[RemoteFile], patience: Patience, stop: Stop | None) -> list[str]:
    places = asyncio.Semaphore(AT_A_TIME)

    async def fetch(file: RemoteFile) -> str:
        async with places:
            return await _persist(filesystem, file, patience)

    if stop is not None:
        stop.begin()
    try:
        filesystem = _filesystem(urlsplit(files[0].url).scheme, patience.timeout_s)
        session = await filesystem.set_session()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(fetch(file)) for file in files]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        finally:
            await session.close()
    finally:
        if stop is not None:
            stop.end()
    return [task.result() for task in tasks]


def _filesystem(scheme: str, timeout_s: float) -> Any:
    """fsspec's implementation for the scheme, for the running loop alone. What it would try again is left to us."""
    if scheme != "s3":
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        # trust_env: proxies as the environment tells, and ~/.netrc. identity: the bytes as they are hashed.
        session = {"timeout": timeout, "trust_env": True, "headers": {"Accept-Encoding": "identity"}}
        return fsspec.filesystem(scheme, asynchronous=True, skip_instance_cache=True, client_kwargs=session)
    config = {"connect_timeout": timeout_s, "read_timeout": timeout_s, "retries": {"total_max_attempts": 1}}
    try:
        filesystem = fsspec.filesystem("s3", asynchronous=True, skip_instance_cache=True, config_kwargs=config)
    except ImportError as error:
        raise ConfigError("s3:// needs s3fs, which is not installed: pip install 'iwin[s3]'") from error
    filesystem.retries = 1
    return filesystem


async def _persist(filesystem: Any, file: RemoteFile, patience: Patience) -> str:
    """Fetch one file in as many attempts as there may be."""
    wrong = 0
    for attempt in range(1, patience.attempts + 1):
        try:
            return await _attempt(filesystem, file)
        except _Failure as failure:
            problem = str(failure)
            wrong += isinstance(failure, _WrongBytes)
        if wrong == WRONG_LIMIT:
            raise DataError(
                f"{file.url} {problem}, {wrong} times over: the file there is another one. Upload it again."
            )
        if attempt < patience.attempts:
            pause = patience.backoff_s * 2 ** (attempt - 1) * _jitter.uniform(0.5, 1.5)
            logger.warning("%s %s; attempt %d of %d failed.", file.url, problem, attempt, patience.attempts)
            await asyncio.sleep(min(pause, LONGEST_PAUSE_S))
    raise DataError(
        f"{file.url} {problem}, at the last of {patience.attempts} attempts. See that the server is up and can be "
        "reached from here, and start again: what was fetched is kept."
    )


async def _attempt(filesystem: Any, file: RemoteFile) -> str:
    digest = hashlib.sha256()
    received = 0
    try:
        with whole_file(file.target) as target:
            async with aclosing(_chunks(filesystem, file.url)) as chunks:
                async for chunk in chunks:
                    received += len(chunk)
                    if file.size is not None and received > file.size:
                        raise _WrongBytes(f"holds more than the {file.size:,} bytes that belong to it")
                    digest.update(chunk)
                    target.write(chunk)
            if file.size is not None and received < file.size:
                raise _Failure(f"ended after {received:,} of {file.size:,} bytes")
            if file.sha256 is not None and digest.hexdigest() != file.sha256:
                raise _WrongBytes(f"has sha256 {digest.hexdigest()}, and should have {file.sha256}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"the disk of {file.target.parent} is full ({error.strerror}). Make room there.") from error
    return digest.hexdigest()


async def _chunks(filesystem: Any, url: str) -> AsyncGenerator[bytes, None]:
    """The bytes at `url`, as they come. Raises DataError for what stays wrong and _Failure for what may pass."""
    try:
        # The size is told as anything but None, or HTTP asks for it in a request of its own.
        file = await filesystem.open_async(url, "rb", size=0)
        try:
            while chunk := await file.read(CHUNK):
                yield chunk
        finally:
            await file.close()
    except FileNotFoundError as error:
        raise NotThere(f"{url} is not there. See that data.root is right and the whole data set uploaded.") from error
    except Exception as error:
        status = getattr(error, "status", None)
        if isinstance(error, PermissionError) or status in (401, 403) or _botocore(error, "NoCredentialsError"):
            raise DataError(
                f"{url}: access is refused ({status or error}). Credentials are read from ~/.netrc for http and https, "
                "from ~/.aws or the variables AWS_... for s3; FSSPEC_S3_ANON=true goes without."
            ) from error
        if isinstance(error, aiohttp.ClientResponseError) and error.status < 500 and error.status not in BUSY:
            raise DataError(
                f"{url}: the server answers {error.status} {error.message}. See that it is right."
            ) from error
        if not (isinstance(error, aiohttp.ClientError | OSError) or _botocore(error, "HTTPClientError")):
            raise
        what = f"answered {status}" if status else f"could not be read ({type(error).__name__}: {error})"
        raise _Failure(what) from error


def _botocore(error: Exception, name: str) -> bool:
    """Whether this is the exception `name` of the library below s3fs, which is loaded only where s3 is in use."""
    exceptions = sys.modules.get("botocore.exceptions")
    return exceptions is not None and isinstance(error, getattr(exceptions, name))
