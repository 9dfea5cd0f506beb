"""Compute the cells of a grid in processes of this machine, or on a Dask or Ray cluster.

A cell is a call of one function: the key that names it, and the arguments. Its random numbers come
from its own arguments, so that its result is the same wherever and beside whatever it is computed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar
from urllib.parse import urlsplit

import cloudpickle
from joblib import Parallel, cpu_count, delayed
from joblib.parallel import ParallelBackendBase
from tqdm import tqdm

import theory

__all__ = ["CellsFailed", "Engine", "end_with_parent", "run_cells", "signature"]

K = TypeVar("K")
R = TypeVar("R")
Signature: TypeAlias = tuple[tuple[str, str], ...]

TRIES = 3
"""How often in a row processes may be lost without a single result between."""

REACHABLE = 5
"""Seconds in which a scheduler must answer."""

PACKAGES = ("numpy", "scipy", "python-flint")
"""Packages on whose version the numbers of a cell depend, besides our own files."""


@dataclass(frozen=True)
class Engine:
    """Where cells are computed.

    Attributes:
        name: ``"local"``, processes of this machine, or a cluster: ``"dask"`` or ``"ray"``.
        scheduler: address of the cluster, ``host:port``; for Ray also ``ray://host:port``, from a
            machine that is not part of it.
        processes: number of processes of ``"local"``; as many as there are processors by default,
            and never more than cells. One is the process itself.

    Raises:
        ValueError: a cluster has no address, or an argument is not read by the engine.

    Example:
        >>> Engine("dask")
        Traceback (most recent call last):
        ValueError: scheduler is missing: engine='dask' needs the address of the cluster
    """

    name: Literal["local", "dask", "ray"] = "local"
    scheduler: str | None = None
    processes: int | None = None

    def __post_init__(self) -> None:
        """Validate."""
        if self.name not in ("local", "dask", "ray"):
            raise ValueError(f"engine={self.name!r}: must be one of local, dask, ray")
        if self.name != "local" and not self.scheduler:
            raise ValueError(
                f"scheduler is missing: engine={self.name!r} needs the address of the cluster"
            )
        if self.name == "local" and self.scheduler:
            raise ValueError(f"scheduler={self.scheduler!r}: is not read by engine='local'")
        if self.name != "local" and self.processes is not None:
            raise ValueError(
                f"processes={self.processes}: is not read by engine={self.name!r}, "
                "whose cluster has its own"
            )
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes={self.processes}: must be at least 1")

    def __str__(self) -> str:
        return self.name if self.scheduler is None else f"{self.name} at {self.scheduler}"


class CellsFailed(ValueError):
    """Cells raised an error; every other cell was computed before this is raised."""


class _Failed(NamedTuple):
    """A cell that raised: its error in one line, and the traceback."""

    error: str
    trace: str


class _LostError(Exception):
    """A cluster has lost a cell."""


class _Refused(NamedTuple):
    """A worker whose numbers could be others: its name, and what it has in another version."""

    worker: str
    why: str


def run_cells(
    function: Callable[..., R],
    cells: Mapping[K, tuple[Any, ...]],
    engine: Engine = Engine(),
    *,
    what: str = "cells",
    done: int = 0,
) -> Iterator[tuple[K, R]]:
    """Yield the key and the result of each cell as soon as it is there, in any order.

    A cell whose process is lost is computed again; one that raises leaves the others alone. Stopped
    by SIGINT or SIGTERM, processes of this machine end at once and those of a cluster are free
    again. On a terminal a bar estimates the time that is left.

    Args:
        function: computes a cell; a function of a module, which the workers import.
        cells: the arguments of each cell, by its key.
        engine: where they are computed.
        what: plural that names them in messages and beside the bar.
        done: number of cells that were there before, for the bar.

    Raises:
        CellsFailed: cells raised an error; names the first of them.
        OSError: the cluster is not there or is lost, a worker has other versions, or processes are
            killed one after another.
        ValueError: the package of the cluster is not installed.
        KeyboardInterrupt: the run was stopped by SIGINT or SIGTERM.

    Example:
        >>> found = run_cells(divmod, {"a": (7, 2), "b": (9, 3)}, Engine(processes=1))
        >>> sorted(found)
        [('a', (3, 1)), ('b', (3, 0))]
    """
    todo = dict(cells)
    failed: dict[K, _Failed] = {}
    lost = 0
    if not todo:
        return
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        # the plain average: the latest cells of several processes say little of the speed
        progress = stack.enter_context(
            tqdm(
                desc=what,
                total=done + len(todo),
                initial=done,
                disable=None,
                leave=False,
                smoothing=0,
            )
        )
        parallel = stack.enter_context(_parallel(engine, len(todo)))
        expected = signature()
        while todo:
            calls = [delayed(_call)(key, function, args, expected) for key, args in todo.items()]
            results: Any = None
            try:
                results = parallel()(calls)  # begins at once: processes may be lost here already
                for key, found in results:
                    if isinstance(found, _Refused):
                        raise OSError(
                            f"engine={engine}: {found.worker} has {found.why}: its numbers could "
                            "be others; install the same there"
                        )
                    lost = 0
                    del todo[key]
                    progress.update()
                    if isinstance(found, _Failed):
                        failed[key] = found
                    else:
                        yield key, found
            except (BrokenExecutor, _LostError) as error:
                lost += 1
                if lost == TRIES:
                    raise OSError(
                        f"engine={engine}: processes were lost {TRIES} times in a row with "
                        f"{len(todo)} of {len(cells)} {what} left, {next(iter(todo))} among them "
                        f"({_line(error)}); "
                        "one that needs too much memory is killed: run fewer at once"
                    ) from error
                _require_reachable(engine)
            finally:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that cells under way are not waited for
                    if results is not None:
                        results.close()
    if failed:
        key, first = next(iter(failed.items()))
        raise CellsFailed(
            f"{len(failed)} of {len(cells)} {what} failed, the others are done; the first, {key}: "
            f"{first.error}"
        ) from RuntimeError(first.trace)


def _call(
    key: K, function: Callable[..., R], args: tuple[Any, ...], expected: Signature
) -> tuple[K, R | _Failed | _Refused]:
    """Compute one cell, on a worker; returns its key and what came of it."""
    why = _difference(expected, signature())
    if why:
        return key, _Refused(f"process {os.getpid()} on {socket.gethostname()}", why)
    try:
        return key, function(*args)
    except Exception as error:
        return key, _Failed(_line(error), traceback.format_exc())


def _line(error: BaseException) -> str:
    """Return an error with its type, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")


