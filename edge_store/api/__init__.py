"""HTTP: the gate in front of the recorder, and the routes that are ours."""
