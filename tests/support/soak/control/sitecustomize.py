"""In the path of a daemon: SQLite's own ``wal_autocheckpoint`` in place of ours, which is 0. Its
replicas are bad without a word, and a soak that does not find them proves nothing.
"""

import edge_store.sqlite

edge_store.sqlite.WRITER_PRAGMAS = tuple(
    (name, 1000 if name == "wal_autocheckpoint" else value, reason)
    for name, value, reason in edge_store.sqlite.WRITER_PRAGMAS
)
