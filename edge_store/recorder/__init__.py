"""Admission, transcripts, and the writer: every admitted request becomes a committed row."""
