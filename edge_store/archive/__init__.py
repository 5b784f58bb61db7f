"""Results put away as Parquet, in a folder or an object store, before retention deletes them.

A file is begun in ``archives`` before anything is written, read back and verified before it
counts, and only then its results are deleted, each with the number of the file in ``archived``. So
at any cut a result is in the database, or in a verified file that the database names. Files are
written and read in a process of their own (``child.py``), which has a small share of
the processor.
"""
