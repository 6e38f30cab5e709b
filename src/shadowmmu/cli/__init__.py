"""The command `shadowmmu`."""
