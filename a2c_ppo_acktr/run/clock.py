"""When the things that a run does beside learning are due, so that they stay cheap however fast it learns."""

import time


class Clock:
    """Whether something is due: every `interval` updates where the user said so, else every `seconds`.

    Args:
        interval: updates, or None.
        seconds: the least time between.
        share: the most of the time that what is due may take where there is no interval: the longer it took, the longer
            the wait.
    """

    def __init__(self, interval: int | None, seconds: float, share: float = 0.05) -> None:
        self.interval, self.seconds, self.share = interval, seconds, share
        self.rested = time.monotonic()
        self.next = self.rested + seconds

    def due(self, update: int, *, soon: bool = False) -> bool:
        """Ask once per update; True restarts the wait. `soon` waits for the share of the time alone."""
        if self.interval is not None:
            return update % self.interval == 0
        now = time.monotonic()
        if now < (self.rested if soon else self.next):
            return False
        self.next = now + self.seconds
        return True

    def took(self, seconds: float) -> None:
        """What was due has been done: wait until it has been no more than its share of the time."""
        now = time.monotonic()
        self.rested = now + seconds / self.share
        self.next = max(now + self.seconds, self.rested)
