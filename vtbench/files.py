"""Files: hashed, written whole, locked, probed for and downloaded. The only place that does these; no torch here."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from vtbench.errors import ResultError, VtbenchError, WeightsError

log = logging.getLogger("vtbench")

PROBE_SECONDS = 3.0
"""How long an endpoint may take to answer before it counts as out of reach."""

READ_SECONDS = 60.0
"""How long a download may stand still: a server of gigabytes pauses longer than one that only has to answer."""

_DOWN = (500, 502, 503, 504)

PATIENCE = 10.0
"""Seconds of waiting after which it is said what is waited for, and for whom."""


exists, is_file, is_dir = os.path.exists, os.path.isfile, os.path.isdir
"""Whether there is something at a place of the user's. Path's own methods raise, up to Python 3.13, where they may not
look or a name is too long; these say no, and what opens the place says in one line what is wrong."""


def cache_folder() -> Path:
    """Where vtbench keeps what it fetched: $VTBENCH_CACHE, or vtbench/ in the user's cache folder."""
    if chosen := os.environ.get("VTBENCH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "vtbench"


def home() -> Path:
    """The user's home folder, or the temporary folder where the system knows none (containers without an account)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir())


# --- identity ---------------------------------------------------------------------------------------------------------


_Stamp = tuple[int, int, int, int]
"""Size, the times of a file's last changes of content and of anything, and its node: what changes with its content."""

SETTLED = 2.0
"""Seconds after which a change of a file has another time than the one before, on any file system."""

_hashed: dict[tuple[str, _Stamp], tuple[str, bool]] = {}
"""sha256 by path and stamp, and whether the stamp was settled when the file was read."""


def sha256(path: Path) -> str:
    """Hash a file without holding it in memory; again only where its size, a time of change or its node changed."""
    stamp = _stamp(path.stat())
    key = (str(path.absolute()), stamp)
    if key not in _hashed:
        settled = _is_settled(stamp)
        with path.open("rb") as file:
            _hashed[key] = hashlib.file_digest(file, "sha256").hexdigest(), settled
    return _hashed[key][0]


def _stamp(stat: os.stat_result) -> _Stamp:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _is_settled(stamp: _Stamp) -> bool:
    return max(stamp[1], stamp[2]) < time.time_ns() - SETTLED * 1e9


def keep_hashes(path: Path) -> None:
    """Keep what `sha256` found out, for `recall_hashes` of a later process; of files that still are as they were.

    Raises:
        ResultError: if the place can't be written.
    """
    recall_hashes(path)  # another process may have kept more meanwhile
    kept = []
    for (name, stamp), (digest, settled) in sorted(_hashed.items()):
        with contextlib.suppress(OSError):
            if settled and _stamp(Path(name).stat()) == stamp:
                kept.append([name, list(stamp), digest])
    write_atomic(path, json.dumps(kept, indent=0).encode())


def recall_hashes(path: Path) -> None:
    """Take over what an earlier process kept; a file that changed since is hashed anew, and a damaged list is none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        for name, (size, modified, changed, node), digest in json.loads(path.read_bytes()):
            _hashed.setdefault((str(name), (int(size), int(modified), int(changed), int(node))), (str(digest), True))


def is_installed(path: Path) -> bool:
    """Tell whether a file of code is Python's own or an installed package's."""
    installed = {"site-packages", "dist-packages"}.intersection(path.parts)
    return bool(installed) or path.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())


def stamp(root: Path) -> str | None:
    """Tell a file, or all files below a folder, by names, sizes, times and nodes, without reading them.

    Links to files stand for what they lead to.

    Returns:
        A sha256 that changes with any content; None where something changed so lately that it might not, and where a
        link within leads to a folder: some readers enter those, others don't.
    """
    total = hashlib.sha256()
    for place, folders, names in os.walk(root) if root.is_dir() else [(str(root.parent), [], [root.name])]:
        if any((Path(place) / name).is_symlink() for name in folders):
            return None
        folders.sort()
        total.update(json.dumps([os.path.relpath(place, root), folders]).encode())
        for name in sorted(names):
            file = Path(place) / name
            try:
                found = _stamp(file.stat())
            except OSError:  # a link to nothing
                found = _stamp(file.lstat()) if file.is_symlink() else (0, 0, 0, 0)
            if not _is_settled(found):
                return None
            total.update(json.dumps([name, found]).encode())
    return total.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose digest does not begin with `expected` (some publishers state only a prefix).

    Raises:
        WeightsError: naming both digests.
    """
    found = sha256(path)
    if not found.startswith(expected):
        raise WeightsError(
            f"{path}: sha256 is {found[:16]}…, expected {expected[:16]}…; delete the file and fetch it again"
        )


# --- writing ----------------------------------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary file in the same folder, fsync, rename.

    Raises:
        ResultError: if the place can't be written.
    """
    for _ in range(3):  # the folder may be deleted while it is written to
        with contextlib.suppress(FileNotFoundError):
            return _write_atomic(path, content)
    raise ResultError(f"{path.parent}: vanishes while it is written to; who deletes it?")


def _write_atomic(path: Path, content: bytes) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        if temporary is None:
            raise ResultError(
                f"{path.parent}: can't be written ({error.strerror}); choose a folder that can"
            ) from error
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise ResultError(f"{path}: can't be written ({error.strerror}); what was there is unchanged") from error


def check_writable(folder: Path) -> None:
    """Refuse a folder that can't be written, before anything is computed.

    Raises:
        ResultError: naming the folder.
    """
    probe = folder / f".vtbench-probe-{os.getpid()}"
    write_atomic(probe, b"")
    probe.unlink(missing_ok=True)


def sizes(folder: Path) -> list[int]:
    """Give the bytes of each file within a folder; of one that vanishes meanwhile, nothing."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                found.append(path.stat().st_size)
    return found


# --- locks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(path: Path, *, wait: float, purpose: str, shared: bool = False) -> Iterator[None]:
    """Hold a file for one owner at a time, or for several who share it; who held it last stands in it.

    The kernel takes the lock from a process that ends, however it ends, so a dead owner never holds one.

    Args:
        path: the lock file; it stays, so that no two processes ever lock different files of one name.
        wait: seconds to wait for another owner.
        purpose: what the lock is for, in the message to whoever waits.
        shared: many may hold it so at once, and then nobody alone.

    Raises:
        ResultError: naming the owner, where another one still holds it after `wait` seconds; or where the file system
            can't lock.
    """
    handle = _open_lock(path)
    try:
        started, told = time.monotonic(), False
        while not _try_lock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, path):
            waited = time.monotonic() - started
            if waited >= wait:
                raise ResultError(f"{path}: {purpose}: {owner(path)} holds it; wait for it, or stop it and try again")
            if waited >= min(PATIENCE, wait) and not told:
                log.warning("%s: waiting up to %.0f s for %s (%s)", purpose, wait, owner(path), path)
                told = True
            time.sleep(0.05)
        said = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now(UTC).isoformat("T", "seconds")}
        with contextlib.suppress(OSError):  # a full disk is told where something is kept that matters
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(said).encode(), 0)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a file where nobody else does, without waiting; gives whether it is held.

    Raises:
        ResultError: if the file can't be made, or the file system can't lock.
    """
    handle = _open_lock(path)
    try:
        yield _try_lock(handle, fcntl.LOCK_EX, path)
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ResultError(f"{path}: can't be written ({error.strerror}); choose a folder that can") from error


def _try_lock(handle: int, how: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ResultError(f"{path}: this file system can't lock ({error.strerror}); choose another folder") from error
    return True


def owner(path: Path) -> str:
    """Say who wrote a lock file last: process, host and since when."""
    try:
        said = json.loads(path.read_bytes())
        return f"process {said['pid']} on {said['host']}, since {said['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


# --- the network ------------------------------------------------------------------------------------------------------


def check_endpoint(address: str) -> None:
    """Refuse an address in HF_ENDPOINT at which the hub's client ends with an exception as soon as it is imported.

    Raises:
        VtbenchError: naming it.
    """
    from urllib.parse import urlsplit

    try:
        urlsplit(address).port  # noqa: B018  it is read from the address when it is asked for
    except ValueError as error:
        raise VtbenchError(f"HF_ENDPOINT: {address!r} is no address ({error}); {_ADDRESS}") from error


_ADDRESS = "expected one such as https://huggingface.co: correct or unset HF_ENDPOINT"


def unreachable(endpoint: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Ask an endpoint for a sign of life; returns why it can't be used, or None."""
    import http.client
    import urllib.error
    import urllib.request

    if not endpoint.lower().startswith(("http://", "https://")):
        return f"{endpoint!r} is no address of a server; {_ADDRESS}"
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        # It answered: that is all that was asked, unless it says that it can't serve now.
        return f"{endpoint} answers {error.code} {error.reason}" if error.code in _DOWN else None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{endpoint} can't be reached: {reason}"


