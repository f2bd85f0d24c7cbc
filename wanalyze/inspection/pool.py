"""Many small matrices at once: a thread for each core, with one of them each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

import torch

READING = Lock()  # files are read by one thread at a time


@contextmanager
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that compute alone: of a few columns, two threads on one matrix gain nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
