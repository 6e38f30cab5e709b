"""The player: carries out operations on a machine."""
