"""Whether a replica that names no owner was written from here, and whether it can go on from here.

A Litestream of the operator's may be up before the daemon has ever claimed the path. What it has
uploaded is then the very file that lies in its own folder; of another database it would not be,
since an LTX file ends with a checksum of all that is in it.
"""

from contextlib import suppress
from pathlib import Path

from obstore.exceptions import BaseError

from edge_store.errors import ReplicaNotFound
from edge_store.ids import DeviceId
from edge_store.replica.bucket import Bucket, open_bucket
from edge_store.replica.extent import listed
from edge_store.replica.location import Credentials, Location
from edge_store.replica.points import LtxFile, list_files, read_points

__all__ = ["is_cut_off", "is_whole", "is_written_from"]

WHOLE_BYTES_MAX = 1 << 20  # of a larger one the checksums at its end are compared
CHECKSUMS_BYTES = 16
TXID_DIGITS = 16  # of the first, with which the name of a file begins


async def is_written_from(
    ltx: Path, location: Location, credentials: Credentials | None, device_id: DeviceId
) -> bool:
    """Whether the newest file of the replica lies in ``ltx``, Litestream's folder, too.

    Raises:
        ReplicaNotFound: there is no replica.
        ReplicationError: the store does not answer.
    """
    files = await list_files(location, credentials, device_id)
    newest = max(file.last for file in files)
    for file in files:
        if file.level == 0 and file.last == newest:
            here = ltx / "0" / f"{file.first:016x}-{file.last:016x}.ltx"
            bucket = open_bucket(location, credentials)
            return await listed(location, _is_same, bucket, file, here)
    return False


async def is_cut_off(
    ltx: Path, location: Location, credentials: Credentials | None, device_id: DeviceId
) -> bool:
    """Whether states are missing between the newest file of level 0 there, from which Litestream
    goes on, and the oldest that ``ltx``, its folder, still has. A snapshot of a later state may be
    there. Raises ``ReplicationError``: the store does not answer.
    """
    here = [path.name for path in (ltx / "0").glob("*.ltx")]  # first: more may be sent meanwhile
    if not here:
        return False
    oldest = min(int(name[:TXID_DIGITS], 16) for name in here)
    newest = 0
    with suppress(ReplicaNotFound):
        files = await list_files(location, credentials, device_id)
        newest = max((file.last for file in files if file.level == 0), default=0)
    return oldest > newest + 1


async def is_whole(
    location: Location, credentials: Credentials | None, device_id: DeviceId
) -> bool:
    """Whether the replica's newest state can be restored, as far as a listing tells. Raises as
    ``is_written_from`` does, but for one that lacks its beginning.
    """
    files = await list_files(location, credentials, device_id)
    with suppress(ReplicaNotFound):
        return read_points(files, "the replica").newest.txid == max(file.last for file in files)
    return False


def _is_same(bucket: Bucket, file: LtxFile, here: Path) -> bool:
    try:
        content = here.read_bytes()
    except FileNotFoundError:
        return False
    if len(content) != file.size:
        return False
    if file.size <= WHOLE_BYTES_MAX:
        found = bucket.get(file.key)
        return found is not None and found.content == content
    start = file.size - CHECKSUMS_BYTES
    try:
        return bucket.get_range(file.key, start, CHECKSUMS_BYTES) == content[start:]
    except BaseError as exc:
        if "NotPartial" not in str(exc):
            raise
        return False  # the store ignores ranges
