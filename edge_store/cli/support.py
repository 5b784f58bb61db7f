"""``edge-store support-bundle``: how this box is, in one file to give away."""

from pathlib import Path

import click

from edge_store.cli.output import bytes_text
from edge_store.cli.values import MADE_FILE

__all__ = ["support_bundle"]


@click.command("support-bundle")
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--redact", is_flag=True, help="Hide host names, paths, tenants and the device id.")
@click.option(
    "-o", "--output", metavar="FILE", type=MADE_FILE,
    help="The file to write; it must not be there yet.",
)  # fmt: skip
@click.option("--unit", default="edge-store", show_default=True, help="Whose journal is read.")
def support_bundle(config: str | None, output: Path | None, unit: str, *, redact: bool) -> None:
    """Write what helps to find a fault into one tar.gz, and say what is in it.

    Versions, doctor, status with alarms and the replica, settings without secrets, completeness,
    schema, numbers of rows, sizes, metrics, events of the journal, kernel, GPU. No prompt, no
    answer, no body, no key. With --redact names become pseudonyms, the same in each bundle of this
    box. Look into it before you give it away. It works while the daemon is down,
    and where the settings cannot be read.

    \b
    Example:
      edge-store support-bundle --redact
      sudo edge-store support-bundle --redact -o /tmp/box.tar.gz
    """
    from edge_store.support import write_bundle
    from edge_store.support.parts import Subject

    if output is not None and output.exists():
        raise click.UsageError(f"{output} is there already")
    subject = Subject.found(config, unit, redact=redact)
    path, parts = write_bundle(subject, output)
    width = max(len(part.name) for part in parts)
    for part in parts:
        said = f"not collected: {part.failure}" if part.failure else part.meaning
        click.echo(f"{part.name:<{width}}  {bytes_text(part.bytes):>10}  {said}")
    how = (
        "secrets and names are hidden" if redact else "secrets are hidden; names are not (--redact)"
    )
    click.echo(f"wrote {path}: {how}")
    if subject.variables:
        names = ", ".join(subject.variables)
        click.echo(
            f"edge-store: {subject.fault}: everything is told as if {names} were not set", err=True
        )
    elif subject.fault:
        found = f"the database is {subject.database}" if subject.is_store_known else "no database"
        click.echo(
            f"edge-store: the settings of {subject.loaded.path} cannot be read: what they would "
            f"say is left out; {found}",
            err=True,
        )
