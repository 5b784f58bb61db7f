"""Who gets a path, on stores that keep conditions on a write, keep some, ignore or refuse them."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from support.motoserver import MotoServer
from support.s3front import S3Front
from support.s3server import S3Server
from support.sshserver import SSHD, SshServer

from edge_store.errors import PathTaken, ReplicationError
from edge_store.ids import BootId, DeviceId
from edge_store.replica.check import check_location
from edge_store.replica.heads import Head, Heads
from edge_store.replica.lineage import Lineage
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.objects import Objects
from edge_store.replica.owner import Owner, owner_key, read_owner
from edge_store.replica.ownership import Asking, Ownership
from edge_store.result import CheckState

DEVICE = DeviceId("box-1")
CONTENDERS = 3
DEADLINE_S = 120.0
AGAIN_S = 0.2
BOTH = ("If-Match", "If-None-Match")
WARNED = {"rclone", "b2"}  # who keeps no condition
KEEPS_BOTH = {"folder", "moto"}
SAID = {  # by `replica check`
    "folder": "one is refused",
    "moto": "one is refused",
    "rclone": "not kept",
    "b2": "not kept",
    "ceph": "only `replace if unchanged`",
    "sftp": "only `create if absent`",
}


class Store(NamedTuple):
    name: str
    url: str
    environ: dict[str, str]

    @property
    def objects(self) -> Objects:
        location = parse_location(self.url)
        return Objects(location, read_credentials(location, self.environ))


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="module", params=SAID)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    with ExitStack() as stack:
        if name == "folder":
            yield Store(name, f"file://{folder}", {})
            return
        if name == "sftp":
            if SSHD is None:
                pytest.skip("no sshd: apt-get install openssh-server")
            ssh = stack.enter_context(SshServer(folder / "server"))
            yield Store(name, ssh.url("fleet"), {})
            return
        if name == "rclone":
            rclone = stack.enter_context(S3Server(folder / "store"))
            yield Store(name, rclone.url("fleet"), rclone.environ)
            return
        moto: MotoServer = request.getfixturevalue("moto")
        endpoint = moto.endpoint
        if name != "moto":
            front = (
                S3Front(moto.port, refused=BOTH)
                if name == "b2"
                else S3Front(moto.port, ignored=BOTH[1:])
            )
            endpoint = stack.enter_context(front).endpoint
        yield Store(name, moto.url(name, endpoint), moto.environ)


def contender(store: Store, boot: str, ended: str | None = None) -> Ownership:
    """A box that knows of the boot ``ended`` that it has, and of no other."""

    async def lineage(owner: Owner | None, _head: Head | None) -> Lineage:
        knows = owner is not None and owner.boot_id == ended
        return Lineage(
            knows_boot=knows,
            has_ended=knows,
            knows_timeline=knows,
            holds_head=knows,
            was_restored=False,
        )

    async def was_ours(*, had_it: bool) -> bool:
        return True

    claim = Owner(
        device_id=DEVICE,
        boot_id=BootId(boot),
        timeline="t",
        host=boot,
        since=0,
        place=f"place of {boot}",
        every_s=1.0,
    )
    return Ownership(store.objects, claim, Heads(store.objects, DEVICE), lineage, was_ours)


async def gets_it(ownership: Ownership) -> bool:
    """Claim until it is known whose the path is, as the daemon does."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await ownership.claim()
            except PathTaken:
                return False
            except Asking as exc:
                await asyncio.sleep(exc.again_s)
            except ReplicationError:
                await asyncio.sleep(AGAIN_S)
            else:
                return True


async def keeps_it(ownership: Ownership) -> bool:
    """Look whether nobody has taken it since, as the daemon does again and again."""
    try:
        await ownership.check()
    except PathTaken:
        return False
    return True


async def test_check_says_which_conditions_are_kept(store: Store) -> None:
    location = parse_location(store.url)
    checks = {each.name: each async for each in check_location(location, store.environ)}
    conditions = checks["conditions"]
    assert SAID[store.name] in conditions.found
    assert (conditions.state is CheckState.WARNING) == (store.name in WARNED)


async def test_one_of_those_that_claim_a_path_at_once_gets_it(store: Store) -> None:
    """First a new path; then that of a box which has ended."""
    ended: str | None = None
    for turn in ("new", "next"):
        ownerships = [contender(store, f"{turn}-{n}", ended) for n in range(CONTENDERS)]
        won = await asyncio.gather(*map(gets_it, ownerships))
        is_late = won.count(True) > 1 and store.name not in KEEPS_BOTH
        if is_late:  # who is held up as it writes takes it from another, which sees that
            won = [each and await keeps_it(one) for each, one in zip(won, ownerships, strict=True)]
        assert won.count(True) == 1
        winner = ownerships[won.index(True)]
        _, owner = await read_owner(store.objects, owner_key(DEVICE))
        assert owner is not None
        assert owner.boot_id == winner.boot_id
        assert await winner.check() or (is_late and await winner.check())
        ended = winner.boot_id
