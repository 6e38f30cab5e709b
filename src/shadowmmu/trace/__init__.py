"""Listening: events, recordings, statistics names and the formats they are written in."""
