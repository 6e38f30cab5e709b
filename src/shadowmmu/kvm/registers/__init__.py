"""What the guest's register loads and TLB instructions do to the MMU."""
