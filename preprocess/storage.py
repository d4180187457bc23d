"""Packs, zips and photos in object storage: of `pathlib.Path`, what they need, for a URL.

A local place stays a `Path`; obstore is imported for a URL only. Objects are put whole and read by
range, each range held against its length. What fails is tried again here and nowhere else: obstore
itself tries once. Credentials come from where obstore looks for them, and of its errors only known
words are passed on: a server's answer may quote a key.
"""

from __future__ import annotations

import errno
import os
import random
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from io import BytesIO, RawIOBase
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from preprocess.errors import InputError, require

T = TypeVar("T")
R = TypeVar("R")

_URL = re.compile(r"(s3|gs)://[\w.-]+(/[^/.?#\s][^/?#\s]*)*/?", re.ASCII)
_TRIES = 5
_PAUSE = 0.5  # seconds before the second try, in the mean; twice as long before each further one
_CLIENT = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "10min", "allow_http": True}
_AT_ONCE = 32  # requests
_PAGE = 1000  # objects in a list: what S3 answers with at most
_KNOWN = re.compile(
    r"status code: \d+|timed out|dns error|[Cc]onnection (refused|reset)|certificate|redirect"
)


class Remote(str):
    """The URL of an object, or of what stands for a folder: the beginning of objects' names."""

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self).name

    def with_suffix(self, suffix: str) -> Remote:
        """Return the object beside this one that has another ending."""
        return Remote(self.removesuffix(PurePosixPath(self).suffix) + suffix)

    def resolve(self) -> Remote:
        """Return itself: a URL is whole."""
        return self

    def exists(self) -> bool:
        """Return whether there is such an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def stat(self) -> os.stat_result:
        """Return size and whole seconds; a `FileNotFoundError` if there is no such object."""
        facts = self._call("head")
        written = int(facts["last_modified"].timestamp())
        size = facts["size"]
        return os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, size, written, written, written))

    def open(self, mode: str = "rb", buffering: int = -1) -> Any:
        """Open for reading: buffered, the object is read now; else each `read` is a request."""
        return BytesIO(self.read_bytes()) if buffering else _Ranges(self)

    def read_bytes(self) -> bytes:
        """Read the object."""
        return self.read_range(0, self.stat().st_size)

    def read_range(self, start: int, length: int) -> bytes:
        """Read a part of the object."""
        if not length:
            return b""
        return bytes(self._call("get_range", expected=length, start=start, length=length))

    def put(self, content: bytes | Path) -> None:
        """Put a whole object: it is there when all of it is."""
        self._call("put", file=content, use_multipart=False)

    def rename(self, other: Remote) -> None:
        """Give the object another name in its bucket: it is copied there, then deleted."""
        self._call("copy", to=other.split("/", 3)[3])
        self.unlink()

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object, if it is there."""
        with suppress(FileNotFoundError):  # S3 does not mind, Google's storage does
            self._call("delete")

    def glob(self, pattern: str) -> Iterator[Remote]:
        """Yield the objects of this folder by a pattern of their names."""
        for facts in self._call("list_with_delimiter")["objects"]:
            name = PurePosixPath(facts["path"]).name
            if fnmatchcase(name, pattern):
                yield self / name

    def walk(self) -> Iterator[tuple[Remote, int, float]]:
        """Yield all objects below this folder in the order of their names, a page at a time.

        Each with its size in bytes, and when it was written, in seconds since the epoch.
        """
        bucket, last = "/".join(self.split("/", 3)[:3]), ""
        while page := self._call("list", offset=last or None, chunk_size=_PAGE):
            for facts in page:
                if facts["path"] <= last:
                    raise InputError(self, "is not listed in order", "Expected a plain S3 bucket")
                last = facts["path"]
                yield Remote(f"{bucket}/{last}"), facts["size"], facts["last_modified"].timestamp()

    def _call(self, function: str, expected: int | None = None, **arguments: Any) -> Any:
        """Call a function of obstore, again if it fails; an `InputError` if it fails for good."""
        kind, _, rest = self.partition("://")
        bucket, _, path = rest.partition("/")
        obstore = _obstore(self)
        kinds = obstore.exceptions
        for number in range(_TRIES):
            if number:
                time.sleep(_PAUSE * 2 ** (number - 1) * random.uniform(0.5, 1.5))
            try:
                store = _store(f"{kind}://{bucket}")
                found = getattr(obstore, function)(store, path, **arguments)
                if function == "list":  # a stream, which asks only when it is read
                    found = next(found, [])
                if expected is None or len(found) == expected:
                    return found
                said = f"{len(found)} bytes come instead of {expected}"
            except FileNotFoundError:
                raise FileNotFoundError(errno.ENOENT, "No such object", self) from None
            except (kinds.PermissionDeniedError, kinds.UnauthenticatedError):
                remedy = "Check the credentials, and what they allow"
                raise InputError(self, "is refused", remedy) from None
            except kinds.BaseError as error:
                known = _KNOWN.search(str(error))
                said = known[0] if known else type(error).__name__
        remedy = "Check network, endpoint, region, credentials; run again: what is done is kept"
        raise InputError(self, f"cannot be reached ({_TRIES} tries; {said})", remedy)


Place = Path | Remote


class _Ranges(RawIOBase):
    def __init__(self, remote: Remote) -> None:
        self.remote, self.at = remote, 0

    @cached_property
    def size(self) -> int:
        return self.remote.stat().st_size

    def seekable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = os.SEEK_SET) -> int:
        start = (0, self.at)[whence] if whence < os.SEEK_END else self.size
        if start + at < 0:
            raise OSError(errno.EINVAL, "Before the first byte", self.remote)
        self.at = start + at
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, length: int = -1) -> bytes:
        content = self.remote.read_range(self.at, self.size - self.at if length < 0 else length)
        self.at += len(content)
        return content


def place(text: str) -> Place:
    """Return a folder's path or, of a URL, a `Remote`; an `InputError` if it cannot be used."""
    kind, mark, _ = text.partition("://")
    if not mark:
        return Path(text)
    if not _URL.fullmatch(text):  # it may hold a secret, so it is not repeated
        remedy = "Expected s3://bucket/pack or gs://bucket/pack, without user, password or query"
        raise InputError(f"{kind}://...", "is no URL that can be used", remedy)
    _obstore(text)
    return Remote(text.rstrip("/"))


def _obstore(url: str) -> Any:
    try:
        import obstore.exceptions
        import obstore.store
    except ImportError:
        remedy = "Install the extra `cloud`: pip install '.[cloud]'"
        raise InputError(url, "is in object storage, which needs obstore", remedy) from None
    return obstore


@lru_cache
def _store(bucket: str) -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "https://")
    expected = "http://HOST:PORT or https://HOST"
    require(endpoint.startswith("http"), "AWS_ENDPOINT_URL", "is no URL", expected)
    once = {"max_retries": 0}
    return _obstore(bucket).store.from_url(bucket, client_options=_CLIENT, retry_config=once)


def each(
    root: Place, job: Callable[[T], R], tasks: Iterable[T], at_once: int = _AT_ONCE
) -> Iterator[R]:
    """Yield `job` of each task, in order; of a place elsewhere, many are done ahead in threads."""
    if isinstance(root, Path):
        yield from map(job, tasks)
        return
    pool, waiting = ThreadPoolExecutor(at_once, "storage"), deque[Future[R]]()
    try:
        for task in tasks:
            waiting.append(pool.submit(job, task))
            if len(waiting) > 2 * at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
