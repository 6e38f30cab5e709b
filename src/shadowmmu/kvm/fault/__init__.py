"""The way of a page fault through KVM."""
