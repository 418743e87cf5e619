"""How the desk does what somebody asks for: an expected error is said, and what takes long leaves the desk usable meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event, RLock, Thread
from typing import TypeVar

import ipywidgets as widgets

from dsrkit.desk.embeddings import Report
from dsrkit.desk.panes import Message

# What files, weights and photos from anywhere raise; torch says RuntimeError where weights do not fit or memory is short.
EXPECTED = (ValueError, OSError, RuntimeError, MemoryError, ImportError)

PATIENCE = 60  # seconds for a page to say that it is there, before it is served all the same

Result = TypeVar("Result")


class _SupersededError(Exception):
    """Somebody asked for something else meanwhile."""


class Page(Event):
    """Set once a page has the desk's widgets.

    Voila's page asks for all widgets' states at its opening and loses what they are told until it has made its own of them
    (``_loadFromKernel`` of ipywidgets' front end). A link between widgets acts in the page alone: what it sets comes from there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._here, self._there = widgets.Checkbox(True), widgets.Checkbox(False)
        self._there.observe(lambda _: self.set(), "value")
        self._link = widgets.jsdlink((self._here, "value"), (self._there, "value"))


class Actions:
    """Does one action at a time, whichever thread asks.

    Args:
        message, progress: say what went wrong, and how far something is. An error stays while something else goes on.
        go_back: called after an error, to set the controls to what is on the desk.
        in_background: whether ``later`` works in a thread of its own. A programming error ends that thread with its traceback.
    """

    def __init__(self, message: Message, progress: Message, go_back: Callable[[], None], in_background: bool) -> None:
        self.message, self.progress, self.go_back, self.in_background = message, progress, go_back, in_background
        self._lock, self._quiet, self._asked, self.page = RLock(), False, 0, Page()
        if not in_background:
            self.page.set()  # nobody waits for what is done before a call returns

    def __call__(self, action: Callable[..., None], *arguments: object) -> None:
        """Do it; an expected error is shown."""
        with self._lock:
            if self._quiet:
                return
            self.message.forget()
            try:
                action(*arguments)
            except EXPECTED as error:
                self.message.fail(error)
                self.go_back()

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """The desk sets its own controls: nobody has asked for anything."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def later(self, work: Callable[[Report], Result], then: Callable[[Result], None]) -> None:
        """Do ``work``, which touches nothing on the desk but tells how far it is, and with its result, as an action, ``then``.

        The last one asked for counts: earlier work that is not done ends at its next report.
        """
        self._asked += 1
        number = self._asked

        def report(text: str, share: float | None = None) -> None:
            with self._lock:  # or what is superseded might still have the last word
                if number != self._asked:
                    raise _SupersededError
                self.progress.say(text, share)

        def finish(result: Result) -> None:
            report("")
            then(result)

        def fail(error: BaseException) -> None:
            report("")
            raise error

        def run() -> None:
            try:
                last = partial(finish, work(report))
            except _SupersededError:
                return
            except EXPECTED as error:
                last = partial(fail, error)
            self.page.wait(PATIENCE)
            with suppress(_SupersededError):
                self(last)

        if self.in_background:
            Thread(target=run, daemon=True).start()
        else:
            run()
