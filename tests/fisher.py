"""Statistics of K-FAC with exact expectations, for models of one linear output."""

import math

import torch


def gaussian_rows(x, size):
    """Every row once per output, with the noise sqrt(size) e_k: its second moment is exactly the identity."""
    noise = math.sqrt(size) * torch.eye(size).repeat(len(x), 1)
    return x.repeat_interleave(size, 0), noise


def observe_gaussian(optimizer, model, x, size):
    """Statistics of N(model(x), I) with exact expectations."""
    rows, noise = gaussian_rows(x, size)
    with optimizer.watch():
        output = model(rows)
    optimizer.observe((output * noise).sum(-1))  # d log p / d output = noise


def observe_softmax(optimizer, model, x, size):
    """Statistics of the categorical with logits model(x), every class weighted by its probability."""
    rows, classes = x.repeat_interleave(size, 0), torch.arange(size).repeat(len(x))
    with optimizer.watch():
        log_probs = model(rows).log_softmax(-1)
    chosen = log_probs[torch.arange(len(rows)), classes]
    optimizer.observe((size * chosen.detach().exp()).sqrt() * chosen)
