"""The program of an engine, run once for each question where nothing better speaks for the engine.

It gets no terminal and no input but what it is fed. A signal that comes while it works ends it, by
`stop` where another thread feeds it; but what has been fed all of its input goes on to its end.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from dimgx.errors import SourceError, TemporaryError

_ANSWER_LIMIT = 64 << 20
_ERRORS_LIMIT = 1 << 16
_PIECE = 1 << 16  # what a pipe holds


class Program:
    """A program with the words that each of its commands begins with.

    `explain` gives the error that the last line of what it says on failing comes to; each method
    raises that, SourceError where it cannot be run, and TemporaryError where a signal has ended it
    and it says nothing.
    """

    def __init__(self, command: list[str], explain: Callable[[str], Exception]) -> None:
        self.command = command
        self._explain = explain
        self._fed: subprocess.Popen[bytes] | None = None

    def run(self, *words: str) -> bytes:
        """Give what it says."""
        with self._running(words, subprocess.PIPE) as process:
            out, errors = process.communicate()
        if process.returncode:
            raise self._failure(process.returncode, errors)
        return out

    def iter_output(self, *words: str) -> Iterator[bytes]:
        """Yield what it says, as it comes."""
        with tempfile.TemporaryFile() as errors:
            with self._running(words, errors.fileno()) as process:
                assert process.stdout is not None
                fd = process.stdout.fileno()
                # One read at a time: between those of a whole piece no signal is heard.
                while piece := os.read(fd, _PIECE):
                    yield piece
            if process.returncode:
                errors.seek(0)
                raise self._failure(process.returncode, errors.read(_ERRORS_LIMIT))

    def feed(self, chunks: Iterable[bytes], *words: str) -> bytes:
        """Let it read what comes in pieces, and give what it says."""
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
            with self._running(
                words, errors.fileno(), said.fileno(), stdin=subprocess.PIPE
            ) as process:
                assert process.stdin is not None
                self._fed = process
                try:
                    for chunk in chunks:
                        process.stdin.write(chunk)
                    # Until it has taken all: what waits here would be lost with this process.
                    process.stdin.flush()
                    self._fed = None
                    process.stdin.close()
                except BrokenPipeError:  # It says why.
                    with suppress(BrokenPipeError):
                        process.stdin.close()
            for file in (said, errors):
                file.seek(0)
            if process.returncode:
                raise self._failure(process.returncode, errors.read(_ERRORS_LIMIT))
            return said.read(_ANSWER_LIMIT)

    def stop(self) -> None:
        """End it while it is being fed: the end of this process would be one of its input."""
        fed = self._fed
        if fed is not None:
            fed.kill()

    @contextmanager
    def _running(
        self,
        words: Iterable[str],
        errors: int,
        out: int = subprocess.PIPE,
        stdin: int = subprocess.DEVNULL,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start it, and wait for its end; where that is not to be waited for, end it."""
        command = [*self.command, *words]
        try:
            process = subprocess.Popen(command, stdin=stdin, stdout=out, stderr=errors)
        except OSError as exc:
            raise SourceError(f"{command[0]}: {exc.strerror}") from exc
        with process:
            try:
                yield process
                process.wait()
            except BaseException:  # a signal, as a rule; it may work for minutes more
                # Before its input ends, which it could take for the end of what is fed. Python
                # itself waits no longer than 0.25 s after a SIGINT, and leaves it as it is then.
                process.kill()
                process.wait()
                raise

    def _failure(self, returncode: int, errors: bytes) -> Exception:
        lines = errors.decode("utf-8", "replace").split("\n")
        text = next((line.strip() for line in reversed(lines) if line.strip()), None)
        name = os.path.basename(self.command[0])
        if text is None and returncode < 0:
            return TemporaryError(f"{name} was ended by signal {-returncode} while it worked")
        return self._explain(text or f"{name} failed")
