"""KVM's shadow MMU, one file per mechanism under KVM's own word; the rooms build on one another."""
