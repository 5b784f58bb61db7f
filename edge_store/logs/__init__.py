"""What a person asks of single results: the newest, one whole, what comes now, what differs.

Reads any database of ours; nothing here needs the daemon but ``replay``. The one change is a pin.
"""