def download(url: str, target: Path, expected: str | None) -> None:
    """Download one file beside its place, check it and move it into place.

    One process downloads a file; another that wants it at the same time waits, and finds it.

    Args:
        url: http or https address.
        target: where the file will lie; its folder is made.
        expected: sha256 or a prefix of it; None where the publisher states none. Only with one is resumed what an
            earlier try left: nothing else would tell where the server has another file since.

    Raises:
        WeightsError: if the server does not answer, answers with an error, or sends another file.
        ResultError: if the folder can't be written, or another process still downloads it after an hour.
    """
    with lock(target.with_name(f".{target.name}.lock"), wait=3600.0, purpose=f"downloading {target.name}"):
        if target.is_file() and (expected is None or sha256(target).startswith(expected)):
            return
        partial = target.with_name(target.name + ".part")
        _download(url, partial, target, resume=expected is not None)
        if expected and not sha256(partial).startswith(expected):
            partial.unlink()
            raise WeightsError(f"{url}: what came does not have the sha256 {expected[:16]}…; nothing was kept")
        partial.replace(target)


def _download(url: str, partial: Path, target: Path, *, resume: bool) -> None:
    import http.client
    import urllib.error
    import urllib.request

    from rich.progress import Progress

    if reason := unreachable(url):
        raise WeightsError(f"{reason}; bring {target.name} to {target.parent} by hand or try again with a network")
    done = partial.stat().st_size if resume and partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=READ_SECONDS) as answer, Progress(transient=True) as progress:
            resumed = answer.status == 206
            length = answer.headers.get("Content-Length")
            start = done if resumed else 0
            task = progress.add_task(target.name, total=start + int(length) if length else None, completed=start)
            with partial.open("ab" if resumed else "wb") as file:
                while block := answer.read(1 << 20):
                    file.write(block)
                    progress.advance(task, len(block))
        if length and partial.stat().st_size != start + int(length):
            again = "to resume" if resume else "to start anew"
            raise WeightsError(f"{url}: the connection ended early; run the same command again {again}")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the earlier try had the whole file already
            raise WeightsError(f"{url}: the server answered {error.code} {error.reason}; check the address") from error
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise WeightsError(f"{url}: {getattr(error, 'reason', None) or error}; try again or bring {target}") from error
    except http.client.HTTPException as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"{url}: the server's answer is broken or breaks off ({said}); try again or bring {target}"
        ) from error
