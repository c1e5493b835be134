"""Sampling in proportion to priorities (Schaul et al. 2016): sums in a wide tree of few levels."""

import numpy as np

WIDTH = 16
"""Children per node: running sums, which no processor can do in parallel, are the most of the cost."""
TOP = 2**12
"""Nodes that are searched as one row: a million items are three levels, where a tree of pairs has twenty."""


class SumTree:
    """Weights of `size` items, with their sums over groups of `WIDTH`, over groups of those, and so on; float64.

    A node is always summed anew from its children, so that no error builds up.
    """

    def __init__(self, size: int) -> None:
        self.levels = [np.zeros((-(-size // WIDTH), WIDTH))]
        while self.levels[-1].size > TOP:
            self.levels.append(np.zeros((-(-len(self.levels[-1]) // WIDTH), WIDTH)))

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self.levels[-1].sum())

    @property
    def leaves(self) -> np.ndarray:
        """`[>= size]` weights, as a view."""
        return self.levels[0].reshape(-1)

    def set(self, indices: np.ndarray, weights: np.ndarray | float) -> None:
        """Give the items `indices: [K]` the non-negative `weights: [K]`; of equal indices the last counts."""
        self.leaves[indices] = weights
        self._sum_up(indices)

    def _sum_up(self, indices: np.ndarray) -> None:
        for below, above in zip(self.levels, self.levels[1:], strict=False):
            indices = indices // WIDTH
            above.reshape(-1)[indices] = below[indices].sum(1)

    def load(self, leaves: np.ndarray) -> None:
        """Replace the first `len(leaves)` weights."""
        self.leaves[: len(leaves)] = leaves
        self._sum_up(np.arange(0, self.leaves.size, WIDTH))

    def find(self, mass: np.ndarray) -> np.ndarray:
        """The items `[K]` at which the running sum of weights passes `mass: [K]`, each in `[0, total)`.

        An item without weight is never found, rounding included.
        """
        running = self.levels[-1].ravel().cumsum()
        node = running.searchsorted(np.minimum(mass, np.nextafter(running[-1], 0.0)), side="right")
        before = np.where(node > 0, running[node - 1], 0.0)
        firsts = np.arange(len(mass)) * WIDTH
        for level in self.levels[-2::-1]:
            sums = level.take(node, 0).cumsum(1)
            mass = np.minimum(np.maximum(mass - before, 0.0), np.nextafter(sums[:, -1], 0.0))
            child = (sums > mass[:, None]).argmax(1)
            before = sums.ravel().take(firsts + child - 1) * (child > 0)  # of the first child some other sum, times 0
            node = node * WIDTH + child
        return node

    def sample(self, num: int) -> np.ndarray:
        """`num` items in proportion to their weights, one from each of `num` equal parts of the total (stratified)."""
        return self.find((np.arange(num) + np.random.random_sample(num)) * (self.total / num))
