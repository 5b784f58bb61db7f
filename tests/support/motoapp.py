"""moto's server, which keeps a condition on a write also when two write at once.

moto looks for the object, and then writes: by itself it lets another thread write in between, and
both are told that they were first.
"""

import threading
from typing import Any

from moto.s3.responses import S3Response
from moto.server import main

__all__: list[str] = []

put_object = S3Response.put_object
writing = threading.Lock()


def put_one_by_one(response: S3Response) -> Any:
    with writing:
        return put_object(response)


if __name__ == "__main__":
    S3Response.put_object = put_one_by_one  # type: ignore[method-assign,assignment]
    main()
