"""Failures of a store in an operator's words: what is wrong, and what to look at.

Read from what the store answers (S3's error codes) or from how the connection failed. The texts of
the libraries are searched, not shown: they hold addresses, headers and the id of the key.
"""

import re
from typing import Final

from edge_store.errors import ReplicaNotFound, ReplicationError
from edge_store.replica.location import Location, Scheme

__all__ = ["ABSENT", "code_of", "explained", "is_full", "status_of"]

STATUS = re.compile(
    r"(?:status code: |\(code: )(\d{3})\b"
)  # as obstore says it, of many in one too
BROKEN = re.compile(r"Error performing GET \S*/([^/\s]+) in .*IncompleteBody", re.DOTALL)
KEY = re.compile(
    r"AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|AZURE_STORAGE_ACCOUNT_KEY|AZURE_STORAGE_SAS_TOKEN"
)
CODE = re.compile(r"<Code>(\w+)</Code>")  # of S3's error document, and of Azure's
REFUSED = "the store refuses the keys"
REFUSAL_HINTS: Final = {
    Scheme.S3: "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do",
    Scheme.AZURE: "check AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN: copied whole, this "
    "account's, not expired? and the account's firewall (Networking)",
    Scheme.GCS: "check the service account, and its role in the bucket: Storage Object User",
    Scheme.SFTP: "check replica.sftp_key_file, the user, and the folder's owner over there",
    Scheme.FILE: "check the folder's owner and mode; under systemd, ReadWritePaths= too",
}
ABSENT = ("NoSuchBucket", "ContainerNotFound")
S3_ALONE = ("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "NotImplemented")
STATUSES: Final = {
    "301": "the bucket is in another region: set region= in replica.url",
    "400": "check the region and the endpoint",
    "407": "the proxy wants a user and a password: check HTTPS_PROXY",
    "429": "it asks for fewer requests: raise replica.monitor_interval_s",
    "501": "does the endpoint speak S3? check its port and its path",
    "502": "a proxy or load balancer stands before it: check that one",
    "503": "it is overloaded or not up yet: try again",
    "507": "it is full",
}
FULL = re.compile(  # not Google's "Quota exceeded for quota metric …", of requests per minute
    r"no space left on device|quota exceeded(?! for quota)|\bis full\b|StorageFull"
    r"|(?-i:QuotaExceeded\b)",  # S3's code; Google's `quotaExceeded` is of requests, too
    re.IGNORECASE,
)
NO_FOLDER = "check the address, and that the disk is mounted"
READ_ONLY = re.compile(r"read-only file system", re.IGNORECASE)
FOR_WRITING = (
    "mount it for writing (the kernel's log says why it is not); under systemd name it in "
    "ReadWritePaths=, too"
)
NO_ROOM = "make room there, or shorten replica.snapshot_retention_s"
NO_STORE = "is it an object store? check the endpoint, its port, and the store's log"

# S3's code -> (what is wrong, what to do).
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
CODES: Final = {
    "InvalidAccessKeyId": ("the store refuses the keys: it knows no such access key id",
                           "check AWS_ACCESS_KEY_ID: is it a key of this store?"),
    "SignatureDoesNotMatch": ("the store refuses the keys: the secret is not this key id's",
                              "check AWS_SECRET_ACCESS_KEY: copied whole, and no other's?"),
    "ExpiredToken": ("the store refuses the keys: they have expired", "use keys that last"),
    "AccessDenied": ("the store refuses the keys: they have no permission for this",
                     "it needs s3:PutObject, GetObject and DeleteObject, and ListBucket"),
    "RequestTimeTooSkewed": ("the store refuses requests because this machine's clock is wrong",
                             "set the clock: `timedatectl`; it may be off by 15 minutes at most"),
    "NoSuchBucket": ("there is no such bucket", "check the bucket's name and the endpoint"),
    "PermanentRedirect": ("the bucket is in another region, or wants another endpoint",
                          "set region= in replica.url to the bucket's own"),
    "AuthorizationHeaderMalformed": ("the region is not the bucket's",
                                     "set region= in replica.url to the bucket's own"),
    "InvalidBucketName": ("that is no name of a bucket", "check the bucket's name"),
    "SlowDown": ("the store asks for fewer requests", "raise replica.monitor_interval_s"),
    "NotImplemented": ("the store does not know this kind of request",
                       "is the endpoint one of S3? docs/replica.md has examples"),
    "QuotaExceeded": ("the store is full", "raise the quota, or shorten the retention"),
    "XMinioStorageFull": ("the store is full", "free space there"),
    "NoSuchUpload": ("an upload was ended by the store", "try again"),
    "KMS.NotFoundException": ("there is no such KMS key", "check kms_key= in replica.url"),
    "AuthorizationPermissionMismatch":
        ("the store refuses the keys: they have no permission for this",
         "the SAS needs sp=racwdl: read, add, create, write, delete, list"),
    "ContainerNotFound": ("there is no such container", "check the container's name"),
    "ResourceNotFound": ("there is no such storage account or container at that address",
                         "check both, and the endpoint"),
    "InvalidResourceName": ("that is no name of a container",
                            "it has 3 to 63 small letters, digits and dashes"),
    "AccountIsDisabled": ("the storage account is disabled", "see the account's page at Azure"),
}  # fmt: skip

# What is wrong with a key before the store is asked -> (what is wrong, what to do).
KEY_FILES: Final = (
    (r"invalid_grant|invalid_client|account not found",
     "Google refuses the service account",
     "is its key revoked, or the account deleted? is this machine's clock right?"),
    (r"decode service account|Unable to open service account|ReadPem|reading pem|KeyRejected",
     "its key file is not that of a service account",
     "make one: `gcloud iam service-accounts keys create FILE --iam-account=ACCOUNT`"),
    (r"Invalid Access Key",
     "the account key is not whole", "copy it again: it is base64 and ends in `==`"),
)  # fmt: skip

# How a connection fails -> (what is wrong, what to do). The first that is found counts.
CONNECTIONS: Final = (
    (r"dns error|failed to lookup|Name or service not known|nodename nor servname|getaddrinfo",
     "its host is not known: no address for that name (DNS)",
     "check the endpoint for a typo, and the name server: `getent hosts HOST`"),
    (r"UnknownIssuer|CaUsedAsEndEntity|self.signed|UnhandledCriticalExtension",
     "its TLS certificate is not signed by an authority that this machine trusts",
     "a private one: add its root to the system's, or name it in SSL_CERT_FILE, not AWS_CA_BUNDLE"),
    (r"NotValidForName|CertNotValidForName",
     "its TLS certificate is another host's", "use the name that is in the certificate"),
    (r"Expired|NotValidYet",
     "its TLS certificate is not valid now", "check this machine's clock, then the certificate"),
    (r"InvalidContentType|InvalidMessage|wrong version number",
     "it does not speak TLS on that port", "use http:// in the endpoint, or its port for https"),
    (r"[Uu]nsuccessful tunnel|ProxyConnect|proxy",
     "the proxy does not let us through", "check HTTPS_PROXY and NO_PROXY"),
    (r"ConnectionRefused|Connection refused|Connect call failed",
     "nothing listens there: the connection is refused",
     "is the store up, and is it that port?"),
    (r"ConnectionReset|Connection reset|UnexpectedEof|connection closed|IncompleteMessage",
     "it closes the connection at once",
     "does it want https:// where http:// is written? a firewall?"),
    (r"NetworkUnreachable|HostUnreachable|No route to host|Network is unreachable",
     "there is no way to it from here", "check the network and the routes"),
    (r"TimedOut|timed out|operation timed out|deadline has elapsed",
     "no answer in time", "check the address, the network, a firewall, and that the store is up"),
)  # fmt: skip


def status_of(text: str) -> str | None:
    """The HTTP status that the store answered with; its address has numbers, too."""
    found = STATUS.search(text)
    return found[1] if found else None


def code_of(text: str) -> str | None:
    """The store's own code for what is wrong."""
    found = CODE.search(text)
    return found[1] if found else None


def is_full(text: str) -> bool:
    """Whether that says, in our words or another program's, that there is no room."""
    return FULL.search(text) is not None


def explained(exc: Exception, location: Location) -> ReplicationError:
    """What a failed request means. An error that explains itself is returned as it is."""
    if isinstance(exc, ReplicationError):
        return exc
    error = _explained(exc, location)
    error.hint = KEY.sub(lambda found: location.variable(found[0]), error.hint)
    return error


def _explained(exc: Exception, location: Location) -> ReplicationError:
    text = "TimedOut" if isinstance(exc, TimeoutError) else str(exc)
    if location.scheme is Scheme.FILE and (found := _of_folder(exc, text, location)):
        return found
    for pattern, what, hint in KEY_FILES if location.scheme in (Scheme.GCS, Scheme.AZURE) else ():
        if re.search(pattern, text):
            return ReplicationError(f"{location}: {what}", hint=hint)
    status, code = status_of(text), code_of(text)
    if code is None and (status == "404" or isinstance(exc, FileNotFoundError)):
        code = ABSENT[0]
    if code in CODES and (location.scheme is Scheme.S3 or code not in S3_ALONE):
        kind = ReplicaNotFound if code in ABSENT else ReplicationError
        return kind(f"{location}: {CODES[code][0]}", hint=CODES[code][1])
    if status in ("401", "403") or isinstance(exc, PermissionError):
        what, hint = REFUSED, REFUSAL_HINTS[location.scheme]
    elif status == "400" and "HTTPS" in text:
        what, hint = "that port wants TLS", "write https:// in the endpoint"
    elif status is not None:
        what, hint = f"the answer is HTTP status {status}", STATUSES.get(status, NO_STORE)
    else:
        what, hint = _unconnected(text)
        hint = NO_FOLDER if location.scheme is Scheme.FILE else hint
    return ReplicationError(f"{location}: {what}", hint=hint)


def _of_folder(exc: Exception, text: str, location: Location) -> ReplicationError | None:
    if isinstance(exc, (FileNotFoundError, NotADirectoryError)):
        return ReplicaNotFound(f"{location}: there is no such folder", hint=NO_FOLDER)
    if is_full(text):
        return ReplicationError(f"{location}: its disk is full", hint=NO_ROOM)
    if READ_ONLY.search(text):
        return ReplicationError(f"{location}: its file system is read-only", hint=FOR_WRITING)
    return None


def _unconnected(text: str) -> tuple[str, str]:
    broken = BROKEN.search(text)
    if broken:  # as rclone's of an object whose file is gone
        return f"cannot be reached: its answer breaks off in {broken[1]}", (
            "is that object, or its bucket, gone? is there a proxy in between?"
        )
    for pattern, what, hint in CONNECTIONS:
        if re.search(pattern, text):
            return f"cannot be reached: {what}", hint
    return f"cannot be reached: {text.partition(chr(10))[0][:200]}", (
        "check the address, the network and that the store is up"
    )
