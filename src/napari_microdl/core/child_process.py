"""Runs what cannot be interrupted in a process of its own, which can be ended at once.

The process is a plain Python of this installation and not one of `multiprocessing`, which would
run the user's script again: a script that opens napari would open it twice.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from inspect import isgenerator
from typing import IO, Any

from napari_microdl.core.errors import MicrodlError

_SECONDS_BETWEEN_LOOKS = 0.05
_STEP, _RESULT, _ERROR, _END = range(4)
_SERVE = "from napari_microdl.core.child_process import serve; serve()"


def iter_in_child(function: Callable[..., Any], *arguments: Any) -> Generator[Any, None, Any]:
    """Call a function in a process of its own, which is ended where the iteration is stopped.

    Where no Python can be started (an application that was frozen into one file), the function runs
    in a thread, which a stopped iteration leaves to end by itself.

    Parameters
    ----------
    function : callable
        Of a module that can be imported; it may return a generator, whose steps are passed on.
    *arguments : object
        What it is given; arguments and result are pickled on the way.

    Yields
    ------
    object
        Many a second: the last step of the generator, None before the first.

    Returns
    -------
    object
        What the function, or its generator, returns.

    Raises
    ------
    MicrodlError
        If the process ends without a result, as when it is given too little memory.
    Exception
        What the function raises.
    """
    news: queue.Queue[tuple[int, Any]] = queue.Queue()
    process = _start()
    target = _talk if process is not None else _call
    talker = threading.Thread(
        target=target, args=(process or news.put, news.put, function, arguments), daemon=True
    )
    talker.start()
    last = None
    try:
        while True:
            try:
                kind, content = news.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                yield last
                continue
            if kind == _RESULT:
                return content
            if kind == _ERROR:
                raise content
            if kind == _END:
                raise MicrodlError(
                    "A part of the work was ended by the system, most likely for want of memory; "
                    "close other programs, or use fewer images."
                )
            last = content
            yield last
    finally:
        if process is not None:
            process.kill()
            process.wait()
            talker.join()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)


def _start() -> subprocess.Popen[bytes] | None:
    """A Python that waits for its task, or None where there is none to be started."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    # What can be imported here can be imported there.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        return subprocess.Popen(
            # Without -P, a file in the working folder could take the place of a module.
            [sys.executable, "-P", "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            # On Windows no black window.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError:
        return None


def _talk(
    process: subprocess.Popen[bytes],
    tell: Callable[[tuple[int, Any]], None],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Give the process its task and pass on what it sends; ends when the process does."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump((function, arguments), process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
        # Its input stays open: the process takes its end for that of its parent.
        while True:
            tell(pickle.load(process.stdout))
    except (OSError, EOFError, pickle.UnpicklingError, ValueError):
        tell((_END, None))
    except Exception as error:
        tell((_ERROR, error))


def _close(pipe: IO[bytes]) -> None:
    # What it still held was for a process that is gone.
    with suppress(OSError):
        pipe.close()


def _call(
    _: object,
    tell: Callable[[tuple[int, Any]], None],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Call the function and tell its steps, and its result or error."""
    try:
        found = function(*arguments)
        if isgenerator(found):
            while True:
                try:
                    tell((_STEP, next(found)))
                except StopIteration as finished:
                    found = finished.value
                    break
        tell((_RESULT, found))
    except Exception as error:
        tell((_ERROR, error))


def serve() -> None:
    """Do the one task that comes in through the standard input; what the process runs."""
    answers = os.fdopen(os.dup(1), "wb")
    # What libraries print must not come between the answers.
    os.dup2(2, 1)
    function, arguments = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(news: tuple[int, Any]) -> None:
        try:
            content = pickle.dumps(news, pickle.HIGHEST_PROTOCOL)
        except Exception:
            content = pickle.dumps((_ERROR, RuntimeError(repr(news[1]))))
        answers.write(content)
        answers.flush()

    _call(None, tell, function, arguments)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
