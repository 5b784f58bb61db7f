"""The Celery tasks: a connection for each row, as it is usually written; one that is kept; and many
rows to a task on that.
"""

import os
from typing import Any

import psycopg2
from celery import Celery
from psycopg2.extras import execute_values
from table import WIDE_BY_NAME, WIDE_BY_VALUES, WIDE_COLUMNS

app = Celery("stack", broker=os.environ["STACK_BROKER"])
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
_kept: list[Any] = []


@app.task
def store(row: dict[str, Any]) -> None:
    """One connection, one INSERT, one COMMIT."""
    connection = psycopg2.connect(os.environ["STACK_DSN"])
    try:
        with connection.cursor() as cursor:
            cursor.execute(WIDE_BY_NAME, row)
        connection.commit()
    finally:
        connection.close()


@app.task
def store_pooled(row: dict[str, Any]) -> None:
    """The same on the connection of this worker process."""
    if not _kept:
        _kept.append(psycopg2.connect(os.environ["STACK_DSN"]))
    with _kept[0], _kept[0].cursor() as cursor:
        cursor.execute(WIDE_BY_NAME, row)


@app.task
def store_batch(rows: list[dict[str, Any]]) -> None:
    """Many rows in one INSERT and one transaction."""
    if not _kept:
        _kept.append(psycopg2.connect(os.environ["STACK_DSN"]))
    with _kept[0], _kept[0].cursor() as cursor:
        values = [tuple(map(row.__getitem__, WIDE_COLUMNS)) for row in rows]
        execute_values(cursor, WIDE_BY_VALUES, values)
