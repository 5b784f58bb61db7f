"""Deletes what belongs to a user, or to results, for good: on this box, and by tombstones wherever
copies of it are made.

What is to go is chosen first (``choice.py``), by reading alone, then deleted in bounded changes
(``carry.py``): the files' lines first, the results last, so that a run that is cut is found and
finished by the next. Deleted bytes are overwritten (``secure_delete``; in files by ourselves).
"""