@cache
def signature() -> Signature:
    """Return what the numbers of a cell depend on besides its arguments: our version, a digest of
    our files, and the versions of the packages that compute.

    Example:
        >>> dict(signature())["endorm"] == theory.__version__
        True
    """
    files = hashlib.sha256()
    for package in ("theory", "llm_bridge"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                files.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    versions = tuple((name, metadata.version(name)) for name in PACKAGES)
    return (("endorm", theory.__version__), *versions, ("files of endorm", files.hexdigest()[:12]))


def _difference(expected: Signature, own: Signature) -> str:
    """Return the first of our versions that a worker has otherwise, in words; empty if none."""
    for (name, ours), (_, theirs) in zip(expected, own, strict=True):
        if ours != theirs:
            return f"{name} {theirs}, not {ours}"
    return ""


# --- Engines --------------------------------------------------------------------------------------


@contextmanager
def _parallel(engine: Engine, cells: int) -> Iterator[Callable[[], Parallel]]:
    """Connect; gives a function that makes a new `Parallel`, which a loss leaves unusable."""
    how: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1}
    if engine.name == "local":
        n = min(engine.processes or cpu_count(), cells)
        # arrays are not memory maps, which cannot be written to and are of a type of their own
        local = {"backend": "loky", "max_nbytes": None, "initializer": end_with_parent}
        yield lambda: Parallel(n, **local, **how)
        return
    _require_reachable(engine)
    with (_dask if engine.name == "dask" else _ray)(engine) as submit:
        # the cluster knows best which worker is free, and sees from the queue that it wants more
        yield lambda: Parallel(backend=_Futures(submit), pre_dispatch="all", **how)


