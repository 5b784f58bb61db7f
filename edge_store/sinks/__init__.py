"""Pushes results to where they are wanted: web hooks, PostgreSQL, MQTT."""
