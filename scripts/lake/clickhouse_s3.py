"""Asks ClickHouse (chdb) the same of the lake in a bucket, of moto's server: by ``deltaLake()``,
and by ``s3()`` of the newest version's files, as its folder holds what is no longer in force, too.
"""

import sys
from pathlib import Path

from clickhouse import differing
from deltalake import DeltaTable
from obstore import put
from support.motoserver import MotoServer
from support.s3server import BUCKET, S3Store


def main() -> int:
    lake = Path(sys.argv[1])
    with MotoServer() as server:
        store = S3Store(
            BUCKET,
            endpoint=server.endpoint,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        for file in lake.rglob("*"):
            if file.is_file():
                put(store, f"lake/{file.relative_to(lake)}", file.read_bytes())
        place = f"{server.endpoint}/{BUCKET}/lake"
        keys = f"'{server.access_key_id}', '{server.secret_access_key}'"

        def files(table: str) -> str:
            names = [
                uri.partition(f"{lake}/{table}/")[2] for uri in DeltaTable(lake / table).file_uris()
            ]
            return f"s3('{place}/{table}/{{{','.join(names)}}}', {keys}, 'Parquet')"

        found = differing(
            str(lake), "deltaLake", lambda table: f"deltaLake('{place}/{table}', {keys})"
        )
        found += differing(str(lake), "s3", files)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
