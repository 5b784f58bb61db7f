"""The results of an index go by their seq into shards of equal ranges, each a table of words and
one of trigrams; and why one of them has words of deleted results.
"""

from edge_store.sql import sql_of

__all__ = [
    "CLEANING", "EXPIRED", "FORGOTTEN", "GOING", "SHARD_ROWS", "shard_block", "shard_of",
]  # fmt: skip

SHARD_ROWS = 2**17  # what a common word costs is bounded by it; ten million results are 77 shards
# shards.is_unclean: has what was forgotten, is being merged, has what retention deleted, has no
# result left and is being taken down (select_shards leaves it out)
FORGOTTEN, CLEANING, EXPIRED, GOING = 1, 2, 4, 8


def shard_of(seq: int) -> int:
    """The one that this result is in."""
    return seq // SHARD_ROWS


def shard_block(name: str, shard: int) -> str:
    """The block for one shard."""
    return sql_of("search", name).replace("_of_0", f"_of_{shard}")
