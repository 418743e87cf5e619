"""Approximate search with FAISS: an index gives a shortlist, whose cosines are then computed exactly.

    pq     4-bit product-quantised codes, all of which are looked at
    ivf    the same codes in k-means cells, of which the nearest ``effort`` are looked at
    hnsw   a graph of neighbours; ``effort`` is the length of the list of candidates

Codes are of the 96 or 128 strongest directions (PCA): scores within a shortlist are exact anyway, and real embeddings use about
150 of their 512. FAISS: Douze et al., "The Faiss library", 2024; PQ fast scan: André et al. 2017; HNSW: Malkov & Yashunin 2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from dsrkit.gallery.files import GalleryError

KINDS = ("pq", "ivf", "hnsw")
FEWEST = 1000  # rows; below it the exact search takes milliseconds, and a codebook has too little to learn from
TRAINING_ROWS = 65_536
_FACTORY = {"ivf": "PCAR{pca},IVF{nlist},PQ{half}x4fs", "pq": "PCAR{pca},PQ{half}x4fs", "hnsw": "PCAR{pca},HNSW{links},SQ8"}


def faiss_module() -> Any:
    """FAISS, or an ImportError that names the extra."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "An approximate index needs FAISS, which is not installed. Exact search works without it; for an index: "
            "pip install 'dsrkit[gallery]'"
        ) from error
    return faiss


def check_kind(kind: str, rows: int) -> None:
    """Raises ValueError for another kind, GalleryError for too few rows."""
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}.")
    if rows < FEWEST:
        raise GalleryError(
            f"Expected at least {FEWEST:,} faces for an index, got {rows:,}. Search exactly: it takes milliseconds."
        )


def default_settings(kind: str, rows: int, width: int) -> dict[str, int]:
    """How an index of so many rows is built and asked, unless told otherwise. Measured by ``benchmarks/gallery.py``.

    nlist: cells, about √rows. pca: directions kept. links: neighbours a row. effort: see above. shortlist: rows scored exactly.
    """
    nlist = 2 ** int(np.log2(np.sqrt(rows)))
    own = {
        "ivf": {"pca": 96, "nlist": nlist, "effort": max(1, nlist * 11 // 16), "shortlist": 32},
        "pq": {"pca": 96, "effort": 1, "shortlist": 50},
        "hnsw": {"pca": 128, "links": 16, "effort": 256, "shortlist": 50},
    }[kind]
    return own | {"pca": min(own["pca"], width // 2 * 2)}


def train(kind: str, settings: dict[str, int], sample: Float32[np.ndarray, "s d"], seed: int) -> Any:
    """An empty index that has learnt its directions, cells and codes from a sample of the rows."""
    faiss = faiss_module()
    recipe = _FACTORY[kind].format(half=settings["pca"] // 2, **settings)
    index = faiss.index_factory(sample.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
    if kind == "ivf":
        cells = faiss.extract_index_ivf(index).cp
        cells.seed, cells.niter, cells.min_points_per_centroid = seed, 10, 1
    index.train(sample)
    return index


def add_rows(index: Any, blocks: Iterable[Float32[np.ndarray, "n d"]]) -> None:
    for block in blocks:
        index.add(np.ascontiguousarray(block, np.float32))


def shortlist(index: Any, kind: str, probes: Float32[np.ndarray, "p d"], size: int, effort: int) -> Int64[np.ndarray, "p s"]:
    """The rows most like each probe by the index's codes, −1 where it found fewer; ``size`` at most."""
    faiss = faiss_module()
    inner = faiss.downcast_index(index.index)
    if kind == "ivf":
        inner.nprobe = effort
    elif kind == "hnsw":
        inner.hnsw.efSearch = max(effort, size)
    return index.search(np.ascontiguousarray(probes), size)[1]


def serialised(index: Any) -> np.ndarray:
    """The index as bytes."""
    return faiss_module().serialize_index(index)


def read(content: np.ndarray) -> Any:
    """The index that ``serialised`` made bytes of."""
    return faiss_module().deserialize_index(content)
