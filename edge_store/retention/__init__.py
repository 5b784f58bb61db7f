"""Deletes what is older or more than the owner wants to keep, oldest first, and never what is
pinned, held, or needed by something that has not ended.

What goes is chosen by reading (``choice.py``), put away where there is an archive, and deleted in
small changes on the writer's thread (``deleting.py``), each of which looks again at what it may
delete. A pass (``passes.py``) may be cut anywhere: the next one goes on. It runs on a thread, of
the daemon (``room.py``) or of a command.
"""
