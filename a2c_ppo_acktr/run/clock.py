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
        self.next = time.monotonic() + seconds

    def due(self, update: int) -> bool:
        """Ask once per update; True restarts the wait."""
        if self.interval is not None:
            return update % self.interval == 0
        now = time.monotonic()
        if now < self.next:
            return False
        self.next = now + self.seconds
        return True

    def took(self, seconds: float) -> None:
        """What was due has been done: wait until it has been no more than its share of the time."""
        self.next = time.monotonic() + max(self.seconds, seconds / self.share)
