"""A command whose steps are small: ``export_child.py ARGUMENTS``, to be killed anywhere."""

import sys

from edge_store.cli import main
from edge_store.exports import files, pages, parquet
from edge_store.imports import batches

pages.RESULTS_PER_PAGE = 16
files.MARK_S = 0.0
parquet.ROWS_PER_PART = 32
batches.ROWS_PER_BATCH = 16

sys.argv[0] = "edge-store"
main()
