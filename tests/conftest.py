"""Before any test: what whoever started them may have left this process with."""

import signal

# A shell's background job ignores SIGINT, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
