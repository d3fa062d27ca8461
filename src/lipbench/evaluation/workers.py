"""Worker processes that score clips: one thread each, one task at a time, and an error in place of a hang.

Everything goes through pipes as plain bytes. PyTorch's own way, shared memory, ends in a bus error where /dev/shm is
small, as in Docker (64 MB).
"""

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor

from lipbench.data import process_pool
from lipbench.errors import Unavailable

Make = Callable[[], Callable[[Any], Any]]
"""Makes the function that is applied to tasks; pickles."""

_BYTES: Final = (
    3 << 29
)  # of memory that a process takes which scores clips of 75 frames, measured (1.1 GB) and rounded up
_KINDS: Final[tuple[type[Exception], ...]] = (
    Unavailable,
    FileNotFoundError,
    ValueError,
    ImportError,
    OSError,
    RuntimeError,
)
"""What an error in a worker is raised as in this process: the first that fits."""
_SECONDS: Final = 0.2  # between two looks for errors while all workers are busy


def suitable(device: torch.device, processes: int = 1, tasks: float = float("inf")) -> int:
    """Worker processes that score fastest when nobody names a number; 0 where this process should score itself.

    One a processor, as far as memory reaches; none on an accelerator, which scores as fast by itself, and none inside
    of a process that may not start others.

    Args:
        device: On which clips are scored.
        processes: Processes on this machine that do the same.
        tasks: Portions of work there are.
    """
    if device.type != "cpu" or multiprocessing.current_process().daemon:
        return 0
    count = int(min(process_pool.processors() // processes, _memory() // (_BYTES * processes), tasks))
    return count if count > 1 else 0


def _memory() -> float:
    """Bytes of memory that are free, as far as the system says: of the machine, and of the container around us."""
    found = [float("inf")]
    information = Path("/proc/meminfo")
    if information.is_file():
        lines = dict(line.split(":", 1) for line in information.read_text("ascii").splitlines())
        found += [1024 * float(lines["MemAvailable"].split()[0])] if "MemAvailable" in lines else []
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (most := limit.read_text("ascii").strip()) != "max":
        found.append(float(most) - float(used.read_text("ascii")))
    return max(min(found), 0)


class Pool:
    """Applies a function to tasks, here or in worker processes; results come in the order of the tasks.

    A thread a worker hands it a task and waits for the result, so that neither side can wait for the other to read.

    Args:
        make: Makes the function, once in every process that applies it. What the function returns holds no tensors.
        count: Worker processes; 0 applies it in this process.
        done: Takes each result, in this process.
        option: How the user names `count`, for errors: "--workers".
    """

    def __init__(self, make: Make, count: int, done: Callable[[Any], None], option: str) -> None:
        self._done = done
        self._option = option
        self._submitted = self._next = 0
        self._ready: dict[int, Any] = {}
        self._tasks: queue.SimpleQueue[tuple[int, str, Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[int, str, str, Any]] = queue.SimpleQueue()
        self._room = threading.Semaphore(count)  # tasks that wait for a worker: memory must not grow with them
        self._workers: list[_Worker] = []
        self._function = make() if count == 0 else None
        if count:
            context = process_pool.start(__name__, getattr(make, "func", make).__module__)
            try:
                for _ in range(count):
                    self._workers.append(_Worker(context, make, self._tasks, self._answers, self._room))
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers."""
        self.close()

    def submit(self, name: str, task: Any) -> None:  # noqa: ANN401 - whatever the function takes
        """Apply the function to a task, at once or as soon as a worker is free; waits while too many wait already.

        Args:
            name: Of the task, for errors.
            task: Tensors in it, also in dicts, lists and tuples, travel as arrays and arrive as tensors on the CPU.

        Raises:
            RuntimeError: A worker ended. All others are ended too; so they are after other errors.
            Exception: What the function raised for this task or an earlier one; see `_KINDS`.
        """
        if self._function is not None:
            self._done(self._function(task))
            return
        try:
            while not self._room.acquire(timeout=_SECONDS):
                self._collect()
            self._collect()
            self._tasks.put((self._submitted, name, _packed(task)))
            self._submitted += 1
        except BaseException:
            self.close()
            raise

    def finish(self) -> None:
        """Wait for all results; errors as in `submit`."""
        try:
            while self._next < self._submitted:
                self._collect(wait=True)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers, whatever they are at."""
        for worker in self._workers:
            worker.process.terminate()
            self._tasks.put(None)
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _collect(self, wait: bool = False) -> None:
        """Take what workers have answered, in order; without `wait` only what is there."""
        while True:
            try:
                number, name, kind, content = self._answers.get(wait, None)
            except queue.Empty:
                return
            if kind == "ended":
                raise RuntimeError(
                    f"the process that scored {name} {content}. Fewer at a time need less memory: {self._option} 1, or "
                    "0 for none beside this one"
                )
            if kind == "failed":
                which, text, way = content
                error = _KINDS[which](text)
                error.add_note(f"In the process that scored {name}:\n{way}")
                raise error
            self._ready[number] = content
            while self._next in self._ready:
                self._done(self._ready.pop(self._next))
                self._next += 1
            wait = False


class _Worker:
    """A process, and the thread that hands it tasks.

    Args:
        context: Starts processes.
        make: See `Pool`.
        tasks: Number, name and content; None ends the thread.
        answers: Number, name, and "done" with a result, "failed" with an error, or "ended" with how.
        room: Released when a task was taken.
    """

    def __init__(
        self,
        context: Any,  # noqa: ANN401 - multiprocessing's contexts have no common type
        make: Make,
        tasks: "queue.SimpleQueue[tuple[int, str, Any] | None]",
        answers: "queue.SimpleQueue[tuple[int, str, str, Any]]",
        room: threading.Semaphore,
    ) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, make, dict(os.environ)), daemon=True)
        self.process.start()
        theirs.close()
        self._thread = threading.Thread(target=self._serve, args=(tasks, answers, room), daemon=True)
        self._thread.start()

    def _serve(
        self,
        tasks: "queue.SimpleQueue[tuple[int, str, Any] | None]",
        answers: "queue.SimpleQueue[tuple[int, str, str, Any]]",
        room: threading.Semaphore,
    ) -> None:
        while (taken := tasks.get()) is not None:
            room.release()
            number, name, task = taken
            try:
                self.pipe.send(task)
                answers.put((number, name, *self.pipe.recv()))
            except (EOFError, ConnectionError):
                answers.put((number, name, "ended", self._how()))
                return
            except Exception as error:  # a task that does not pickle, or memory for it that is not there
                answers.put((number, name, "failed", _failure(error)))

    def _how(self) -> str:
        self.process.join(10)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}{' (out of memory?)' if code == -9 else ''}"
        return (
            f"ended with exit code {code} before it answered (a script that starts such processes needs "
            'if __name__ == "__main__": around what it does)'
        )

    def end(self) -> None:
        """Wait for the end of a process that was told to; one that does not listen is killed."""
        self.process.join(5)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(5)
        self._thread.join(5)
        self.pipe.close()


