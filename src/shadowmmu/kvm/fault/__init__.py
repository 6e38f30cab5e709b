"""Page faults: how KVM handles one, from the exit to the SPTE."""