class _Futures(ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """A backend of joblib over whatever gives futures.

    The backends that Dask and Ray bring are not used: that of Dask waits for ever for a cell that a
    lost worker had, and that of Ray gives results in the end only.
    """

    supports_retrieve_callback = True

    def __init__(self, submit: Callable[[Any], Any]) -> None:
        super().__init__(nesting_level=0)
        self._submit = submit

    def effective_n_jobs(self, n_jobs: int) -> int:
        return 2  # with one, joblib computes in this process; with all dispatched it means no more

    def submit(self, func: Any, callback: Any = None) -> Any:
        future = self._submit(cloudpickle.dumps(_Unpickled(func)))
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        try:
            return out.result()
        except (Exception, CancelledError) as error:
            raised = getattr(error, "cause", None) or error  # Ray's holds what its worker raised
            if isinstance(raised, ImportError):
                raise OSError(
                    f"a worker cannot import what a cell needs ({raised}): install there what is "
                    f"installed here, endorm {theory.__version__}"
                ) from None
            raise _LostError(_line(raised).partition(". ")[0]) from error


class _Unpickled:
    """A call that becomes its result where it is unpickled.

    So a worker loads our package within the call, and says so where it has none; a worker of Dask
    that cannot load the call itself ends without a word.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return _run, (self.call,)


def _run(call: Callable[[], R]) -> R:
    return call()


@contextmanager
def _dask(engine: Engine) -> Iterator[Callable[[Any], Any]]:
    """Connect to a scheduler of Dask; gives a function that submits a pickle."""
    try:
        from distributed import Client
    except ImportError:
        raise _missing("dask", "dask.distributed") from None
    # of a scheduler that is lost it writes tracebacks; what we raise says it in one line
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    with Client(engine.scheduler, timeout=REACHABLE, set_as_default=False) as client:
        if not client.scheduler_info()["workers"]:
            _warn_of_no_worker(engine)
        yield partial(client.submit, pickle.loads, pure=False)


@contextmanager
def _ray(engine: Engine) -> Iterator[Callable[[Any], Any]]:
    """Connect to a cluster of Ray; gives a function that submits a pickle."""
    try:
        import ray
    except ImportError:
        raise _missing("ray", "ray") from None
    ray.init(engine.scheduler, logging_level="error", log_to_driver=False)
    try:
        # by value: see `_Unpickled`; a cell whose process is lost is ours to try again
        load = ray.remote(max_retries=0)(lambda blob: pickle.loads(blob))
        yield lambda blob: load.remote(blob).future()
    finally:
        ray.shutdown()


def _missing(extra: str, package: str) -> ValueError:
    return ValueError(f"engine={extra}: {package} is not installed: pip install 'endorm[{extra}]'")


def _warn_of_no_worker(engine: Engine) -> None:
    warnings.warn(f"engine={engine}: no worker is there yet; waiting", stacklevel=2)


def _require_reachable(engine: Engine) -> None:
    """Raise OSError unless something listens at the address of the scheduler."""
    if engine.scheduler is None:
        return
    address = urlsplit(
        engine.scheduler if "://" in engine.scheduler else f"tcp://{engine.scheduler}"
    )
    try:
        where = address.hostname, address.port
    except ValueError:
        where = None, None
    if None in where:
        raise ValueError(f"scheduler={engine.scheduler!r}: must be host:port")
    try:
        socket.create_connection(where, timeout=REACHABLE).close()
    except OSError as error:
        raise OSError(
            f"scheduler={engine.scheduler}: nothing answers there ({error}); start it, or correct "
            "the address"
        ) from None


# --- Ends -----------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """Let this process end when the one that started it is killed, and leave Ctrl-C to that one.

    Example:
        >>> import subprocess, sys
        >>> code = "from theory.studies.engine import end_with_parent; end_with_parent()"
        >>> subprocess.run([sys.executable, "-c", code]).returncode
        0
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise KeyboardInterrupt where SIGTERM would end the process without a word."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
