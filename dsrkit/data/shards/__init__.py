"""A data set in a few large tar files, to copy, to share, and to stream from disks that are slow at many small files.

    write_shards(dataset, folder)                  every split, in files of 10,000 faces, beside the data set's own tables
    check_shards(folder)                           after a copy: SHA-256 of every file
    pack_shards(folder, dataset)                   read once in order, packed: ``dataset`` then opens and trains like any other
    read_shards(folder, "train", "16x16", 256)     shuffled batches straight from the tar files, for what no local disk holds

A packed file has no limit of size (a memory map of 1 TB opens like one of 1 GB): shards are for where random access is slow
or the local disk too small. Format and reader are webdataset's (Aizman, Maltzahn and Breuel 2020, arXiv:2001.01858), the
optional extra ``shards``.
"""

from dsrkit.data.shards.index import check_shards, read_index
from dsrkit.data.shards.read import pack_shards, read_shards
from dsrkit.data.shards.write import write_shards

__all__ = ["check_shards", "pack_shards", "read_index", "read_shards", "write_shards"]
