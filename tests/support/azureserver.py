"""Azure's Blob Storage on loopback: Azurite, Microsoft's own emulator, which ``scripts/test setup``
installs. It keeps keys, signatures of shared access, conditions and ranges.
"""

import base64
import hashlib
import hmac
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import httpx
from support.cloud import CONTAINER, DEADLINE_S, CloudServer

__all__ = ["ACCOUNT", "ACCOUNT_KEY", "AzureServer"]

# Azurite's only account, and its key, by its documentation.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
VERSION = "2021-12-02"  # of the service, in which the signatures below are made
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
PROGRAM = Path("node_modules", "azurite", "dist", "src", "blob", "main.js")


class AzureServer(CloudServer):
    """It compares no versions of the service: Litestream's is newer than it knows."""

    @property
    def environ(self) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY}

    def url(self, prefix: str, *, container: str = CONTAINER, port: int | None = None) -> str:
        endpoint = f"http://127.0.0.1:{port or self.port}/{ACCOUNT}"
        return f"abs://{ACCOUNT}@{container}/{prefix}?endpoint={endpoint}"

    def command(self) -> Sequence[str]:
        found = sorted(CACHE.glob(f"edge-store/azurite-*/{PROGRAM}"))
        assert found, (
            f"no Azurite in {CACHE}/edge-store: apt-get install nodejs npm; scripts/test setup"
        )
        return (
            shutil.which("node") or "node", str(found[-1]), "--skipApiVersionCheck", "--silent",
            "--location", str(self.folder), "--blobHost", "127.0.0.1", "--blobPort", str(self.port),
        )  # fmt: skip

    def make_container(self) -> None:
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        lines = ("PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{VERSION}")
        resource = f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        answer = httpx.put(
            f"http://127.0.0.1:{self.port}/{ACCOUNT}/{CONTAINER}?restype=container",
            headers={
                "x-ms-date": date,
                "x-ms-version": VERSION,
                "authorization": f"SharedKey {ACCOUNT}:{_signed(*lines, resource)}",
            },
            timeout=DEADLINE_S,
            trust_env=False,
        )
        assert answer.status_code == 201, answer.text

    def sas_token(self, permissions: str = "racwdl", hours: float = 1) -> str:
        """A signature of shared access to the container, good for so long: below 0, for no more.
        https://learn.microsoft.com/rest/api/storageservices/create-service-sas
        """
        ends = (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
        resource, protocols = f"/blob/{ACCOUNT}/{CONTAINER}", "https,http"
        lines = (permissions, "", ends, resource, "", "", protocols, VERSION, "c", *[""] * 7)
        return urlencode(
            {
                "sv": VERSION,
                "spr": protocols,
                "se": ends,
                "sr": "c",
                "sp": permissions,
                "sig": _signed(*lines),
            }
        )


def _signed(*lines: str) -> str:
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), "\n".join(lines).encode(), hashlib.sha256)
    return base64.b64encode(digest.digest()).decode()
