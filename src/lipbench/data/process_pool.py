"""Worker processes that may die: a pool for work on files that nobody has looked at before.

`concurrent.futures` gives up as a whole when one of its processes is killed (out of memory, a crash inside a
decoder). Here the job is taken up again by a new process; the item at which a process dies twice is passed over with
that reason.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any, Final

Body = Callable[[str, Any, dict[str, str]], Iterator[str]]
"""Does a job: its name, what belongs to it, item -> reason of items to pass over. Yields each item at its start."""

_CHANCES: Final = 2


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    jobs: Mapping[str, Any],
    body: Body,
    workers: int,
    *,
    finished: Callable[[str], None],
    advance: Callable[[int], None],
) -> None:
    """Do all jobs, in order of their names as given, several at a time.

    Args:
        jobs: Name -> what `body` is given.
        body: A function that pickles.
        workers: Processes.
        finished: Called with each finished job.
        advance: Called with the number of items begun, negative where a job starts anew.

    Raises:
        RuntimeError: A worker ended before its first item, or the system failed it (a full disk).
    """
    context = start(body.func.__module__ if hasattr(body, "func") else body.__module__)
    queue = list(jobs)[::-1]
    deaths: dict[str, int] = {}
    fatal: dict[str, str] = {}
    busy: dict[Any, _Worker] = {}
    try:
        while queue or busy:
            while queue and len(busy) < workers:
                worker = _Worker(context, body)
                busy[worker.pipe] = worker
                worker.begin(queue.pop(), jobs, fatal)
            for pipe in wait(list(busy)):
                worker = busy[pipe]
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    del busy[pipe]
                    queue.append(worker.job)
                    advance(-worker.begun)
                    _note_death(worker, deaths, fatal)
                    continue
                if kind == "item":
                    worker.item, worker.begun = content, worker.begun + 1
                    advance(1)
                elif kind == "failed":
                    raise RuntimeError(f"{worker.job}: {content}")
                else:
                    finished(worker.job)
                    if queue:
                        worker.begin(queue.pop(), jobs, fatal)
                    else:
                        del busy[pipe]
                        worker.end()
    finally:
        for worker in busy.values():
            worker.process.terminate()
        for worker in busy.values():
            worker.process.join()


def start(*modules: str) -> Any:  # noqa: ANN401 - multiprocessing's contexts have no common type
    """What starts worker processes: a fork server that has imported what they need, or spawning where there is none.

    Forking a process that has used OpenCV or OpenMP before may hang in their thread pools.

    Args:
        *modules: Dotted names of what is imported once for all of them.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(list(modules))
        with _huge_pages():
            forkserver.ensure_running()
    return context


@contextmanager
def _huge_pages() -> Iterator[None]:
    """Processes started inside ask the system for memory in huge pages (glibc 2.35 and later; no effect elsewhere).

    dlib's predictor reads 7,500 of 120,000 scattered leaves for every face; with huge pages it is a fifth faster.
    """
    name = "GLIBC_TUNABLES"
    before = os.environ.get(name)
    os.environ[name] = f"{before}:glibc.malloc.hugetlb=1" if before else "glibc.malloc.hugetlb=1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _note_death(worker: "_Worker", deaths: dict[str, int], fatal: dict[str, str]) -> None:
    worker.process.join()
    code = worker.process.exitcode
    if worker.item is None:
        raise RuntimeError(f"a worker process ended before it began anything (exit code {code})")
    deaths[worker.item] = deaths.get(worker.item, 0) + 1
    if deaths[worker.item] >= _CHANCES:
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        fatal[worker.item] = f"the process that read this clip {how}, twice (out of memory?)"


class _Worker:
    """A process that does one job after the other, and what it is at.

    Args:
        context: Of the start method.
        body: What it does.
    """

    def __init__(self, context: Any, body: Body) -> None:  # noqa: ANN401 - multiprocessing's contexts have no common type
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, body), daemon=True)
        self.process.start()
        theirs.close()
        self.job, self.item, self.begun = "", None, 0

    def begin(self, job: str, jobs: Mapping[str, Any], fatal: dict[str, str]) -> None:
        self.job, self.item, self.begun = job, None, 0
        self.pipe.send((job, jobs[job], fatal))

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, body: Body) -> None:
    """Body of a worker: one thread, ends when its parent does."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        while (task := pipe.recv()) is not None:
            try:
                for item in body(*task):
                    pipe.send(("item", item))
            except ConnectionError:
                raise
            except OSError as error:  # a full disk, a folder without permission
                pipe.send(("failed", str(error)))
                return
            pipe.send(("done", task[0]))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return
