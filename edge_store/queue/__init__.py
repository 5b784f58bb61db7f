"""What the daemon asks by itself: the lines of batches, and requests that were answered with 202.

The queue is in the database and in uploaded files; nothing of it is in memory only. What becomes of
a line is told by its results alone (``lines.py``), which are committed as every result is: so a
SIGKILL loses no line, and none is completed twice.
"""
