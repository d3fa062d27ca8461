"""What the workers of test_workers.py do: numbers squared, or something bad. Imports little, for each worker does."""

import os
import signal
import time
from multiprocessing.reduction import ForkingPickler

import torch

from lipbench.errors import Unavailable


def square(task):
    """What the workers of these tests do: a number squared, or something bad."""
    if isinstance(task, Exception):
        raise task
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "exit":
        os._exit(3)
    if isinstance(task, dict):
        assert isinstance(task["batch"]["face"], torch.Tensor)
        return float(task["batch"]["face"].sum()), task["batch"]["text"]
    time.sleep(0.05 if task % 3 == 0 else 0)  # results come out of order
    return task * task, os.getpid()


def squares():
    return square


def no_weights():
    raise Unavailable("no SyncNet weights at x")


def no_shared_memory(*arguments):
    raise OSError("no space left in /dev/shm")


def without_shared_memory():
    for kind in list(ForkingPickler._extra_reducers):
        if "torch" in str(kind):
            ForkingPickler.register(kind, no_shared_memory)
    return square


def dying(plan):
    return lambda task: os.kill(os.getpid(), signal.SIGKILL)
