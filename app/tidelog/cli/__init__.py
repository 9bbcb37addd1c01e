"""The command `tidelog`. Each of its commands loads what it needs when it is run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # While a command is loaded there is nothing to be stopped. Ctrl-C ends it at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import rich_click as click

steps_dir_option = click.option(
    "--steps-dir",
    type=click.Path(path_type=Path),
    help="The folder of your *_stream.py and *_step.py files, instead of TIDELOG_STEPS_DIR.",
)


accept_option = click.option(
    "--accept",
    multiple=True,
    metavar="STREAM",
    help="Take a stream's new schema, though stored items don't fit it. They stay as they are. May be repeated.",
)


def _set(name: str, value: object) -> None:
    """As if it were in the environment, from which worker processes have their settings, too."""
    if value is not None:
        os.environ[f"TIDELOG_{name}"] = str(value)


@click.group()
@click.version_option(package_name="tidelog")
def main() -> None:
    """Streams that live in Postgres and tell everyone who subscribed, durably and in order, what changed.

    Settings are environment variables, TIDELOG_*. Without TIDELOG_DATABASE_URL an embedded Postgres is started, with
    its data in .tidelog/.
    """


@main.command()
@steps_dir_option
@click.option("--host", help="The address to listen on, instead of TIDELOG_HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on, instead of TIDELOG_PORT.")
@accept_option
def serve(steps_dir: Path | None, host: str | None, port: int | None, accept: tuple[str, ...]) -> None:
    """Start everything: the embedded Postgres if none is given, migrations, the server."""
    _set("STEPS_DIR", steps_dir)
    _set("HOST", host)
    _set("PORT", port)
    from tidelog import serve

    serve.main(accept)


@main.command()
@steps_dir_option
@click.option("--sql", is_flag=True, help="Print the statements instead of running them.")
@accept_option
def migrate(steps_dir: Path | None, sql: bool, accept: tuple[str, ...]) -> None:
    """Make or change the core's tables, then a table for each declared stream. Never drops or rewrites data."""
    _set("STEPS_DIR", steps_dir)
    from tidelog import migrate

    migrate.main(sql=sql, accept=accept)


@main.command()
def adopt() -> None:
    """After a dump was restored into another cluster (or pg_upgrade): make the old log the new cluster's own."""
    from tidelog import adopt

    adopt.main()


@main.command()
@click.argument("stream")
@click.argument("group")
@click.argument("id", required=False)
@click.option("--yes", is_flag=True, help="Don't ask.")
def erase(stream: str, group: str, id: str | None, yes: bool) -> None:
    """Delete an item, or a whole GROUP, and what was in it from the history, too; for good."""
    if not yes:
        what = f"all items of group {group!r}" if id is None else f"item {id!r} of group {group!r}"
        click.confirm(f"Erase {what} of stream {stream!r}, with its history?", abort=True)
    from tidelog import erase

    erase.main(stream, group, id)


@main.command()
@steps_dir_option
def check(steps_dir: Path | None) -> None:
    """Read the streams and steps, without a database, and list them. Ends with 1 if a file can't be used."""
    _set("STEPS_DIR", steps_dir)
    from tidelog import check

    check.main()


@main.command("streams")
@steps_dir_option
def list_streams(steps_dir: Path | None) -> None:
    """List the streams: of the files, of the database, of both."""
    _set("STEPS_DIR", steps_dir)
    from tidelog import streams

    streams.list_main()


@main.command("rename-stream")
@steps_dir_option
@click.argument("old")
@click.argument("new")
def rename_stream(steps_dir: Path | None, old: str, new: str) -> None:
    """Rename a stream of the database, with its items, table and view. Rename it in its file as well.

    Its history begins anew: every item is logged as deleted in OLD and as created in NEW. Writers wait meanwhile.
    """
    _set("STEPS_DIR", steps_dir)
    from tidelog import streams

    streams.rename_main(old, new)


@main.command("drop-stream")
@steps_dir_option
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask for the name again.")
def drop_stream(steps_dir: Path | None, name: str, yes: bool) -> None:
    """Drop a stream with its items, table and view. Remove its file first.

    Its items are logged as deleted, so that subscribers see them go; what the log has of them stays there.
    """
    _set("STEPS_DIR", steps_dir)
    from tidelog import streams

    streams.drop_main(name, is_confirmed=yes)


@main.command("convert-keys")
@click.argument("names", metavar="[STREAM]...", nargs=-1)
def convert_keys(names: tuple[str, ...]) -> None:
    """Have the keys of tables of earlier releases compared by their bytes, as those of new ones are.

    An upgrade of the C library then corrupts no index of theirs. It makes the indexes with the keys anew: nobody reads
    or writes the table meanwhile (some seconds for each million items), and transactions that use it are waited for.
    """
    from tidelog import streams

    streams.convert_main(names)


@main.command()
@steps_dir_option
@click.option("--topics", help="Only the event steps that subscribe to one of these, a comma list. By default all.")
def work(steps_dir: Path | None, topics: str | None) -> None:
    """Run event, cron, stream and state steps, without a server. Migrates nothing."""
    _set("STEPS_DIR", steps_dir)
    from tidelog import work

    work.main(None if topics is None else {topic.strip() for topic in topics.split(",")})


@main.group()
def jobs() -> None:
    """What event, cron, stream and state steps have to do, and what was given up after its last attempt (parked)."""


step_option = click.option("--step", help="Those of this step.")


@jobs.command("list")
@step_option
def list_jobs(step: str | None) -> None:
    """What waits, by steps, and what is parked."""
    from tidelog import parked

    parked.main(lambda connection: parked.show(connection, step))


@jobs.command()
@click.argument("id", type=int)
def show(id: int) -> None:
    """All of one that is parked: its input, its error, the traceback."""
    from tidelog import parked

    parked.main(lambda connection: parked.show_one(connection, id))


@jobs.command()
@click.argument("id", type=int, required=False)
@step_option
def retry(id: int | None, step: str | None) -> None:
    """Try again what is parked: one job, or a step's."""
    _check_which(id, step)
    from tidelog import parked

    parked.main(lambda connection: parked.retry(connection, id, step))


@jobs.command()
@click.argument("id", type=int, required=False)
@step_option
def drop(id: int | None, step: str | None) -> None:
    """Forget what is parked: one job, or a step's."""
    _check_which(id, step)
    from tidelog import parked

    parked.main(lambda connection: parked.drop(connection, id, step))


def _check_which(id: int | None, step: str | None) -> None:
    if id is None and step is None:
        raise click.UsageError("Which? Give a job's id, or --step NAME.")