def _work(pipe: Connection, make: Make, environment: dict[str, str]) -> None:
    """Body of a worker: one thread; ends when its parent does, which an interrupt of the keyboard is left to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)  # a server that forks was started with that of an earlier time
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    function, failure = None, None
    try:
        function = make()
    except Exception as error:
        failure = _failure(error)
    try:
        while True:
            task = pipe.recv()
            if function is None:
                pipe.send(("failed", failure))
                continue
            try:
                answer = "done", function(_unpacked(task))
            except Exception as error:
                answer = "failed", _failure(error)
            del task
            pipe.send(answer)
    except (EOFError, ConnectionError):
        return


def _failure(error: Exception) -> tuple[int, str, str]:
    """Which of `_KINDS` an error is, what it says, and the way to it."""
    which = next((k for k, kind in enumerate(_KINDS) if isinstance(error, kind)), len(_KINDS) - 1)
    text = str(error) or type(error).__name__
    known = isinstance(error, _KINDS)
    return which, text if known else f"{type(error).__name__}: {text}", "".join(traceback.format_exception(error))


def _packed(value: Any) -> Any:  # noqa: ANN401 - a tree of anything
    """Tensors as arrays, which pickle as bytes; formats that NumPy lacks become float32."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return _Array((value.float() if value.dtype == torch.bfloat16 else value).numpy())
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}
    return type(value)(map(_packed, value)) if type(value) in (list, tuple) else value


def _unpacked(value: Any) -> Any:  # noqa: ANN401 - a tree of anything
    """Tensors again."""
    if isinstance(value, _Array):
        return torch.from_numpy(value.content)
    if isinstance(value, dict):
        return {key: _unpacked(item) for key, item in value.items()}
    return type(value)(map(_unpacked, value)) if type(value) in (list, tuple) else value


class _Array:
    """A tensor on its way; arrays that were arrays before stay what they are."""

    def __init__(self, content: Any) -> None:  # noqa: ANN401 - an array of any type
        self.content = content
