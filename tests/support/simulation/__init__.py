"""Gate, recorder, writer and engine on a virtual clock, all chance from one seed.

``virtual`` is the clock and the event loop, ``world`` what the seed does to the daemon, ``checks``
what must hold whatever it does. The code under test is the daemon's own, with three seams: the
writer's thread is a coroutine (``SimulatedThread``), no JSON worker is started (no request asks for
JSON), and nothing listens (callers call the gate). The database is a real file.
"""
