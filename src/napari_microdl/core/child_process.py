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
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Cancelled, Progress, Task, current_task

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_Report = Callable[[tuple[int, Any]], None]

_SECONDS_BETWEEN_LOOKS = 0.05
_PROGRESS, _RESULT, _ERROR, _END = range(4)
_SERVE = "from napari_microdl.core.child_process import serve; serve()"


def call_in_child(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function in a process of its own, which is ended when the task is cancelled.

    What the function tells of its progress is progress of the current task. Where no Python can be
    started (an application that was frozen into one file), the function runs in a thread, which a
    cancelled task leaves behind.

    Parameters
    ----------
    function : callable
        Of a module that can be imported.
    *args, **kwargs : object
        What it is given; this and the result are pickled on the way.

    Returns
    -------
    object
        What the function returns.

    Raises
    ------
    Cancelled
        Within a twentieth of a second after the task was cancelled.
    MicrodlError
        If the process ends without a result, as when it is given too little memory.
    Exception
        What the function raises.
    """
    task = current_task()
    news: queue.Queue[tuple[int, Any]] = queue.Queue()
    job = (function, args, kwargs)
    process = _start()
    if process is None:
        talker = threading.Thread(target=_work, args=(job, news.put, task), daemon=True)
    else:
        talker = threading.Thread(target=_talk, args=(process, job, news.put), daemon=True)
    talker.start()
    try:
        while True:
            task.check()
            try:
                kind, content = news.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                continue
            if kind == _RESULT:
                result: Result = content
                return result
            if kind == _ERROR:
                raise content
            if kind == _END:
                raise MicrodlError(
                    "A part of the work was ended by the system, most likely for want of memory; "
                    "close other programs, or use fewer images."
                )
            _pass_on(content, task)
    finally:
        if process is not None:
            process.kill()
            process.wait()
            talker.join()
            for pipe in (process.stdin, process.stdout):
                # What it still held was for a process that is gone.
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _pass_on(progress: Progress, task: Task) -> None:
    task.progress(
        progress.done,
        progress.total,
        progress.message or None,
        record=progress.record,
        stays=progress.stays,
    )


def _start() -> subprocess.Popen[bytes] | None:
    """A Python that waits for its job, or None where there is none to be started."""
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


def _talk(process: subprocess.Popen[bytes], job: tuple[Any, ...], report: _Report) -> None:
    """Give the process its job and pass on what it sends; ends when the process does."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(job, process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
        # Its input stays open: the process takes its end for that of its parent.
        while True:
            report(pickle.load(process.stdout))
    except (OSError, EOFError, pickle.UnpicklingError, ValueError):
        report((_END, None))
    except Exception as error:
        report((_ERROR, error))


def _work(job: tuple[Any, ...], report: _Report, parent: Task | None = None) -> None:
    """Do the job and report its progress, and its result or error."""
    function, args, kwargs = job
    task = Task(lambda progress: report((_PROGRESS, progress)), parent=parent)
    try:
        with task.active():
            result = function(*args, **kwargs)
        report((_RESULT, result))
    except Exception as error:
        report((_ERROR, error))
    except Cancelled:
        # Only in a thread: nobody listens any more.
        pass


def serve() -> None:
    """Do the one job that comes in through the standard input; what the process runs."""
    answers = os.fdopen(os.dup(1), "wb")
    # What libraries print must not come between the answers.
    os.dup2(2, 1)
    job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(news: tuple[int, Any]) -> None:
        try:
            content = pickle.dumps(news, pickle.HIGHEST_PROTOCOL)
        except Exception:
            content = pickle.dumps((_ERROR, RuntimeError(repr(news[1]))))
        answers.write(content)
        answers.flush()

    _work(job, report)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
