"""The process that runs Julia: ``python -m pyjuice_bridge.engines.julia_worker PARENT``.

A line of JSON on standard input names a folder that holds a request; ``JuiceBridge.respond`` reads
it and leaves its answer there.  Lines of JSON on standard output tell what happens meanwhile and,
last, how it ended: ``{"answer": [outcome, sentence, trace]}``.  Whatever Python, Julia or a library
prints goes to standard error.  PyTorch is never loaded here: the two do not share a process well.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import traceback
from typing import IO, Any

from pyjuice_bridge.engines import julia_watch

_AS_FUNCTION = "f -> (x...) -> pyconvert(Bool, f(x...))"
"""Python's functions as Julia's; they say whether to go on."""


def _own_pipes() -> tuple[IO[str], IO[str]]:
    """Move standard input and output to numbers that neither Julia nor a library knows."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return os.fdopen(requests, "r", encoding="utf-8"), os.fdopen(answers, "w", encoding="utf-8")


def _die_at_once() -> None:
    """Let the system end this process on SIGTERM and SIGQUIT.

    Julia would print a trace first, which never ends if a thread holds the lock of ``malloc``.
    """
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGQUIT))


def _start_watch(parent: str, requests: IO[str]) -> None:
    """Start the process that ends this one with its parent."""
    program = [sys.executable, "-I", "-S", julia_watch.__file__, parent, str(os.getpid())]
    subprocess.Popen(program, stdin=requests, stdout=subprocess.DEVNULL, start_new_session=True)


def main() -> None:
    """Answer requests until standard input ends."""
    requests, answers = _own_pipes()
    _start_watch(sys.argv[1], requests)

    def send(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def on_epoch(*epoch: Any) -> bool:
        send(epoch=epoch)
        return True

    def on_batch(done: int, total: int) -> bool:
        send(batch=(done, total))
        # A word from the parent while it waits for an answer is that it wants it no more.
        return not select.select([requests], [], [], 0)[0]

    try:
        import juliacall

        julia = juliacall.newmodule("PyJuiceBridge")
        julia.seval("import JuiceBridge; using PythonCall: pyconvert")
        respond, as_function = julia.JuiceBridge.respond, julia.seval(_AS_FUNCTION)
        listeners = as_function(on_epoch), as_function(on_batch)
        _die_at_once()
        send(ready={"julia": str(julia.VERSION), "threads": julia.Threads.nthreads()})
    except BaseException as error:
        traceback.print_exc()
        send(failed=" ".join(f"{type(error).__name__}: {error}".split())[:300])
        return
    folder = ""
    try:
        for line in requests:
            folder = json.loads(line).get("folder", "")
            if folder:
                outcome, sentence, trace = respond(folder, *listeners)
                send(answer=(str(outcome), str(sentence), str(trace)))
                folder = ""
    except BrokenPipeError:
        # The parent is gone and cannot clean up.
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115


if __name__ == "__main__":
    main()
