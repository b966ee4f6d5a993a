"""What a person sees while work goes on: a bar with an ETA on a terminal, plain lines elsewhere."""

import sys
import time

QUIET_SECONDS = 10.0  # between two lines where the output is no terminal


class Display:
    """Prints lines and progress. Use as a context manager.

    Args:
        prefix: before every line, to tell workers apart.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.terminal = sys.stdout.isatty() and not prefix
        self.bars: dict[str, int] = {}
        self.started: dict[str, tuple[float, int]] = {}
        self.printed: dict[str, float] = {}
        self.rich = None

    def __enter__(self) -> "Display":
        if self.terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.rich = Progress(*columns)
            self.rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.rich:
            self.rich.stop()

    def say(self, text: str) -> None:
        if self.rich:
            self.rich.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print("\n".join(self.prefix + line for line in text.splitlines()), flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """Say how far something is; the first call for a thing starts its clock."""
        now = time.monotonic()
        if what not in self.started:
            self.started[what], self.printed[what] = (now, done), now
        if self.rich:
            if what not in self.bars:
                self.bars[what] = self.rich.add_task(what, total=total)
            self.rich.update(self.bars[what], completed=done, total=total)
            if done >= total:
                self.rich.remove_task(self.bars.pop(what))
                self.started.pop(what)
            return
        if done < total and now - self.printed[what] < QUIET_SECONDS:
            return
        self.printed[what] = now
        begun, first = self.started[what]
        if done < total:
            left = (now - begun) / (done - first) * (total - done) if done > first else None
            eta = f", {duration(left)} left" if left is not None else ""
            self.say(f"{what}: {done} of {total} ({100 * done // max(total, 1)} %){eta}")
        else:
            self.started.pop(what)
            if now - begun > QUIET_SECONDS:
                self.say(f"{what}: {total} of {total} in {duration(now - begun)}")


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"
