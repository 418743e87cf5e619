"""Exact search: every probe against every row, block by block, keeping the best so far.

Ties count the same everywhere: of equal scores the lowest row comes first, the face that was enrolled first. To that end a
score and its row are one number, score above row, and the best are the largest of these numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

PROBES_AT_ONCE = 1024
ROWS_AT_ONCE = 4096  # scores of 1,024 × 4,096 take 16 MB; larger blocks were no faster
SPARE = 16  # rows kept beyond k, for scores that the matrix product's rounding (1e-7) put in the wrong order
_NOTHING = -(2**63)
_LOW = 2**32 - 1

Block = tuple[int, Float[np.ndarray, "n d"], Int[np.ndarray, " r"]]  # first row, embeddings, which of them do not count


def _keys(scores: Float32[Tensor, " n"], rows: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Scores and rows as integers in the same order: a float's bits, as an integer, rise with it (negative ones fall)."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes one of the two zeros
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (rising.long() << 32) | (_LOW - rows)


def _scores(keys: Int64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    rising = (keys >> 32).int()
    return (rising ^ ((rising >> 31) & 0x7FFFFFFF)).view(torch.float32)


@torch.inference_mode()
def best_rows(probes: Float32[np.ndarray, "p d"], blocks: Callable[[], Iterable[Block]], k: int) -> Int64[np.ndarray, "p k"]:
    """The k rows of the highest cosine for each probe, best first; −1 where fewer than k count.

    Args:
        probes: unit length.
        blocks: called for every 1,024 probes; gives the gallery from row 0 on.
    """
    parts = [
        _best_keys(torch.from_numpy(probes[at : at + PROBES_AT_ONCE]), blocks(), k)
        for at in range(0, len(probes), PROBES_AT_ONCE)
    ]
    keys = torch.cat(parts)
    rows = torch.where(_scores(keys).isfinite(), _LOW - (keys & _LOW), -1)
    return rows.numpy()


def _best_keys(probes: Float32[Tensor, "p d"], blocks: Iterable[Block], k: int) -> Int64[Tensor, "p k"]:
    best = torch.full((len(probes), k), _NOTHING)
    worst = torch.full((len(probes),), -torch.inf)
    buffer = torch.empty(len(probes) * ROWS_AT_ONCE)
    for start, embeddings, removed in blocks:
        scores = buffer[: len(probes) * len(embeddings)].view(len(probes), len(embeddings))
        torch.mm(probes, torch.from_numpy(embeddings).T, out=scores)
        scores[:, removed] = -torch.inf
        better = (scores.amax(1) > worst).nonzero()[:, 0]  # after some blocks few probes find anything better
        if len(better):
            best[better] = _merged(best[better], scores[better], worst[better], start)
            worst[better] = torch.where(best[better, -1] == _NOTHING, -torch.inf, _scores(best[better, -1]))
    return best


def _merged(
    best: Int64[Tensor, "b k"], scores: Float32[Tensor, "b n"], worst: Float32[Tensor, " b"], start: int
) -> Int64[Tensor, "b k"]:
    """The best k of those so far and of a block; only scores above the worst so far are sorted, and they are few."""
    above = scores > worst[:, None]
    count = above.sum(1)
    probe, column = above.nonzero(as_tuple=True)
    place = torch.arange(len(probe)) - (count.cumsum(0) - count)[probe]
    new = torch.full((len(best), int(count.max())), _NOTHING)
    new[probe, place] = _keys(scores[probe, column], start + column)
    return torch.cat([best, new], 1).topk(best.shape[1]).values


def score_again(
    probes: Float32[np.ndarray, "p d"],
    candidates: Int64[np.ndarray, "p c"],
    rows_of: Callable[[Int64[np.ndarray, " r"]], Float32[np.ndarray, "r d"]],
    k: int,
) -> tuple[Float32[np.ndarray, "p k"], Int64[np.ndarray, "p k"]]:
    """The best k of each probe's candidates by their exact cosine, summed in float64; equal scores by the lower row.

    So a score does not depend on how the row was found, nor on which probes were asked together.
    Where there are fewer than k candidates (−1), the rest is NaN and −1.
    """
    scores = np.full((len(probes), k), np.nan, np.float32)
    rows = np.full((len(probes), k), -1, np.int64)
    for number, (probe, several) in enumerate(zip(probes, candidates, strict=True)):
        found = np.sort(several[several >= 0])
        cosines = (rows_of(found).astype(np.float64) * probe).sum(1).astype(np.float32)
        order = np.argsort(-cosines, kind="stable")[:k]
        scores[number, : len(order)], rows[number, : len(order)] = cosines[order], found[order]
    return scores, rows
